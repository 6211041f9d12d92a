"""An output within the images: what `train`, `tune` and `audit` write there is no data of their next run."""

from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest

from brainray.duplicates.groups import list_images
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.listing import Lister, scan
from brainray.training.dataset import list_excluded, list_training_set


def listed_by_audit(root, *, output):
    return list_images([root], [], group_regex=None, output=output)


def listed_by_score(root, *, output):
    with TemporaryDirectory() as scratch, ArchiveIndexes(f"{scratch}/indexes") as indexes:
        lister = Lister(distinct_inputs([root]), indexes, classes=("glioma", "notumor"), output=output)
        return pa.concat_tables(scan(lister, f"{scratch}/listing.parquet").batches())


@pytest.mark.parametrize("list_them", [list_training_set, listed_by_audit, list_excluded])
def test_the_plots_of_an_output_are_no_images_of_the_input(archive, list_them):
    """Else the folder of a model is a class of the next one."""
    root = archive(images=2, classes=("glioma", "notumor"))
    archive("archive/model", images=2, classes=("training",))

    def uris(output):
        found = list_them(str(root), output=output)
        return getattr(found, "table", found)["uri"].to_pylist()

    plots = [f"{root}/model/training/{number}.jpg" for number in range(2)]
    everything = uris(f"{root}/mod")  # no folder of this name
    assert [uri for uri in everything if uri not in uris(f"{root}/model")] == plots


@pytest.mark.parametrize("list_them", [list_training_set, listed_by_audit, list_excluded, listed_by_score])
@pytest.mark.parametrize("named", ["data by a link", "output by a link", "a link in the data"])
def test_an_output_is_no_input_by_whatever_links_it_is_named(archive, tmp_path, list_them, named):
    """Else a class `model` is trained."""
    root = archive("real", images=2, classes=("glioma", "notumor"))
    archive("real/model", images=2, classes=("training",))
    (tmp_path / "link").symlink_to(root)
    data, output = root, root / "model"
    if named == "data by a link":
        data = tmp_path / "link"
    elif named == "output by a link":
        output = tmp_path / "link" / "model"
    else:
        (root / "model").rename(tmp_path / "model")
        (root / "more").symlink_to(tmp_path / "model")
        output = tmp_path / "model"
    found = list_them(str(data), output=str(output))
    uris = getattr(found, "table", found)["uri"].to_pylist()
    assert len(uris) == 4 and not any("training" in uri for uri in uris)


def test_an_output_above_the_data_leaves_them_data(archive, tmp_path):
    root = archive("found/scans", images=2, classes=("glioma", "notumor"))
    (tmp_path / "link").symlink_to(tmp_path / "found")
    assert len(list_training_set(str(root), output=str(tmp_path / "link")).table) == 4
