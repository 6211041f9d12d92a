"""Labels of whole series, from `brainray report --labels` with a table that names series, kept in the run."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import BadRequest, StorageError
from brainray.storage import Writer

from .key import read_key, series_of

_FILE = "series_labels.parquet"
_SCHEMA = pa.schema([pa.field("series", pa.string(), nullable=False), pa.field("label", pa.string(), nullable=False)])


def read_series_labels(run_uri: str, classes: Sequence[str]) -> tuple[dict[str, str], int]:
    """The label of each series that was given one, and how many more labels are no class of the model."""
    table = _stored(run_uri)
    known = table.filter(pc.is_in(table["label"], pa.array(classes, pa.string())))
    labels = dict(zip(known["series"].to_pylist(), known["label"].to_pylist(), strict=True))
    return labels, len(table) - len(known)


def check_series_labels(run_uri: str, classes: Sequence[str]) -> None:
    """Raise `BadRequest` where a label is no class of the model that is to score the run."""
    labels = _stored(run_uri)["label"]
    unknown = labels.filter(pc.invert(pc.is_in(labels, pa.array(classes, pa.string())))).unique()
    if len(unknown):
        raise BadRequest(
            f"{storage.join(run_uri, _FILE)}: {', '.join(map(repr, unknown.to_pylist()[:5]))} is no class of the "
            f"model, which knows {', '.join(classes)}; take these labels back by `report --labels`, or remove that file"
        )


def give_series_labels(run_uri: str, keys: pa.Array, labels: pa.Array, writer: Writer) -> None:
    """Keep labels of series. A null takes back what was given; series that are not named keep theirs.

    `keys` are names of series as the rows have them, or SeriesInstanceUIDs.
    """
    names = _names(run_uri, keys)
    before = _stored(run_uri)
    kept = before.filter(pc.invert(pc.is_in(before["series"], names)))
    given = pa.table([names, labels.cast(pa.string())], names=_SCHEMA.names).filter(labels.is_valid())
    after = pa.concat_tables([kept, given.cast(_SCHEMA)]).sort_by("series").combine_chunks()
    if not after.equals(before):
        writer.write_parquet(storage.join(run_uri, _FILE), after)


def _names(run_uri: str, keys: pa.Array) -> pa.Array:
    """The names of series, of which UIDs are hashed by the key of the run."""
    is_uid = pc.match_substring_regex(keys, r"^\s*[0-9]+(\.[0-9]+)+\s*$")
    if not pc.any(is_uid).as_py():
        return keys.cast(pa.string())
    key = read_key(run_uri)
    pairs = zip(keys.to_pylist(), is_uid.to_pylist(), strict=True)
    return pa.array([series_of(key, name.strip()) if uid else name for name, uid in pairs], pa.string())


def _stored(run_uri: str) -> pa.Table:
    uri = storage.join(run_uri, _FILE)
    if not storage.exists(uri):
        return _SCHEMA.empty_table()
    try:
        return storage.read_parquet(uri).select(_SCHEMA.names).cast(_SCHEMA).combine_chunks()
    except (KeyError, pa.ArrowException) as exc:
        raise StorageError("read_failed", f"{uri}: holds no labels of series; remove it") from exc
