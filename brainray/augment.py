"""Random changes that leave the diagnosis of an MRI slice as it is. Batches of normalised images, one draw an image.

Axes: N images, C channels, H height, W width. Heads are seen from both sides and never upside down, so there is a
left-right flip and no other.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_MAX_TURN_DEG = 15.0
_MAX_SHIFT = 0.08  # of the width
_SCALE = (0.85, 1.15)
_CONTRAST = (0.75, 1.3)
_BRIGHTNESS = 0.25  # in standard deviations of the data set
_MAX_NOISE = 0.15
_ERASED = 0.25  # largest side of the square that is blanked, of the width
_ERASE_CHANCE = 0.25


def augment(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """A new batch of the same shape. Every draw comes from `generator`, a CPU one."""
    moved = _move(images_NCHW, generator)
    return _erase(_intensity(moved, generator), generator)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _move(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, turn, scale and shift in one resampling."""
    count = len(images_NCHW)
    angle = _uniform(count, -_MAX_TURN_DEG, _MAX_TURN_DEG, generator) * (math.pi / 180)
    scale = _uniform(count, *_SCALE, generator)
    mirror = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    shift = torch.rand(count, 2, generator=generator) * 4 * _MAX_SHIFT - 2 * _MAX_SHIFT  # the grid is two units wide
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = (torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1))
    matrix_N23 = torch.stack(rows, 1).to(images_NCHW.device)
    grid = functional.affine_grid(matrix_N23, list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(images_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _intensity(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Another scanner: contrast, brightness and noise."""
    count, device = len(images_NCHW), images_NCHW.device
    contrast = _uniform(count, *_CONTRAST, generator).to(device).view(-1, 1, 1, 1)
    brightness = _uniform(count, -_BRIGHTNESS, _BRIGHTNESS, generator).to(device).view(-1, 1, 1, 1)
    sigma = _uniform(count, 0, _MAX_NOISE, generator).to(device).view(-1, 1, 1, 1)
    noise = torch.randn(images_NCHW.shape, generator=generator).to(device)
    return images_NCHW * contrast + brightness + noise * sigma


def _erase(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Blank a square in some images, so that no single spot decides (DeVries and Taylor 2017)."""
    width = images_NCHW.shape[-1]
    chosen = torch.rand(len(images_NCHW), generator=generator) < _ERASE_CHANCE
    for index in chosen.nonzero().flatten().tolist():
        side = int(_ERASED * width * float(torch.rand(1, generator=generator))) + 1
        top, left = (int(v) for v in torch.randint(0, width - side + 1, (2,), generator=generator))
        images_NCHW[index, :, top : top + side, left : left + side] = 0
    return images_NCHW
