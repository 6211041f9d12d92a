"""The key of a run, with which its rows name the series and the study of a picture.

A UID may be known to others, as in the index of an archive: a row has its keyed hash. The key is random, of one run,
and lies in its hidden file `.series_key`: who has that file and a UID can tell whether the run holds the series, so
leave it out of what you give away. Later commands need it, for one series must keep one name.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from brainray import storage
from brainray.errors import BadRequest
from brainray.imaging.keyed_hash import KEY_BYTES, keyed_hash
from brainray.scoring.parts import any_holds_series
from brainray.storage import Writer

_FILE = ".series_key"
CHECK = "series_key"  # the field of run.json that tells which key it is


def read_key(run_uri: str) -> bytes:
    """The key of a run, which every worker has to read. Raises `StorageError` without one."""
    return storage.read_bytes(storage.join(run_uri, _FILE))


def begin_key(run_uri: str, run: Mapping[str, Any] | None, writer: Writer, *, like: str | None = None) -> str:
    """Make the key of a run, where it has none, by that of the run `like`, if there is one; gives its check.

    `run` is run.json so far. Raises `BadRequest` where rows name series by a key that is gone or another one.
    """
    uri, wanted = storage.join(run_uri, _FILE), (run or {}).get(CHECK)
    if not storage.exists(uri):
        if wanted is not None and any_holds_series(run_uri):
            raise BadRequest(
                f"{uri} is gone, so that series could not keep the names that rows have; put it back, give --rescore "
                "to score all anew under new names, or give another output"
            )
        wanted = None  # no row has a name that another key could change
        known = like is not None and storage.exists(storage.join(like, _FILE))
        writer.write_bytes(uri, read_key(str(like)) if known else secrets.token_bytes(KEY_BYTES))
    check = keyed_hash(read_key(run_uri), "check")
    if wanted not in (None, check):
        raise BadRequest(
            f"{uri} is that of another run, and the rows have other names of series; put its own back, or "
            "give --rescore to score all anew"
        )
    return check


def hand_over_key(generation: str, output: str, writer: Writer) -> None:
    """Give the key of a new generation, if it has one, to the run that it replaces."""
    key = storage.join(generation, _FILE)
    if storage.exists(key):
        writer.copy(key, storage.join(output, _FILE))


def series_of(key: bytes, series_uid: str) -> str:
    """The name of a series in the rows of a run."""
    return keyed_hash(key, "series", series_uid)


def study_of(key: bytes, study_uid: str) -> str:
    """The name of a study in the rows of a run."""
    return keyed_hash(key, "study", study_uid)


def volume_of(key: bytes, uri: str) -> str:
    """The name of a file that is a series of its own, by the URI of one of its slices, which ends with a number."""
    return keyed_hash(key, "volume", uri.rstrip("0123456789"))
