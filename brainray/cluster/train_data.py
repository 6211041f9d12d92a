"""Decodes the training images with Ray Data, each once, then finds copies and selects the images to train on.

The pixels stay in Ray's object store; only descriptors come to the driver. `train_shares` sends rows to workers.
"""

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset

from brainray.callbacks import Say
from brainray.config import ImageSpec, TrainOptions
from brainray.duplicates.descriptors import Descriptors
from brainray.duplicates.search import find_copies, group_copies
from brainray.errors import excluded_reasons
from brainray.training.dataset import SelectedImages, TrainingSet, describe_excluded, describe_selection, select_images
from brainray.training.decoded import Array, Rows, decode_rows_apart, in_order, take_rows
from brainray.training.described import describe_rows, sides

from .session import own_errors, quiet_data

_IMAGES_A_TASK = 256


@own_errors()
def decode(
    training_set: TrainingSet, excluded: pa.Table | None, options: TrainOptions, *, cpus: float, say: Say
) -> tuple[Dataset, SelectedImages]:
    """Decode all images, and select those for training and validation; logs how many were left out and why."""
    spec = options.image_spec
    excluding = excluded_reasons(all_series=options.all_series)
    decoded = decoded_dataset(training_set.table, spec, cpus=cpus, excluding=excluding)
    signatures, errors, series = descriptors_of(decoded)
    images = len(signatures)
    if excluded is not None:
        excluded_signatures, unread, _ = descriptors_of(decoded_dataset(excluded, spec, cpus=cpus, excluding=()))
        for line in describe_excluded(unread):
            say(line)
        signatures = Descriptors.concatenate([signatures, excluded_signatures])
    say("looking for copies")
    groups = group_copies(signatures, find_copies(signatures))
    is_excluded = np.isin(groups[:images], groups[images:])
    digests = signatures.digest[:images].astype(str)
    selected = select_images(
        training_set, groups[:images], digests, errors, excluded=is_excluded, options=options, series=series
    )
    for line in describe_selection(selected):
        say(line)
    return decoded, selected


@own_errors()
def decoded_dataset(table: pa.Table, spec: ImageSpec, *, cpus: float, excluding: tuple[str, ...]) -> Dataset:
    """Decode every image of (position, uri, label) into Ray's object store, which spills to disk.

    Medical images are left out by the reasons of `excluding`.
    """
    quiet_data()
    slices = [table.slice(start, _IMAGES_A_TASK) for start in range(0, len(table), _IMAGES_A_TASK)]
    dataset: Dataset = ray.data.from_blocks(slices)
    return dataset.map_batches(  # type: ignore[no-any-return]
        decode_rows_apart,  # type: ignore[arg-type]
        fn_kwargs={"spec": spec, "excluding": excluding},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cpus,
    ).materialize()


@own_errors()
def descriptors_of(dataset: Dataset) -> tuple[Descriptors, Array, Array]:
    """Fetch descriptors, errors [N] and series [N], by position: 15 kB an image, all that the driver gets."""
    names = [field.name for field in fields(Descriptors)]
    batches: Any = dataset.select_columns(["position", "error", "series", *names]).iter_batches(batch_size=None)
    columns = in_order(list(batches), "error", "series", *names)
    return Descriptors.from_columns(columns), columns["error"].astype(str), columns["series"].astype(str)


@own_errors()
def select(dataset: Dataset, positions: Array, pictures: Array, *, cpus: float) -> Dataset:
    """Select the rows at these positions, which ascend, with the number of each one's picture, from 0."""
    numbers = np.unique(pictures, return_inverse=True)[1]
    return dataset.map_batches(  # type: ignore[no-any-return]
        take_rows,  # type: ignore[arg-type]
        fn_kwargs={"wanted": positions, "pictures": numbers},
        batch_size=None,
        num_cpus=cpus,
    ).materialize()


@own_errors()
def describe(dataset: Dataset, selected: SelectedImages, *, cpus: float) -> list[Rows]:
    """Describe the selected images, in batches of any order: 300 bytes an image."""
    described = dataset.select_columns(["position", "content", "width", "height", "pixels"]).map_batches(
        describe_rows,  # type: ignore[arg-type]
        fn_kwargs=sides(selected),
        batch_size=None,
        num_cpus=cpus,
    )
    batches: Any = described.iter_batches(batch_size=None)
    return list(batches)
