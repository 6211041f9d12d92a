"""What rows say of the UIDs of DICOM images: nothing, the UIDs themselves, or keyed hashes of them.

A UID leads to the person through any archive that holds the image. A plain hash does so too, for whoever can list the
UIDs of an archive can hash them all; a hash with a key does not, without the key. The key is never written: a run has
its fingerprint, by which another key is refused.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from brainray import storage
from brainray.errors import BadRequest, as_bad_request

_LEAST_BYTES, _MOST_BYTES = 32, 4096  # of a key: as many as SHA-256 gives, and far fewer than an image has
_LEAST_KINDS = 8  # different bytes; 32 random ones have at least that many but once in 10^30
_FINGERPRINT_HEX = 16
_AS_THEY_ARE = "kept"
_HASHED = "hmac-sha256:"
_MAKE = "make one with: head -c 32 /dev/urandom > FILE"


@dataclass(frozen=True, slots=True)
class UidRule:
    """How the UIDs of an image become values of its row."""

    key: bytes | None = field(default=None, repr=False)  # None: UIDs stand as they are

    @property
    def name(self) -> str:
        """What run.json says: equal for equal values of rows. It does not tell the key."""
        if self.key is None:
            return _AS_THEY_ARE
        mark = hmac.new(self.key, b"fingerprint of a --uid-key of brainray", hashlib.sha256)
        return _HASHED + mark.hexdigest()[:_FINGERPRINT_HEX]

    def value(self, uid: str | None) -> str | None:
        """The value of a UID in a row: itself, or its HMAC-SHA256 in hexadecimal."""
        if uid is None or self.key is None:
            return uid
        return hmac.new(self.key, uid.encode(), hashlib.sha256).hexdigest()


def uid_rule(*, keep: bool, key_file: str | None, output: str) -> UidRule | None:
    """The rule of a request; None for rows without UIDs. Raises `BadRequest` for a key that is none, or in the run."""
    if key_file is None:
        return UidRule() if keep else None
    if keep:
        raise BadRequest("--keep-uids and --uid-key are two ways to have UIDs in rows; leave one out")
    uri = storage.normalise(key_file)
    if uri.startswith(storage.join(storage.normalise(output), "")):
        raise BadRequest(f"--uid-key {uri} lies in --output, where readers of the run find it; keep it elsewhere")
    with as_bad_request("--uid-key"):
        key = storage.read_bytes(uri, most_bytes=_MOST_BYTES)
    if len(key) < _LEAST_BYTES:
        raise BadRequest(f"--uid-key {uri} has {len(key)} bytes, fewer than {_LEAST_BYTES}; {_MAKE}")
    if len(set(key)) < _LEAST_KINDS:
        raise BadRequest(f"--uid-key {uri} repeats few bytes, so it can be guessed; {_MAKE}")
    return UidRule(key)


def described(name: str | None) -> str:
    """What a run has in its rows by the name of its rule, in words of the command line."""
    if name is None:
        return "no UIDs in its rows"
    return "--keep-uids" if name == _AS_THEY_ARE else f"a --uid-key of fingerprint {name.removeprefix(_HASHED)}"
