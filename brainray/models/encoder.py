"""A frozen encoder: features of pictures that no training changes, to compare an archive with a training set.

A trained network would not do: it knows its own pictures by heart, and each model has other features. This is the
beginning of EfficientNet-Lite0 with Google's ImageNet weights (Apache-2.0, see `efficientnet_lite`), in fp16 in this
package. `tests/bench/frozen_encoder.py` wrote the file; if it changes, so do all features, and those that bundles
hold must not be compared with new ones. Axes: N images, C averaged channels, F features.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from brainray import storage

from .efficientnet_lite import LiteCNN
from .fusion import prepare_for_inference
from .predictor import planes
from .reference import COUNT

if TYPE_CHECKING:
    import numpy.typing as npt

FILE = Path(__file__).with_name("encoder.safetensors")
# Blocks whose output is averaged over the picture: the last of four stages and the first of the fifth. Early ones tell
# how sharp and noisy pictures are, late ones what they show.
TAPS = (1, 3, 5, 8, 9)
_INPUT_PX = 128
_MEAN, _STD = 0.449, 0.226  # of the grey values of ImageNet, from 0 to 1
_BATCH = 32


class TappedBlocks(nn.Module):
    """The first blocks of EfficientNet-Lite0 for grey images; returns means [N, C] of the channels of `TAPS`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = LiteCNN("lite0", channels=1, classes=1).features[: max(TAPS) + 1]

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x, means = images_NCHW, []
        for number, block in enumerate(self.features):
            x = block(x)
            if number in TAPS:
                means.append(x.mean((2, 3)))
        return torch.cat(means, dim=1)


class FrozenEncoder:
    """Calling it gives features of images. It runs on the CPU in fp32, in as many threads as torch is set to."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        """`state`: the tensors of `FILE`."""
        network = {name: tensor.float() for name, tensor in state.items() if name.startswith("features.")}
        self._projection_CF, self._offset_F = state["projection"], state["offset"]
        blocks = TappedBlocks()
        blocks.load_state_dict(network, strict=False)  # counters of batches are not stored
        self._means = prepare_for_inference(blocks, torch.device("cpu"), bf16=False)

    def __call__(self, images: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
        """float32 [N, F] of images [N, H, W] or [N, H, W, 3] as a model gets them; N may be 0.

        Over drawn slices each feature has mean 0 and spread 1; features are correlated.
        """
        features = np.empty((len(images), COUNT), np.float32)
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
            features[start : start + _BATCH] = self._encode(batch).numpy()
        return features

    @torch.inference_mode()
    def _encode(self, images: Tensor) -> Tensor:
        means_NC: Tensor = self._means(fitted(images))
        features_NF: Tensor = means_NC @ self._projection_CF - self._offset_F
        return features_NF


def fitted(images: Tensor) -> Tensor:
    """float32 [N, 1, 128, 128], channels last in memory, of uint8 images [N, H, W] or [N, H, W, 3]."""
    grey_NCHW = planes(images).float().mean(1, keepdim=True)
    fitted_NCHW = functional.adaptive_avg_pool2d(grey_NCHW, _INPUT_PX)
    return ((fitted_NCHW / 255 - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)


@cache
def frozen_encoder() -> FrozenEncoder:
    """The encoder of this package, built once a process."""
    from safetensors.torch import load

    return FrozenEncoder(load(storage.read_bytes(str(FILE))))
