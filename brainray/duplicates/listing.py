"""The images an audit looks at, by folder, and the signatures of some of them. Knows no Ray."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray import storage
from brainray.errors import IMAGE_REASONS, BadRequest, ImageError, StorageError
from brainray.imaging.decode import luminance
from brainray.inputs.class_names import class_name, class_of_folders
from brainray.inputs.image_files import image_files, tables_of
from brainray.inputs.selection import Grouper

from .descriptors import Signatures, nothing, signature_of

DATA, AGAINST = "data", "against"
READABLE = -1  # instead of a place in `IMAGE_REASONS`
_SCHEMA = pa.schema([(name, pa.string()) for name in ("uri", "source", "label", "folder", "subject")])


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Every image file below the roots, once."""

    table: pa.Table  # uri, source, label, folder (the first, where it is not the class), subject; null for none
    skipped: dict[str, int]


def list_images(data: Sequence[str], against: Sequence[str], *, group_regex: str | None) -> Listed:
    """Raises `BadRequest` where there is nothing to look at, or a root lies in another."""
    _check_apart([*data, *against])
    subject_of = Grouper(group_regex, option="--group-regex")
    skipped: Counter[str] = Counter()
    chunks: list[pa.Table] = []
    for source, roots in ((DATA, data), (AGAINST, against)):
        for root in roots:
            found = list(tables_of(_rows(root, source, subject_of, skipped), _SCHEMA))
            if not found:
                raise BadRequest(f"--{source} {root}: no image files found")
            chunks += found
    return Listed(table=pa.concat_tables(chunks), skipped=dict(sorted(skipped.items())))


def _check_apart(roots: Sequence[str]) -> None:
    """No image may be listed twice."""
    for place, root in enumerate(roots):
        for other in (*roots[:place], *roots[place + 1 :]):
            if f"{root}/".startswith(f"{other.rstrip('/')}/"):
                raise BadRequest(f"{root} is given twice, or lies within {other}; give each folder once")


def _rows(root: str, source: str, subject_of: Grouper, skipped: Counter[str]) -> Iterator[dict[str, str | None]]:
    for found in image_files(f"--{source}", root, skipped):
        label, folder = _label_and_folder(found.folders)
        subject = subject_of(found.uri, found.folders)
        yield {"uri": found.uri, "source": source, "label": label, "folder": folder, "subject": subject}


def _label_and_folder(folders: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Its class, and the folder (Training, Testing, a hospital) that sets of classes are divided into."""
    label = class_of_folders(folders)
    divided = folders and class_name(folders[0]) != label
    return label, folders[0] if divided else None


def sign_rows(rows: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """(position, uri) -> signatures; an image that cannot be read keeps its row, with a reason."""
    signatures = [nothing()] * len(rows)
    errors = np.full(len(rows), READABLE, np.int8)
    for row, uri in enumerate(rows["uri"].to_pylist()):
        try:
            signatures[row] = signature_of(luminance(storage.read_bytes(uri)))
        except (ImageError, StorageError) as exc:
            errors[row] = IMAGE_REASONS.index(exc.reason)
    return {"position": rows["position"].to_numpy(), "error": errors} | Signatures.stack(signatures).columns()
