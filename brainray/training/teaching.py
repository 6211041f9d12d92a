"""Teaches a network by others: the fold networks of a trained model, each asked about pictures it has not seen.

What a network has learned by heart it is sure of, and teaches nothing but the labels. So each picture is taught by the
network of the fold that it was held out of, with all its group; `fold_numbers` divides as the teacher's training did.
The teacher sees each picture as the pupil does, augmented, and its mirror image (Beyer et al., CVPR 2022: a good
teacher is patient and consistent). Axes: N images, K classes, C channels, H height, W width.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from brainray.callbacks import ignore
from brainray.config import ImageSpec
from brainray.errors import BadRequest
from brainray.models.bundle import Bundle, kept_folds, load_fold
from brainray.models.fusion import prepare_for_inference

from .splits import division_digest, fold_by_picture

if TYPE_CHECKING:
    from .dataset import SelectedImages

OPTION = "--teacher"
_WEIGHT = 0.7  # of the teacher in the loss; the labels have the rest
_TEMPERATURE = 2.0  # softens what the teacher says, so that it tells which classes are near (Hinton et al. 2015)


@dataclass(frozen=True, kw_only=True, eq=False)
class Teaching:
    """A model that teaches, and which of its fold networks teaches each image."""

    bundle: Bundle
    fold_N: npt.NDArray[np.int8]  # of each image of the training set, from 0; -1 for images left out


def check_teacher(bundle: Bundle, classes: tuple[str, ...], image: ImageSpec) -> None:
    """Raise `BadRequest` for a model that cannot teach a network of these classes and images."""
    name = f"{OPTION} {bundle.uri}"
    if bundle.classes != classes:
        raise BadRequest(f"{name}: knows {', '.join(bundle.classes)}, and is to teach {', '.join(classes)}")
    if replace(bundle.image, image_px=image.image_px) != image:
        raise BadRequest(f"{name}: takes images that are prepared otherwise; give it the same --channels and --crop")
    if not kept_folds(bundle):
        raise BadRequest(f"{name}: has no networks of folds; train it with --folds 5 --keep-folds")


def fold_numbers(bundle: Bundle, selected: "SelectedImages") -> Teaching:
    """Find the fold of the teacher's training that each image was held out in.

    Raises `BadRequest` where the teacher has learned from other images, or had them in other folds.
    """
    options: dict[str, Any] = bundle.provenance["options"]
    splits = list(
        fold_by_picture(
            selected.pictures,
            selected.labels,
            joined=selected.units,
            classes=bundle.classes,
            folds=options["folds"],
            seed=options["seed"],
        )
    )
    now = {"digest": selected.digest, "division": division_digest(selected.pictures, splits)}
    before = bundle.provenance.get("data", {})
    if any(before.get(name) != value for name, value in now.items()):
        raise BadRequest(
            f"{OPTION} {bundle.uri}: has learned from other images or groups, so it may have seen what it would be "
            "asked about; train it on these images, with the same --groups and --exclude"
        )
    fold_N = np.full(int(selected.positions.max()) + 1, -1, np.int8)
    for fold, split in enumerate(splits):
        held_out = np.setdiff1d(np.arange(len(selected.positions)), split.train)
        fold_N[selected.positions[held_out]] = fold
    return Teaching(bundle=bundle, fold_N=fold_N)


class Teachers:
    """The fold networks of a teacher on one device."""

    def __init__(self, bundle: Bundle, device: torch.device, *, bf16: bool) -> None:
        """Load all of them. Raises what `load_fold` raises."""
        self._networks = [
            prepare_for_inference(load_fold(bundle, number), device, bf16=bf16, say=ignore)
            for number in range(1, kept_folds(bundle) + 1)
        ]
        self._px, self._dtype = bundle.image.image_px, torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def logits(self, images_NCHW: Tensor, fold_N: npt.NDArray[np.int8]) -> Tensor:
        """[N, K] what the network that has not seen an image says of it and its mirror image, on average."""
        size = [self._px, self._px]
        if list(images_NCHW.shape[-2:]) != size:
            images_NCHW = functional.interpolate(images_NCHW, size=size, mode="bilinear", antialias=True)
        images_NCHW = images_NCHW.to(self._dtype).contiguous(memory_format=torch.channels_last)
        parts, places = [], []
        for fold in np.unique(fold_N):
            rows = torch.from_numpy(np.flatnonzero(fold_N == fold)).to(images_NCHW.device)
            network, images = self._networks[fold], images_NCHW[rows]
            parts.append((network(images).float() + network(images.flip(3)).float()) / 2)
            places.append(rows)
        return torch.cat(parts)[torch.argsort(torch.cat(places))]


def taught_loss(own: Tensor, logits_NK: Tensor, teacher_NK: Tensor) -> Tensor:
    """Mix the loss by labels with the divergence from the teacher's softened probabilities (Hinton et al. 2015)."""
    said = functional.log_softmax(logits_NK / _TEMPERATURE, dim=1)
    wanted = functional.log_softmax(teacher_NK / _TEMPERATURE, dim=1)
    divergence = functional.kl_div(said, wanted, reduction="batchmean", log_target=True)
    return (1 - _WEIGHT) * own + _WEIGHT * _TEMPERATURE**2 * divergence
