"""Decodes image bytes to uint8 arrays: formats, normalisation, a sandboxed decoder. Also draws synthetic images.

Only `phantom` writes files; the rest takes and returns bytes and arrays.
"""
