"""The bundle, a trained model on disk: weights, preprocessing, class order, calibration, provenance and fingerprint.

Reading a bundle must not execute anything from it, and needs no torch; only `load_model` and `weights_bytes` do.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brainray
from brainray import storage
from brainray.config import Calibration, ImageSpec, ModelSpec
from brainray.errors import BadRequest, BrainrayError, StorageError

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = 4
WEIGHTS = "model.safetensors"
DESCRIPTION = "bundle.json"
CONFUSION = "training/confusion.parquet"  # of the validation images
FOLDS = "training/folds"  # networks of the folds, kept to teach another network
SHIPPED = "shipped"  # instead of a URI: the model inside this package, which each node finds in its own copy
SHIPPED_FAST = "shipped-fast"  # likewise, the network with the higher rate
_IN_PACKAGE = {SHIPPED: "shipped", SHIPPED_FAST: "shipped/fast"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The description of a trained model whose files are at `uri`, or inside this package: `in_package`."""

    uri: str
    fingerprint: str
    image: ImageSpec
    model: ModelSpec
    calibration: Calibration
    metrics: dict[str, Any] = field(default_factory=dict)  # with the split they were measured on
    reference: dict[str, Any] | None = None  # `metrics.reference_distribution` of the validation images, for drift
    provenance: dict[str, Any] = field(default_factory=dict)  # options, versions, data-set digest
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of files that change no prediction, by name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.model.classes


def fingerprint(*, weights: bytes, image: ImageSpec, model: ModelSpec, calibration: Calibration) -> str:
    """128 bits of SHA-256, as 32 hex digits, over everything that changes a prediction."""
    described = {
        "weights": hashlib.sha256(weights).hexdigest(),
        "image": image.to_json(),
        "model": model.to_json(),
        **calibration.to_json(),
    }
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def save_bundle(
    uri: str,
    *,
    weights: bytes,
    image: ImageSpec,
    model: ModelSpec,
    calibration: Calibration,
    metrics: dict[str, Any] | None = None,
    reference: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    writer: storage.Writer = storage.UNLEASED,
) -> Bundle:
    """Write a bundle and read it back. `weights` are the bytes of a safetensors file.

    `files` are others, by name, of which the description keeps the checksum; they are no part of the fingerprint. The
    description is written last: without it the folder is no bundle.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(weights=weights, image=image, model=model, calibration=calibration),
        "classes": list(model.classes),
        "image": image.to_json(),
        "model": model.to_json(),
        **calibration.to_json(),
        "metrics": metrics or {},
        "reference": reference,
        "provenance": provenance or {},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in (files or {}).items()},
    }
    writer.write_bytes(storage.join(uri, WEIGHTS), weights)
    for name, content in (files or {}).items():
        writer.write_bytes(storage.join(uri, name), content)
    writer.write_json(storage.join(uri, DESCRIPTION), description)
    return load_bundle(uri)


def in_package(model: str) -> bool:
    """Whether a model named by a user is one inside this package instead of a URI."""
    return model in _IN_PACKAGE


def named(model: str) -> str:
    """The URI of a model named by a user, normalised; the name of one in the package stays as it is."""
    return model if in_package(model) else storage.normalise(model)


def _file(uri: str, name: str) -> str:
    """The URI of a file of a bundle."""
    if in_package(uri):
        return str(Path(brainray.__file__).parent / _IN_PACKAGE[uri] / name)
    return storage.join(uri, name)


def load_bundle(uri: str) -> Bundle:
    """Read and check a bundle. Raises `BadRequest` for a folder without one, and for files of another fingerprint."""
    description, weights = _read_files(uri)
    try:
        bundle = Bundle(
            uri=uri,
            fingerprint=description["fingerprint"],
            image=ImageSpec.from_json(description["image"]),
            model=ModelSpec.from_json(description["model"]),
            calibration=Calibration.from_json({each.name: description[each.name] for each in fields(Calibration)}),
            metrics=description.get("metrics") or {},
            reference=description.get("reference"),
            provenance=description.get("provenance") or {},
            files=dict(description.get("files") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadRequest(f"{uri}: {DESCRIPTION} lacks or garbles {exc}; train the model again") from exc
    actual = fingerprint(
        weights=weights,
        image=bundle.image,
        model=bundle.model,
        calibration=bundle.calibration,
    )
    if actual != bundle.fingerprint:
        raise BadRequest(
            f"{uri}: the files do not match the fingerprint ({DESCRIPTION} has {bundle.fingerprint}, they give "
            f"{actual}); the bundle is damaged or was edited: copy it again or train anew"
        )
    return bundle


def read_file(bundle: Bundle, name: str) -> bytes | None:
    """One of the files that change no prediction; None where the bundle was written without it, or lost it.

    Raises `BadRequest` for a damaged file.
    """
    expected, uri = bundle.files.get(name), _file(bundle.uri, name)
    if expected is None or not storage.exists(uri):
        return None
    content = storage.read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != expected:
        raise BadRequest(
            f"{uri}: it is damaged or was edited (its checksum is not that of {DESCRIPTION}); copy it again"
        )
    return content


def model_card(bundle: Bundle) -> dict[str, Any]:
    """What a run keeps of a model's own measurements, so that its report needs no bundle.

    `confusion` is [K, K] of the validation images, rows are labels; None for a bundle without one.
    """
    return {
        "name": bundle.model.name,
        "metrics": bundle.metrics,
        "review_below": bundle.calibration.review_below,
        "confusion": _validation_confusion(bundle),
    }


def _validation_confusion(bundle: Bundle) -> list[list[int]] | None:
    place = {name: k for k, name in enumerate(bundle.classes)}
    confusion = [[0] * len(place) for _ in place]
    try:
        for row in storage.read_parquet(_file(bundle.uri, CONFUSION)).to_pylist():
            confusion[place[row["label"]]][place[row["predicted"]]] = row["images"]
    except (StorageError, KeyError):
        return None
    return confusion


def _read_files(uri: str) -> tuple[dict[str, Any], bytes]:
    """The description and the bytes of the weights."""
    if not in_package(uri) and not storage.exists(uri):
        close = get_close_matches(storage.name_of(uri).lower(), _IN_PACKAGE, 1)
        meant = f"; did you mean {close[0]}, which is in the package?" if close else ""
        raise BadRequest(f"{uri}: no such model; give the folder that `brainray train --output` wrote{meant}")
    try:
        description = storage.read_json(_file(uri, DESCRIPTION))
        weights = storage.read_bytes(_file(uri, WEIGHTS))
    except StorageError as exc:
        raise BadRequest(f"{uri} is no model ({exc}); give the folder that `brainray train` wrote") from exc
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        raise BadRequest(f"{uri}: bundle format {version} is not {FORMAT_VERSION}; use the brainray that wrote it")
    return description, weights


def load_model(bundle: Bundle) -> "nn.Module":
    """The network of a bundle with its weights, in evaluation mode, on the CPU.

    Raises `BrainrayError` for weights of another network.
    """
    return _load(bundle, storage.read_bytes(_file(bundle.uri, WEIGHTS)))


def fold_file(number: int) -> str:
    """The name among `Bundle.files` of the network of a fold, from 1."""
    return f"{FOLDS}/{number}.safetensors"


def kept_folds(bundle: Bundle) -> int:
    """The number of folds whose networks were kept; 0 for none."""
    return sum(name.startswith(f"{FOLDS}/") for name in bundle.files)


def load_fold(bundle: Bundle, number: int) -> "nn.Module":
    """The network of a fold, from 1, in evaluation mode, on the CPU.

    Raises `BadRequest` where its file is missing or damaged.
    """
    content = read_file(bundle, fold_file(number))
    if content is None:
        raise BadRequest(f"{bundle.uri}: the network of fold {number} is missing; train with --keep-folds")
    return _load(bundle, content)


def _load(bundle: Bundle, weights: bytes) -> "nn.Module":
    from safetensors import SafetensorError
    from safetensors.torch import load

    from .networks import build_model

    model = build_model(bundle.model)
    try:
        model.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as exc:
        raise BrainrayError(f"{bundle.uri}: the weights do not fit {bundle.model.name}: {exc}".splitlines()[0]) from exc
    return model.eval()


def weights_bytes(state: "dict[str, Tensor]") -> bytes:
    """A state dict as the bytes of a safetensors file. Tensors that share memory are stored separately."""
    from safetensors.torch import save

    return bytes(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}))
