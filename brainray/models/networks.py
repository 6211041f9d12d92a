"""Network architectures by name, and the weights that training begins with.

Networks take normalised float images [N, C, H, W] and return logits [N, K]. This module must not train or run them.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainray.config import COMPACT, LITE_FAST, LITE_NAMES, ImageSpec, ModelSpec, Weights
from brainray.errors import BadRequest

from .efficientnet_lite import LiteCNN, freeze_depthwise, imagenet_file, load_imagenet
from .lite_fast import LiteFastCNN, load_first_weights

_STEM = 24  # channels after the first convolution
# Channels and residual blocks of each stage of `CompactCNN`. The stem and each stage halve height and width.
_STAGES = ((32, 1), (64, 2), (128, 2), (192, 1))
_ONEDNN_BLOCK = 16  # channels that its kernels take at once with AVX-512


def _scale_channels(channels: int, width: float) -> int:
    """channels * width, rounded to a multiple of eight for vector units."""
    return max(8, round(channels * width / 8) * 8)


def _conv(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3, initial_gain: float = 1.0) -> nn.Sequential:
    """Convolution and batch normalisation."""
    norm = nn.BatchNorm2d(outputs)
    nn.init.constant_(norm.weight, initial_gain)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), norm)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016).

    The convolutions are dense, because matrix units are slow at depthwise ones.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride)
        # Without the zero initial gain of Goyal et al. (2017): with it the accuracy after 12 epochs on 900 images is
        # 68 % instead of 89 %.
        self.second = _conv(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, stride=stride, kernel=1)
        self.activation = nn.ReLU(inplace=True)
        self._stride = stride
        self._is_narrow = not same and inputs < _ONEDNN_BLOCK

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.activation(self.first(x)))
        out: Tensor = self.activation(y + self._shortcut(x))
        return out

    def _shortcut(self, x: Tensor) -> Tensor:
        """The shortcut; while a narrow block is trained, its 1x1 convolution runs on every second pixel with stride 1.

        That is the same function. oneDNN's gradient of the strided one writes past its buffer (torch 2.14, AVX-512,
        channels last): https://github.com/uxlfoundation/oneDNN/issues/6035
        """
        shortcut: Tensor
        if self.training and self._is_narrow:
            conv, norm = self.shortcut.children()
            every_second = x[..., :: self._stride, :: self._stride]
            shortcut = norm(functional.conv2d(every_second, conv.get_parameter("weight")))
        else:
            shortcut = self.shortcut(x)
        return shortcut


class CompactCNN(nn.Module):
    """A small residual network. With one channel, four classes and width 1 it has 1.25 M parameters."""

    def __init__(self, *, channels: int, classes: int, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        inputs = _scale_channels(_STEM, width)
        layers: list[nn.Module] = [_conv(channels, inputs, stride=2), nn.ReLU(inplace=True)]
        for count, blocks in _STAGES:
            outputs = _scale_channels(count, width)
            for index in range(blocks):
                layers.append(ResidualBlock(inputs, outputs, stride=2 if index == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(inputs, classes)
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.head(self.features(images_NCHW))
        return logits_NK


_LITE = (LiteCNN, LiteFastCNN)


class _ChannelRepeated(nn.Module):
    """A three-channel backbone for one-channel images, which it repeats three times."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.backbone(images_NCHW.expand(-1, 3, -1, -1))
        return logits_NK


def _backbone_names() -> list[str]:
    """The names of torchvision's classification networks, which `build_model` takes beside those of `config`."""
    from torchvision import models

    return list(models.list_models(module=models))


def build_model(spec: ModelSpec) -> nn.Module:
    """A network with random weights. Raises `BadRequest` for an unknown name."""
    if spec.name == COMPACT:
        return CompactCNN(channels=spec.channels, classes=len(spec.classes), width=spec.width)
    if spec.name == LITE_FAST:
        return LiteFastCNN(channels=spec.channels, classes=len(spec.classes))
    if spec.name in LITE_NAMES:
        return LiteCNN(spec.name, channels=spec.channels, classes=len(spec.classes))
    from torchvision import models

    if spec.name not in _backbone_names():
        near = ", ".join(name for name in _backbone_names() if name[:6] == spec.name[:6])
        hint = f"; near it: {near}" if near else f"; try {COMPACT}, {LITE_NAMES[0]}, resnet18 or mobilenet_v3_small"
        raise BadRequest(f"--model {spec.name!r} is no network of ours or torchvision's{hint}")
    extra = {"aux_logits": False, "init_weights": True} if spec.name in ("googlenet", "inception_v3") else {}
    backbone = models.get_model(spec.name, weights=None, num_classes=len(spec.classes), **extra)
    return _ChannelRepeated(backbone) if spec.channels == 1 else backbone


def begin_with(model: nn.Module, spec: ModelSpec, weights: Weights) -> nn.Module:
    """The network with the weights that training begins with; the last layer stays random.

    ImageNet weights of torchvision's networks are downloaded. Raises `BadRequest` where weights are not available.
    """
    if weights == "none":
        return model
    if isinstance(model, LiteCNN):
        load_imagenet(model, spec.name)
    elif isinstance(model, LiteFastCNN):
        load_first_weights(model)
    if isinstance(model, _LITE):
        freeze_depthwise(model)
        return model
    backbone = model.backbone if isinstance(model, _ChannelRepeated) else model
    _load_shapes_that_fit(backbone, _download_weights(spec.name))
    return model


def check_network(spec: ModelSpec, image: ImageSpec, weights: Weights, *, needs_maps: bool = False) -> None:
    """Raise `BadRequest` for an unknown network, and for one that cannot take images of this size.

    Also for EfficientNet-Lite without its weights installed, and with `needs_maps` for a network that has no exact map
    of each class.
    """
    with torch.device("meta"):  # shapes without values: nothing is drawn, and nothing computed
        network = build_model(spec)
        image_NCHW = torch.empty(1, spec.channels, image.image_px, image.image_px)
    try:
        with torch.inference_mode():
            network.eval()(image_NCHW)
    except (RuntimeError, AssertionError) as exc:  # of torch and torchvision
        raise BadRequest(
            f"--image-px {image.image_px}: {spec.name} takes no images of this size ({str(exc).splitlines()[0]}); give "
            "another --image-px, such as 224"
        ) from exc
    if needs_maps and not has_maps(network):
        raise BadRequest(f"--boxes: {spec.name} has no map of each class to train; choose {COMPACT} or {LITE_NAMES[0]}")
    if weights != "none" and spec.name in (LITE_FAST, *LITE_NAMES):
        imagenet_file(LITE_NAMES[0] if spec.name == LITE_FAST else spec.name)


def go_on_from(model: nn.Module, state: dict[str, Tensor], *, same_classes: bool) -> nn.Module:
    """The network with the weights of an earlier training; the last layer keeps its own where the classes differ."""
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    kept = {n: t for n, t in state.items() if same_classes or not n.startswith(tuple(f"{name}." for name in last))}
    _load_shapes_that_fit(model, kept)
    if isinstance(model, _LITE):
        freeze_depthwise(model)
    return model


def _download_weights(name: str) -> dict[str, Tensor]:
    """torchvision's default ImageNet weights of a network. Raises `BadRequest` where they cannot be fetched."""
    from torchvision import models

    try:
        state: dict[str, Tensor] = models.get_model_weights(name)["DEFAULT"].get_state_dict(progress=False)
    except OSError as exc:
        raise BadRequest(
            f"--weights imagenet: those of {name} cannot be fetched ({exc}); is this machine online?"
        ) from exc
    return state


def _load_shapes_that_fit(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the tensors whose name and shape fit: all but those that depend on the number of classes."""
    own = model.state_dict()
    model.load_state_dict(own | {name: t for name, t in state.items() if name in own and t.shape == own[name].shape})


def has_maps(network: nn.Module) -> bool:
    """Whether the last layer is linear, after an average over the grid of `features`: logits are means of maps."""
    head = list(getattr(network, "head", nn.Sequential()).children())
    kinds = (nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Linear)
    return hasattr(network, "features") and tuple(map(type, head)) == kinds


class Cost(NamedTuple):
    """The cost of scoring one image, and the size of its network."""

    parameters: int
    gmac: float  # 10^9 multiply-accumulate operations an image


@cache
def cost_of(spec: ModelSpec, image: ImageSpec) -> Cost:
    """The cost of a network at a size of image, as torch counts it: convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(spec).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, spec.channels, image.image_px, image.image_px))
    return Cost(parameters=sum(p.numel() for p in model.parameters()), gmac=counter.get_total_flops() / 2e9)


def bf16_supported(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32: on a GPU from compute capability 8.0, on a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
