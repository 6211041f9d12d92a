"""The label file (`--labels`): matches its rows to images, and reports rows that match none or several.

Labels and names of images are text: "01" is not "1".
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import BadRequest, as_bad_request
from brainray.inputs.class_names import (
    LABEL_COLUMNS,
    ClassLookup,
    is_no_value,
    numbered_class,
    numbered_classes,
)
from brainray.inputs.frames.listing import files_of_frames
from brainray.inputs.listed_image import LISTED_SCHEMA, tables_in, with_values
from brainray.inputs.lists.s3_inventory import is_encoded, unencoded
from brainray.inputs.tables.delimited_text import blank_rows, open_text_table
from brainray.inputs.tables.table_columns import (
    BUCKET_COLUMN,
    KEY_COLUMN,
    LABELLED_COLUMNS,
    SERIES_COLUMNS,
    URI_COLUMNS,
    find_column,
    find_needed,
)

from .label_match import Indices, NearMatches, nearest

_NUMBER = "#[^#]*$"  # of a frame, at the end of its name
_SHOWN = 5
_PARQUET = b"PAR1"
_MOST_BYTES = 8 << 30  # of text, unpacked: far above any label file, and the end of a gzip bomb


class LabelFile:
    """Labels by URI, else by path below the input, else by file name. Held as Arrow arrays."""

    def __init__(
        self,
        keys: pa.Array,
        labels: pa.Array,
        *,
        source: str,
        wrong: pa.Array | None = None,
        contents: pa.Array | None = None,
        called_wrong: pa.Array | None = None,
    ) -> None:
        self._keys = keys
        self.labels = labels  # of each row
        self.wrong = wrong  # whether each row says of a prediction that it is wrong, and names no class; None: no row
        self.contents = contents  # hashes of the bytes that each row is about; null, or None for all, where not known
        self.called_wrong = called_wrong  # predictions that rows without a class call wrong; null as above
        self._source = source
        self.begin()

    def numbered(self) -> "LabelFile":
        """The same rows, whose labels are their numbers."""
        return LabelFile(self._keys, pa.array(np.arange(self.rows, dtype=np.int32)), source=self._source)

    @property
    def rows(self) -> int:
        return len(self._keys)

    @property
    def without_label(self) -> int:
        """The number of other rows whose label is empty, NA, unknown or the like."""
        return int(self.labels.null_count) - self.judged_wrong

    @property
    def judged_wrong(self) -> int:
        """The number of rows that say of a prediction that it is wrong, and name no class."""
        return 0 if self.wrong is None else int(pc.sum(self.wrong).as_py() or 0)

    @property
    def without_image(self) -> int:
        """The number of rows that name no image of the listing."""
        return int((self._uses == 0).sum()) - len(self._second)

    @property
    def matched(self) -> int:
        """The number of images looked up so far that have a row."""
        return int(self._uses.sum()) + self._more_frames

    @property
    def all_used(self) -> bool:
        return bool(self._uses.all())

    def begin(self) -> None:
        """Reset the counts of uses, for a new listing."""
        self._uses = np.zeros(len(self._keys), np.int64)
        self._by_path = np.zeros(len(self._keys), np.int64)  # images that a row names by URI or path
        self._by_name = np.zeros(len(self._keys), np.int64)  # images with the name, also those with a row of their own
        self._near_ambiguous = np.empty(0, np.int64)
        self._second = np.empty(0, np.int64)
        self._last_file: str | None = None  # of the frames that were looked up last
        self._more_frames = 0  # with a row of their file, beyond the first of each file

    def labels_of(self, uris: pa.Array, relative: pa.Array, names: pa.Array, files: pa.Array | None = None) -> pa.Array:
        """The label of each image; null without a row. Arguments have one value per image. Counts the uses of rows.

        `files` has the URI of the file of each frame, null for any other image: the row of a file is that of its
        frames, as far as they have none.
        """
        by_path, by_name = self._look_up(uris, relative, names)
        self._count(by_path, by_name)
        found = pc.coalesce(by_path, by_name)
        if files is not None and files.null_count < len(files):
            found = self._with_files(found, (files, relative, names))
        return self.labels.take(found)

    def _count(self, by_path: pa.Array, by_name: pa.Array) -> None:
        found = pc.coalesce(by_path, by_name)
        for counts, rows in ((self._uses, found), (self._by_path, by_path), (self._by_name, by_name)):
            distinct, times = np.unique(rows.drop_null().to_numpy(), return_counts=True)
            counts[distinct] += times

    def _with_files(
        self, found: pa.Array, names: tuple[pa.Array, pa.Array, pa.Array], *, counts: bool = True
    ) -> pa.Array:
        """The rows of images, for frames without one those of their files; `names` are of files and of frames."""
        frames = np.flatnonzero(pc.and_(pc.is_null(found), pc.is_valid(names[0])).to_numpy(zero_copy_only=False))
        spelled = names[0].take(pa.array(frames)).dictionary_encode()
        _, first, of_file = np.unique(spelled.indices.to_numpy(), return_index=True, return_inverse=True)
        files, relative, short = (name.take(pa.array(frames[first])) for name in names)
        relative, short = (pc.replace_substring_regex(name, _NUMBER, "") for name in (relative, short))
        by_path, by_name = self._look_up(files, relative, short)
        rows = pc.coalesce(by_path, by_name)
        if counts and len(files):
            is_new = pc.not_equal(files, self._last_file or "")  # its other frames were in the chunk before
            self._count(by_path.filter(is_new), by_name.filter(is_new))
            self._more_frames += len(frames) - int(np.isin(of_file, np.flatnonzero(rows.is_null())).sum())
            self._more_frames -= int(pc.sum(pc.and_(is_new, rows.is_valid())).as_py())
            self._last_file = files[-1].as_py()
        mask = np.isin(np.arange(len(found)), frames)
        return pc.replace_with_mask(found, mask, rows.take(pa.array(of_file)))

    def _look_up(self, uris: pa.Array, relative: pa.Array, names: pa.Array) -> tuple[pa.Array, pa.Array]:
        """The rows that name images by URI or path, and by file name; null where none does."""
        found = pc.index_in(pa.concat_arrays([uris, relative, names]), self._keys)  # builds one table of all keys
        by_uri, by_relative, by_name = (found.slice(place * len(uris), len(uris)) for place in range(3))
        return pc.coalesce(by_uri, by_relative), by_name

    def near_labels(self, chunks: Iterable[tuple[pa.Array, ...]]) -> tuple[Indices, pa.Array]:
        """Match rows without an image to images that they name nearly. To be called when all images were looked up.

        `chunks` are the arguments of `labels_of` again. Returns the positions of images in them, ascending, and their
        labels.
        """
        open_rows = np.flatnonzero(self._uses == 0)
        near = NearMatches(self._keys.take(pa.array(open_rows)))
        taken = []
        begins = 0
        for uris, relative, names, *files in chunks:
            numbers = np.arange(begins, begins + len(uris))
            found = pc.coalesce(*self._look_up(uris, relative, names))
            if files and files[0].null_count < len(numbers):
                found = self._with_files(found, (files[0], relative, names), counts=False)
            taken.append(numbers[found.is_valid().to_numpy(zero_copy_only=False)])
            near.add(numbers, (uris, relative, names))
            begins += len(numbers)
        pairs = near.pairs(np.concatenate([np.empty(0, np.int64), *taken]))
        self._near_ambiguous, self._second = open_rows[pairs.ambiguous], open_rows[pairs.second]
        order = np.argsort(pairs.images)
        rows = open_rows[pairs.rows[order]]
        self._uses[rows] = 1
        self._by_path[rows] = 1
        return pairs.images[order], self.labels.take(pa.array(rows))

    def check_all_used_once(
        self,
        *,
        some_may_be_gone: bool = False,
        may_miss: bool = False,
        listed: Iterable[pa.Table] = (),
        remedy: str = "",
        place: str = "the input",
    ) -> None:
        """Raise `BadRequest` where a row matches several images, or none (unless `some_may_be_gone` or `may_miss`).

        `some_may_be_gone` allows also two rows for one image, of which one may have named an image that is gone.
        `listed` are the rows of the listing, from which the message suggests names in `place`; it ends with `remedy`.
        """
        by_name_only = (self._uses > 0) & (self._by_path == 0)
        ambiguous = (self._uses > 1) | (by_name_only & (self._by_name > 1))
        ambiguous[self._near_ambiguous] = True
        if ambiguous.any():
            doubled = self._keys.filter(pa.array(ambiguous))
            raise BadRequest(
                f"{self._source}: {len(doubled)} name(s) fit several images, give their full path: {_some(doubled)}"
                if (self._uses[ambiguous] > 0).any()
                else f"{self._source}: {len(doubled)} name(s) fit no image exactly and several nearly, or one image "
                f"together; give full paths as they are: {_some(doubled)}"
            )
        if some_may_be_gone:
            return
        if len(self._second):
            second = self._keys.take(pa.array(self._second))
            raise BadRequest(
                f"{self._source}: {len(second)} row(s) name an image that another row names already: {_some(second)}"
            )
        unknown = self._keys.filter(pa.array(self._uses == 0))
        if len(unknown) and not may_miss:
            raise BadRequest(
                f"{self._source}: {len(unknown)} row(s) name images that are not in {place}: {_some(unknown)}"
                + _suggestions(unknown[:_SHOWN].to_pylist(), listed)
                + f" (of {len(self._keys):,} row(s) {len(self._keys) - len(unknown):,} name one)"
                + remedy
            )


def spellings(table: pa.Table, names: pa.Table) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
    """URIs, paths below the input, file names and files of frames of a listing, as `LabelFile` takes them."""
    known_as = (column.combine_chunks() for column in (table["uri"], names["relative"], names["name"]))
    return (*known_as, files_of_frames(table))


def fill_nearly(rows: LabelFile, column: str, path: str, names_path: str) -> int:
    """Write the values of images that rows name only nearly into the listing at `path`; gives how many are no null.

    `names_path` is the file with the names of its images.
    """
    chunks = zip(tables_in(path), tables_in(names_path), strict=True)
    positions, values = rows.near_labels(spellings(table, names) for table, names in chunks)
    if not len(positions):
        return 0
    amended = path + ".amended"
    begins = 0
    with pq.ParquetWriter(amended, LISTED_SCHEMA, compression="zstd") as writer:
        for table in tables_in(path):
            first, end = np.searchsorted(positions, [begins, begins + len(table)])
            mask = np.zeros(len(table), bool)
            mask[positions[first:end] - begins] = True
            old = table[column].combine_chunks()
            amending = pc.replace_with_mask(old, mask, values.slice(first, end - first))
            writer.write_table(with_values(table, column, amending))
            begins += len(table)
    os.replace(amended, path)
    return len(positions) - int(values.null_count)


def _some(values: pa.Array) -> str:
    shown = ", ".join(repr(v) for v in values[:_SHOWN].to_pylist())
    return shown + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")


def _suggestions(keys: Sequence[str], listed: Iterable[pa.Table]) -> str:
    found = nearest(keys, (uri for table in listed for uri in table["uri"].to_pylist()))
    return f"; did you mean {', '.join(map(repr, found))}?" if found else ""


def read_series_labels(uri: str, classes: tuple[str, ...]) -> tuple[pa.Array, pa.Array] | None:
    """The series that a table names and their labels, of which some may be null. None for a table that names images.

    Raises `BadRequest` as `read_label_file` does.
    """
    source = f"--labels {uri}"
    names = header_of(uri, source)
    if find_column(names, LABELLED_COLUMNS, source) is not None or find_column(names, SERIES_COLUMNS, source) is None:
        return None
    keys, (raw,) = read_named_values("--labels", uri, LABEL_COLUMNS, named_by=SERIES_COLUMNS)
    return keys, classes_of(raw, classes, source)


def header_of(uri: str, source: str) -> Sequence[str]:
    """The names of the columns of a label file. Raises `BadRequest`, which begins with `source`."""
    with as_bad_request("--labels"):
        with storage.open_seekable(uri) as file:
            is_parquet = file.read(len(_PARQUET)) == _PARQUET
        if not is_parquet:
            return open_text_table(uri, source=source, most_bytes=_MOST_BYTES).names
        with storage.open_parquet(uri) as file:
            return list(file.schema_arrow.names)


def read_named_values(
    option: str,
    uri: str,
    *roles: Sequence[str],
    fractions: bool = False,
    named_by: Sequence[str] = LABELLED_COLUMNS,
) -> tuple[pa.Array, list[pa.Array]]:
    """Read the names of images, each once, and for each role, such as the label, the values of each image as text.

    A role is the names of its column, of which the first that exists counts. `fractions`: Parquet may hold those.
    `named_by`: the names of the column that names an image, or whatever has a row each.
    Raises `BadRequest`, which begins with the option and names the fault.
    """
    source = f"{option} {uri}"
    with as_bad_request(option):
        with storage.open_seekable(uri) as file:
            is_parquet = file.read(len(_PARQUET)) == _PARQUET
        if is_parquet:
            also = (pa.types.is_floating,) if fractions else ()
            keys, values = _parquet_columns(storage.read_bytes(uri), source, roles, *also, named_by=named_by)
        else:
            keys, values = _text_columns(uri, source, roles, named_by)
    if len(keys) == 0:
        raise BadRequest(f"{source}: holds no rows")
    if keys.null_count:
        raise BadRequest(f"{source}: {keys.null_count} row(s) name no image")
    counts = keys.value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise BadRequest(f"{source}: names images more than once: {_some(repeated)}")
    return keys, values


def _text_columns(
    uri: str, source: str, roles: Sequence[Sequence[str]], named_by: Sequence[str]
) -> tuple[pa.Array, list[pa.Array]]:
    text = open_text_table(uri, source=source, most_bytes=_MOST_BYTES)
    located, places = _find_columns(text.names, source, roles, named_by)
    batches = []
    first = 1
    for batch in text.batches(images=located):
        named = batch
        if pc.any(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(batch[located[-1]]), ""), True)).as_py():
            named = _named_rows(batch, located[-1], first, source)
        first += len(batch)
        images = [named[place] for place in located]
        if len(images) == 2 and is_encoded(text.names):
            images[1] = pa.array([key and unencoded(key, source) for key in images[1].to_pylist()], pa.string())
        batches.append([_names_of_images(images), *(named[place] for place in places)])
    if not batches:
        raise BadRequest(f"{source}: holds no rows")
    keys, *values = (pa.concat_arrays(column) for column in zip(*batches, strict=True))
    return keys, values


def _names_of_images(columns: Sequence[pa.Array]) -> pa.Array:
    """The names from the column that has them, or from those of bucket and key; null where one is empty."""
    if len(columns) == 1:
        return columns[0]
    return pc.binary_join_element_wise(pc.binary_join_element_wise("s3://", columns[0], ""), columns[1], "/")


def _named_rows(batch: pa.RecordBatch, key: int, first: int, source: str) -> pa.RecordBatch:
    """The rows without those that are empty, as spreadsheets leave them. `first` is the number of the first row."""
    blank = blank_rows(batch)
    unnamed = [row for row, name in enumerate(batch[key].to_pylist()) if not (name or "").strip() and row not in blank]
    if unnamed:
        raise BadRequest(f"{source}: row {first + unnamed[0]:,} names no image")
    return batch.take(pa.array([row for row in range(len(batch)) if row not in blank], pa.int64()))


def _parquet_columns(
    data: bytes,
    source: str,
    roles: Sequence[Sequence[str]],
    *also: Callable[[pa.DataType], bool],
    named_by: Sequence[str],
) -> tuple[pa.Array, list[pa.Array]]:
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            schema = file.schema_arrow
            places = _find_columns(schema.names, source, roles, named_by)
            located, values = ([schema.names[place] for place in some] for some in places)
            for name in located:
                _check_type(name, schema.field(name).type, source)
            for name in values:
                _check_type(name, schema.field(name).type, source, pa.types.is_integer, *also)
            table = file.read(columns=[*located, *values])
            text = {name: table[name].cast(pa.string()).combine_chunks() for name in table.column_names}
            for name in values:
                if pa.types.is_integer(schema.field(name).type):
                    text[name] = _named_numbers(text[name], numbered_classes(schema.metadata, name))
            return _names_of_images([text[name] for name in located]), [text[name] for name in values]
    except pa.ArrowException as exc:
        raise BadRequest(f"{source}: is no readable Parquet ({str(exc).splitlines()[0]})") from exc


def _named_numbers(numbers: pa.Array, classes: Sequence[str]) -> pa.Array:
    """The names of the classes of labels that are numbers, where the file has them (Hugging Face)."""
    if not classes:
        return numbers
    return pa.array([None if text is None else numbered_class(int(text), classes) for text in numbers.to_pylist()])


def _check_type(name: str, kind: pa.DataType, source: str, *also: Callable[[pa.DataType], bool]) -> None:
    """Refuse what is no text, nor of a type that `also` tells. Names of images are no numbers: 007 would be 7."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if any(fits(kind) for fits in (*text, *also)):
        return
    raise BadRequest(f"{source}: the column {name!r} holds {kind}; write it as text")


def _find_columns(
    header: Sequence[str], source: str, roles: Sequence[Sequence[str]], named_by: Sequence[str]
) -> tuple[list[int], list[int]]:
    """The places of the column that names the image, or of bucket and key; and of the column of each role."""
    uri, bucket, key = (find_column(header, names, source) for names in (URI_COLUMNS, [BUCKET_COLUMN], [KEY_COLUMN]))
    if uri is None and bucket is not None and key is not None:
        located = [bucket, key]
    else:
        of_images = named_by is LABELLED_COLUMNS and find_column(header, LABELLED_COLUMNS, source) is None
        if of_images and find_column(header, SERIES_COLUMNS, source) is not None:
            raise BadRequest(
                f"{source}: names series and no images; once the run is scored, give it to `report RUN --labels`"
            )
        located = [find_needed(header, named_by, source, "image")]
    return located, [find_needed(header, names, source, names[0]) for names in roles]


def classes_of(raw: pa.Array, classes: tuple[str, ...], source: str) -> pa.Array:
    """The classes that labels name; null for no label. Raises `BadRequest` for what is no class."""
    lookup = ClassLookup(classes)
    values = [value for value in raw.unique().to_pylist() if value is not None]
    matched = {value: lookup.find(value) for value in values}
    spelled = [value for value in values if matched[value] is not None or not is_no_value(value)]
    unknown = [value for value in spelled if matched[value] is None]
    if unknown:
        raise BadRequest(
            f"{source}: label(s) {_some(pa.array(unknown))} are no class of the model, which knows {', '.join(classes)}"
        )
    codes = pc.index_in(raw, pa.array(spelled, pa.string()))
    return pa.array([matched[value] for value in spelled], pa.string()).take(codes)
