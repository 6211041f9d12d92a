"""How surely a summary tells archives that differ from what the model knows, and what it calls the others.

The pictures are those of a bundle's training/reference.parquet, whose files are found among --images by their features.
Half of the groups of each class are the reference, the others the archive: 1,000 images, as they are, in other mixes of
classes, changed, or with photographs among them (crops of the two of scikit-learn). The model in the package has
learned from all of them, so probabilities of changed pictures, and of the reference they are compared with, are those
of a linear classifier on channels of the frozen encoder, fitted by the folds of the reference. Needs the development
packages. Prints how often each kind was named.

    python tests/bench/territory_power.py --images Training --draws 200
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainray import storage
from brainray.config import ImageSpec
from brainray.evaluation.shift import Kind, Pictures
from brainray.evaluation.territory import territory
from brainray.imaging import phantom
from brainray.imaging.decode import decode
from brainray.models.bundle import load_bundle
from brainray.models.encoder import FILE, FrozenEncoder, fitted
from brainray.models.reference import read_reference

IMAGES = 1_000
_PHOTOGRAPHS = 400
_NOISE, _COARSER = 12, 3
Change = Callable[[np.ndarray], np.ndarray]


def _noisy(grey: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, _NOISE, grey.shape)
    return np.clip(grey + noise * (grey > 8), 0, 255).astype(np.uint8)


def _coarse(grey: np.ndarray) -> np.ndarray:
    height, width = grey.shape
    small = cv2.resize(grey, (width // _COARSER, height // _COARSER), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


CHANGES: dict[str, Change] = {
    "contrast: CLAHE 2.0": lambda grey: cv2.createCLAHE(2.0, (8, 8)).apply(grey),
    "contrast: equalised": cv2.equalizeHist,
    "source: a third of the resolution": _coarse,
    "source: noise": _noisy,
}


class Encoder:
    """Channels [N, C] and features [N, F] of decoded pictures."""

    def __init__(self) -> None:
        from safetensors.torch import load

        self._encoder = FrozenEncoder(load(storage.read_bytes(str(FILE))))

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = np.array_split(pictures, -(-len(pictures) // 32))
        channels = np.concatenate([self._encoder._means(fitted(torch.from_numpy(part))).numpy() for part in parts])
        features = channels @ self._encoder._projection_CF.numpy() - self._encoder._offset_F.numpy()
        return channels, features.astype(np.float16).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    bundle = load_bundle(options.model)
    cache = Path(options.cache)
    if not cache.exists():
        np.savez(cache, **_measured(bundle.image, read_reference(bundle), Path(options.images)))
    table, values = read_reference(bundle), dict(np.load(cache))
    label = np.array([bundle.classes.index(name) for name in table["label"].to_pylist()])
    group, fold = table["unit"].to_numpy(), table["fold"].to_numpy()
    own = np.stack([table[f"prob_{name}"].to_numpy() for name in bundle.classes], axis=1).astype(np.float64)
    probs = _stand_in(values, label, fold)
    accuracy = (probs["plain"].argmax(1) == label).mean()
    print(f"{len(label):,} pictures; the linear classifier is right about {accuracy:.1%} of them")
    kinds: dict[str, list[str]] = {}
    rng = np.random.default_rng(options.seed)
    for draw in range(options.draws):
        is_known = halves(group, label, rng)
        known, others = np.flatnonzero(is_known), np.flatnonzero(~is_known)
        mix = np.bincount(label[known], minlength=len(bundle.classes)) / len(known)
        rows = _drawn(label, others, mix, rng)
        mixed = _drawn(label, others, rng.dirichlet(np.ones(len(mix))), rng)
        features = values["plain_features"]
        for name, at, grouped in (
            ("as they are", rows, False),
            ("as they are, groups known", rows, True),
            ("another mix of classes", mixed, False),
        ):
            archive = Pictures(own[at], features[at], group[at] if grouped else np.arange(len(at)))
            kinds.setdefault(name, []).append(_kind((own, features, group, label), known, archive, bundle.classes))
        if draw % options.changed_every:
            continue
        reference = (probs["plain"], features, group, label)
        for name, archive in _changed(values, probs, rows, rng):
            kinds.setdefault(name, []).append(_kind(reference, known, archive, bundle.classes))
    print(f"{'archive':<40}{''.join(f'{kind:>16}' for kind in get_args(Kind))}")
    for name, each in kinds.items():
        counted = Counter(each)
        print(f"{name:<40}{''.join(f'{counted[kind] / len(each):>16.3f}' for kind in get_args(Kind))}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="the folder of class folders that the model was trained on")
    parser.add_argument("--model", default=str(Path(__file__).parents[2] / "brainray/shipped/fast"))
    parser.add_argument(
        "--cache", default="/tmp/territory_power.npz", help="file of what was measured, made if missing"
    )
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--changed-every", type=int, default=1, help="change pictures in each n-th draw only")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _kind(known: tuple[np.ndarray, ...], rows: np.ndarray, archive: Pictures, classes: tuple[str, ...]) -> str:
    probs, features, group, label = (column[rows] for column in known)
    found = territory((Pictures(probs, features, group), label), archive, features=IMAGES, classes=classes)
    return str(found["kind"])


def halves(group: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether pictures are in the reference: half of the groups of each class."""
    known = np.zeros(len(label), bool)
    for k in np.unique(label):
        groups = rng.permutation(np.unique(group[label == k]))
        known |= (label == k) & np.isin(group, groups[: (len(groups) + 1) // 2])
    return known


def _drawn(label: np.ndarray, among: np.ndarray, mix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of an archive in random order; a picture is repeated only where a class has too few."""
    found = []
    for k, images in enumerate(rng.multinomial(IMAGES, mix)):
        own = among[label[among] == k]
        found.append(rng.choice(own, images, replace=images > len(own)))
    return rng.permutation(np.concatenate(found))


def _changed(values, probs, rows: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, Pictures]]:
    single = np.arange(len(rows))
    for name in CHANGES:
        yield name, Pictures(probs[name][rows], values[f"{name}_features"][rows], single)
    drawn = rng.choice(len(probs["drawn"]), len(rows))
    yield "source: drawn heads", Pictures(probs["drawn"][drawn], values["drawn_features"][drawn], single)
    for share in (0.02, 0.05, 0.1, 0.2):
        photographs = rng.choice(_PHOTOGRAPHS, len(rows))
        is_one = rng.random(len(rows)) < share
        columns = (
            np.where(is_one[:, None], of["photo" + end][photographs], of["plain" + end][rows])
            for of, end in ((probs, ""), (values, "_features"))
        )
        yield f"photographs are {share:.0%} of it", Pictures(*columns, single)


def _stand_in(values, label: np.ndarray, fold: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities by a linear classifier that has not learned from the fold of a picture."""
    names = [name.removesuffix("_channels") for name in values if name.endswith("_channels")]
    found = {name: np.zeros((len(values[f"{name}_channels"]), label.max() + 1)) for name in names}
    for number in np.unique(fold):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=300))
        classifier.fit(values["plain_channels"][fold != number], label[fold != number])
        for name in names:
            probs = classifier.predict_proba(values[f"{name}_channels"])
            if len(probs) == len(label):
                found[name][fold == number] = probs[fold == number]
            else:
                found[name] += probs / len(np.unique(fold))
    return found


def _measured(spec: ImageSpec, reference, images: Path) -> dict[str, np.ndarray]:
    """Channels and features of the pictures of the reference, as they are and changed, and of others."""
    encoder = Encoder()
    files = _files_of(encoder, spec, reference, images)
    greys = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    pictures = {"plain": np.stack([decode(file.read_bytes(), spec).pixels for file in files])}
    pictures |= {name: np.stack([_decoded(change(grey), spec) for grey in greys]) for name, change in CHANGES.items()}
    heads = (phantom.encode(phantom.draw(index, 7)[0], index, 7)[0] for index in range(IMAGES))
    pictures["drawn"] = np.stack([decode(data, spec).pixels for data in heads])
    pictures["photo"] = np.stack([_decoded(crop, spec) for crop in _photographs()])
    found = {}
    for name, each in pictures.items():
        found[f"{name}_channels"], found[f"{name}_features"] = encoder(each)
    return found


def _files_of(encoder: Encoder, spec: ImageSpec, reference, images: Path) -> list[Path]:
    """The file of each picture of a reference: that with its features."""
    files = sorted(file for file in images.rglob("*") if file.is_file())
    _, features = encoder(np.stack([decode(file.read_bytes(), spec).pixels for file in files]))
    wanted = np.array(reference["features"].to_pylist(), np.float32)
    squares = (wanted**2).sum(1)[:, None] + (features**2).sum(1) - 2 * wanted @ features.T
    return [files[place] for place in squares.argmin(axis=1)]


def _decoded(grey: np.ndarray, spec: ImageSpec) -> np.ndarray:
    return decode(cv2.imencode(".png", grey)[1].tobytes(), spec).pixels


def _photographs() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in load_sample_images().images]
    for _ in range(_PHOTOGRAPHS):
        grey, side = greys[rng.integers(len(greys))], int(rng.integers(120, 380))
        top, left = (rng.integers(0, size - side) for size in grey.shape)
        yield grey[top : top + side, left : left + side]


if __name__ == "__main__":
    main()
