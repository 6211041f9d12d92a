"""Labels the files of a folder by a label file, as a run's listing does."""

from pathlib import Path

import pyarrow as pa

from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listing import Lister, scan

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def labels_of(
    root: Path, images: list[str], labels: Path, *, as_list: bool = False, extending: bool = False
) -> dict[str, str | None]:
    """Make the images below `root`, and return their labels by path; raises what a run would raise."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    given = root
    if as_list:  # which may name files without suffix
        given = root / "list.csv"
        given.write_text("\n".join(["uri", *images]) + "\n")
    label_file = read_label_file(str(labels), CLASSES)
    with ArchiveIndexes(str(root.parent / "indexes")) as indexes:
        lister = Lister(distinct_inputs([str(given)]), indexes, classes=CLASSES, label_file=label_file)
        found = scan(lister, str(root.parent / "listing.parquet"))
    label_file.check_all_used_once(some_may_be_gone=extending, listed=found.batches())
    rows = pa.concat_tables(found.batches()).to_pylist()
    assert found.labelled == sum(row["label"] is not None for row in rows)
    return {row["uri"].removeprefix(f"{root}/"): row["label"] for row in rows}
