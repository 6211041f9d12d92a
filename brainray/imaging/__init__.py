"""Image bytes -> uint8 arrays: formats, decoding, normalisation, a sandboxed decoder; and drawn images."""
