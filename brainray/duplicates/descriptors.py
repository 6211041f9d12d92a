"""Descriptors of pictures, for the search for duplicates: a thumbnail of the head and SIFT keypoints.

A descriptor takes 15 kB whatever the size of the picture; those of a large audit are memory-mapped files.
This module takes pixels; it must not open image files, nor import Ray or torch.
Shape suffixes: N pictures, H height, W width, K keypoints.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

# Side of a thumbnail. At 64 px, slices 2 mm apart are as similar as copies whose contrast was changed.
THUMBNAIL_PX = 96
# Keypoints of a descriptor. Share of the hardest copies (equalised and cropped into the head) whose original is among
# their first 20 candidates:
#   keypoints  24    40    48
#   share      95 %  97 %  97 %
POINTS = 40
FEATURE_VALUES = 128  # values of a SIFT feature

# How the box around the head is found.
_SEARCH_PX = 96  # side of the reduced picture in which the head is searched for
# Threshold between the background (0) and bright tissue (1). The box stays the same after every transform tested but
# equalisation.
_HEAD_LEVEL = 0.2
_HEAD_SHARE = 0.06  # least share of a row or column above the threshold; a label, a ruler or noise has less
_SMALLEST_HEAD = 1 / 3  # least side of the box as a share of the frame; for a smaller one the whole frame is taken

# Least contrast, in grey levels from the 5th to the 98th percentile; a picture with less is featureless.
_FLAT_LEVELS = 12

# The array types of this package.
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Descriptor:
    """The descriptor of one picture. Shapes and types are fixed, so the fields can be columns of a table."""

    digest: str  # SHA-256 of the picture and its shape, 64 hex digits
    height: int
    width: int
    box: Floats  # [4] left, top, right, bottom of the head, as shares of the frame (0 to 1)
    thumbnail: Pixels  # [96, 96] the contents of the box, stretched to a square
    points: Floats  # [K, 4] x, y and size in thumbnail pixels, angle in degrees; size 0 in unused rows
    features: Pixels  # [K, 128] RootSIFT (Arandjelovic and Zisserman, CVPR 2012), scaled to length 255


@dataclass(frozen=True, eq=False, kw_only=True)
class Descriptors:
    """The descriptors of N pictures: one array for each field of `Descriptor`, its first axis the picture."""

    digest: npt.NDArray[np.bytes_]
    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    box: Floats
    thumbnail: Pixels
    points: Floats
    features: Pixels

    def __len__(self) -> int:
        return len(self.digest)

    @property
    def shows_something(self) -> Flags:
        """[N] False for black and other featureless pictures, which resemble each other without being copies."""
        return np.asarray(self.points[:, 0, 2] > 0)

    @classmethod
    def empty(cls, count: int, folder: str) -> Self:
        """`count` empty descriptors to be filled with `put`, memory-mapped from files in the local folder `folder`."""
        one = cls.stack([_NOTHING])
        arrays = {}
        for field in fields(cls) if count else ():
            values = getattr(one, field.name)
            path, shape = os.path.join(folder, field.name), (count, *values.shape[1:])
            arrays[field.name] = np.memmap(path, values.dtype, "w+", shape=shape)
        return cls(**arrays) if count else cls.stack([])

    def put(self, rows: npt.NDArray[np.integer[Any]], others: "Descriptors") -> None:
        """Write `others` into these rows."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(others, field.name)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Self:
        """The descriptors in these rows, in their order; a copy."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, as columns of a table; the digest becomes text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"digest": self.digest.astype("U64")}

    @classmethod
    def stack(cls, descriptors: Sequence[Descriptor]) -> Self:
        """One array a field from descriptors of single pictures, of which there may be none."""
        types: dict[str, Any] = {"digest": "S64", "height": np.int32, "width": np.int32}
        columns = {f.name: [getattr(each, f.name) for each in descriptors or [_NOTHING]] for f in fields(cls)}
        stacked = {name: np.array(values, types.get(name)) for name, values in columns.items()}
        return cls(**stacked).take(np.arange(len(descriptors)))

    @classmethod
    def from_columns(cls, columns: dict[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `columns`; other columns are ignored."""
        values = {field.name: columns[field.name] for field in fields(cls)}
        return cls(**values | {"digest": values["digest"].astype("S64")})

    @classmethod
    def concatenate(cls, parts: "Sequence[Descriptors]") -> Self:
        """The descriptors of one part or more, in this order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def describe_picture(luminance_HW: Pixels) -> Descriptor:
    """The descriptor of an upright picture of any size. Takes 6 ms for 512 x 512 pixels."""
    height, width = luminance_HW.shape
    box = _silhouette_box(luminance_HW)
    thumbnail = _crop_thumbnail(luminance_HW, box)
    points, features = _keypoints(thumbnail)
    return Descriptor(
        digest=hashlib.sha256(f"{luminance_HW.shape}".encode() + luminance_HW.tobytes()).hexdigest(),
        height=height,
        width=width,
        box=box,
        thumbnail=thumbnail,
        points=points,
        features=features,
    )


def nothing() -> Descriptor:
    """The empty descriptor of an image that cannot be read: it matches no other and is left out of the search."""
    return _NOTHING


def _pixel_box(box: Floats, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels of a box given in shares of the frame; at least one pixel wide and high."""
    left, top, right, bottom = (box * np.array([width, height, width, height], np.float32)).tolist()
    left, top = int(left), int(top)
    return left, top, max(int(np.ceil(right)), left + 1), max(int(np.ceil(bottom)), top + 1)


def _silhouette_box(luminance_HW: Pixels) -> Floats:
    """The box by which copies of a picture are aligned: it spans all rows and columns with enough tissue in them.

    Deliberately not `normalise.head_box`, the crop that a model is given: if they were one, a better crop would change
    which images count as copies, and with them the split of the training images. Copies found of 280 synthetic copies
    of the hardest kinds: 270 with this box, 271 with `head_box` (3 fewer of those cropped into the head, 4 more of
    the equalised and recoloured).
    """
    import cv2

    small = cv2.resize(luminance_HW, (_SEARCH_PX, _SEARCH_PX), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    dark, bright = np.percentile(small, (5, 98))
    head = small > dark + _HEAD_LEVEL * (bright - dark)
    left, right = _span(head.mean(axis=0))
    top, bottom = _span(head.mean(axis=1))
    if min(right - left, bottom - top) < _SMALLEST_HEAD:
        left, top, right, bottom = 0.0, 0.0, 1.0, 1.0
    return np.array([left, top, right, bottom], np.float32)


def _span(shares: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Start and end of the head along a profile, as shares of its length; (0, 0) where there is none."""
    inside = np.flatnonzero(shares > _HEAD_SHARE)
    return (inside[0] / len(shares), (inside[-1] + 1) / len(shares)) if len(inside) else (0.0, 0.0)


def _crop_thumbnail(luminance_HW: Pixels, box: Floats) -> Pixels:
    """[96, 96] the pixels in the box, stretched to a square."""
    import cv2

    left, top, right, bottom = _pixel_box(box, *luminance_HW.shape)
    inside = np.ascontiguousarray(luminance_HW[top:bottom, left:right])
    interpolation = cv2.INTER_AREA if min(inside.shape) >= THUMBNAIL_PX else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inside, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=interpolation), np.uint8)


def _keypoints(thumbnail: Pixels) -> tuple[Floats, Pixels]:
    """[K, 4] and [K, 128]: the strongest keypoints and their features; all zero for a featureless thumbnail.

    They are detected after local equalisation (CLAHE), so that copies of another contrast have the same keypoints.
    """
    import cv2

    points, features = np.zeros((POINTS, 4), np.float32), np.zeros((POINTS, FEATURE_VALUES), np.uint8)
    dark, bright = np.percentile(cv2.GaussianBlur(thumbnail, (0, 0), 1.0), (5, 98))
    if bright - dark < _FLAT_LEVELS:
        return points, features
    found, values = _detector().detectAndCompute(cv2.createCLAHE(4.0, (4, 4)).apply(thumbnail), None)
    # Of equally strong keypoints the larger come first: small ones do not survive a resize.
    order = np.argsort([-point.response * point.size**0.5 for point in found], kind="stable")[:POINTS]
    if len(order):
        points[: len(order)] = [(*found[i].pt, found[i].size, found[i].angle) for i in order]
        shares = values[order] / np.maximum(values[order].sum(axis=1, keepdims=True), 1)
        features[: len(order)] = np.sqrt(shares) * 255 + 0.5
    return points, features


@cache
def _detector() -> Any:  # noqa: ANN401
    """One SIFT detector a process."""
    import cv2

    return cv2.SIFT_create(nfeatures=0, contrastThreshold=0.01, edgeThreshold=20)  # type: ignore[attr-defined]


_NOTHING = Descriptor(
    digest="",
    height=0,
    width=0,
    box=np.array([0, 0, 1, 1], np.float32),
    thumbnail=np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8),
    points=np.zeros((POINTS, 4), np.float32),
    features=np.zeros((POINTS, FEATURE_VALUES), np.uint8),
)
