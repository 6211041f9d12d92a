"""What a model has learned from: a list of hashes in its bundle, by which `score` knows those images again.

An image was seen where the list holds its very file, or a picture with nearly the same perceptual hash: a copy of
another size, format or compression, or a mirror image. The list holds no pixels. Axes: N images in the list, M images
looked up, B bytes of a hash, W words of two bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from brainray.errors import BadRequest
from brainray.imaging.picture_hash import HASH_BYTES, hash_pictures, mirrored
from brainray.models.bundle import Bundle, read_file

FILE = "training/seen.parquet"  # in a bundle
# Bits of `HASH_BYTES` in which a copy differs at most; brainray/training/README.md has what was measured.
MOST_BITS = 14
_SCHEMA = pa.schema(
    [
        pa.field("content", pa.uint64(), nullable=False),  # the first 8 bytes of the SHA-256 of a file
        pa.field("picture", pa.binary(HASH_BYTES), nullable=False),  # its perceptual hash; zeros for none
    ]
)
# Whether an image was learned from before the training of this bundle: by the weights that it began with, or those that
# its teacher began with. Earlier versions did not tell.
_EARLIER = pa.field("earlier", pa.bool_(), nullable=False)

# Left to right and upside down: public sets hold many such copies, and so does training, which mirrors pictures.
MIRRORINGS = ((False, False), (True, False), (False, True), (True, True))

Hashes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


def hash_column(hashes_NB: Hashes) -> pa.Array:
    """Perceptual hashes as a column."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(HASH_BYTES), len(hashes_NB), [None, pa.py_buffer(np.ascontiguousarray(hashes_NB))]
    )


@dataclass(frozen=True, eq=False)
class SeenPictures:
    """The images that a model has learned from, each once, sorted by content."""

    content_N: npt.NDArray[np.uint64]
    hash_NB: Hashes
    earlier_N: Flags  # learned from before the training of this model

    @classmethod
    def of_columns(cls, table: pa.Table) -> Self:
        """From columns `content` (SHA-256 in hexadecimal, or the number that the list has of it) and `picture`.

        And `earlier`, where there is one.
        """
        earlier_N = np.zeros(len(table), bool)
        if _EARLIER in list(table.schema):
            earlier_N = table[_EARLIER.name].to_numpy()
        return cls._sorted(*_content_and_hash(table), earlier_N)

    @classmethod
    def _sorted(cls, content_N: npt.NDArray[np.uint64], hash_NB: Hashes, earlier_N: Flags) -> Self:
        content, first = np.unique(content_N, return_index=True)
        return cls(content, hash_NB[first], np.isin(content, content_N[earlier_N]))

    def joined(self, other: Self) -> Self:
        """The images of both lists."""
        names = ("content_N", "hash_NB", "earlier_N")
        return self._sorted(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    def earlier(self) -> Self:
        """The images that were learned from before the training of this model."""
        rows = self.earlier_N
        return type(self)(self.content_N[rows], self.hash_NB[rows], rows[rows])

    def as_earlier(self) -> Self:
        """The same images, all of them learned from before another training."""
        return replace(self, earlier_N=np.ones(len(self.content_N), bool))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        sink = pa.BufferOutputStream()
        columns = [pa.array(self.content_N), hash_column(self.hash_NB), pa.array(self.earlier_N)]
        table = pa.table(columns, schema=_SCHEMA.append(_EARLIER))
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
        return bytes(sink.getvalue().to_pybytes())

    def find(self, contents: Sequence[str], images: npt.NDArray[np.uint8]) -> Flags:
        """Tell which images were learned from, by the SHA-256 of their files in hexadecimal and their pixels: [M].

        `images` [M, H, W] or [M, H, W, 3] are as the model gets them.
        """
        return self._find(np.array([_short(text) for text in contents], np.uint64), hash_pictures(images))

    def find_described(self, table: pa.Table) -> Flags:
        """Tell the same of images by columns `content` and `picture`, as `of_columns` takes them: [M]."""
        return self._find(*_content_and_hash(table))

    def _find(self, short_M: npt.NDArray[np.uint64], hash_MB: Hashes) -> Flags:
        found: Flags = np.isin(short_M, self.content_N)
        for across, down in MIRRORINGS:
            found |= self._find_hashes(mirrored(hash_MB, across=across, down=down), known=found | ~hash_MB.any(axis=1))
        return found

    def _find_hashes(self, hash_MB: Hashes, *, known: Flags) -> Flags:
        """[M] which hashes differ from one in the list in at most `MOST_BITS` bits; those of `known` are left out.

        Only such are compared as have one of their 12 words in common, so that a long list takes hardly more time. That
        finds all that differ in less than 12 bits, and nearly all others.
        """
        found = np.zeros(len(hash_MB), bool)
        words_MW = hash_MB.view(np.uint16)
        for word, (sorted_N, order_N) in enumerate(self._words):
            first = np.searchsorted(sorted_N, words_MW[:, word], side="left")
            counts = np.searchsorted(sorted_N, words_MW[:, word], side="right") - first
            counts[known | found] = 0
            row = np.repeat(np.arange(len(hash_MB)), counts)
            starts = np.cumsum(counts) - counts
            listed = order_N[np.arange(len(row)) - np.repeat(starts - first, counts)]
            differing = np.bitwise_count(hash_MB[row].view(np.uint64) ^ self.hash_NB[listed].view(np.uint64))
            found[row[differing.sum(axis=1) <= MOST_BITS]] = True
        return found

    @cached_property
    def _words(self) -> list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]]:
        """For each word, its sorted values and the rows that have them. Pictures without a hash are left out."""
        rows = np.flatnonzero(self.hash_NB.any(axis=1))
        words = self.hash_NB[rows].view(np.uint16)
        orders = [np.argsort(words[:, word], kind="stable") for word in range(words.shape[1])]
        return [(words[order, word], rows[order]) for word, order in enumerate(orders)]


def _content_and_hash(table: pa.Table) -> tuple[npt.NDArray[np.uint64], Hashes]:
    content = table["content"]
    if content.type != pa.uint64():
        content = [_short(text) for text in content.to_pylist()]
    pictures = b"".join(table["picture"].to_pylist())
    return np.asarray(content, np.uint64), np.frombuffer(pictures, np.uint8).reshape(len(table), HASH_BYTES)


def _short(content_hash: str) -> int:
    """What the list has of a SHA-256 in hexadecimal."""
    return int(content_hash[:16], 16)


def read_seen(bundle: Bundle) -> SeenPictures | None:
    """What the model of a bundle has learned from; None where it does not tell.

    Raises `BadRequest` for a damaged file.
    """
    content = read_file(bundle, FILE)
    if content is None:
        return None
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as exc:
        raise BadRequest(f"{bundle.uri}: {FILE} is no list of this version of brainray ({exc})") from exc
    for field in _SCHEMA:
        if [each for each in table.schema if each.name == field.name] != [field]:
            raise BadRequest(
                f"{bundle.uri}: {FILE} is no list of this version of brainray (it has no column "
                f"{field.name!r} of type {field.type} without nulls); give the bundle as `brainray train` wrote it"
            )
    return SeenPictures.of_columns(table)


def is_lost(bundle: Bundle) -> bool:
    """Whether a bundle was written with the list and has it no more."""
    return FILE in bundle.files and read_file(bundle, FILE) is None
