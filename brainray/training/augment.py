"""Data augmentation: random changes that leave the diagnosis of an MRI slice as it is.

The changes imitate other scanners, other exports and other crops. Images are floats from 0 (black) to 1; each image of
a batch gets draws of its own. Must not draw from anything but the generator that is passed in.
Axes: N images, C channels, H height, W width.
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

# Ranges and chances at strength 1. A smaller strength narrows the ranges and lowers the chances in proportion.
_MAX_TURN_DEG = 20.0
_QUARTER_TURNS = 0.1  # chance of an image turned by 90, 180 or 270 degrees, as in some exports
_SCALE = 0.2  # half the range of the logarithm, as for every other factor
_ASPECT = 0.1
_MAX_SHIFT = 0.1  # share of the width
_EQUALISED = 0.35  # chance of blending the image with its equalised version
_CLIP = (1.0, 4.0)  # clip limit of the equalisation (CLAHE, Zuiderveld 1994); tiles are an eighth of the width
_GAMMA = 0.5
_COIL = 0.4  # bias field: a receiving coil's sensitivity falls off across the head (Sled et al. 1998)
_COIL_POINTS = 3  # control points along a side: real bias fields vary no faster
_CONTRAST = 0.4
_BRIGHTNESS = 0.08
_BLURRED, _COARSE, _SHARPENED = 0.15, 0.15, 0.1  # chances of a blur, of down- and upsampling, of sharpening
_SMALLEST = 0.3  # smallest width of a downsampled image, as a share of the width
_COMPRESSED = 0.2  # chance of JPEG artefacts
_QUALITY = (10, 70)  # JPEG quality
_WRITTEN = 0.1  # chance of text over the image, as in a screenshot
_LETTERS = (48, 91)  # digits, some signs, capitals
_MAX_NOISE = 0.04
_ERASED = (0.1, 0.3)  # side of the covered square, as a share of the width (DeVries and Taylor 2017)
_ERASE_CHANCE = 0.25
_MAX_COVER = 0.5  # brightness of the square


def augment(images_NCHW: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Return an augmented batch of the same shape, values from 0 to 1. Strength 0 returns the batch itself.

    `generator` must be a CPU generator.
    """
    return augment_with_regions(images_NCHW, images_NCHW[:, :0], generator, strength=strength)[0]


def augment_with_regions(
    images_NCHW: Tensor, regions_NRHW: Tensor, generator: torch.Generator, *, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return an augmented batch, and the regions moved as the images are: masks, of which there may be none (R = 0)."""
    if strength == 0:
        return images_NCHW, regions_NRHW
    draw = _Draw(len(images_NCHW), generator, strength, images_NCHW.device)
    channels = images_NCHW.shape[1]
    moved = _move(torch.cat([_equalise(images_NCHW, draw), regions_NRHW], 1), draw)
    images = _refocus(_tone(moved[:, :channels], draw), draw)
    noise = torch.randn(images[:, :1].shape, generator=generator).to(images.device)
    noisy = (images + noise * draw.between(0, _MAX_NOISE)).clamp(0, 1)
    return _cover(_compress(_write(noisy, draw), draw), draw), moved[:, channels:]


class _Draw:
    """Draws random numbers, one an image, mostly shaped [N, 1, 1, 1] to be broadcast over the batch."""

    def __init__(self, count: int, generator: torch.Generator, strength: float, device: torch.device) -> None:
        self.count, self.generator, self.strength, self.device = count, generator, strength, device

    def between(self, low: float, high: float) -> Tensor:
        """Draw uniformly from a range that the strength scales towards 0, the value that changes nothing."""
        drawn = torch.rand(self.count, 1, 1, 1, generator=self.generator) * (high - low) + low
        return (drawn * self.strength).to(self.device)

    def around(self, spread: float) -> Tensor:
        """Draw uniformly from -spread to spread, scaled by the strength."""
        return self.between(-spread, spread)

    def factor(self, spread: float) -> Tensor:
        """Draw a positive factor whose logarithm is uniform from -spread to spread, scaled by the strength."""
        return torch.exp(self.around(spread))

    def happens(self, chance: float) -> Tensor:
        """Choose images with this chance, scaled by the strength; returns a mask [N] on the CPU."""
        return torch.rand(self.count, generator=self.generator) < chance * self.strength

    def numbers(self) -> list[float]:
        """Draw uniformly from 0 to 1, whatever the strength."""
        return torch.rand(self.count, generator=self.generator).tolist()

    def integers(self, low: int, high: int) -> Tensor:
        """Draw integers [N] from low up to, not including, high, whatever the strength."""
        return torch.randint(low, high, (self.count,), generator=self.generator)


def _by_plane(image_CHW: Tensor, change: Callable[[Plane], object]) -> Tensor:
    """Apply a function of 8-bit pixels [H, W], such as one of OpenCV, to each channel."""
    planes = (image_CHW * 255).round().to(torch.uint8).cpu().numpy()
    return torch.stack([torch.from_numpy(np.asarray(change(plane))) for plane in planes]).to(image_CHW) / 255


def _equalise(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Blend some images with their adaptive histogram equalisation (CLAHE)."""
    import cv2

    selected, share, limit = draw.happens(_EQUALISED), draw.between(0, 1), draw.numbers()
    images = images_NCHW.clone()
    for index in selected.nonzero().flatten().tolist():
        tool = cv2.createCLAHE(clipLimit=_CLIP[0] + (_CLIP[1] - _CLIP[0]) * limit[index], tileGridSize=(8, 8))
        images[index] = torch.lerp(images_NCHW[index], _by_plane(images_NCHW[index], tool.apply), share[index])
    return images


def _write(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Write random letters and digits over some images, so that text carries no information."""
    import cv2

    places, sizes = (torch.rand(draw.count, 2, generator=draw.generator).tolist() for _ in range(2))
    selected, words = draw.happens(_WRITTEN), torch.randint(*_LETTERS, (draw.count, 8), generator=draw.generator)
    height, width = images_NCHW.shape[-2:]
    for index in selected.nonzero().flatten().tolist():
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
    """Compress some images as JPEG and decode them again."""
    selected, quality = draw.happens(_COMPRESSED), draw.integers(*_QUALITY).tolist()
    for index in selected.nonzero().flatten().tolist():
        images_NCHW[index] = _by_plane(images_NCHW[index], partial(_jpeg, quality=quality[index]))
    return images_NCHW


def _move(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Flip, turn, scale, stretch and shift in one resampling; the area outside the image is black."""
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
    """Change gamma, bias field, contrast and brightness."""
    points = torch.randn(draw.count, 1, _COIL_POINTS, _COIL_POINTS, generator=draw.generator).to(images_NCHW.device)
    field = functional.interpolate(points, size=images_NCHW.shape[-2:], mode="bicubic", align_corners=True)
    bent = images_NCHW.clamp_min(1e-3) ** draw.factor(_GAMMA) * torch.exp(field * draw.between(0, _COIL))
    return bent * draw.factor(_CONTRAST) + draw.around(_BRIGHTNESS) * draw.integers(0, 2).view(-1, 1, 1, 1).to(bent)


def _refocus(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Blur some images, down- and upsample some, sharpen some; no image gets two of these."""
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
    """Cover a square of some images with grey, so that no single spot decides."""
    width, generator = images_NCHW.shape[-1], draw.generator
    for index in draw.happens(_ERASE_CHANCE).nonzero().flatten().tolist():
        share, grey = torch.rand(2, generator=generator).tolist()
        side = max(1, int(width * (_ERASED[0] + (_ERASED[1] - _ERASED[0]) * share)))
        top, left = (int(v) for v in torch.randint(0, width - side + 1, (2,), generator=generator))
        images_NCHW[index, :, top : top + side, left : left + side] = _MAX_COVER * grey
    return images_NCHW
