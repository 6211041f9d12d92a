"""Random changes that leave the diagnosis of an MRI slice as it is: another scanner, another export, another crop.

Batches of images from 0 (black) to 1, one draw an image. Axes: N images, C channels, H height, W width.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Plane = NDArray[np.uint8]

# Ranges at full strength; a strength below 1 narrows them all, and makes rarer what is done to some images only.
_MAX_TURN_DEG = 20.0
_QUARTER_TURNS = 0.1  # chance of a picture that lies on its side or on its head, as some exports are
_SCALE = 0.2  # of the logarithm, as for all that multiplies
_ASPECT = 0.1
_MAX_SHIFT = 0.1  # of the width
_EQUALISED = 0.35  # chance of a mixture with the image after contrast equalisation
_CLIP = (1.0, 4.0)  # limit of that equalisation (CLAHE, Zuiderveld 1994); tiles are an eighth of the width
_GAMMA = 0.5
_COIL = 0.4  # a receiving coil's sensitivity, which falls off across the head (Sled et al. 1998)
_COIL_POINTS = 3  # along a side: no coil changes it faster
_CONTRAST = 0.4
_BRIGHTNESS = 0.08
_BLURRED, _COARSE, _SHARPENED = 0.15, 0.15, 0.1  # chances: out of focus, enlarged from a smaller one, an export's edges
_SMALLEST = 0.3  # of the width, of what is enlarged
_COMPRESSED = 0.2  # chance of what JPEG leaves
_QUALITY = (10, 70)  # of that JPEG
_WRITTEN = 0.1  # chance of words over the image, as in a screenshot
_LETTERS = (48, 91)  # digits, some signs, capitals
_MAX_NOISE = 0.04
_ERASED = (0.1, 0.3)  # side of the square that is covered, of the width (DeVries and Taylor 2017)
_ERASE_CHANCE = 0.25
_MAX_COVER = 0.5  # brightness of it


def augment(images_NCHW: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """A new batch of the same shape, from 0 to 1; of strength 0, as it is. Draws come from `generator`, a CPU one."""
    if strength == 0:
        return images_NCHW
    draw = _Draw(len(images_NCHW), generator, strength, images_NCHW.device)
    images = _move(_equalise(images_NCHW, draw), draw)
    images = _refocus(_tone(images, draw), draw)
    noise = torch.randn(images[:, :1].shape, generator=generator).to(images.device)
    noisy = (images + noise * draw.between(0, _MAX_NOISE)).clamp(0, 1)
    return _cover(_compress(_write(noisy, draw), draw), draw)


class _Draw:
    """One number an image, shaped to be broadcast over the batch."""

    def __init__(self, count: int, generator: torch.Generator, strength: float, device: torch.device) -> None:
        self.count, self.generator, self.strength, self.device = count, generator, strength, device

    def between(self, low: float, high: float) -> Tensor:
        """Evenly from a range that is narrowed by the strength around what changes nothing, 0."""
        drawn = torch.rand(self.count, 1, 1, 1, generator=self.generator) * (high - low) + low
        return (drawn * self.strength).to(self.device)

    def around(self, spread: float) -> Tensor:
        return self.between(-spread, spread)

    def factor(self, spread: float) -> Tensor:
        return torch.exp(self.around(spread))

    def happens(self, chance: float) -> Tensor:
        """Which images, as a mask on the CPU."""
        return torch.rand(self.count, generator=self.generator) < chance * self.strength

    def numbers(self) -> list[float]:
        """Evenly from 0 to 1, at any strength."""
        return torch.rand(self.count, generator=self.generator).tolist()

    def integers(self, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (self.count,), generator=self.generator)


def _by_plane(image_CHW: Tensor, change: Callable[[Plane], object]) -> Tensor:
    """What a function of 8-bit pixels [H, W], such as OpenCV has, makes of each channel."""
    planes = (image_CHW * 255).round().to(torch.uint8).cpu().numpy()
    return torch.stack([torch.from_numpy(np.asarray(change(plane))) for plane in planes]).to(image_CHW) / 255


def _equalise(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Mix some images with what adaptive histogram equalisation makes of them."""
    import cv2

    chosen, share, limit = draw.happens(_EQUALISED), draw.between(0, 1), draw.numbers()
    images = images_NCHW.clone()
    for index in chosen.nonzero().flatten().tolist():
        tool = cv2.createCLAHE(clipLimit=_CLIP[0] + (_CLIP[1] - _CLIP[0]) * limit[index], tileGridSize=(8, 8))
        images[index] = torch.lerp(images_NCHW[index], _by_plane(images_NCHW[index], tool.apply), share[index])
    return images


def _write(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Letters and digits over some images; they say nothing."""
    import cv2

    places, sizes = (torch.rand(draw.count, 2, generator=draw.generator).tolist() for _ in range(2))
    chosen, words = draw.happens(_WRITTEN), torch.randint(*_LETTERS, (draw.count, 8), generator=draw.generator)
    height, width = images_NCHW.shape[-2:]
    for index in chosen.nonzero().flatten().tolist():
        (across, down), (size, grey) = places[index], sizes[index]
        written = partial(
            cv2.putText,
            text=bytes(words[index].tolist()).decode(),
            org=(int(across * width), int(down * height)),
            fontFace=cv2.FONT_HERSHEY_SIMPLEX,
            fontScale=width / 400 * (1 + size),
            color=[127 + 128 * grey],
        )
        images_NCHW[index] = _by_plane(images_NCHW[index], written)
    return images_NCHW


def _compress(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Make JPEGs of some images."""
    chosen, quality = draw.happens(_COMPRESSED), draw.integers(*_QUALITY).tolist()
    for index in chosen.nonzero().flatten().tolist():
        images_NCHW[index] = _by_plane(images_NCHW[index], partial(_jpeg, quality=quality[index]))
    return images_NCHW


def _move(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Flip, turn, scale, stretch and shift in one resampling; what comes in from outside is black."""
    quarters = draw.happens(_QUARTER_TURNS) * draw.integers(1, 4)
    angle = draw.around(_MAX_TURN_DEG).flatten() * (math.pi / 180) + quarters.to(draw.device) * (math.pi / 2)
    scale, aspect = draw.factor(_SCALE).flatten(), draw.factor(_ASPECT).flatten()
    mirror = (draw.integers(0, 2) * 2.0 - 1).to(draw.device)
    across, down = (2 * draw.around(_MAX_SHIFT).flatten() for _ in range(2))  # the grid is two units wide
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack([cos * mirror * scale * aspect, -sin * scale / aspect, across], 1),
        torch.stack([sin * mirror * scale * aspect, cos * scale / aspect, down], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(images_NCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _tone(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Gamma, the coil's field, contrast, brightness."""
    points = torch.randn(draw.count, 1, _COIL_POINTS, _COIL_POINTS, generator=draw.generator).to(images_NCHW.device)
    field = functional.interpolate(points, size=images_NCHW.shape[-2:], mode="bicubic", align_corners=True)
    bent = images_NCHW.clamp_min(1e-3) ** draw.factor(_GAMMA) * torch.exp(field * draw.between(0, _COIL))
    return bent * draw.factor(_CONTRAST) + draw.around(_BRIGHTNESS) * draw.integers(0, 2).view(-1, 1, 1, 1).to(bent)


def _refocus(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Blur some, rebuild some from fewer pixels, sharpen some."""
    size, chance = images_NCHW.shape[-2:], torch.rand(draw.count, generator=draw.generator) / draw.strength
    blurred = (chance < _BLURRED).nonzero().flatten().to(draw.device)
    images_NCHW[blurred] = _blur(images_NCHW[blurred], 3)
    last = _BLURRED + _COARSE
    scales = 1 - draw.between(0, 1 - _SMALLEST).flatten()
    for index in ((chance >= _BLURRED) & (chance < last)).nonzero().flatten().tolist():
        one, fewer = images_NCHW[index : index + 1], [max(1, round(side * float(scales[index]))) for side in size]
        small = functional.interpolate(one, size=fewer, mode="bilinear", antialias=True)
        images_NCHW[index] = functional.interpolate(small, size=size, mode="bilinear")[0]
    sharp = ((chance >= last) & (chance < last + _SHARPENED)).nonzero().flatten().to(draw.device)
    images_NCHW[sharp] += 0.8 * (images_NCHW[sharp] - _blur(images_NCHW[sharp], 5))
    return images_NCHW


def _blur(images_NCHW: Tensor, width: int) -> Tensor:
    padded = functional.pad(images_NCHW, (width // 2,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, width, 1)


def _jpeg(plane_HW: Plane, *, quality: int) -> Plane:
    import cv2

    stored = cv2.imencode(".jpg", plane_HW, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_GRAYSCALE), np.uint8)


def _cover(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """A grey square over some images, so that no single spot decides."""
    width, generator = images_NCHW.shape[-1], draw.generator
    for index in draw.happens(_ERASE_CHANCE).nonzero().flatten().tolist():
        share, grey = torch.rand(2, generator=generator).tolist()
        side = max(1, int(width * (_ERASED[0] + (_ERASED[1] - _ERASED[0]) * share)))
        top, left = (int(v) for v in torch.randint(0, width - side + 1, (2,), generator=generator))
        images_NCHW[index, :, top : top + side, left : left + side] = _MAX_COVER * grey
    return images_NCHW
