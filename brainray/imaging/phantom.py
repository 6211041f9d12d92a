"""Draws a synthetic data set that resembles brain MRI slices, so that every command can be tried without data.

Heads are soft ellipses in head coordinates (x right, y down, the skull about 1 from the centre), bent by smooth noise.
Only the lesion depends on the class: size, format, colour mode and brightness are independent of it.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from brainray import storage
from brainray.errors import BadRequest

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")

Floats: TypeAlias = NDArray[np.floating[Any]]  # float32 in fact
Pixels: TypeAlias = NDArray[np.uint8]
Ellipse = tuple[float, float, float, float, float]  # centre x, centre y, radius x, radius y, degrees clockwise
Part = tuple[str, Ellipse]  # a tissue and where it is

_WORKING_PX = 224  # long side while drawing: 9 ms an image, and folds 2 px wide survive the resize
_ENCODING, _ORDER = 1, 2  # tags of random streams beside the one that draws the image
_FOLDS = {"cortex": 24, "folia": 44}  # folded tissues: noise cells across the image, so more means finer


@dataclass(frozen=True)
class _View:
    """A cut through the head. Later parts cover earlier ones."""

    frame: tuple[Part, ...]  # from the skin to the folds of the brain
    deep: tuple[Part, ...]  # nuclei and ventricles, larger or smaller from slice to slice
    sella: tuple[float, float]  # where the pituitary gland lies
    vault_deg: tuple[float, float]  # the part of the skull that meningiomas grow from, clockwise from the right

    @property
    def brain(self) -> Ellipse:
        return next(shape for tissue, shape in self.frame if tissue == "cortex")


def _pair(tissue: str, x: float, y: float, radius_x: float, radius_y: float, degrees: float) -> tuple[Part, Part]:
    """A part on the right of the image and its mirror image on the left."""
    return (tissue, (x, y, radius_x, radius_y, degrees)), (tissue, (-x, y, radius_x, radius_y, -degrees))


# fmt: off
_AXIAL = _View(
    frame=(("scalp", (0, 0, 0.78, 0.95, 0)), ("skull", (0, 0, 0.745, 0.91, 0)), ("csf", (0, 0, 0.70, 0.865, 0)),
           ("cortex", (0, 0, 0.685, 0.845, 0)), *_pair("csf", 0.5, -0.08, 0.17, 0.018, -15),
           ("csf", (0, -0.66, 0.012, 0.24, 0)), ("csf", (0, 0.66, 0.012, 0.22, 0))),
    deep=(*_pair("grey", 0.22, 0, 0.09, 0.20, -12), *_pair("grey", 0.09, 0.10, 0.075, 0.12, -20),
          *_pair("csf", 0.09, -0.22, 0.045, 0.16, 18), *_pair("csf", 0.19, 0.27, 0.045, 0.18, -22),
          ("csf", (0, 0.04, 0.016, 0.11, 0))),
    sella=(0, -0.10), vault_deg=(0, 360))
_CORONAL = _View(
    frame=(("scalp", (0, 0.75, 0.66, 0.85, 0)), ("muscle", (0, 0.75, 0.62, 0.83, 0)), ("air", (0, 0.98, 0.07, 0.2, 0)),
           *_pair("scalp", 0.33, 0.95, 0.16, 0.24, -15), ("scalp", (0, -0.09, 0.78, 0.86, 0)),
           ("skull", (0, -0.09, 0.745, 0.82, 0)), ("muscle", (0, 0.74, 0.46, 0.1, 0)), ("csf", (0, -0.1, 0.7, 0.76, 0)),
           ("cortex", (0, -0.11, 0.685, 0.74, 0)), *_pair("csf", 0.52, 0.12, 0.2, 0.02, -20),
           ("csf", (0, -0.62, 0.012, 0.26, 0)), ("folia", (0, 0.44, 0.34, 0.16, 0))),
    deep=(*_pair("grey", 0.17, 0, 0.09, 0.13, -15), *_pair("csf", 0.08, -0.15, 0.07, 0.05, 35),
          ("white", (0, -0.25, 0.22, 0.04, 0)), ("csf", (0, 0.03, 0.016, 0.1, 0)), ("white", (0, 0.36, 0.09, 0.24, 0))),
    sella=(0, 0.3), vault_deg=(165, 375))
_SAGITTAL = _View(
    frame=(("scalp", (0.2, 1.1, 0.52, 0.95, -6)), ("muscle", (0.2, 1.1, 0.48, 0.93, -6)),
           ("scalp", (-0.88, 0.42, 0.13, 0.1, 40)), ("scalp", (-0.42, 0.55, 0.5, 0.66, 8)),
           ("muscle", (-0.4, 0.55, 0.46, 0.62, 8)), ("scalp", (-0.52, 0.78, 0.2, 0.12, -6)),
           ("air", (-0.52, 0.44, 0.2, 0.06, 8)), ("air", (-0.16, 0.7, 0.05, 0.32, -12)),
           ("scalp", (0, -0.16, 0.92, 0.8, 4)), ("skull", (0, -0.16, 0.875, 0.75, 4)),
           ("muscle", (-0.4, 0.45, 0.4, 0.12, -8)), ("csf", (0, -0.18, 0.83, 0.68, 4)),
           ("cortex", (0, -0.2, 0.815, 0.64, 4)), ("csf", (0.6, -0.06, 0.16, 0.014, -35)),
           ("csf", (0.45, 0.1, 0.28, 0.014, 8)), ("folia", (0.44, 0.3, 0.27, 0.22, 10))),
    deep=(("white", (-0.02, -0.12, 0.36, 0.2, 4)), ("csf", (-0.02, -0.06, 0.3, 0.15, 4)),
          ("grey", (0.02, 0.02, 0.22, 0.14, 0)), ("white", (0.1, 0.22, 0.09, 0.16, -10)),
          ("white", (0.14, 0.62, 0.065, 0.4, -4)), ("csf", (0.22, 0.3, 0.03, 0.08, 0))),
    sella=(-0.17, 0.24), vault_deg=(180, 360))
# How bright, at least and at most, each sequence shows a tissue before exposure: T1 with contrast agent, T2, FLAIR.
_SEQUENCES: tuple[dict[str, tuple[float, float]], ...] = (
    {"csf": (0.10, 0.14), "grey": (0.34, 0.42), "white": (0.50, 0.60), "scalp": (0.70, 0.98), "muscle": (0.28, 0.40),
     "oedema": (0.24, 0.28), "glioma": (0.60, 1.00), "meningioma": (0.85, 1.20), "pituitary": (0.80, 1.15)},
    {"csf": (0.62, 0.80), "grey": (0.42, 0.50), "white": (0.31, 0.37), "scalp": (0.42, 0.58), "muscle": (0.20, 0.30),
     "oedema": (0.60, 0.72), "glioma": (0.60, 0.95), "meningioma": (0.75, 1.05), "pituitary": (0.75, 1.00)},
    {"csf": (0.08, 0.12), "grey": (0.42, 0.50), "white": (0.36, 0.42), "scalp": (0.42, 0.58), "muscle": (0.22, 0.34),
     "oedema": (0.60, 0.72), "glioma": (0.60, 0.95), "meningioma": (0.75, 1.05), "pituitary": (0.75, 1.00)},
)
# fmt: on


@dataclass
class _Slice:
    """The canvas: brightness, and the head coordinates of every pixel. Arrays are [h, w]; masks are opacities."""

    x: Floats
    y: Floats
    value: Floats
    view: _View
    sequence: dict[str, tuple[float, float]]
    rng: np.random.Generator

    def paint(self, mask: Floats, value: float | Floats) -> None:
        self.value += mask * (value - self.value)

    def depth(self, shape: Ellipse) -> Floats:
        """1 at the centre of an ellipse, 0 on its edge, below 0 outside."""
        x, y, radius_x, radius_y, degrees = shape
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        right, down = self.x - x, self.y - y
        along: Floats = right * (cos / radius_x) + down * (sin / radius_x)
        across: Floats = down * (cos / radius_y) - right * (sin / radius_y)
        return 1 - along**2 - across**2

    def ellipse(self, shape: Ellipse, *, edge: float = 0.012) -> Floats:
        """Opacity of an ellipse whose edge fades over about `edge` head units."""
        return _ramp(self.depth(shape) * (min(shape[2], shape[3]) / (2 * edge)) + 0.5)

    def noise(self, cells: float) -> Floats:
        return _noise(self.rng, self.value.shape, cells)

    def tone(self, tissue: str) -> float:
        """The brightness of a tissue or lesion in this image."""
        return self.rng.uniform(*self.sequence.get(tissue, (0.01, 0.06)))  # bone and air are dark in all of them


def draw(index: int, seed: int) -> tuple[Pixels, str]:
    """Image `index` of archive `seed`, uint8 [H, W] or [H, W, 3], and its class. Independent of the others."""
    name = class_of(index, seed)
    rng = np.random.default_rng([seed, index])
    height, width = _frame(rng)
    slice_ = _anatomy(rng, height, width)
    if name in _LESIONS:
        _LESIONS[name](slice_)
    grey = Image.fromarray(_scan(slice_)).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(grey.convert("RGB") if rng.random() < 0.5 else grey), name


def class_of(index: int, seed: int) -> str:
    """The class of image `index`. Every four images have each class once, in random order."""
    block, place = divmod(index, len(CLASSES))
    return CLASSES[np.random.default_rng([seed, block, _ORDER]).permutation(len(CLASSES))[place]]


def encode(pixels: Pixels, index: int, seed: int) -> tuple[bytes, str]:
    """The bytes of a file and its suffix, `.jpg` or `.png`; which one depends on index and seed alone."""
    rng = np.random.default_rng([seed, index, _ENCODING])
    sink = io.BytesIO()
    if rng.random() < 0.6:
        Image.fromarray(pixels).save(sink, "JPEG", quality=int(rng.integers(75, 96)))
        return sink.getvalue(), ".jpg"
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)  # 6: 21 ms instead of 6 for 11 % fewer bytes
    return sink.getvalue(), ".png"


def write_archive(output_uri: str, *, images: int, seed: int, progress: Callable[[int], None] | None = None) -> int:
    """Write `<class>/img_<number>.<suffix>` below a new or empty folder; `progress` gets the count so far."""
    output = storage.normalise(output_uri)
    for option, value, least in (("--images", images, 1), ("--seed", seed, 0)):
        if value < least:
            raise BadRequest(f"{option} is {value}; it must be {least} or more")
    storage.check_is_folder("--output", output, give="a folder that is new or empty")
    if storage.list_names(output):
        raise BadRequest(f"--output {output} holds files already; give a folder that is new or empty")
    for index in range(images):
        pixels, name = draw(index, seed)
        data, suffix = encode(pixels, index, seed)
        storage.write_bytes(storage.join(output, name, f"img_{index:05d}{suffix}"), data)
        if progress:
            progress(index + 1)
    return images


def _frame(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of the finished image, 180 to 512 pixels: half are square, most others upright."""
    long_px = int(rng.choice((256, 512))) if rng.random() < 0.25 else int(rng.integers(180, 513))
    short_px = long_px if rng.random() < 0.5 else max(180, round(long_px * rng.uniform(0.78, 0.98)))
    return (long_px, short_px) if rng.random() < 0.8 else (short_px, long_px)


def _anatomy(rng: np.random.Generator, height: int, width: int) -> _Slice:
    """A healthy head at working resolution, turned, shifted and scaled a little, in the proportions of the image."""
    x, y = _head_coordinates(rng, *(round(side * _WORKING_PX / max(height, width)) for side in (height, width)))
    view = (_AXIAL, _CORONAL, _SAGITTAL)[rng.choice(3, p=(0.6, 0.2, 0.2))]
    sequence = _SEQUENCES[rng.choice(3, p=(0.7, 0.15, 0.15))]
    slice_ = _Slice(x, y, np.full_like(x, 0.01), view, sequence, rng)
    for tissue, shape in view.frame:
        if tissue in _FOLDS:
            _paint_folds(slice_, shape, cells=_FOLDS[tissue])
        else:
            slice_.paint(slice_.ellipse(shape), slice_.tone(tissue))
    fullness = rng.uniform(0.35, 1.25)  # slices above the ventricles show almost nothing of them
    for tissue, shape in view.deep:
        mask = slice_.ellipse(_scaled(shape, fullness * rng.uniform(0.85, 1.15)), edge=0.02)
        slice_.paint(mask, slice_.tone(tissue))
    return slice_


def _head_coordinates(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """x [1, w] and y [h, 1] of a straight head, then turned, stretched and bent to [h, w] each."""
    scale = rng.uniform(1.02, 1.22) / (min(height, width) / 2)
    x = (np.arange(width, dtype=np.float32) - width / 2)[None, :] * scale + rng.normal(0, 0.04)
    y = (np.arange(height, dtype=np.float32) - height / 2)[:, None] * scale + rng.normal(0, 0.04)
    turn, stretch_x, stretch_y = math.radians(rng.normal(0, 7)), rng.uniform(0.94, 1.10), rng.uniform(0.97, 1.08)
    cos, sin = math.cos(turn), math.sin(turn)
    bends = [0.02 * _noise(rng, (height, width), 3) + 0.005 * _noise(rng, (height, width), 12) for _ in "xy"]
    return x * (cos * stretch_x) + y * sin + bends[0], y * (cos * stretch_y) - x * sin + bends[1]


def _paint_folds(slice_: _Slice, shape: Ellipse, *, cells: float) -> None:
    """White matter under a folded grey ribbon: folds lie where noise changes sign, and fade towards the centre."""
    depth = slice_.depth(shape)
    inside = _ramp(depth * 22 + 0.5)
    fold = np.abs(slice_.noise(cells) + 0.3 * slice_.noise(cells * 2))
    outer = _ramp(1.6 - depth * 2.0)
    ribbon = np.maximum(_ramp(1.9 - fold * 2.2) * outer, _ramp(1.5 - depth * 9))
    slice_.paint(inside, slice_.tone("white"))
    slice_.paint(inside * ribbon * 0.95, slice_.tone("grey"))
    slice_.paint(inside * _ramp(1.1 - fold * 5.5) * outer * _ramp(1.4 - depth * 1.9), slice_.tone("csf"))


def _lump(slice_: _Slice, shape: Ellipse, *, irregular: float, edge: float = 0.05) -> Floats:
    """Opacity of an ellipse within the skull whose outline is shaken by `irregular`, a share of its radius."""
    depth = slice_.depth(shape) + 2 * irregular * slice_.noise(1.6 / max(shape[2], shape[3]))
    return _ramp(depth / (4 * edge) + 0.5) * slice_.ellipse(_scaled(slice_.view.brain, 1.03))


def _scaled(shape: Ellipse, by: float) -> Ellipse:
    x, y, radius_x, radius_y, degrees = shape
    return x, y, radius_x * by, radius_y * by, degrees


def _place(slice_: _Slice, angle_deg: float, fraction: float) -> tuple[float, float]:
    """A point between the centre of the brain (0) and its surface (1)."""
    x, y, radius_x, radius_y, _ = slice_.view.brain
    angle = math.radians(angle_deg)
    return x + fraction * radius_x * math.cos(angle), y + fraction * radius_y * math.sin(angle)


def _paint_glioma(slice_: _Slice) -> None:
    """Inside the tissue, irregular, patchy, often with a dark core, and oedema around it."""
    rng = slice_.rng
    radius = rng.uniform(0.13, 0.28)
    place = _place(slice_, rng.uniform(130, 410), rng.uniform(0.3, 0.72))
    shape = (*place, radius * rng.uniform(0.75, 1.3), radius, rng.uniform(0, 180))
    oedema = _lump(slice_, _scaled(shape, rng.uniform(1.3, 1.9)), irregular=0.30, edge=0.12)
    slice_.paint(oedema * rng.uniform(0.5, 0.95), slice_.tone("oedema"))
    patchy = slice_.tone("glioma") * (1 + 0.16 * slice_.noise(20))
    slice_.paint(_lump(slice_, shape, irregular=0.20) * rng.uniform(0.85, 1), patchy)
    core = _lump(slice_, _scaled(shape, rng.uniform(0.4, 0.75)), irregular=0.20)
    slice_.paint(core * (0.9 if rng.random() < 0.6 else 0.0), slice_.tone("csf"))


def _paint_meningioma(slice_: _Slice) -> None:
    """On the skull's edge: round, bright, even."""
    rng = slice_.rng
    radius = rng.uniform(0.12, 0.26)
    place = _place(slice_, rng.uniform(*slice_.view.vault_deg), 1 - radius * rng.uniform(0.5, 1.3))
    shape = (*place, radius * rng.uniform(0.85, 1.15), radius, rng.uniform(0, 180))
    if rng.random() < 0.3:
        slice_.paint(_lump(slice_, _scaled(shape, 1.25), irregular=0.15, edge=0.1) * 0.5, slice_.tone("oedema"))
    even = slice_.tone("meningioma") * (1 + 0.03 * slice_.noise(10))
    slice_.paint(_lump(slice_, shape, irregular=0.06, edge=0.03) * rng.uniform(0.75, 1), even)


def _paint_pituitary(slice_: _Slice) -> None:
    """Small, at the base near the midline."""
    rng = slice_.rng
    x, y = slice_.view.sella
    radius = rng.uniform(0.08, 0.15)
    shape = (x + rng.normal(0, 0.025), y + rng.normal(0, 0.035), radius * rng.uniform(0.8, 1.2), radius, 0.0)
    even = slice_.tone("pituitary") * (1 + 0.05 * slice_.noise(16))
    slice_.paint(_lump(slice_, shape, irregular=0.10) * rng.uniform(0.85, 1), even)


_LESIONS = {"glioma": _paint_glioma, "meningioma": _paint_meningioma, "pituitary": _paint_pituitary}


def _scan(slice_: _Slice) -> Pixels:
    """Grain, coil shading, contrast, exposure and Rician noise, as uint8 [h, w]."""
    rng = slice_.rng
    image = np.maximum(slice_.value * (1 + 0.03 * slice_.noise(30)), 0) * np.exp(0.12 * slice_.noise(3))
    image = image ** rng.uniform(0.8, 1.25)
    # The mean is drawn without regard to what is in the head: lesions make no image brighter or darker as a whole.
    image *= rng.uniform(0.42, 0.66) * float(slice_.ellipse(slice_.view.brain).mean() / image.mean())
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * rng.uniform(0.008, 0.035)
    return (_ramp(np.hypot(image + real, imaginary)) * 255).astype(np.uint8)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: float) -> Floats:
    """Smooth noise of mean 0 and spread about 1, with `cells` independent values along the long side."""
    height, width = shape
    rows_columns = [int(side * cells / max(shape)) + 2 for side in shape]
    grid = Image.fromarray(rng.standard_normal(rows_columns, dtype=np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) * 1.35  # the resize lowers the spread


def _ramp(value: Floats) -> Floats:
    return np.clip(value, 0, 1)
