"""The label file (`--labels`): matches its rows to images, and reports rows that match none or several."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from brainray import storage
from brainray.errors import BadRequest, as_bad_request

from .archives import kind_of
from .class_names import LABEL_COLUMNS, class_lookup, match_class

_KEY_COLUMNS = ("uri", "path", "file", "filename", "file_name", "image", "image_id", "name")
_SHOWN = 5


class LabelFile:
    """Labels by URI, else by path below the input, else by file name. Held as Arrow arrays."""

    def __init__(self, keys: pa.Array, labels: pa.Array, *, source: str) -> None:
        self._keys = keys
        self._labels = labels
        self._source = source
        self._uses = np.zeros(len(keys), np.int64)

    def labels_of(self, uris: pa.ChunkedArray, relative: pa.Array, names: pa.Array) -> pa.Array:
        """The label of each image; null without a row. Arguments have one value per image. Counts the uses of rows."""
        uris = uris.combine_chunks()
        found = pc.coalesce(*(pc.index_in(candidate, self._keys) for candidate in (uris, relative, names)))
        self._uses += np.bincount(found.drop_null().to_numpy(), minlength=len(self._keys))
        return self._labels.take(found)

    def begin(self) -> None:
        """Reset the counts of uses, for a new listing."""
        self._uses[:] = 0

    def check_all_used_once(self, *, some_may_be_gone: bool = False) -> None:
        """Raise `BadRequest` where a row matches several images, or none (unless `some_may_be_gone`)."""
        unknown = self._keys.filter(pa.array(self._uses == 0))
        if len(unknown) and not some_may_be_gone:
            raise BadRequest(
                f"{self._source}: {len(unknown)} row(s) name images that are not in the input: {_some(unknown)}"
            )
        doubled = self._keys.filter(pa.array(self._uses > 1))
        if len(doubled):
            raise BadRequest(
                f"{self._source}: {len(doubled)} name(s) fit several images, give their full path: {_some(doubled)}"
            )


def _some(values: pa.Array) -> str:
    shown = ", ".join(repr(v) for v in values[:_SHOWN].to_pylist())
    return shown + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")


def read_label_file(uri: str, classes: tuple[str, ...]) -> LabelFile:
    """Read a CSV or Parquet file with an image and a label column. Raises `BadRequest`, which names the fault."""
    source = f"--labels {uri}"
    table = _read_table(uri, source)
    keys = _column(table, _KEY_COLUMNS, source, "image")
    raw = _column(table, LABEL_COLUMNS, source, "label")
    if len(keys) == 0:
        raise BadRequest(f"{source}: holds no rows")
    repeated = pc.filter(keys.value_counts().field("values"), pc.greater(keys.value_counts().field("counts"), 1))
    if len(repeated):
        raise BadRequest(f"{source}: names images more than once: {_some(repeated)}")
    return LabelFile(keys, _classes_of(raw, classes, source), source=source)


def _read_table(uri: str, source: str) -> pa.Table:
    try:
        with as_bad_request("--labels"):
            if kind_of(uri) == "parquet":
                return storage.read_parquet(uri)
            return pa_csv.read_csv(pa.py_buffer(storage.read_bytes(uri)))
    except pa.ArrowException as exc:
        raise BadRequest(f"{source}: is no readable CSV or Parquet ({str(exc).splitlines()[0]})") from exc


def _column(table: pa.Table, names: tuple[str, ...], source: str, what: str) -> pa.Array:
    by_name = {name.strip().lower(): name for name in table.column_names}
    for name in names:
        if name in by_name:
            return table[by_name[name]].cast(pa.string()).combine_chunks()
    raise BadRequest(
        f"{source}: has no {what} column; it needs one named {' or '.join(names[:3])}, "
        f"but has {', '.join(table.column_names)}"
    )


def _classes_of(raw: pa.Array, classes: tuple[str, ...], source: str) -> pa.Array:
    lookup = class_lookup(classes)
    spelled = [value for value in raw.unique().to_pylist() if value is not None and value.strip()]
    matched = {value: match_class(value, lookup) for value in spelled}
    unknown = [value for value, label in matched.items() if label is None]
    if unknown:
        raise BadRequest(
            f"{source}: label(s) {_some(pa.array(unknown))} are no class of the model, which knows {', '.join(classes)}"
        )
    codes = pc.index_in(raw, pa.array(spelled, pa.string()))
    return pa.array([matched[value] for value in spelled], pa.string()).take(codes)
