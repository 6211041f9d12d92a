"""Bundles made in this process: of random weights, of another bundle, or trained without Ray."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from brainray.config import Calibration, ImageSpec, ModelSpec, TrainOptions
from brainray.models.bundle import WEIGHTS, Bundle, save_bundle, weights_bytes
from brainray.training.decoded import DecodedRows

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def untrained(
    folder: Path | str,
    *,
    seed: int = 0,
    image_px: int = 32,
    channels: int = 1,
    classes: tuple[str, ...] = CLASSES,
    model: str = "compact",
) -> Bundle:
    """Random weights of a narrow network; the same seed, the same fingerprint."""
    import torch

    from brainray.models.networks import build_model

    torch.manual_seed(seed)
    spec = ModelSpec(name=model, classes=classes, channels=channels, width=0.25 if model == "compact" else 1.0)
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
    from brainray.models.bundle import load_model

    weights = {name: factor * tensor.float() for name, tensor in load_model(bundle).state_dict().items()}
    calibration = Calibration(temperature=temperature, class_bias=class_bias)
    return _save(folder, weights, bundle.image, bundle.model, calibration)


def with_file(bundle: Bundle, folder: Path | str, name: str, content: bytes) -> Bundle:
    """The same model with one more file in its bundle."""
    return save_bundle(
        str(folder),
        weights=Path(bundle.uri, WEIGHTS).read_bytes(),
        image=bundle.image,
        model=bundle.model,
        calibration=bundle.calibration,
        files={name: content},
    )


def learned(
    folder: Path | str,
    rows: DecodedRows,
    *,
    options: TrainOptions,
    classes: tuple[str, ...],
    class_counts: tuple[int, ...],
    init: Bundle | None = None,
    hear: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Bundle:
    """What `brainray train` makes of decoded images in `options.epochs`, uncalibrated; `hear` gets each one's loss."""
    import torch

    from brainray.training.trainer import FitSpec, Trainer

    model = options.model_spec(classes)
    fit_spec = FitSpec(options=options, model=model, class_counts=class_counts, init=init)
    learner = Trainer(fit_spec, resume_from=None, device=torch.device("cpu"))
    began = time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        hear(epoch, learner.epoch(rows))
    minutes = (time.perf_counter() - began) / 60
    weights = learner.eval_model.state_dict()
    return _save(folder, weights, options.image_spec, model, Calibration(), provenance={"minutes": minutes})


def _save(
    folder: Path | str,
    weights: Mapping[str, Any],
    image: ImageSpec,
    model: ModelSpec,
    calibration: Calibration,
    **told: Any,
) -> Bundle:
    return save_bundle(
        str(folder),
        weights=weights_bytes(weights),
        image=image,
        model=model,
        calibration=calibration,
        **told,
    )
