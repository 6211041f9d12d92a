"""lite0-fast: EfficientNet-Lite0 whose first stages are plain convolutions and whose last two grids are joined.

On a CPU the first five layers of lite0 take two thirds of its time, for depthwise convolutions on large grids wait for
memory. Here five plain convolutions take their place, fitted to give the same features (`stem_weights`). The grids of
stride 16 and 32 are added, so that class maps have cells of 16 pixels. Axes: N images, C channels, H height, W width.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import brainray
from brainray import storage

from .efficientnet_lite import DROPOUT, LiteCNN, conv_norm, load_imagenet

_REPLACED = 5  # first layers of lite0 that the stem stands for: the first convolution and four blocks, to stride 8
_FINE_ENDS, _COARSE_ENDS = 12, 17  # layers of lite0 up to stride 16 with 112 channels, and up to stride 32 with 320
_STEM_CHANNELS = (32, 64, 128)
_STEM_OUTPUTS, _FINE, _COARSE = 40, 112, 320
_TOP = 384  # channels before the last layer
_STEM_FILE = "models/lite_fast_stem.safetensors"


class LiteFastCNN(nn.Module):
    """lite0-fast. With one channel and four classes it has 3.3 M parameters, and 0.33 GMAC at 192 px."""

    def __init__(self, *, channels: int, classes: int) -> None:
        super().__init__()
        self.features = _Features(channels)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(_TOP, classes))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.head(self.features(images_NCHW))
        return logits_NK


class _Features(nn.Module):
    """Features [N, 384, H / 16, W / 16], rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = list(LiteCNN("lite0", channels=channels, classes=2).features)
        self.stem = plain_stem(channels)
        self.fine = nn.Sequential(*layers[_REPLACED:_FINE_ENDS])
        self.coarse = nn.Sequential(*layers[_FINE_ENDS:_COARSE_ENDS])
        self.from_fine, self.from_coarse = (_projection(inputs, _TOP) for inputs in (_FINE, _COARSE))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        fine = self.fine(self.stem(images_NCHW))
        coarse = functional.interpolate(self.from_coarse(self.coarse(fine)), size=fine.shape[-2:], mode="nearest")
        joined: Tensor = self.relu(self.from_fine(fine) + coarse)
        return joined


def plain_stem(channels: int) -> nn.Sequential:
    """Plain convolutions to stride 8, whose output stands for that of the first five layers of lite0."""
    layers: list[nn.Module] = []
    inputs = channels
    for outputs in _STEM_CHANNELS:
        layers += [*conv_norm(inputs, outputs, kernel=3, stride=2), nn.ReLU(inplace=True)]
        inputs = outputs
    layers += [*conv_norm(inputs, inputs, kernel=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *conv_norm(inputs, _STEM_OUTPUTS, kernel=3))


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv_norm(inputs, outputs, kernel=1))


def load_first_weights(model: LiteFastCNN) -> None:
    """Load the stem of this package and the ImageNet weights of lite0; what joins the grids stays random.

    Raises `BadRequest` where the package of the weights is missing.
    """
    channels = model.features.stem[0].get_parameter("weight").shape[1]
    lite = LiteCNN("lite0", channels=channels, classes=2)
    load_imagenet(lite, "lite0")
    layers = list(lite.features)
    model.features.fine.load_state_dict(nn.Sequential(*layers[_REPLACED:_FINE_ENDS]).state_dict())
    model.features.coarse.load_state_dict(nn.Sequential(*layers[_FINE_ENDS:_COARSE_ENDS]).state_dict())
    model.features.stem.load_state_dict(stem_weights(channels))


def stem_weights(channels: int) -> dict[str, Tensor]:
    """The weights of the stem, which `tests/bench/fit_stem.py` fitted on MRI slices without their labels.

    They are for one channel; with three channels the first kernels are shared among the colours.
    """
    from safetensors.torch import load

    content = storage.read_bytes(str(Path(brainray.__file__).parent / _STEM_FILE))
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load(content).items()}
    if channels > 1:
        state["0.weight"] = state["0.weight"].expand(-1, channels, -1, -1) / channels
    return state


def replaced_layers(channels: int = 1) -> nn.Sequential:
    """The first layers of lite0 with ImageNet weights, which the stem is fitted to."""
    lite = LiteCNN("lite0", channels=channels, classes=2)
    load_imagenet(lite, "lite0")
    layers: nn.Sequential = lite.features[:_REPLACED]
    return layers.eval().to(memory_format=torch.channels_last)
