"""Keyed hashes: names that tell equal values from others, and nobody without the key what the values are.

A plain hash of a UID or an id would not do: who has a list of them can try each.
"""

import hashlib
import hmac

KEY_BYTES = 32
_HEX = 20  # 80 bits: among a billion values the chance that two share one is one in two million


def keyed_hash(key: bytes, *parts: str) -> str:
    """HMAC-SHA256 (RFC 2104) of texts, cut to 20 hex digits; ("ab", "c") and ("a", "bc") differ."""
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:_HEX]
