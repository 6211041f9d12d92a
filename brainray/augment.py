"""Random changes that leave the diagnosis of an MRI slice as it is: another scanner, another export, another crop.

Batches of images from 0 (black) to 1, one draw an image. Axes: N images, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

# Ranges at full strength; a strength below 1 narrows them all, and makes rarer what is done to some images only.
_MAX_TURN_DEG = 20.0
_QUARTER_TURNS = 0.1  # chance of a picture that lies on its side or on its head, as some exports are
_SCALE = 0.2  # of the logarithm, as for all that multiplies
_ASPECT = 0.1
_MAX_SHIFT = 0.1  # of the width
_EQUALISED = 0.35  # chance of a mixture with the image after contrast equalisation
_CLIP = (1.0, 4.0)  # limit of that equalisation (CLAHE, Zuiderveld 1994); tiles are an eighth of the width
_GAMMA = 0.5
_CONTRAST = 0.4
_BRIGHTNESS = 0.08
_BLURRED, _COARSE, _SHARPENED = 0.15, 0.1, 0.1  # chances: out of focus, enlarged from half the size, an export's edges
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
    return _cover((images + noise * draw.between(0, _MAX_NOISE)).clamp(0, 1), draw)


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

    def integers(self, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (self.count,), generator=self.generator)


def _equalise(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Mix some images with what adaptive histogram equalisation makes of them."""
    import cv2

    chosen, share, limit = (
        draw.happens(_EQUALISED),
        draw.between(0, 1),
        torch.rand(draw.count, generator=draw.generator),
    )
    images = images_NCHW.clone()
    for index in chosen.nonzero().flatten().tolist():
        clip = _CLIP[0] + (_CLIP[1] - _CLIP[0]) * float(limit[index])
        planes = (images_NCHW[index] * 255).to(torch.uint8).cpu().numpy()
        changed = [cv2.createCLAHE(clipLimit=clip, tileGridSize=(8, 8)).apply(plane) for plane in planes]
        equalised = torch.stack([torch.from_numpy(plane) for plane in changed]).to(images.device) / 255
        images[index] = torch.lerp(images_NCHW[index], equalised, share[index])
    return images


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
    """Gamma, contrast, brightness."""
    bent = images_NCHW.clamp_min(1e-3) ** draw.factor(_GAMMA)
    return bent * draw.factor(_CONTRAST) + draw.around(_BRIGHTNESS) * draw.integers(0, 2).view(-1, 1, 1, 1).to(bent)


def _refocus(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """Blur some, rebuild some from half their size, sharpen some."""
    size, chance = images_NCHW.shape[-2:], torch.rand(draw.count, generator=draw.generator) / draw.strength
    blurred = (chance < _BLURRED).nonzero().flatten().to(draw.device)
    images_NCHW[blurred] = _blur(images_NCHW[blurred], 3)
    last = _BLURRED + _COARSE
    coarse = ((chance >= _BLURRED) & (chance < last)).nonzero().flatten().to(draw.device)
    half = functional.interpolate(images_NCHW[coarse], scale_factor=0.5, mode="bilinear", antialias=True)
    images_NCHW[coarse] = functional.interpolate(half, size=size, mode="bilinear")
    sharp = ((chance >= last) & (chance < last + _SHARPENED)).nonzero().flatten().to(draw.device)
    images_NCHW[sharp] += 0.8 * (images_NCHW[sharp] - _blur(images_NCHW[sharp], 5))
    return images_NCHW


def _blur(images_NCHW: Tensor, width: int) -> Tensor:
    padded = functional.pad(images_NCHW, (width // 2,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, width, 1)


def _cover(images_NCHW: Tensor, draw: _Draw) -> Tensor:
    """A grey square over some images, so that no single spot decides."""
    width, generator = images_NCHW.shape[-1], draw.generator
    for index in draw.happens(_ERASE_CHANCE).nonzero().flatten().tolist():
        share, grey = torch.rand(2, generator=generator).tolist()
        side = max(1, int(width * (_ERASED[0] + (_ERASED[1] - _ERASED[0]) * share)))
        top, left = (int(v) for v in torch.randint(0, width - side + 1, (2,), generator=generator))
        images_NCHW[index, :, top : top + side, left : left + side] = _MAX_COVER * grey
    return images_NCHW
