"""S3 inventories as AWS writes them: `manifest.json` and its CSV or Parquet files, and what of their rows is an image.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.archives import kind_of
from brainray.inputs.image_files import skip_reason
from brainray.inputs.tables.delimited_text import TextTable

_MOST_BYTES = 64 << 20  # of a manifest; 100,000 files have 20 MB
_ARCHIVED = ("GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS", "ARCHIVE")
# Encoding leaves none of these: a key that has one was written otherwise.
_NEVER_ENCODED = re.compile(r"[^\x21-\x7e]|%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The files of an inventory."""

    bucket: str  # URI of the bucket whose objects are listed
    names: tuple[str, ...]  # of the columns of CSV files, which have no header; empty for Parquet
    parts: tuple[TextTable | str, ...]  # tables of CSV, or URIs of Parquet files

    @property
    def encoded(self) -> bool:
        """Whether keys are URL-encoded, as in CSV and not in Parquet."""
        return bool(self.names)


def open_inventory(uri: str) -> Inventory | None:
    """Read a `manifest.json`; None for any other file. Raises `BadRequest` for one whose files cannot be read."""
    source = f"--input {uri}"
    with storage.open_seekable(uri) as file:
        data = file.read(_MOST_BYTES)
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not {"fileSchema", "files"} <= manifest.keys():
        return None
    try:
        kind = str(manifest["fileFormat"]).upper()
        bucket = f"s3://{_bucket(manifest['sourceBucket'])}"
        files = [_file(uri, manifest, str(entry["key"])) for entry in manifest["files"]]
        schema = str(manifest["fileSchema"])
    except (KeyError, TypeError) as exc:
        raise BadRequest(f"{source}: is no whole manifest of an S3 inventory ({exc!r} is missing)") from exc
    if kind == "PARQUET":
        return Inventory(bucket=bucket, names=(), parts=tuple(files))
    if kind != "CSV":
        raise BadRequest(f"{source}: its inventory is {kind}; have it written as CSV or Parquet")
    names = tuple(name.strip() for name in schema.split(","))
    parts = (TextTable(uri=part, source=f"--input {part}", names=names, has_header=False) for part in files)
    return Inventory(bucket=bucket, names=names, parts=tuple(parts))


def _bucket(name: Any) -> str:  # noqa: ANN401  a value of JSON
    """The name of a bucket, which may be given by its ARN."""
    return str(name).rpartition(":::")[2]


def _file(manifest: str, values: dict[str, Any], key: str) -> str:
    """The URI of a file: beside a manifest that was copied to a disk, else in the bucket of the inventory."""
    if "://" not in manifest or manifest.startswith("file://"):
        name = key.rpartition("/")[2]
        for place in (f"../data/{name}", f"data/{name}", name):
            local = storage.resolve_listed(manifest.rpartition("/")[0], place)
            if storage.exists(local):
                return local
    return f"s3://{_bucket(values['destinationBucket'])}/{key}"


def is_encoded(names: Sequence[str]) -> bool:
    """Whether a CSV with a header is an inventory of AWS, which spells `Bucket` and `Key` so: its keys are encoded."""
    return {"Bucket", "Key"} <= {name.strip() for name in names}


def unencoded(key: str, source: str) -> str:
    """The key of an object. Raises `BadRequest` for one that was not URL-encoded: it would name another object."""
    if _NEVER_ENCODED.search(key):
        raise BadRequest(
            f"{source}: the key {key!r} is not URL-encoded, as keys below Bucket,Key are in an S3 inventory; name the "
            "columns bucket,key for keys that are to be read as they stand"
        )
    return unquote_plus(key, errors="surrogateescape")


def passed_over(
    inventory: Inventory | None, uri: str, size_bytes: str | None, is_latest: str | None, is_deleted: str | None
) -> str | None:
    """The reason not to score an object that a row with bucket and key names; None for an image or archive.

    A whole inventory lists all objects of a bucket: it is read as the bucket itself would be.
    """
    if _is(is_deleted, "true"):
        return "deleted object"
    if _is(is_latest, "false"):
        return "older version of an object"
    if uri.endswith("/") and size_bytes == "0":
        return "folder object"
    if inventory is None or kind_of(uri):
        return None
    *folders, name = uri.removeprefix(f"{inventory.bucket}/").split("/")
    return skip_reason(name, folders)


def archived_class(storage_class: str | None, tier: str | None) -> str | None:
    """The storage class, or the tier of INTELLIGENT_TIERING, of an object that must be restored before it is read."""
    names = (name.strip().upper() for name in (storage_class, tier) if name)
    return next((name for name in names if name in _ARCHIVED), None)


def _is(value: str | None, word: str) -> bool:
    return value is not None and value.strip().lower() == word
