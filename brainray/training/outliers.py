"""Synthetic images that show no head, for outlier exposure (Hendrycks et al. 2019): a model must not be sure of them.

Images are floats from 0 (black) to 1. Must not draw from anything but the generator that is passed in.
Axes: N images, C channels, H height, W width.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brainray.imaging.normalise import usual_tone

_LEAVES = (30, 150)  # shapes in one image
_SQUARES = 0.4  # share of rectangles among the shapes; the others are ellipses
_TILES = (3, 9)  # tiles along a side of a shuffled image
_CLOUDS = (2, 40)  # noise values along a side, before upsampling


def outliers(images_NCHW: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw outliers [count, C, H, W], some made from the given images, with tones normalised as in decoding.

    Every draw comes from `generator`, a CPU one.
    """
    size = images_NCHW.shape[1:]
    drawn = images_NCHW.new_empty(count, *size)
    for place in range(count):
        kind = int(torch.randint(0, len(_KINDS), (1,), generator=generator))
        source = images_NCHW[int(torch.randint(0, len(images_NCHW), (1,), generator=generator))]
        drawn[place] = _KINDS[kind](source, generator)
    low, high = torch.rand(2, count, 1, 1, 1, generator=generator).sort(dim=0).values
    pixels = (255 * (low + (high - low) * drawn.cpu())).round().to(torch.uint8).numpy()
    toned = np.array([usual_tone(picture) for picture in pixels], np.float32).reshape(pixels.shape)
    return (torch.from_numpy(toned) / 255).to(images_NCHW)


def _scrambled(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle the tiles of an image: a head's textures without its shape."""
    tiles = int(torch.randint(*_TILES, (1,), generator=generator))
    side = math.ceil(image_CHW.shape[-1] / tiles)
    padded = functional.pad(image_CHW, (0, tiles * side - image_CHW.shape[-1], 0, tiles * side - image_CHW.shape[-2]))
    parts = padded.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)  # [C, tiles * tiles, side, side]
    moved = parts[:, torch.randperm(tiles * tiles, generator=generator)].reshape(-1, tiles, tiles, side, side)
    whole: Tensor = moved.permute(0, 1, 3, 2, 4).flatten(1, 2).flatten(2, 3)
    return whole[:, : image_CHW.shape[-2], : image_CHW.shape[-1]]


def _leaves(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Lay ellipses and rectangles of all sizes over one another, which gives the statistics of photographs.

    The "dead leaves" of Lee, Mumford and Huang (2001): radii follow a power law.
    """
    height, width = image_CHW.shape[-2:]
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    picture = np.zeros((height, width), np.float32)  # not torch: a hundred small steps, each faster than its call
    count = int(torch.randint(*_LEAVES, (1,), generator=generator))
    for x, y, size, shape, turn, grey, slope, square in torch.rand(count, 8, generator=generator).tolist():
        radius = 0.03 / (size + 0.05)
        top, bottom = (
            min(height, max(0, int(height * (y + reach)))) for reach in (-2 * radius, 2 * radius + 1 / height)
        )
        left, right = (min(width, max(0, int(width * (x + reach)))) for reach in (-2 * radius, 2 * radius + 1 / width))
        across, down = columns[:, left:right] - x, rows[top:bottom] - y
        cos, sin = math.cos(math.pi * turn), math.sin(math.pi * turn)
        u, v = (cos * across + sin * down) / radius, (cos * down - sin * across) / (radius * (0.3 + shape))
        inside = np.maximum(abs(u), abs(v)) < 1 if square < _SQUARES else u * u + v * v < 1
        np.copyto(picture[top:bottom, left:right], grey + (slope - 0.5) * u * 0.5, where=inside)
    return torch.from_numpy(picture.clip(0, 1)).expand(image_CHW.shape)


def _clouds(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Draw smooth noise of a random coarseness."""
    side = int(torch.randint(*_CLOUDS, (1,), generator=generator))
    noise = torch.rand(1, 1, side, side, generator=generator)
    grown = functional.interpolate(noise, size=image_CHW.shape[-2:], mode="bicubic", align_corners=False)
    return grown[0].clamp(0, 1).expand(image_CHW.shape)


def _noise(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Draw independent noise for each pixel."""
    return torch.rand(image_CHW[:1].shape, generator=generator).expand(image_CHW.shape)


def _flat(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Draw black, or a linear slope of grey."""
    slope = torch.rand(2, generator=generator)
    height, width = image_CHW.shape[-2:]
    rows, columns = torch.linspace(0, 1, height).view(-1, 1), torch.linspace(0, 1, width).view(1, -1)
    picture = rows * slope[0] + columns * slope[1] if slope[0] > 0.5 else torch.zeros(height, width)
    return picture.clamp(0, 1).expand(image_CHW.shape)


_KINDS: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (
    _scrambled,
    _scrambled,
    _leaves,
    _leaves,
    _leaves,
    _clouds,
    _noise,
    _flat,
)
