"""Runs a bundle: turns uint8 images into probabilities, and chooses device, precision and memory format.

Must not read images, nor import Ray.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from brainray.callbacks import Say
from brainray.config import ImageSpec, Precision
from brainray.machine.hardware import keep_freed_memory

from .bundle import Bundle, load_model
from .fusion import prepare_for_inference
from .networks import bf16_supported

if TYPE_CHECKING:
    import numpy.typing as npt

# On a CPU, 32 images of 160 px and their first activations fit into the cache of a core. Time of an image:
#   batch  32       64
#   time   0.57 ms  0.83 ms
_BATCH_SIZES = {"cpu": 32, "cuda": 256}
# Batches are filled with black images to a multiple of this, because torch runs batches of one or two by other kernels,
# which round differently.
_MULTIPLE = 8


def limit_threads(threads: int) -> None:
    """Set the number of threads of each torch operator that the calling thread runs."""
    torch.set_num_threads(threads)


def pick_device() -> torch.device:
    """The GPU where torch has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bf16: if requested, or if it is faster. It changes probabilities in the third digit."""
    return precision == "bf16" or (precision == "auto" and bf16_supported(device))


def normalise(images_uint8: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """float32 [N, C, H, W], channels last in memory, from uint8 [N, H, W] or [N, H, W, 3]: (x / 255 - mean) / std."""
    scaled = planes(images_uint8).to(torch.float32).mul_(1 / (255 * spec.std)).sub_(spec.mean / spec.std)
    return scaled.contiguous(memory_format=torch.channels_last)


def planes(images: torch.Tensor) -> torch.Tensor:
    """A view [N, C, H, W] of images [N, H, W] or [N, H, W, 3]."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)


def standardise(images_NCHW: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """(x - mean) / std, channels last in memory, of images [N, C, H, W] with values from 0 to 1."""
    return ((images_NCHW - spec.mean) / spec.std).contiguous(memory_format=torch.channels_last)


class Predictor:
    """A bundle loaded on one device, built once a worker. Calling it scores images."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        batch_size: int | None = None,
        precision: Precision = "auto",
        say: Say = warnings.warn,
    ) -> None:
        """Load the network. `batch_size` None is the default of the device; `say` is for `prepare_for_inference`."""
        self.device = pick_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.bf16 = use_bf16(precision, self.device)
        self._spec = bundle.image
        self._classes = len(bundle.classes)
        self._temperature = bundle.calibration.temperature
        self._bias_K = torch.tensor(bundle.calibration.class_bias or (0.0,), dtype=torch.float64, device=self.device)
        self._batch_size = batch_size or _BATCH_SIZES[self.device.type]
        self._model = prepare_for_inference(load_model(bundle), self.device, bf16=self.bf16, say=say)

    def __call__(self, images: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
        """float32 [N, K] probabilities of uint8 images [N, H, W] or [N, H, W, 3]; rows sum to 1. N may be 0."""
        probs_NK = np.empty((len(images), self._classes), np.float32)
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            missing = -len(batch) % _MULTIPLE
            filled = np.concatenate((batch, np.zeros((missing, *batch.shape[1:]), np.uint8))) if missing else batch
            probs_NK[start : start + len(batch)] = self._forward(torch.from_numpy(filled))[: len(batch)].cpu().numpy()
        return probs_NK

    @torch.inference_mode()
    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        batch_NCHW = normalise(images.to(self.device, non_blocking=True), self._spec)
        logits_NK = self._model(batch_NCHW.to(torch.bfloat16) if self.bf16 else batch_NCHW)
        scaled_NK = logits_NK.double() / self._temperature + self._bias_K  # fp64: no digit depends on the batch
        return torch.softmax(scaled_NK, dim=1).float()
