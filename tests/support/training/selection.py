"""Which images a training would learn from and measure on, found in this process without Ray."""

import numpy as np

from brainray.config import TrainOptions
from brainray.duplicates.descriptors import Descriptors
from brainray.duplicates.search import find_copies, group_copies
from brainray.training.dataset import SelectedImages, TrainingSet, select_images
from brainray.training.decoded import decode_rows


def select_here(training_set: TrainingSet, options: TrainOptions) -> SelectedImages:
    """As `brainray train` selects: copies are found, and nothing is excluded."""
    rows = decode_rows(training_set.table, options.image_spec)
    signatures = Descriptors.from_columns(rows)
    copies = group_copies(signatures, find_copies(signatures))
    digests, nobody = signatures.digest.astype(str), np.zeros(len(copies), bool)
    return select_images(
        training_set, copies, digests, rows["error"], excluded=nobody, options=options, series=rows["series"]
    )
