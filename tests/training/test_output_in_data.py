"""An output within the images: what `train`, `tune` and `audit` write there is no data of their next run."""

import pytest

from brainray.duplicates.groups import list_images
from brainray.training.dataset import list_excluded, list_training_set


def listed_by_audit(root, *, output):
    return list_images([root], [], group_regex=None, output=output)


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
