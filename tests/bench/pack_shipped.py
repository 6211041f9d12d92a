"""Pack a model for the package: weights in fp16, no networks of folds, and a fingerprint of its own.

    .venv/bin/python tests/bench/pack_shipped.py --model model --output brainray/shipped/fast [--seen other-model]

fp16 halves the file. The statistics and biases of layers stay in fp32, for they are small. Rounding a weight to 11 bits
changes less than scoring in bf16, which has 8. `--seen` takes the list of what was learned from out of another model
of the very same images, for a model that was trained before there were such lists.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from brainray.duplicates import seen
from brainray.models.bundle import (
    CONFUSION,
    FOLDS,
    Bundle,
    load_bundle,
    load_model,
    read_file,
    save_bundle,
    weights_bytes,
)

COPIED = ("model-card.md", "curves.png", "reliability.png", "history.parquet", "folds.csv", "groups.csv")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    bundle = load_bundle(options.model)
    state = load_model(bundle).state_dict()
    files = {name: read_file(bundle, name) for name in bundle.files if not name.startswith(f"{FOLDS}/")}
    if options.seen:
        files[seen.FILE] = read_file(_same_images(bundle, options.seen), seen.FILE)
    packed = save_bundle(
        options.output,
        weights=weights_bytes({name: each.half() if each.ndim > 1 else each for name, each in state.items()}),
        image=bundle.image,
        model=bundle.model,
        calibration=bundle.calibration,
        metrics=bundle.metrics,
        reference=bundle.reference,
        provenance=bundle.provenance,
        files={name: content for name, content in files.items() if content is not None},
    )
    source, target = Path(options.model, "training"), Path(options.output, "training")
    if source.resolve() != target.resolve():
        for name in (*COPIED, Path(CONFUSION).name):
            if (source / name).is_file():
                (target / name).write_bytes((source / name).read_bytes())
    size = sum(path.stat().st_size for path in Path(options.output).rglob("*") if path.is_file())
    print(f"{packed.fingerprint} (it was {bundle.fingerprint}), {size / 1e6:.1f} MB")


def _same_images(bundle: Bundle, other: str) -> Bundle:
    """Another model, which must have learned from the very images of `bundle`."""
    found = load_bundle(other)
    for name in ("images", "by_class"):
        if bundle.provenance["data"][name] != found.provenance["data"][name]:
            raise SystemExit(f"--seen {other}: has learned from other images")
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that `brainray train` wrote")
    parser.add_argument("--output", required=True, help="folder in the package")
    parser.add_argument("--seen", help="model of the same images that has the list of them")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
