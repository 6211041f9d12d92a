"""What a bundle keeps of the images that its model was trained and measured on, gathered while their pixels are there.

That is the list of what was learned from (`duplicates.seen`) and the reference (`models.reference`). `describe_rows`
runs where the pixels are; its rows are kept in the work folder, because a training may end in another process. Imports
no Ray.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray import storage
from brainray.duplicates import seen
from brainray.duplicates.seen import SeenPictures
from brainray.imaging.picture_hash import hash_pictures
from brainray.models import reference
from brainray.models.reference import prob_column, reference_schema

from .dataset import SelectedImages
from .decoded import Rows, in_order

if TYPE_CHECKING:
    from .report import Validation
    from .state import WorkFolder

Array = npt.NDArray[Any]


def describe_rows(batch: Rows, learned: Array, measured: Array, selected: Array) -> Rows:
    """Describe the images of a batch whose positions are in `selected`; of those in `measured` also features.

    Of those in `learned` the weights learn. Others are copies of measured pictures, which `learned_before` looks up.
    """
    from brainray.models.encoder import frozen_encoder

    position = batch["position"]
    wanted = np.isin(position, selected)
    rows: Rows = {name: batch[name][wanted] for name in ("position", "content", "width", "height")}
    pixels = batch["pixels"][wanted]
    is_measured = np.isin(rows["position"], measured)
    brightness, contrast = reference.exposure(pixels)
    features = np.zeros((len(pixels), reference.COUNT), np.float32)
    features[is_measured] = frozen_encoder()(pixels[is_measured])
    return rows | {
        "learned": np.isin(rows["position"], learned),
        "measured": is_measured,
        "picture": hash_pictures(pixels),
        "brightness": brightness,
        "contrast": contrast,
        "features": features,
    }


def sides(selected: SelectedImages) -> dict[str, Array]:
    """The positions of the images that the weights of the bundle learn from, of those measured on, and of all."""
    single = len(selected.splits) == 1  # with folds, the last fit learns from all images
    learned = selected.positions_at(selected.splits[0].train) if single else selected.positions
    measured = np.concatenate([selected.positions_at(split.validation) for split in selected.splits])
    return {"learned": learned, "measured": measured, "selected": selected.positions}


def keep(work: "WorkFolder", selected: SelectedImages, described: list[Rows], *, writer: storage.Writer) -> None:
    """Keep the rows of all batches in the work folder, with the group and unit of each image."""
    names = [name for name in described[0] if name != "position"]
    rows = in_order([each for each in described if len(each["position"])], "position", *names)
    place = np.searchsorted(selected.positions, rows["position"])
    columns: dict[str, Any] = {name: rows[name] for name in rows if name not in ("picture", "features")}
    columns |= {
        "picture": seen.hash_column(rows["picture"]),
        "features": reference.features_column(rows["features"]),
        "group": selected.groups[place],
        "unit": selected.units[place],
    }
    writer.write_parquet(work.described, pa.table(columns))


def bundle_files(
    work: "WorkFolder", validation: "Validation", positions_N: Array | None, *, before: SeenPictures | None
) -> dict[str, bytes]:
    """The files of the bundle, by name; none where a training was begun by a version that kept no such rows.

    `positions_N`: of the validation pictures in the training set. `before`: what had been learned from before this
    training. Without a reference where the figures flatter, for a reference is of pictures not seen.
    """
    if not storage.exists(work.described):
        return {}
    table = storage.read_parquet(work.described)
    learned = SeenPictures.of_columns(table.filter(table["learned"]))
    files = {seen.FILE: (learned if before is None else learned.joined(before.as_earlier())).to_bytes()}
    if positions_N is not None and not validation.flatters:
        place = np.searchsorted(table["position"].to_numpy(), positions_N)
        files[reference.FILE] = reference.to_bytes(_reference(table.take(pa.array(place)), validation))
    return files


def _reference(rows: pa.Table, validation: "Validation") -> pa.Table:
    """The rows of the reference, one for each validation picture, in their order."""
    names = np.array(validation.classes, object)
    groups = rows["group"].to_numpy()
    columns: dict[str, Any] = {
        "label": pa.array(names[validation.labels_N], pa.string()),
        "group": pa.array(groups, pa.string(), mask=groups == ""),
        "fold": pa.array(validation.fold_N + 1, pa.int16()) if validation.folds else pa.nulls(len(rows), pa.int16()),
    }
    probs_NK = validation.probs_NK.astype(np.float32)
    columns |= {prob_column(name): probs_NK[:, k] for k, name in enumerate(validation.classes)}
    schema = reference_schema(validation.classes)
    return pa.table({name: columns[name] if name in columns else rows[name] for name in schema.names}).cast(schema)
