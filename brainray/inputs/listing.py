"""Streams the images of the inputs into a listing, a local Parquet file. Memory is bounded by one chunk of rows.

An input is a folder, an image, an archive or a file list; folders may hold archives, too. Opens no image.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import BadRequest, as_bad_request
from brainray.storage.base import FileInfo

from . import archives
from .archives.index import ArchiveIndex, ArchiveIndexes, Spelled, refusal_of
from .bids import BidsTrees, trees_in
from .class_names import ClassLookup, label_from_folders
from .frames.listing import FrameRows
from .frames.members import frames_of_member
from .frames.nifti import FIRST
from .image_files import Globs, GroupLevels, InputFolders, is_hidden, skip_member, skip_reason
from .labels.group_file import GroupFile
from .labels.label_file import LabelFile, fill_nearly, spellings
from .labels.label_notes import LabelNotes
from .labels.sample_notes import FolderNotes, SampleNotes
from .listed_image import CHUNK_ROWS, LISTED_SCHEMA, ListedImage, UriIndex, few_collections, tables_in, with_values
from .lists.file_lists import FileList, FileListRow, open_file_list, open_table
from .lists.prefixes import Below, Prefixes, listed_ahead
from .lists.resolve import resolve_rows
from .own_output import OwnOutput
from .paths_in_archives import folders_of, inner_path
from .skip_counts import count_skipped, few_reasons
from .table_formats import TableGuard
from .unnamed_files import TAR, FileFormats, MemberFormats, UnnamedFiles
from .unread import MOST_FILE_BYTES, refusal_of_class, refusal_of_file, refusal_of_size

_WEBDATASETS = ("tar", "compressed tar")  # archives with samples of several files
_SIDE_FILES = (
    "JSON files beside NIfTI files in archives, which are not read there: {:,}; unpack the archives to have what they "
    "say of scanner and sequence"
)
# The names of images that are not in `LISTED_SCHEMA`: below the input, and without folders.
NAMES_SCHEMA = pa.schema([pa.field("relative", pa.string()), pa.field("name", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The result of a listing: a local Parquet file of images, and the number of skipped files by reason."""

    path: str
    images: int
    size_bytes: int
    labelled: int
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # for the user, one line each

    def batches(self) -> Iterator[pa.Table]:
        """The rows in order, `CHUNK_ROWS` at a time."""
        return tables_in(self.path)


class Lister:
    """Lists the images of the inputs as Arrow tables of at most `CHUNK_ROWS` rows; counts skipped files by reason."""

    def __init__(
        self,
        inputs: Sequence[str],
        indexes: ArchiveIndexes,
        *,
        classes: Sequence[str],
        output: str | None = None,
        label_file: LabelFile | None = None,
        given_labels: pa.Table | None = None,
        group_file: GroupFile | None = None,
        group_by: str | Sequence[str] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        any_suffix: bool = False,
        keep: Sequence[str] = (),
        most_bytes: int = MOST_FILE_BYTES,
        retry_unread: bool = False,
        volumes: str = FIRST,
        most_unread: float = 1.0,
    ) -> None:
        self._inputs = inputs
        self._indexes = indexes
        self._chosen = Globs(include, exclude)
        self._own = OwnOutput(output)  # the plots of this run are no input
        self._classes = classes
        self._lookup = ClassLookup(classes)
        self._numbered = {str(number): name for number, name in enumerate(classes)}
        self._label_file = label_file
        self._group_file = group_file
        self._given = given_labels  # uri and label: they win over folders and lists
        self._given_at = None if given_labels is None else UriIndex(given_labels["uri"].combine_chunks())
        self._group = GroupLevels(group_by)
        self._any_suffix = any_suffix
        self._keep = keep
        self._most_bytes = most_bytes  # of an image that is read
        self._retry_unread = retry_unread  # whether objects may be restored that a list calls archived
        self.skipped: Counter[str] = Counter()
        self._notes: list[str] = []
        self._label_notes = LabelNotes(classes, silent=label_file is not None)
        self._folder_notes = FolderNotes(self._label_notes)
        self._members_sampled = False  # whether an archive had members without suffix, which were looked into
        self._side_files = 0  # of NIfTI files in archives, which are not read
        self._member_formats = MemberFormats()
        self._formats = FileFormats(tars=True)
        self._frames = FrameRows(self.skipped, volumes, self._formats, most_unread=most_unread)
        self.may_repeat = False  # whether an image may be listed twice, which files of a folder never are
        self.has_lists = False  # whether a list names images: it may name a file and its frames, too

    @property
    def files(self) -> dict[str, LabelFile]:
        """The tables that name images, by the column of the listing that they fill."""
        labels = {"label": self._label_file} if self._label_file is not None else {}
        groups = {"group": self._group_file.rows} if self._group_file is not None else {}
        return labels | groups

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the listing, one line each; complete after the last of the tables."""
        globs = [f"{option} {glob!r}: matches no path below the inputs" for option, glob in self._chosen.unmatched]
        sides = [] if not self._side_files else [_SIDE_FILES.format(self._side_files)]
        return (*self._notes, *self._label_notes.lines, *globs, *sides, *self._frames.notes)

    def tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The images, and the names by which a label file may know them (`NAMES_SCHEMA`; no rows without one)."""
        images = self._images()
        while rows := list(islice(images, CHUNK_ROWS)):
            yield self._table([image for image, _ in rows], [path for _, path in rows])

    def _table(self, rows: list[ListedImage], relative: list[str]) -> tuple[pa.Table, pa.Table]:
        columns = list(zip(*rows, strict=True))
        table = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, LISTED_SCHEMA, strict=True)], schema=LISTED_SCHEMA
        )
        if self._label_file is None:
            table = self._with_given(table)
        if not self.files:
            return table, NAMES_SCHEMA.empty_table()
        inner = (inner_path(image, path) for image, path in zip(rows, relative, strict=True))
        names = [path.rpartition("/")[2] for path in inner]
        known_as = pa.table([pa.array(relative, pa.string()), pa.array(names, pa.string())], schema=NAMES_SCHEMA)
        for column, named in self.files.items():
            table = with_values(table, column, named.labels_of(*spellings(table, known_as)))
        return table, known_as

    def _with_given(self, table: pa.Table) -> pa.Table:
        if self._given is None or self._given_at is None or len(self._given) == 0:
            return table
        places = self._given_at.find(table["uri"].combine_chunks())
        return with_values(table, "label", pc.coalesce(self._given["label"].take(places), table["label"]))

    def _images(self) -> Iterator[tuple[ListedImage, str]]:
        """Every image, with its path below its input."""
        for root in self._inputs:
            image_list = open_file_list(root)
            if image_list is not None:
                self.may_repeat = self.has_lists = True
            yield from self._from_folder(root) if image_list is None else self._from_list(image_list)

    def _from_folder(self, root: str, files: Iterable[FileInfo] | None = None) -> Iterator[tuple[ListedImage, str]]:
        """The images of a folder, an archive or a file, which may be listed already."""
        tables = TableGuard(root)
        for found, index, frames in self._frames.of_files(self._indexes.ahead(self._below(root, tables, files))):
            if index is None:
                yield from self._file(found, storage.name_of(root), frames)
                continue
            unread = refusal_of(index)
            if unread is not None:
                yield from self._file(found, storage.name_of(root), refused=unread)
                continue
            if index.result().skipped is None and archives.kind_of(found.uri) == "parquet":
                tables.on_images(found.folders)
            yield from self._members(found, index.result(), root)
        self._notes += tables.notes

    def _below(
        self, root: str, tables: TableGuard, files: Iterable[FileInfo] | None = None
    ) -> Iterator[tuple[FileInfo, archives.Kind | None]]:
        """The images (kind None) and archives below an input; last those whose names tell no format, if they count.

        Of `files`, which a list names by their prefix, all are looked into whose names tell no format. An archive in
        Glacier cannot be listed: its kind is None.
        """
        unnamed = UnnamedFiles(
            root,
            self.skipped,
            any_suffix=self._any_suffix,
            all_without_suffix=files is not None,
            format_in=self._formats,
        )
        named, trees = 0, BidsTrees(all_wanted=self._chosen.includes_some)
        if files is None:
            files = storage.list_files(root, InputFolders("--input", self.skipped, self._chosen, tables))
        for found in files:
            if self._own.holds(found.uri):
                continue
            name = storage.name_of(found.uri)
            tables.on_file(found.folders, name)
            trees.on_file(found.folders, name)
            path = "/".join((*found.folders, name))
            self._chosen.on_path(path)
            kind = None if found.special or is_hidden(name, found.folders) else archives.kind_of(name)
            if kind is not None:
                reason = "in --exclude" if self._chosen.excludes(path) else None
            else:
                reason = skip_reason(name, found.folders, special=found.special)
                if reason is None or unnamed.wants(reason):
                    reason = self._chosen.skip_reason(path) or reason
            if reason is None or unnamed.wants(reason):
                reason = trees.skip_reason(found.folders) or reason
            if reason is None:
                named += 1
                yield found, None if found.archived else kind
            elif unnamed.wants(reason):
                yield from ((file, _kind_of_unnamed(form)) for file, form in unnamed.add(found, reason))
            else:
                self._folder_notes.on_file(found.uri, reason)
                count_skipped(self.skipped, reason)
        yield from ((file, _kind_of_unnamed(form)) for file, form in unnamed.rest(named))
        self._notes += unnamed.notes

    def _file(
        self, found: FileInfo, root_name: str, frames: int = 1, *, refused: str | None = None
    ) -> Iterator[tuple[ListedImage, str]]:
        """The row of a file, or the rows of its frames."""
        label = self._label((root_name, *found.folders))
        self._folder_notes.on_image(found.uri, label)
        group = self._group(found.uri, found.folders)
        path = "/".join((*found.folders, storage.name_of(found.uri)))
        refused = refused or refusal_of_file(found, self._most_bytes)
        image = ListedImage(found.uri, found.size_bytes, found.version, label, group, refused=refused)
        for frame in self._frames.rows(image, frames):
            yield frame, path + frame.uri.removeprefix(found.uri)

    def _members(self, archive: FileInfo, index: ArchiveIndex, root: str) -> Iterator[tuple[ListedImage, str]]:
        """The images of an archive, which counts as a folder."""
        if index.skipped is not None:
            self.skipped[index.skipped] += 1
            return
        self.may_repeat = True
        name = storage.name_of(archive.uri)
        in_parquet = archives.kind_of(name) == "parquet"
        unnamed = UnnamedFiles(
            archive.uri,
            self.skipped,
            any_suffix=self._any_suffix,
            sample=not self._members_sampled,
            format_in=self._member_formats,
        )
        named, samples = 0, SampleNotes(self._label_notes, of_samples=archives.container_kind(name) in _WEBDATASETS)
        if index.note is not None:
            self._label_notes.add_unused(archive.uri, index.note)
        elif in_parquet:
            self._label_notes.add_columns_of_archive(archive.uri)
        above = archive.folders if archive.uri == root else (*archive.folders, archives.stem(name))
        root_name = archives.stem(storage.name_of(root))
        trees = BidsTrees() if in_parquet else trees_in(index, name, all_wanted=self._chosen.includes_some)
        self._side_files += 0 if in_parquet else index.side_files()
        within = "/".join((*archive.folders, name))
        kept = self._kept_rows(archive.uri) if in_parquet and archive.uri == root else repeat(None)
        for (member, image, spelled, frames, volume, unread), values in zip(index.images(archive), kept, strict=False):
            inner = archives.inner_path(name, member)
            path = archives.member_uri(within, inner)
            self._chosen.on_path(path)
            reason = None if in_parquet else skip_member(member, refused=image.refused is not None)
            if reason is not None and not self._chosen.excludes(path):
                samples.on_file(inner, image.uri, reason, unread, spelled)
            is_unnamed = reason is not None and not image.refused and unnamed.wants(reason)
            unchosen = None
            if reason is None or is_unnamed:
                unchosen = self._chosen.skip_reason(path) or trees.skip_reason(inner.split("/")[:-1])
            if unchosen or (reason and not is_unnamed):
                count_skipped(self.skipped, unchosen or reason or "")
                continue
            folders = (*above, *inner.split("/")[:-1])
            label = self._member_label(spelled, image, known=index.in_run) if spelled else None
            earlier = index.in_run and not in_parquet  # then it has the label that earlier versions gave it
            if not spelled or (label is None and (earlier or spelled.key is not None)):
                label = self._label((root_name, *folders))
            if reason is None:
                samples.on_image(inner, label, spelled)
            refused = image.refused or refusal_of_size(image.size_bytes, self._most_bytes)
            group = self._group(image.uri, folders)
            values = values if member else None
            listed_image = image._replace(label=label, group=group, kept=values, refused=refused)
            listed = listed_image, path, self._frames.of_member(listed_image, frames, volume)
            named += reason is None
            for item in (each for each, _ in unnamed.add(listed, reason)) if reason else (listed,):
                yield from frames_of_member(*item)
        yield from chain.from_iterable(frames_of_member(*item) for item, _ in unnamed.rest(named))
        samples.add()
        if unnamed.files and not self._members_sampled:  # once: the archives of a data set are alike
            self._members_sampled = True
            self._notes += unnamed.notes

    def _kept_rows(self, uri: str) -> Iterator[str | None]:
        """The values of columns to be kept of each row of a Parquet archive, then None: for its damage."""
        table = open_table(uri) if self._keep else None
        return chain(table.kept_rows(self._keep) if table and table.keeps(self._keep) else (), repeat(None))

    def _label(self, folders: tuple[str, ...]) -> str | None:
        label = label_from_folders(folders, self._lookup) if self._label_file is None else None
        if label is None:
            self._label_notes.add_folders(folders)
        return label

    def _member_label(self, spelled: Spelled, image: ListedImage, *, known: bool) -> str | None:
        """The class of a label in an archive. That of a WebDataset sample may be the number of a class, from 0.

        Runs may hold archives whose labels are no classes, which had no label in earlier versions: `known` ones still
        have none, so that these runs can be extended. Raises `BadRequest` for any other.
        """
        text, key = spelled
        if self._label_file is not None or not text.strip():
            return None
        label = self._lookup.find(text)
        if label is None and image.container and archives.container_kind(image.container) in _WEBDATASETS:
            label = self._numbered.get(text)
            if label is not None:
                self._label_notes.add_numbers()
        if label is None and self._label_notes.is_no_value(text):
            return None
        if label is None and key is not None:
            self._label_notes.add_no_class(image.uri, key, text)
        elif label is None and not known:
            raise BadRequest(
                f"--input {image.uri}: its label {text[:80]!r} is no class of the model, which knows "
                f"{', '.join(self._classes)}; correct it, leave it empty, or give the labels by --labels"
            )
        return label

    def _from_list(self, image_list: FileList) -> Iterator[tuple[ListedImage, str]]:
        """The images that a file list names, wherever they are and whatever their suffix."""
        image_list = self._label_notes.with_labels(image_list)
        base, labelled = image_list.base + "/", image_list.labelled
        rows = resolve_rows(image_list, self._indexes, keep=self._keep, skipped=self.skipped)
        prefixes = Prefixes(image_list.uri, self.skipped)
        asked = self._frames.of_listed(rows, lambda row, image: self._is_read(row, image.uri.removeprefix(base)))
        for (listed, image, frames), below in listed_ahead(asked, lambda row: row[0].uri if row[0].is_prefix else None):
            if below is not None:
                yield from prefixes.counted(listed.uri, self._from_prefix(listed, below, image_list))
                continue
            if image_list.inventory and self._own.holds(image.uri):
                continue
            path = image.uri.removeprefix(base)
            self._chosen.on_path(path)
            reason = self._chosen.skip_reason(path)
            if reason is not None:
                count_skipped(self.skipped, reason)
                continue
            folders = folders_of(image, path)
            label = self._listed_label(listed, image_list) if labelled else self._label_in(image, folders)
            group = self._group(image.uri, folders if image.uri.startswith(base) else ())
            refused = image.refused or self._archived(listed) or refusal_of_size(image.size_bytes, self._most_bytes)
            image = image._replace(label=label, group=group, refused=refused)
            if listed.volume is not None:
                yield from frames_of_member(image, path, self._frames.of_member(image, 1, listed.volume))
                continue
            for each in self._frames.rows(image, frames):
                yield each, path + each.uri.removeprefix(image.uri)
        self._notes += prefixes.notes

    def _is_read(self, listed: FileListRow, path: str) -> bool:
        return self._chosen.skip_reason(path) is None and self._archived(listed) is None

    def _archived(self, listed: FileListRow) -> str | None:
        """Why an object is not read that its list calls archived."""
        return None if self._retry_unread else refusal_of_class(listed.uri, listed.archived)

    def _from_prefix(
        self, listed: FileListRow, below: Below, image_list: FileList
    ) -> Iterator[tuple[ListedImage, str]]:
        """The images below a prefix that a list names, which counts as their first folder."""
        rules = InputFolders("--input", self.skipped, self._chosen, above=(storage.name_of(listed.uri),))
        for image, path in self._from_folder(listed.uri, below.named(listed.uri, rules)):
            label = self._listed_label(listed, image_list) if image_list.labelled else image.label
            yield image._replace(label=label, kept=listed.kept), path

    def _label_in(self, image: ListedImage, folders: tuple[str, ...]) -> str | None:
        """The label of an image that a list without labels names: that of its archive, which is said if it is no class,
        else that of its folders.
        """
        spelled = Spelled(image.label, "") if image.label else None
        return (self._member_label(spelled, image, known=True) if spelled else None) or self._label(folders)

    def _listed_label(self, listed: FileListRow, image_list: FileList) -> str | None:
        if listed.label is None:
            return None
        label = self._lookup.find(listed.label)
        if label is None and self._label_file is None and not self._label_notes.is_no_value(listed.label):
            raise BadRequest(
                f"--input {image_list.uri}: label {listed.label!r} is no class of the model, which knows "
                f"{', '.join(self._classes)}; correct it, leave it empty, or rename the column "
                f"{image_list.label_column} if it holds no labels"
            )
        return label


def _kind_of_unnamed(form: str) -> archives.Kind | None:
    """The kind of archive that a file without suffix is by its format; None for an image."""
    return archives.container_kind("") if form == TAR else None


def scan(lister: Lister, path: str, *, progress: Callable[[int], None] | None = None) -> Listing:
    """Stream a listing into a local Parquet file; `progress` is called with the number of images so far.

    Raises `BadRequest` where an input cannot be listed.
    """
    images = size_bytes = labelled = 0
    names_path = path + ".names"
    with (
        as_bad_request("--input"),
        few_collections(),
        pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer,
        pq.ParquetWriter(names_path, NAMES_SCHEMA, compression="zstd") as names_writer,
    ):
        for table, names in lister.tables():
            writer.write_table(table)
            if len(names):
                names_writer.write_table(names)
            images += len(table)
            size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
            labelled += len(table) - table["label"].null_count
            if progress is not None:
                progress(images)
    for column, rows in lister.files.items():
        if not rows.all_used:
            found = fill_nearly(rows, column, path, names_path)
            labelled += found if column == "label" else 0
    os.unlink(names_path)
    return Listing(
        path=path,
        images=images,
        size_bytes=size_bytes,
        labelled=labelled,
        skipped=few_reasons(lister.skipped),
        notes=lister.notes,
    )
