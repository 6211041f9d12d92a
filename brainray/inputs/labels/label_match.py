"""Matches label rows to images that they name nearly: the rules, and the search for images in several steps.

A step compares one spelling of the rows with one name of the images. It looks only at rows and images that the steps
before have left, and matches a row and an image only where neither fits another. Knows no files.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.inputs.image_suffixes import IMAGE_SUFFIXES

_SUFFIX = r"\.(nii\.gz|" + "|".join(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES)) + ")$"
_FILE_URI, _HADOOP_S3 = r"^(?i:file):(//(localhost)?)?/+", r"^(?i:s3[an]?)://"
_ARCHIVE = r"(?i:\.(?:tar|zip|tgz|gz|bz2|tbz2?|t?xz|t?zst))"
_MOST_FOLDERS = 16  # in a row that may be the end of a URI
_COMPARED = 20_000  # images among which `nearest` looks: about a second for five keys
Indices = npt.NDArray[np.int64]


def _spellings_of_rows(keys: pa.Array) -> list[tuple[int, pa.Array]]:
    """The spellings of rows, in the order in which they count, each with the spelling of images to compare it with.

    A `file://` URI is percent-encoded, or names a file with a `%`: its literal name counts before the decoded one,
    which is null for all other rows.
    """
    spelled = [_spellings(keys)]
    if pc.any(pc.match_substring_regex(keys, f"{_FILE_URI}.*%")).as_py():
        spelled.append(_spellings(pa.array(map(_decoded, keys.to_pylist()), pa.string())))
    return [(rule, values) for rule, same in enumerate(zip(*spelled, strict=True)) for values in same]


def _spellings(keys: pa.Array) -> tuple[pa.Array, ...]:
    """Rows as plain text, without case, without suffix.

    The last is null for rows with an image suffix, which must not stand for another one: 1.png may be a mask of 1.jpg.
    """
    plain = _plain(keys)
    lower = pc.utf8_lower(plain)
    return plain, lower, pc.if_else(pc.match_substring_regex(lower, _SUFFIX), pa.scalar(None, pa.string()), lower)


def _spellings_of_images(names: pa.Array) -> tuple[pa.Array, ...]:
    """The spellings of images to compare with those of rows."""
    plain = _plain(names)
    lower = pc.utf8_lower(plain)
    return plain, lower, pc.replace_substring_regex(lower, _SUFFIX, "")


def _plain(names: pa.Array) -> pa.Array:
    """Names without blanks around them and `./` before them, with `/` for backslashes, in Unicode's normal form C.

    URIs have one scheme for a store, as images have: `file:///a` is `/a`, and Hadoop's `s3a://` is `s3://`.
    """
    tidy = pc.replace_substring(pc.utf8_trim_whitespace(pc.utf8_normalize(names, "NFC")), "\\", "/")
    for pattern, plain in (_FILE_URI, "/"), (_HADOOP_S3, "s3://"):
        tidy = pc.replace_substring_regex(tidy, pattern, plain)
    return pc.replace_substring_regex(tidy, r"^(\./+)+", "")


def _decoded(name: str | None) -> str | None:
    """What a `file://` URI says that is percent-encoded; None for any other name."""
    return unquote(name) if name and "%" in name and re.match(_FILE_URI, name) else None


@dataclass
class Pairs:
    """Rows and the images that they nearly fit. Rows are indices, images are numbers."""

    rows: Indices = field(default_factory=lambda: np.empty(0, np.int64))  # each with the image at the same place
    images: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    ambiguous: Indices = field(default_factory=lambda: np.empty(0, np.int64))  # fit several images, or share one
    second: Indices = field(default_factory=lambda: np.empty(0, np.int64))  # fit only images that have another row


class NearMatches:
    """Collects which images nearly fit which of the rows that have no image, then pairs them."""

    def __init__(self, keys: pa.Array) -> None:
        self._rows = [(rule, _Spelling(values)) for rule, values in _spellings_of_rows(keys)]
        counts = np.unique(pc.count_substring(_plain(keys), "/").drop_null().to_numpy())
        # Folders in a row. Most first, for an image belongs to the row that has most of its path.
        self._ends = [int(count) for count in counts[::-1] if 0 < count < _MOST_FOLDERS]
        self._found: dict[tuple[int, int], list[tuple[Indices, Indices]]] = {}

    def add(self, numbers: Indices, names: Sequence[pa.Array]) -> None:
        """Look up images: their numbers, and their names from the fullest to the shortest, one value per image.

        The first is the URI, of which rows may also be the end: `in/1.jpg` of `/data/in/1.jpg`, or `a/1.jpg` of
        `w.tar#a/1.jpg`.
        """
        ends = [end(names[0], folders) for folders in self._ends for end in _ENDS]
        steps = [*range(len(names)), *(len(names) + place // len(_ENDS) for place in range(len(ends)))]
        together = pa.concat_arrays([*names, *ends])  # for one look-up builds one table of all rows
        spelled = _spellings_of_images(together)
        for order, (rule, spelling) in enumerate(self._rows):
            rows, positions = spelling.find(spelled[rule])
            places, within = np.divmod(positions, len(numbers))
            for place in np.unique(places).tolist():
                here = places == place
                self._found.setdefault((order, steps[place]), []).append((rows[here], numbers[within[here]]))

    def pairs(self, taken: Indices) -> Pairs:
        """Pair rows and images. `taken` are the numbers of images that have a row already."""
        paired = Pairs()
        for step in sorted(self._found):
            rows, images = (np.concatenate(parts) for parts in zip(*self._found[step], strict=True))
            closed = np.concatenate([paired.rows, paired.ambiguous])
            is_open = ~np.isin(rows, closed)
            rows, images = rows[is_open], images[is_open]
            free = ~np.isin(images, np.concatenate([taken, paired.images]))
            doubtful = np.isin(rows, _repeated(rows)) | (free & np.isin(images, _repeated(images)))
            sure = free & ~doubtful
            paired.second = np.union1d(paired.second, rows[~free])
            paired.ambiguous = np.union1d(paired.ambiguous, rows[np.isin(rows, rows[free]) & doubtful])
            paired.rows = np.concatenate([paired.rows, rows[sure]])
            paired.images = np.concatenate([paired.images, images[sure]])
        paired.second = np.setdiff1d(paired.second, np.concatenate([paired.rows, paired.ambiguous]))
        return paired


class _Spelling:
    """One spelling of all rows: its distinct values, and the rows of each."""

    def __init__(self, values: pa.Array) -> None:
        self._distinct = values.drop_null().unique()
        place = _places(values, self._distinct)
        self._order = np.argsort(place, kind="stable")
        self._starts = np.searchsorted(place[self._order], np.arange(len(self._distinct) + 1))

    def find(self, values: pa.Array) -> tuple[Indices, Indices]:
        """Each pair of a row and a position in `values` that have the same spelling."""
        place = _places(values, self._distinct)
        positions = np.flatnonzero(place >= 0)
        place = place[positions]
        counts = self._starts[place + 1] - self._starts[place]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._order[np.repeat(self._starts[place], counts) + within], np.repeat(positions, counts)


def _end(uris: pa.Array, folders: int) -> pa.Array:
    """The last parts of URIs, without case and form changed: so many folders and the name; null in shorter ones."""
    return pc.struct_field(pc.extract_regex(uris, rf"/(?P<end>(?:[^/]+/){{{folders}}}[^/]+)$"), "end")


def _whole_member(uris: pa.Array, folders: int) -> pa.Array:
    """The path of a member within its archive, if it has so many folders; null for all others."""
    plain = pc.replace_substring(uris, "\\", "/")  # as zips from Windows have it
    return pc.struct_field(pc.extract_regex(plain, rf"{_ARCHIVE}#(?P<end>(?:[^/#]+/){{{folders}}}[^/#]+)$"), "end")


_ENDS = (_end, _whole_member)  # of one step: a row that fits one image by this and one by that fits several


def _places(values: pa.Array, distinct: pa.Array) -> Indices:
    found = pc.fill_null(pc.index_in(values, distinct, skip_nulls=True), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _repeated(values: Indices) -> Indices:
    distinct, counts = np.unique(values, return_counts=True)
    return np.asarray(distinct[counts > 1], np.int64)


def nearest(keys: Sequence[str], uris: Iterable[str]) -> list[str]:
    """For each key the image that it resembles most, as far as one does, as a path of as many parts as the key has.

    It is the whole URI where such a path is the key itself, which then fits several images.
    """
    lengths = {key: key.replace("\\", "/").strip("/").count("/") + 1 for key in keys}
    paths: dict[int, dict[str, str]] = {length: {} for length in lengths.values()}
    for uri in islice(uris, _COMPARED):
        parts = uri.replace("#", "/").split("/")
        for length, known in paths.items():
            known["/".join(parts[-length:])] = uri
    found = [(key, paths[length], get_close_matches(key, paths[length], 1)) for key, length in lengths.items()]
    likely = (known[match] if match == key else match for key, known, matches in found for match in matches)
    return list(dict.fromkeys(likely))
