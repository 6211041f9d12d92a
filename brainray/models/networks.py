"""The CNN, and torchvision backbones by name.

Networks take normalised float images [N, C, H, W] and give logits [N, K].
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainray.config import COMPACT, LITE_NAMES, ImageSpec, ModelSpec, Weights
from brainray.errors import BadRequest

from .efficientnet_lite import LiteCNN, freeze_depthwise, imagenet_file, load_imagenet

_STEM = 24
# Channels and residual blocks of each stage; each stage halves height and width, after a stem that halves them too.
_STAGES = ((32, 1), (64, 2), (128, 2), (192, 1))
_ONEDNN_BLOCK = 16  # channels that its kernels take at once with AVX-512


def _widened(channels: int, width: float) -> int:
    """To a multiple of eight, which vector units like."""
    return max(8, round(channels * width / 8) * 8)


def _conv(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3, initial_gain: float = 1.0) -> nn.Sequential:
    norm = nn.BatchNorm2d(outputs)
    nn.init.constant_(norm.weight, initial_gain)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), norm)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016). Dense, for matrix units run depthwise kernels badly."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride)
        # No zero gain here (Goyal et al. 2017): after 12 epochs on 900 images it left 68 % where 89 % are reached.
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
    """A small residual network: 1.25 M parameters with one channel, four classes and width 1."""

    def __init__(self, *, channels: int, classes: int, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        inputs = _widened(_STEM, width)
        layers: list[nn.Module] = [_conv(channels, inputs, stride=2), nn.ReLU(inplace=True)]
        for count, blocks in _STAGES:
            outputs = _widened(count, width)
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


class _Repeated(nn.Module):
    """A three-channel backbone fed with one-channel images."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.backbone(images_NCHW.expand(-1, 3, -1, -1))
        return logits_NK


def backbone_names() -> list[str]:
    """Names that `build_model` takes beside our own and EfficientNet-Lite's: torchvision's for classification."""
    from torchvision import models

    return list(models.list_models(module=models))


def build_model(spec: ModelSpec) -> nn.Module:
    """A network with fresh weights. Raises `BadRequest` where nothing has the name."""
    if spec.name == COMPACT:
        return CompactCNN(channels=spec.channels, classes=len(spec.classes), width=spec.width)
    if spec.name in LITE_NAMES:
        return LiteCNN(spec.name, channels=spec.channels, classes=len(spec.classes))
    from torchvision import models

    if spec.name not in backbone_names():
        near = ", ".join(name for name in backbone_names() if name[:6] == spec.name[:6])
        hint = f"; near it: {near}" if near else f"; try {COMPACT}, {LITE_NAMES[0]}, resnet18 or mobilenet_v3_small"
        raise BadRequest(f"--model {spec.name!r} is no network of ours or torchvision's{hint}")
    extra = {"aux_logits": False, "init_weights": True} if spec.name in ("googlenet", "inception_v3") else {}
    backbone = models.get_model(spec.name, weights=None, num_classes=len(spec.classes), **extra)
    return _Repeated(backbone) if spec.channels == 1 else backbone


def begin_with(model: nn.Module, spec: ModelSpec, weights: Weights) -> nn.Module:
    """The network as training begins with it. Raises `BadRequest` where its weights are not to be had here.

    torchvision's are fetched from its server; the last layer is ours in any case.
    """
    if weights == "none":
        return model
    if isinstance(model, LiteCNN):
        load_imagenet(model, spec.name)
        freeze_depthwise(model)
        return model
    backbone = model.backbone if isinstance(model, _Repeated) else model
    _load_shapes_that_fit(backbone, _fetched(spec.name))
    return model


def check_network(spec: ModelSpec, weights: Weights) -> None:
    """Raise `BadRequest` for a network that there is not, or one of ours whose weights are not installed."""
    build_model(spec)
    if weights != "none" and spec.name in LITE_NAMES:
        imagenet_file(spec.name)


def go_on_from(model: nn.Module, state: dict[str, Tensor], *, same_classes: bool) -> nn.Module:
    """The network with the weights of another training; the last layer's only where the classes are the same."""
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    kept = {n: t for n, t in state.items() if same_classes or not n.startswith(tuple(f"{name}." for name in last))}
    _load_shapes_that_fit(model, kept)
    if isinstance(model, LiteCNN):
        freeze_depthwise(model)
    return model


def _fetched(name: str) -> dict[str, Tensor]:
    from torchvision import models

    try:
        state: dict[str, Tensor] = models.get_model_weights(name)["DEFAULT"].get_state_dict(progress=False)
    except OSError as exc:
        raise BadRequest(
            f"--weights imagenet: those of {name} cannot be fetched ({exc}); is this machine online?"
        ) from exc
    return state


def _load_shapes_that_fit(model: nn.Module, state: dict[str, Tensor]) -> None:
    """All but the layers that depend on the number of classes."""
    own = model.state_dict()
    model.load_state_dict(own | {name: t for name, t in state.items() if name in own and t.shape == own[name].shape})


class Cost(NamedTuple):
    """What one image costs to score."""

    parameters: int
    gmac: float  # 10^9 multiplications with addition


def cost_of(spec: ModelSpec, image: ImageSpec) -> Cost:
    """As torch counts: convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(spec).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, spec.channels, image.image_px, image.image_px))
    return Cost(parameters=sum(p.numel() for p in model.parameters()), gmac=counter.get_total_flops() / 2e9)


def bf16_supported(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 there: a GPU from compute capability 8.0, a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
