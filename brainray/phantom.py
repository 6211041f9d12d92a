"""A synthetic archive that looks like brain MRI slices, so that everything can be tried with no data.

Heads are drawn as soft ellipses in head coordinates (x right, y down, the skull about 1 from the centre), bent by smooth
noise. Only the lesion depends on the class: size, format, colour mode and brightness are drawn apart from it.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import storage
from .errors import BadRequest

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")

Floats: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.uint8]
Tissue = Literal["scalp", "skull", "csf", "grey", "white", "muscle", "air"]
Ellipse = tuple[float, float, float, float, float]  # centre x, centre y, radius x, radius y, degrees clockwise

_WORKING_PX = 224  # long side while drawing; 12 ms an image hold up to here, and details of 1 px survive the resize
_LONG_SIDE_PX = (180, 512)
_ENCODING, _ORDER = 1, 2  # tags of random streams beside the one that draws the image


@dataclass(frozen=True)
class _View:
    """A cut through the head. Later shapes cover earlier ones."""

    shell: tuple[tuple[Tissue, Ellipse], ...]
    cerebrum: Ellipse
    cerebellum: Ellipse | None
    deep: tuple[tuple[Tissue, Ellipse], ...]  # inside the brain
    fissure: tuple[Ellipse, ...]  # dark clefts between lobes and hemispheres
    sella: tuple[float, float]  # where the pituitary gland lies
    convexity_deg: tuple[float, float]  # part of the skull's edge that is vault, clockwise from the right


_AXIAL = _View(
    shell=(
        ("scalp", (0, 0, 0.78, 0.95, 0)),
        ("skull", (0, 0, 0.745, 0.91, 0)),
        ("csf", (0, 0, 0.70, 0.865, 0)),
    ),
    cerebrum=(0, 0, 0.685, 0.845, 0),
    cerebellum=None,
    deep=(
        ("grey", (-0.22, 0.0, 0.09, 0.20, 12)),
        ("grey", (0.22, 0.0, 0.09, 0.20, -12)),
        ("grey", (-0.09, 0.10, 0.075, 0.12, 20)),
        ("grey", (0.09, 0.10, 0.075, 0.12, -20)),
        ("csf", (-0.09, -0.22, 0.045, 0.16, -18)),
        ("csf", (0.09, -0.22, 0.045, 0.16, 18)),
        ("csf", (-0.19, 0.27, 0.045, 0.18, 22)),
        ("csf", (0.19, 0.27, 0.045, 0.18, -22)),
        ("csf", (0, 0.04, 0.016, 0.11, 0)),
    ),
    fissure=(
        (0, -0.66, 0.012, 0.24, 0),
        (0, 0.66, 0.012, 0.22, 0),
        (-0.5, -0.08, 0.17, 0.018, 15),
        (0.5, -0.08, 0.17, 0.018, -15),
    ),
    sella=(0, -0.10),
    convexity_deg=(0, 360),
)
_CORONAL = _View(
    shell=(
        ("scalp", (0, 0.75, 0.66, 0.85, 0)),
        ("muscle", (0, 0.75, 0.62, 0.83, 0)),
        ("scalp", (-0.33, 0.95, 0.16, 0.24, 15)),
        ("scalp", (0.33, 0.95, 0.16, 0.24, -15)),
        ("air", (0, 0.98, 0.07, 0.20, 0)),
        ("scalp", (0, -0.09, 0.78, 0.86, 0)),
        ("skull", (0, -0.09, 0.745, 0.82, 0)),
        ("muscle", (0, 0.74, 0.46, 0.10, 0)),
        ("csf", (0, -0.10, 0.70, 0.76, 0)),
    ),
    cerebrum=(0, -0.11, 0.685, 0.74, 0),
    cerebellum=(0, 0.44, 0.34, 0.16, 0),
    deep=(
        ("grey", (-0.17, 0.0, 0.09, 0.13, 15)),
        ("grey", (0.17, 0.0, 0.09, 0.13, -15)),
        ("white", (0, -0.25, 0.22, 0.04, 0)),
        ("csf", (-0.08, -0.15, 0.07, 0.05, -35)),
        ("csf", (0.08, -0.15, 0.07, 0.05, 35)),
        ("csf", (0, 0.03, 0.016, 0.10, 0)),
        ("white", (0, 0.36, 0.09, 0.24, 0)),
    ),
    fissure=((0, -0.62, 0.012, 0.26, 0), (-0.52, 0.12, 0.20, 0.02, 20), (0.52, 0.12, 0.20, 0.02, -20)),
    sella=(0, 0.30),
    convexity_deg=(165, 375),
)
_SAGITTAL = _View(
    shell=(
        ("scalp", (0.20, 1.10, 0.52, 0.95, -6)),
        ("muscle", (0.20, 1.10, 0.48, 0.93, -6)),
        ("scalp", (-0.88, 0.42, 0.13, 0.10, 40)),
        ("scalp", (-0.42, 0.55, 0.50, 0.66, 8)),
        ("muscle", (-0.40, 0.55, 0.46, 0.62, 8)),
        ("scalp", (-0.52, 0.78, 0.20, 0.12, -6)),
        ("air", (-0.52, 0.44, 0.20, 0.06, 8)),
        ("air", (-0.16, 0.70, 0.05, 0.32, -12)),
        ("scalp", (0, -0.16, 0.92, 0.80, 4)),
        ("skull", (0, -0.16, 0.875, 0.75, 4)),
        ("muscle", (-0.40, 0.45, 0.40, 0.12, -8)),
        ("csf", (0, -0.18, 0.83, 0.68, 4)),
    ),
    cerebrum=(0, -0.20, 0.815, 0.64, 4),
    cerebellum=(0.44, 0.30, 0.27, 0.22, 10),
    deep=(
        ("white", (-0.02, -0.12, 0.36, 0.20, 4)),
        ("csf", (-0.02, -0.06, 0.30, 0.15, 4)),
        ("grey", (0.02, 0.02, 0.22, 0.14, 0)),
        ("white", (0.10, 0.22, 0.09, 0.16, -10)),
        ("white", (0.14, 0.62, 0.065, 0.40, -4)),
        ("csf", (0.22, 0.30, 0.03, 0.08, 0)),
    ),
    fissure=((0.60, -0.06, 0.16, 0.014, -35), (0.45, 0.10, 0.28, 0.014, 8)),
    sella=(-0.17, 0.24),
    convexity_deg=(180, 360),
)
_VIEWS = (_AXIAL, _CORONAL, _SAGITTAL)
_VIEW_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class _Sequence:
    """How bright a scanner's sequence shows each tissue (1 is full scale) and each lesion (lowest, highest)."""

    tissue: dict[Tissue, float]
    oedema: float
    glioma: tuple[float, float]
    meningioma: tuple[float, float]
    pituitary: tuple[float, float]


def _tissues(csf: float, grey: float, white: float, scalp: float, muscle: float) -> dict[Tissue, float]:
    return {"csf": csf, "grey": grey, "white": white, "scalp": scalp, "muscle": muscle, "skull": 0.05, "air": 0.01}


_SEQUENCES = (
    _Sequence(_tissues(0.12, 0.38, 0.54, 0.85, 0.34), 0.26, (0.55, 1.00), (0.85, 1.20), (0.80, 1.15)),  # T1, contrast
    _Sequence(_tissues(0.72, 0.46, 0.34, 0.50, 0.25), 0.66, (0.50, 0.95), (0.75, 1.05), (0.75, 1.00)),  # T2
    _Sequence(_tissues(0.10, 0.46, 0.39, 0.50, 0.28), 0.66, (0.55, 0.95), (0.75, 1.05), (0.75, 1.00)),  # FLAIR
)
_SEQUENCE_SHARES = (0.7, 0.15, 0.15)


@dataclass
class _Slice:
    """What is drawn on: brightness, with the head coordinates of every pixel. All arrays [h, w]."""

    x: Floats
    y: Floats
    value: Floats
    view: _View
    sequence: _Sequence
    rng: np.random.Generator

    def paint(self, mask: Floats, value: float | Floats) -> None:
        """Mask is opacity, from 0 to 1."""
        self.value += mask * (value - self.value)

    def depth(self, shape: Ellipse) -> Floats:
        """1 at the centre of an ellipse, 0 on its edge, below 0 outside."""
        x, y, radius_x, radius_y, degrees = shape
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        along = ((self.x - x) * np.float32(cos / radius_x)) + (self.y - y) * np.float32(sin / radius_x)
        across = (self.y - y) * np.float32(cos / radius_y) - (self.x - x) * np.float32(sin / radius_y)
        return 1 - along * along - across * across

    def ellipse(self, shape: Ellipse, *, edge: float = 0.012) -> Floats:
        """Opacity of an ellipse whose edge fades over about `edge` head units."""
        return _ramp(self.depth(shape) * np.float32(min(shape[2], shape[3]) / (2 * edge)) + 0.5)

    def noise(self, cells: float) -> Floats:
        return _noise(self.rng, self.value.shape, cells)


def draw(index: int, seed: int) -> tuple[Pixels, str]:
    """Image `index` of archive `seed`: uint8 [H, W] or [H, W, 3], and its class. The size of the archive plays no part."""
    name = class_of(index, seed)
    rng = np.random.default_rng([seed, index])
    height, width = _frame(rng)
    slice_ = _anatomy(rng, height, width)
    if name in _LESIONS:
        _LESIONS[name](slice_)
    grey = Image.fromarray(_scan(slice_)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB") if rng.random() < 0.5 else grey), name


def class_of(index: int, seed: int) -> str:
    """Each four images in a row hold every class once, in an order of their own: no class can be told from a number."""
    block, place = divmod(index, len(CLASSES))
    return CLASSES[np.random.default_rng([seed, block, _ORDER]).permutation(len(CLASSES))[place]]


def encode(pixels: Pixels, index: int, seed: int) -> tuple[bytes, str]:
    """The bytes of a file and its suffix, `.jpg` or `.png`; which one depends on the image's number and the seed alone."""
    rng = np.random.default_rng([seed, index, _ENCODING])
    sink = io.BytesIO()
    if rng.random() < 0.6:
        Image.fromarray(pixels).save(sink, "JPEG", quality=int(rng.integers(75, 96)))
        return sink.getvalue(), ".jpg"
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)  # 6 takes three times as long for 7 % fewer bytes
    return sink.getvalue(), ".png"


def write_archive(output_uri: str, *, images: int, seed: int, progress: Callable[[int], None] | None = None) -> int:
    """Write `<class>/img_<number>.<suffix>` below a new or empty folder; returns how many. `progress` gets the count so far."""
    output = storage.normalise(output_uri)
    if images < 1:
        raise BadRequest(f"--images is {images}; it must be 1 or more")
    if seed < 0:
        raise BadRequest(f"--seed is {seed}; it must be 0 or more")
    if storage.exists(output) and not storage.is_folder(output):
        raise BadRequest(f"{output} is a file; give a folder that is new or empty")
    if storage.list_names(output):
        raise BadRequest(f"{output} is not empty; give a folder that is new or empty")
    for index in range(images):
        pixels, name = draw(index, seed)
        data, suffix = encode(pixels, index, seed)
        storage.write_bytes(storage.join(output, name, f"img_{index:05d}{suffix}"), data)
        if progress:
            progress(index + 1)
    return images


def _frame(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels of the finished image: half are square, most others upright."""
    long_px = int(rng.choice((256, 512))) if rng.random() < 0.25 else int(rng.integers(*_LONG_SIDE_PX, endpoint=True))
    short_px = long_px if rng.random() < 0.5 else max(_LONG_SIDE_PX[0], round(long_px * rng.uniform(0.78, 0.98)))
    return (long_px, short_px) if rng.random() < 0.8 else (short_px, long_px)


def _anatomy(rng: np.random.Generator, height: int, width: int) -> _Slice:
    """A healthy head at working resolution, somewhat turned, shifted and scaled, with the proportions of the finished image."""
    shrink = _WORKING_PX / max(height, width)
    x, y = _head_coordinates(rng, round(height * shrink), round(width * shrink))
    view = _VIEWS[rng.choice(len(_VIEWS), p=_VIEW_SHARES)]
    sequence = _SEQUENCES[rng.choice(len(_SEQUENCES), p=_SEQUENCE_SHARES)]
    slice_ = _Slice(x, y, np.full_like(x, 0.01), view, sequence, rng)
    for tissue, shape in view.shell:
        slice_.paint(slice_.ellipse(shape), _tone(slice_, tissue))
    _paint_brain(slice_)
    return slice_


def _head_coordinates(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    scale = rng.uniform(1.02, 1.22) / (min(height, width) / 2)
    turn = np.radians(rng.normal(0, 7))
    across = ((np.arange(width, dtype=np.float32) - width / 2) * scale + rng.normal(0, 0.04))[None, :].astype(
        np.float32
    )
    down = ((np.arange(height, dtype=np.float32) - height / 2) * scale + rng.normal(0, 0.04))[:, None].astype(
        np.float32
    )
    bend = partial(_noise, rng, (height, width))
    x = across * np.float32(np.cos(turn) * rng.uniform(0.94, 1.1)) + down * np.float32(np.sin(turn))
    y = down * np.float32(np.cos(turn) * rng.uniform(0.97, 1.08)) - across * np.float32(np.sin(turn))
    return x + 0.02 * bend(3) + 0.005 * bend(12), y + 0.02 * bend(3) + 0.005 * bend(12)


def _paint_brain(slice_: _Slice) -> None:
    view, rng = slice_.view, slice_.rng
    _paint_cortex(slice_, view.cerebrum, cells=24)
    for shape in view.fissure:
        slice_.paint(slice_.ellipse(shape) * np.float32(rng.uniform(0.4, 1)), _tone(slice_, "csf"))
    if view.cerebellum:
        _paint_cortex(slice_, view.cerebellum, cells=44)
    fullness = rng.uniform(0.35, 1.25)  # slices above the ventricles show almost nothing of them
    for tissue, (x, y, radius_x, radius_y, degrees) in view.deep:
        size = fullness * rng.uniform(0.85, 1.15)
        slice_.paint(
            slice_.ellipse((x, y, radius_x * size, radius_y * size, degrees), edge=0.02), _tone(slice_, tissue)
        )


def _paint_cortex(slice_: _Slice, shape: Ellipse, *, cells: float) -> None:
    """White matter under a folded grey ribbon: folds lie where noise changes sign, and fade towards the centre."""
    depth = slice_.depth(shape)
    inside = _ramp(depth * 22 + 0.5)
    fold = np.abs(slice_.noise(cells) + 0.3 * slice_.noise(cells * 2))
    outer = _ramp(1.6 - depth * 2.0)
    slice_.paint(inside, _tone(slice_, "white"))
    slice_.paint(
        inside * np.maximum(_ramp(1.9 - fold * 2.2) * outer, _ramp(1.5 - depth * 9)) * 0.95, _tone(slice_, "grey")
    )
    slice_.paint(inside * _ramp(1.1 - fold * 5.5) * outer * _ramp(1.4 - depth * 1.9), _tone(slice_, "csf"))


def _tone(slice_: _Slice, tissue: Tissue) -> float:
    return max(0.0, slice_.sequence.tissue[tissue] * slice_.rng.normal(1, 0.06))


def _lump(slice_: _Slice, shape: Ellipse, *, irregular: float, edge: float = 0.05) -> Floats:
    """Opacity of an ellipse with an outline shaken by `irregular` (share of its radius)."""
    depth = slice_.depth(shape) + np.float32(2 * irregular) * slice_.noise(1.6 / max(shape[2], shape[3]))
    return _ramp(depth / (4 * edge) + 0.5) * _skull_limit(slice_)


def _skull_limit(slice_: _Slice) -> Floats:
    x, y, radius_x, radius_y, degrees = slice_.view.cerebrum
    return slice_.ellipse((x, y, radius_x + 0.02, radius_y + 0.02, degrees))


def _point_on(shape: Ellipse, angle_deg: float, fraction: float) -> tuple[float, float]:
    x, y, radius_x, radius_y, _ = shape
    angle = np.radians(angle_deg)
    return float(x + fraction * radius_x * np.cos(angle)), float(y + fraction * radius_y * np.sin(angle))


def _paint_glioma(slice_: _Slice) -> None:
    """Inside the tissue, irregular, patchy, often with a dark core, and oedema around it."""
    rng = slice_.rng
    x, y = _point_on(slice_.view.cerebrum, rng.uniform(130, 410), rng.uniform(0.2, 0.72))
    radius = rng.uniform(0.13, 0.28)
    shape = (x, y, radius * rng.uniform(0.75, 1.3), radius, rng.uniform(0, 180))
    wide = rng.uniform(1.3, 1.9)
    oedema = _lump(slice_, (x, y, shape[2] * wide, radius * wide, shape[4]), irregular=0.30, edge=0.12)
    slice_.paint(oedema * np.float32(rng.uniform(0.5, 0.95)), slice_.sequence.oedema)
    tone = rng.uniform(*slice_.sequence.glioma)
    patchy = tone * (1 + 0.16 * slice_.noise(20))
    slice_.paint(_lump(slice_, shape, irregular=0.20) * np.float32(rng.uniform(0.8, 1)), patchy)
    if rng.random() < 0.6:
        core = (x, y, shape[2] * rng.uniform(0.4, 0.75), radius * rng.uniform(0.4, 0.75), shape[4])
        slice_.paint(_lump(slice_, core, irregular=0.2) * 0.9, _tone(slice_, "csf"))


def _paint_meningioma(slice_: _Slice) -> None:
    """On the skull's edge: round, bright, even."""
    rng = slice_.rng
    radius = rng.uniform(0.12, 0.26)
    x, y = _point_on(slice_.view.cerebrum, rng.uniform(*slice_.view.convexity_deg), 1 - radius * rng.uniform(0.5, 1.3))
    shape = (x, y, radius * rng.uniform(0.85, 1.15), radius, rng.uniform(0, 180))
    if rng.random() < 0.3:
        around = (x, y, shape[2] * 1.25, radius * 1.25, shape[4])
        slice_.paint(_lump(slice_, around, irregular=0.15, edge=0.1) * 0.5, slice_.sequence.oedema)
    tone = rng.uniform(*slice_.sequence.meningioma) * (1 + 0.03 * slice_.noise(10))
    slice_.paint(_lump(slice_, shape, irregular=0.06, edge=0.03) * np.float32(rng.uniform(0.75, 1)), tone)


def _paint_pituitary(slice_: _Slice) -> None:
    """Small, at the base near the midline."""
    rng = slice_.rng
    x, y = slice_.view.sella
    radius = rng.uniform(0.07, 0.15)
    shape = (x + rng.normal(0, 0.025), y + rng.normal(0, 0.035), radius * rng.uniform(0.8, 1.2), radius, 0.0)
    tone = rng.uniform(*slice_.sequence.pituitary) * (1 + 0.05 * slice_.noise(16))
    slice_.paint(_lump(slice_, shape, irregular=0.10, edge=0.05) * np.float32(rng.uniform(0.75, 1)), tone)


_LESIONS: dict[str, Callable[[_Slice], None]] = {
    "glioma": _paint_glioma,
    "meningioma": _paint_meningioma,
    "pituitary": _paint_pituitary,
}


def _scan(slice_: _Slice) -> Pixels:
    """Coil shading, contrast, exposure and Rician noise, as uint8 [h, w].

    Exposure sets the mean to a share of the head's area drawn without regard to what is in the head: a lesion makes its
    image no brighter or darker as a whole.
    """
    rng = slice_.rng
    image = np.maximum(slice_.value * (1 + 0.03 * slice_.noise(30)), 0) * np.exp(0.12 * slice_.noise(3))
    image = image ** np.float32(rng.uniform(0.8, 1.25))
    area = slice_.ellipse(slice_.view.cerebrum).mean()
    image *= area * rng.uniform(0.42, 0.66) / image.mean()
    spread = np.float32(rng.uniform(0.008, 0.035))
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * spread
    image = np.hypot(image + real, imaginary)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: float) -> Floats:
    """Smooth noise of mean 0 and spread about 1, with `cells` independent values along the long side."""
    height, width = shape
    cell_px = max(shape) / cells
    grid = rng.standard_normal((int(height / cell_px) + 2, int(width / cell_px) + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) * np.float32(1.35)


def _ramp(value: Floats) -> Floats:
    return np.clip(value, 0, 1)
