"""Bundles that nobody trained: predictions are wrong, and repeatable."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brainray.bundle import Bundle, save_bundle, weights_bytes
from brainray.config import Calibration, ImageSpec, ModelSpec

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def untrained(
    folder: Path | str, *, seed: int = 0, image_px: int = 32, channels: int = 1, classes: tuple[str, ...] = CLASSES
) -> Bundle:
    """Random weights; the same seed, the same fingerprint."""
    import torch

    from brainray.model import build_model

    torch.manual_seed(seed)
    spec = ModelSpec(classes=classes, channels=channels)
    weights = build_model(spec).state_dict()
    return _save(folder, weights, ImageSpec(image_px=image_px, channels=channels), spec, Calibration(temperature=1.5))


def derived(
    bundle: Bundle,
    folder: Path | str,
    *,
    temperature: float = 2.0,
    factor: float = 1.0,
    class_bias: tuple[float, ...] = (),
) -> Bundle:
    """Another model: the same weights times a factor, with another temperature and bias."""
    from brainray.bundle import load_model

    weights = {name: factor * tensor.float() for name, tensor in load_model(bundle).state_dict().items()}
    calibration = Calibration(temperature=temperature, class_bias=class_bias)
    return _save(folder, weights, bundle.image, bundle.model, calibration)


def _save(
    folder: Path | str, weights: Mapping[str, Any], image: ImageSpec, model: ModelSpec, calibration: Calibration
) -> Bundle:
    return save_bundle(
        str(folder),
        weights=weights_bytes(weights),
        image=image,
        model=model,
        calibration=calibration,
    )
