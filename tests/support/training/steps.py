"""The settings of one training step."""

from typing import Any


def plain_fitting(*, classes: int = 2, image_px: int = 32, **changes: Any) -> Any:
    """What a step needs on one processor in full precision, with nothing that makes learning harder."""
    import torch

    from brainray.config import ImageSpec
    from brainray.training.loop import StepConfig

    values = {"spec": ImageSpec(image_px=image_px), "device": torch.device("cpu"), "bf16": False}
    return StepConfig(**values | {"class_weights_K": torch.ones(classes), "label_smoothing": 0.0} | changes)
