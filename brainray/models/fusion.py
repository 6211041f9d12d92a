"""Prepares a trained network for fast inference on one device, by operator fusion.

Batch normalisation is folded into convolutions; on CPUs, convolution, sum and ReLU become one oneDNN operator.
Fusion must not change predictions beyond rounding. A network that torch.fx cannot trace is left as it is.
"""

import copy
import operator
import warnings

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse as fold_batch_norm

from brainray.callbacks import Say


def prepare_for_inference(model: nn.Module, device: torch.device, *, bf16: bool, say: Say = warnings.warn) -> nn.Module:
    """The network on `device`, with weights in bf16 or fp32 and channels last in memory. Images must have that dtype.

    `say` is called with one line if the network could not be fused and will be slower.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    traced = _trace(model.eval(), say)
    if traced is None:
        return _move(model, device, dtype)
    last = _last_linear(traced)
    linear = copy.deepcopy(traced.get_submodule(last)) if last else None  # before its weights are rounded
    _move(traced, device, dtype)
    if last and linear is not None:
        traced.set_submodule(last, FullPrecision(linear.to(device)))
    if device.type == "cpu" and fused_runs(bf16=bf16):
        # Unfused, the ReLU and the sum of residual blocks take 40 % of the time in bf16 and 16 % in fp32, because each
        # is a pass over memory.
        _fuse_sums(traced)
        _fuse_activations(traced)
        traced.graph.lint()
        traced.recompile()
    return traced


def fused_runs(*, bf16: bool) -> bool:
    """Whether oneDNN's fused operators run here; processors without AVX-512 refuse them in bf16."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not bf16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _move(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return model.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _trace(model: nn.Module, say: Say) -> fx.GraphModule | None:
    """The network as a graph with batch normalisation folded; None where torch.fx cannot trace it."""
    try:
        return fold_batch_norm(model)  # type: ignore[return-value]  # copies the network, then traces it
    except Exception as exc:  # noqa: BLE001  fx raises many kinds for dynamic control flow; untraced is only slower
        why = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        say(f"torch {torch.__version__} cannot trace {type(model).__name__}, which scores more slowly for it ({why})")
        return None


def _last_linear(traced: fx.GraphModule) -> str | None:
    """The name of the layer that gives the logits, if it is linear; else None."""
    source = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    return str(source.target) if isinstance(source, fx.Node) and _is(traced, source, nn.Linear) else None


class FullPrecision(nn.Module):
    """The last layer in fp64, at no measurable cost.

    bf16 logits would round probabilities to the second digit. And sums in fp32 depend in their last digit on the
    number of images in the batch, while an image must have one prediction, whether it is scored alone or in a run.
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear.double()

    def forward(self, x: Tensor) -> Tensor:
        logits_NK: Tensor = self.linear(x.double())
        return logits_NK


class _ConvActivation(nn.Module):
    """relu(conv(x)), or another activation, as one oneDNN primitive; torch's own compiler uses it likewise."""

    def __init__(self, conv: nn.Conv2d, name: str, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self.conv, self.name, self.bounds = conv, name, list(bounds)

    def forward(self, x: Tensor) -> Tensor:
        c = self.conv
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, self.name, self.bounds, ""
        )
        return out


class _ConvAdd(nn.Module):
    """conv(x) + other, with or without a ReLU after it, in one oneDNN primitive."""

    def __init__(self, conv: nn.Conv2d, activation: str | None) -> None:
        super().__init__()
        self.conv, self.activation = conv, activation

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        c = self.conv
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, "add", 1.0, self.activation, [], None
        )
        return out


# The names of activations in the primitive, and the bounds that it takes.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, tuple[float, ...]]] = {
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("hardtanh", (0.0, 6.0)),
}


def _fuse_activations(traced: fx.GraphModule) -> None:
    """Replace each convolution with an activation after it by one node."""
    for node in list(traced.graph.nodes):
        kind = next((kind for kind in _ACTIVATIONS if _is(traced, node, kind)), None)
        source = _only_source(traced, node) if kind else None
        if source is not None and kind is not None:
            conv = traced.get_submodule(str(source.target))
            traced.set_submodule(str(source.target), _ConvActivation(conv, *_ACTIVATIONS[kind]))  # type: ignore[arg-type]
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)


def _fuse_sums(traced: fx.GraphModule) -> None:
    """Replace each conv(x) + other, and the ReLU after it if there is one, by one node."""
    for total in list(traced.graph.nodes):
        if total.op != "call_function" or total.target is not operator.add:
            continue
        after = next(iter(total.users))
        active = len(total.users) == 1 and _is(traced, after, nn.ReLU)
        last = after if active else total
        first, second = total.args
        for conv, other in ((first, second), (second, first)):
            if _is_plain_conv(traced, conv):
                plain = traced.get_submodule(str(conv.target))
                traced.set_submodule(str(conv.target), _ConvAdd(plain, "relu" if active else None))  # type: ignore[arg-type]
                with traced.graph.inserting_before(last):
                    fused = traced.graph.call_module(conv.target, (conv.args[0], other))
                last.replace_all_uses_with(fused)
                for dead in dict.fromkeys((last, total, conv)):
                    traced.graph.erase_node(dead)
                break


def _is(traced: fx.GraphModule, node: fx.Node, kind: type[nn.Module]) -> bool:
    """Whether a node calls a module of exactly this class."""
    return node.op == "call_module" and type(traced.get_submodule(str(node.target))) is kind


def _is_plain_conv(traced: fx.GraphModule, node: object) -> bool:
    """Whether a node is a convolution with one user and a padding that the primitive supports."""
    if not isinstance(node, fx.Node) or not _is(traced, node, nn.Conv2d) or len(node.users) != 1:
        return False
    conv = traced.get_submodule(str(node.target))
    return isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _only_source(traced: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The convolution before a node, if it can be fused with it."""
    source = node.args[0]
    return source if isinstance(source, fx.Node) and _is_plain_conv(traced, source) else None
