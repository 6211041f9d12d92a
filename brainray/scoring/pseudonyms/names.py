"""The names behind pseudonyms, in the folder of the user: a Parquet file for each shard, and one for groups and inputs.

Files are added, and neither changed nor deleted, for several runs may share the folder. Whoever may read it can join it
with the rows of a run. Workers read it to find their images; the key they do not need.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.callbacks import Say
from brainray.errors import BadRequest, StorageError
from brainray.imaging.keyed_hash import keyed_hash
from brainray.inputs.listed_image import with_values
from brainray.machine.ahead import map_ahead

from .key import FIELD, FOR_READERS, NAMES, OPTION, key_of

NAMES_SCHEMA = pa.schema(
    [
        pa.field("pseudonym", pa.string(), nullable=False),
        pa.field("real", pa.string(), nullable=False),  # URI of an image or an input, a group, or another text
        pa.field("container", pa.string()),  # URI of the archive that holds the image, or of the file of a frame
    ]
)
_TEXTS = "texts-"  # begins the names of files with what is not of images
_SUFFIX = ".parquet"
_DIGEST_HEX = 12
_MAGIC = b"PAR1"  # of Parquet, the last bytes of a file; before it stands the length of what describes it
_THREADS = 8


@dataclass(frozen=True, slots=True)
class RealNames:
    """Finds names by their pseudonyms."""

    folder: str

    def rows(self, rows: pa.Table) -> pa.Table:
        """Rows of the manifest with the real URIs and archives of their images.

        Raises `StorageError` for an image whose name the folder does not have.
        """
        known = self._of_shards(rows["shard_id"].unique().to_pylist())
        return with_real(rows, known, self.folder)

    def uris(self, shard_id: str, uris: pa.ChunkedArray) -> pa.ChunkedArray:
        """The real URIs of images of a shard."""
        known = self._of_shards([shard_id])
        return known["real"].take(_places(uris, known, self.folder))

    def lost(self, shard_ids: Iterable[str]) -> dict[str, str]:
        """The shards whose names the folder does not have, and what is wrong with the file of each."""
        folder = storage.join(self.folder, NAMES)
        there = set(storage.list_names(folder))

        def wrong(shard_id: str) -> str | None:
            name = shard_id + _SUFFIX
            if name not in there:
                return f"{NAMES}/{name} is not there"
            return None if _is_whole(storage.join(folder, name)) else f"{NAMES}/{name} is cut off or damaged"

        shard_ids = list(shard_ids)
        found = zip(shard_ids, map_ahead(wrong, shard_ids, threads=_THREADS), strict=True)
        return {shard_id: why for shard_id, why in found if why is not None}

    def text(self, pseudonym: str) -> str:
        """The text of a pseudonym that is not of an image. Raises `StorageError` where the folder does not have it."""
        return self.texts().get(pseudonym) or _lost(self.folder, pseudonym)

    def texts(self) -> dict[str, str]:
        """Every text by its pseudonym: inputs, groups, options of runs."""
        folder = storage.join(self.folder, NAMES)
        found: dict[str, str] = {}
        for name in storage.list_names(folder):
            if name.startswith(_TEXTS):
                table = storage.read_parquet(storage.join(folder, name))
                found |= zip(table["pseudonym"].to_pylist(), table["real"].to_pylist(), strict=True)
        return found

    def inputs(self, run: Mapping[str, Any]) -> tuple[str, ...]:
        """The real inputs of a run."""
        texts = self.texts()
        return tuple(texts.get(name) or _lost(self.folder, name) for name in run.get("inputs") or ())

    def file_of(self, shard_id: str) -> str:
        """The file with the names of a shard."""
        return storage.join(self.folder, NAMES, shard_id + _SUFFIX)

    def write_shard(self, shard_id: str, names: pa.Table) -> None:
        """Keep the names of a shard."""
        storage.PRIVATE.write_parquet(self.file_of(shard_id), names)

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Keep texts by their pseudonyms: those that are not kept yet, in one more file."""
        there = self.texts()
        texts = {name: text for name, text in texts.items() if name not in there}
        if not texts:
            return
        table = pa.table([list(texts), list(texts.values()), [None] * len(texts)], schema=NAMES_SCHEMA)
        table = table.sort_by("pseudonym")
        content = "\0".join(table["pseudonym"].to_pylist()).encode()
        name = _TEXTS + hashlib.sha256(content).hexdigest()[:_DIGEST_HEX] + _SUFFIX
        storage.PRIVATE.write_parquet(storage.join(self.folder, NAMES, name), table)

    def _of_shards(self, shard_ids: Sequence[str]) -> pa.Table:
        tables = [storage.read_parquet(self.file_of(shard_id)) for shard_id in shard_ids]
        return pa.concat_tables([NAMES_SCHEMA.empty_table(), *(table.cast(NAMES_SCHEMA) for table in tables)])


@dataclass(frozen=True, slots=True)
class KeyedNames(RealNames):
    """The names of a run with their key, for who rebuilds its summary."""

    key: bytes

    def of_series(self, name: str) -> str:
        """What stands for the name of a series that was found in a path."""
        return keyed_hash(self.key, "series", name)


def _is_whole(uri: str) -> bool:
    """Whether a Parquet file has its end, by its last bytes."""
    end, size_bytes = storage.read_tail(uri, 2 * len(_MAGIC))
    described_bytes = int.from_bytes(end[: len(_MAGIC)], "little")
    return end.endswith(_MAGIC) and described_bytes + 3 * len(_MAGIC) <= size_bytes


def with_real(rows: pa.Table, known: pa.Table, folder: str) -> pa.Table:
    """Rows with the URIs and archives that stand in a table of `NAMES_SCHEMA`. Raises `StorageError` without one."""
    places = _places(rows["uri"], known, folder)
    rows = with_values(rows, "uri", known["real"].take(places))
    return with_values(rows, "container", known["container"].take(places))


def _places(uris: pa.ChunkedArray, known: pa.Table, folder: str) -> pa.ChunkedArray:
    places = pc.index_in(uris, known["pseudonym"].combine_chunks())
    if places.null_count:
        _lost(folder, uris.filter(pc.is_null(places))[0].as_py())
    return places


def _lost(folder: str, pseudonym: str) -> str:
    raise StorageError("not_found", f"{folder}: the name of {pseudonym} is not there; restore that folder")


def names_for(run_uri: str, run: Mapping[str, Any], folder: str | None, *, needed_by: str | None) -> KeyedNames | None:
    """The names of a run that has pseudonyms, by the folder that a reader gives; None where there is none.

    `needed_by` is what cannot be done without them. Raises `BadRequest` for that, and for a folder of other runs.
    """
    if folder is not None:
        made = key_of(FOR_READERS, folder, run_uri, run)
        return KeyedNames(made.folder, made.key)
    if needed_by is not None:
        check_readable(run_uri, run, needed_by)
    return None


def say_of_missing(run_uri: str, run: Mapping[str, Any], names: RealNames | None, say: Say) -> None:
    """Say that a page has no thumbnails, because nobody knows where the images are."""
    if names is None and run.get(FIELD) is not None:
        say(f"no thumbnails: {run_uri} holds no names of images; give the folder of {OPTION} with {FOR_READERS}")


def check_readable(run_uri: str, run: Mapping[str, Any], needed_by: str) -> None:
    """Raise `BadRequest` for a run with pseudonyms, whose names something needs and nobody has given."""
    if run.get(FIELD) is not None:
        raise BadRequest(
            f"{needed_by}: {run_uri} holds no names of images; give the folder of its {OPTION} with {FOR_READERS}"
        )
