"""Exact class-activation maps, for networks that end in an average over their grid and one linear layer.

The map of a class weighs the features of each cell of the grid as the last layer does (Zhou et al., CVPR 2016), so its
mean plus the bias of the class is the logit. It needs no gradient. Other networks are refused.
Axes: N images, K classes, h and w rows and columns of the grid.
"""

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from brainray.callbacks import ignore
from brainray.config import ImageSpec
from brainray.errors import BadRequest

from .bundle import Bundle, load_model
from .fusion import FullPrecision, prepare_for_inference
from .predictor import normalise, pick_device

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]  # [N, H, W] or [N, H, W, 3]

_BATCH = 32
# Difference of a logit and the mean of its map plus the bias, as a share of the largest logit: rounding of fp32.
_EXACT = 1e-4
# Steps between the pooling and the last layer that change no value.
_MODULES = (nn.Dropout, nn.Identity, nn.Flatten)
_CALLS = ("dropout", "flatten", "reshape", "squeeze", "view", "contiguous")
_POOLINGS = ("mean", "adaptive_avg_pool2d", "avg_pool2d")
_WIDER_PX = 256  # by which an image grows to count the pixels of a step: a multiple of all usual strides
_BLOB = 120  # brightness of the blob over the grey, of 255


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the cells of a network's last grid lie on its input, in pixels of it; pixel i covers i to i + 1."""

    rows: int
    columns: int
    step_px: float  # from a cell to the next one
    left_px: float  # left edge of the first cell; its middle is half a step further
    top_px: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the whole grid. It may reach beyond the input."""
        across, down = self.columns * self.step_px, self.rows * self.step_px
        return self.left_px, self.top_px, self.left_px + across, self.top_px + down


class ClassMaps:
    """The maps of a bundle's network. Calling it gives those of images."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the network in fp32. Raises `BadRequest` where it has no exact maps."""
        self._init(load_model(bundle), bundle.image, bundle.model.name)

    @classmethod
    def of_network(cls, network: nn.Module, spec: ImageSpec, name: str = "the network") -> "ClassMaps":
        """The maps of a network that is in no bundle; it is set to evaluation."""
        maps = cls.__new__(cls)
        maps._init(network, spec, name)
        return maps

    def _init(self, network: nn.Module, spec: ImageSpec, name: str) -> None:
        self._name, self._spec, self._device = name, spec, pick_device()
        # Folded batch normalisation takes half of the time of a forward pass, and the grid takes some 150 of them.
        prepared = prepare_for_inference(network, self._device, bf16=False, say=ignore)
        if not isinstance(prepared, fx.GraphModule):
            raise refusal(name)
        self._network, last = with_features(prepared, name)
        self._weight_KC = last.weight.detach().to(self._device, torch.float32)
        bias = torch.zeros(last.out_features) if last.bias is None else last.bias.detach()
        self._bias_K = bias.to(self._device, torch.float32)

    @property
    def biases(self) -> Floats:
        """[K] what the logit of a class has beside the mean of its map."""
        biases: Floats = self._bias_K.cpu().numpy()
        return biases

    def __call__(self, images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """The maps [N, K, h, w] and the logits [N, K] of uint8 images [N, H, W] or [N, H, W, 3]; N is 1 or more."""
        found = [self._forward(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        maps, logits = (np.concatenate(each) for each in zip(*found, strict=True))
        return maps, logits

    @torch.inference_mode()
    def _forward(self, images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        batch = normalise(torch.from_numpy(images).to(self._device), self._spec)
        features, logits = self._network(batch)
        if features.ndim != 4 or features.shape[1] != self._weight_KC.shape[1]:
            raise refusal(self._name)
        maps = torch.einsum("nchw,kc->nkhw", features, self._weight_KC)
        self._check(maps, logits)
        return maps.cpu().numpy(), logits.cpu().numpy()

    def _check(self, maps: Tensor, logits: Tensor) -> None:
        """Raise `BadRequest` where something else lies between the grid and the logits."""
        off = (maps.mean((2, 3)) + self._bias_K - logits).abs().max()
        if not off <= _EXACT * max(1.0, float(logits.abs().max())):
            raise refusal(self._name)

    @cached_property
    def grid(self) -> Grid:
        """Where each cell looks, measured once: paddings and the weights themselves move it from where it is drawn.

        A bright blob is moved over a grey image. The middle of a cell is the mean place of the blob, weighted by the
        square of what it changes in the cell; it is taken from the cells in the middle, whose field is cut least.
        """
        px = self._spec.image_px
        maps, _ = self(self._grey(px)[None])
        rows, columns = maps.shape[2:]
        step = _WIDER_PX / max(1, self._wider_columns(px) - columns)
        places = np.arange(step / 4, px, step / 2)
        changes_PPhw = self._changes(places, step, maps[0])
        x = _middle(changes_PPhw.sum((0, 2)), places, step)
        y = _middle(changes_PPhw.sum((1, 3)), places, step)
        return Grid(rows=rows, columns=columns, step_px=step, left_px=x, top_px=y)

    def _grey(self, px: int) -> npt.NDArray[np.uint8]:
        shape = (px, px) if self._spec.channels == 1 else (px, px, 3)
        return np.full(shape, round(255 * self._spec.mean), np.uint8)

    def _wider_columns(self, px: int) -> int:
        """The columns of the grid of an image that is wider by `_WIDER_PX`."""
        maps, _ = self(self._grey(px + _WIDER_PX)[None, :px])
        return int(maps.shape[3])

    def _changes(self, places: npt.NDArray[np.float64], step: float, empty_Khw: Floats) -> npt.NDArray[np.float64]:
        """[P, P, h, w] what a blob at each place, by row and column, changes in each cell: the square over classes."""
        px = self._spec.image_px
        grey = self._grey(px).astype(np.float64)
        profile_PX = np.exp(-(((np.arange(px) + 0.5 - places[:, None]) / (step / 4)) ** 2) / 2)
        rows = []
        for down in profile_PX:
            blobs_PHW = _BLOB * down[None, :, None] * profile_PX[:, None, :]
            blobs = blobs_PHW if grey.ndim == 2 else blobs_PHW[..., None]
            maps, _ = self((grey + blobs).clip(0, 255).round().astype(np.uint8))
            change = maps.astype(np.float64) - empty_Khw
            # What all classes have in common changes no probability.
            rows.append(((change - change.mean(1, keepdims=True)) ** 2).sum(1))
        return np.stack(rows)


def _middle(change_Pc: npt.NDArray[np.float64], places: npt.NDArray[np.float64], step: float) -> float:
    """The left edge of the first cell along one axis, from the cells in the middle of the grid."""
    cells = np.arange(change_Pc.shape[1])
    inner = np.abs(cells - (len(cells) - 1) / 2) <= 1
    weights = change_Pc[:, inner]
    if not weights.sum(0).all():  # nothing changes: where cells look cannot be told, so they lie in the middle
        return float(places.mean() - step * len(cells) / 2)
    middles = (weights * places[:, None]).sum(0) / weights.sum(0)
    return float(np.mean(middles - step * (cells[inner] + 0.5)))


def with_features(traced: fx.GraphModule, name: str) -> tuple[fx.GraphModule, nn.Linear]:
    """A graph with the features of the grid beside the logits, and its last layer; raises `BadRequest` for no such.

    Both share their layers with `traced`, which stays as it is and gives the same logits to the last digit.
    """
    wider = fx.GraphModule(traced, copy.deepcopy(traced.graph))
    output = next(node for node in wider.graph.nodes if node.op == "output")
    last = output.args[0]
    linear = wider.get_submodule(str(last.target)) if isinstance(last, fx.Node) and last.op == "call_module" else None
    linear = linear.linear if isinstance(linear, FullPrecision) else linear
    if not isinstance(linear, nn.Linear):
        raise refusal(name)
    pooling = _source(last)
    while _changes_nothing(wider, pooling):
        pooling = _source(pooling)
    features = _source(pooling) if _is_pooling(wider, pooling) else None
    if features is None:
        raise refusal(name)
    output.args = ((features, last),)
    wider.graph.lint()
    wider.recompile()
    return wider, linear


def _source(node: fx.Node | None) -> fx.Node | None:
    source = node.args[0] if node is not None and node.args else None
    return source if isinstance(source, fx.Node) else None


def _changes_nothing(traced: fx.GraphModule, node: fx.Node | None) -> bool:
    """Whether a node only gives its input another shape, in evaluation."""
    if node is not None and node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _MODULES)
    return node is not None and _called(node) in _CALLS


def _is_pooling(traced: fx.GraphModule, node: fx.Node | None) -> bool:
    """Whether a node is an average of a kind; that it is over the whole grid is checked by its numbers."""
    if node is not None and node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), nn.AdaptiveAvgPool2d | nn.AvgPool2d)
    return node is not None and _called(node) in _POOLINGS


def _called(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))


def refusal(name: str) -> BadRequest:
    """The error for a network that has no exact maps."""
    return BadRequest(
        f"--explain: {name} does not end in an average over its grid and one linear layer, so there is no exact map of "
        "where a score came from; leave --explain out, or take a network such as lite0 or compact"
    )
