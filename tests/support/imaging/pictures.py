"""What tests of copies share: drawn heads, what can be done to a picture, and heads that are nearly alike."""

import io
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from brainray.duplicates import sandbox
from brainray.duplicates.descriptors import Descriptor, Descriptors
from brainray.duplicates.groups import describe_rows
from brainray.duplicates.search import similarities
from brainray.duplicates.transforms import find_transforms
from brainray.imaging import phantom

Picture = NDArray[np.uint8]
Change = Callable[[Picture, np.random.Generator], Picture]


@cache
def head(index: int, *, seed: int = 3) -> Picture:
    """A drawn head as luminance [H, W]; each is drawn once, so it cannot be written to."""
    return _drawn(index, seed)


def _drawn(index: int, seed: int) -> Picture:
    pixels, _ = phantom.draw(index, seed)
    picture = np.array(Image.fromarray(pixels).convert("L"))
    picture.setflags(write=False)
    return picture


def neighbour(index: int, *, seed: int = 3, step: float) -> Picture:
    """The slice beside it: the same skull, view and exposure, with folds that have moved on by `step`, from 0 to 1."""
    other = np.random.default_rng([seed, index, 99])
    drawn, scanned = phantom._noise, phantom._scan

    def moved_on(rng: np.random.Generator, shape: tuple[int, ...], cells: float) -> phantom.Floats:
        noise = drawn(rng, shape, cells)
        return noise if cells < 20 else (1 - step**2) ** 0.5 * noise + step * drawn(other, shape, cells)

    def scanned_again(slice_: Any) -> Picture:
        slice_.rng = _OtherGrain(slice_.rng, other)
        return scanned(slice_)

    phantom._noise, phantom._scan = moved_on, scanned_again
    try:
        return _drawn(index, seed)
    finally:
        phantom._noise, phantom._scan = drawn, scanned


class _OtherGrain:
    """Draws as one generator does, but for the noise of the scanner."""

    def __init__(self, rng: np.random.Generator, other: np.random.Generator) -> None:
        self._rng, self.standard_normal = rng, other.standard_normal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


def jpeg(picture: Picture, quality: int) -> Picture:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=quality)
    return np.asarray(Image.open(sink).convert("L"))


def resized(picture: Picture, across: float, down: float | None = None) -> Picture:
    height, width = picture.shape
    size = max(8, round(width * across)), max(8, round(height * (down or across)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def turned(picture: Picture, degrees: float) -> Picture:
    return np.asarray(Image.fromarray(picture).rotate(degrees, Image.Resampling.BICUBIC))


def cropped(picture: Picture, most: float, rng: np.random.Generator) -> Picture:
    """Each side loses a share of the frame of its own."""
    height, width = picture.shape
    top, bottom, left, right = rng.uniform(0, most, 4) * (height, height, width, width)
    return picture[int(top) : height - int(bottom), int(left) : width - int(right)]


def cropped_into_head(picture: Picture, most: float, rng: np.random.Generator) -> Picture:
    """The same of the part that is not dark."""
    bright = picture > 40
    rows, columns = np.flatnonzero(bright.mean(1) > 0.06), np.flatnonzero(bright.mean(0) > 0.06)
    if len(rows) < 2 or len(columns) < 2:
        return cropped(picture, most, rng)
    return cropped(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], most, rng)


def toned(picture: Picture, curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Picture:
    return (np.clip(curve(picture / 255), 0, 1) * 255 + 0.5).astype(np.uint8)


def equalised(picture: Picture) -> Picture:
    import cv2

    return np.asarray(cv2.equalizeHist(picture), np.uint8)


def clahe(picture: Picture, clip: float) -> Picture:
    import cv2

    return np.asarray(cv2.createCLAHE(clip, (8, 8)).apply(np.ascontiguousarray(picture)), np.uint8)


def sharpened(picture: Picture) -> Picture:
    import cv2

    soft = cv2.GaussianBlur(picture, (0, 0), picture.shape[0] / 128).astype(np.float64)
    return np.clip(picture + 1.5 * (picture - soft), 0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "resized": lambda p, rng: resized(p, rng.choice([0.4, 0.6, 1.7])),
    "stretched": lambda p, rng: resized(p, *rng.uniform(0.8, 1.2, 2)),
    "recompressed": lambda p, rng: jpeg(p, 30),
    "mirrored": lambda p, rng: p[:, ::-1],
    "turned 90": lambda p, rng: np.rot90(p),
    "turned 180": lambda p, rng: np.rot90(p, 2),
    "turned 270": lambda p, rng: np.rot90(p, 3),
    "turned by 2 to 6 degrees": lambda p, rng: turned(p, rng.choice([-1, 1]) * rng.uniform(2, 6)),
    "turned by 6 to 12 degrees": lambda p, rng: turned(p, rng.choice([-1, 1]) * rng.uniform(6, 12)),
    "cropped, up to 15 % a side": lambda p, rng: cropped(p, 0.15, rng),
    "cropped into the head, up to 10 % a side": lambda p, rng: cropped_into_head(p, 0.10, rng),
    "cropped into the head, up to 15 % a side": lambda p, rng: cropped_into_head(p, 0.15, rng),
    "brighter": lambda p, rng: toned(p, lambda x: x + rng.uniform(0.1, 0.25)),
    "darker": lambda p, rng: toned(p, lambda x: x * rng.uniform(0.4, 0.7)),
    "more contrast": lambda p, rng: toned(p, lambda x: (x - 0.5) * rng.uniform(1.2, 1.6) + 0.5),
    "gamma": lambda p, rng: toned(p, lambda x: x ** rng.choice([0.5, 0.7, 1.5, 1.8])),
    "equalised": lambda p, rng: equalised(p),
    "CLAHE 2": lambda p, rng: clahe(p, 2.0),
    "CLAHE 4": lambda p, rng: clahe(p, 4.0),
    "sharpened": lambda p, rng: sharpened(p),
    "mirrored, resized, recompressed, brighter": lambda p, rng: jpeg(
        resized(toned(p[:, ::-1], lambda x: 1.3 * x), rng.uniform(0.4, 0.8)), 50
    ),
    "turned 180, cropped, gamma": lambda p, rng: toned(cropped(np.rot90(p, 2), 0.1, rng), lambda x: x**0.7),
    "turned a little, CLAHE, resized": lambda p, rng: resized(clahe(turned(p, rng.uniform(-5, 5)), 2.0), 0.5),
    "mirrored, cropped into the head, recompressed": lambda p, rng: jpeg(cropped_into_head(p, 0.12, rng)[:, ::-1], 50),
    "equalised, mirrored, cropped": lambda p, rng: equalised(cropped(p, 0.1, rng))[:, ::-1],
    "CLAHE, cropped into the head": lambda p, rng: clahe(cropped_into_head(p, 0.10, rng), 4.0),
}


def changed(picture: Picture, name: str, rng: np.random.Generator) -> Picture:
    return np.ascontiguousarray(CHANGES[name](picture, rng))


_describe, _described = sandbox.describe_picture, dict[tuple[tuple[int, ...], bytes], Descriptor]()


def described_once(luminance_HW: Picture) -> Descriptor:
    key = luminance_HW.shape, luminance_HW.tobytes()
    if key not in _described:
        _described[key] = _describe(luminance_HW)
    return _described[key]


sandbox.describe_picture = described_once  # audits of a process describe the same heads, for 5 ms each


class Here:
    """The engine of an audit, in this process instead of Ray."""

    def read(self, images, signatures):
        rows = describe_rows(images.append_column("position", pa.array(np.arange(len(images)))))
        signatures.put(rows["position"], Descriptors.from_columns(rows))
        return rows["error"]

    verify = staticmethod(similarities)
    describe = staticmethod(find_transforms)


@contextmanager
def audit_here(request, listed, writer, say):
    yield Here()


def save(picture, *path, kind="PNG", mode="L"):
    target = path[0].joinpath(*path[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).convert(mode).save(sink, kind)
    target.write_bytes(sink.getvalue())
    return target
