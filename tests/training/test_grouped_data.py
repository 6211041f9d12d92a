"""Groups of a file and of a path: which images stay on one side, what is counted, what changes a request."""

import numpy as np
import pytest

from brainray.commands.training_setup import list_images
from brainray.config import ImageSpec, TrainOptions
from brainray.errors import BadRequest
from brainray.inputs.labels.group_file import read_group_file
from brainray.storage import UNLEASED
from brainray.training.dataset import describe_data, describe_selection, list_training_set, select_images
from brainray.training.decoded import decode_rows
from brainray.training.state import describe_request, differences, read_groups, write_groups


@pytest.fixture
def data(archive):
    """Twelve images of each of two classes, a copy of a/0 that is a/11, and an unreadable one."""
    root = archive(images=12, classes=("a", "b"))
    (root / "a" / "11.jpg").write_bytes((root / "a" / "0.jpg").read_bytes())
    (root / "a" / "bad.jpg").write_bytes(b"")
    return root


@pytest.fixture
def selection(data, tmp_path):
    def select(*rows, **options):
        """Of a group file with these rows, as if equal pixels were all that makes a copy."""
        path = tmp_path / "groups.csv"
        path.write_text("\n".join(["uri,group", *rows]) + "\n")
        found = list_training_set(str(data), read_group_file(str(path)) if rows else None)
        pixels = decode_rows(found.table, ImageSpec(image_px=16))
        _, copies = np.unique(pixels["digest"], return_inverse=True)
        barred = np.zeros(len(copies), bool)
        made = TrainOptions(**options)
        return found, select_images(found, copies, pixels["digest"], pixels["error"], excluded=barred, options=made)

    return select


ROWS = [f"{k}/{i}.jpg,{k}{i // 4}" for k in "ab" for i in range(8)]


def names_of(found, selected):
    names = np.array([uri.rsplit("/", 2)[1] + uri.rsplit("/", 1)[1][:-4] for uri in found.table["uri"].to_pylist()])
    return names[selected.positions]


@pytest.mark.parametrize("options", [{"folds": 2}, {"val_fraction": 0.3}])
def test_groups_of_the_file_and_copies_stay_on_one_side(selection, options):
    found, selected = selection(*ROWS, "a/11.jpg,other", "a/10.jpg,other", **options)
    names = names_of(found, selected)
    unit = dict(zip(names, selected.units, strict=True))
    assert len({unit[name] for name in ("a0", "a1", "a2", "a3", "a11", "a10")}) == 1, "joined by the copy a/11"
    assert len({unit[name] for name in ("a4", "a5", "a6", "a7")}) == 1 and unit["a8"] != unit["a9"]
    for split in selected.splits:
        assert not set(selected.units[split.train]) & set(selected.units[split.validation])
        assert "a11" not in names[split.validation] or "a0" not in names[split.validation], "a picture counts once"


def test_groups_are_counted_over_the_images_learned_from(selection):
    _, selected = selection(*ROWS, "a/11.jpg,other", "a/10.jpg,other", "a/bad.jpg,bad", folds=2)
    groups = describe_data(selected, ("a", "b"))["groups"]
    assert groups == {
        "by": ["--groups"],
        "groups": 5,
        "separate": 4,
        "images_without": 6,
        "share_without": 0.25,
    }
    assert "5 groups, each on one side of every split; 6 images (25.0%) have none" in list(describe_selection(selected))


def test_what_the_file_leaves_out_the_regex_tells(selection):
    rows = [*ROWS, "b/11.jpg,b0"]
    found, selected = selection(*rows, folds=2, group_regex=r"/(b)/\d")
    groups = dict(zip(names_of(found, selected), selected.groups, strict=True))
    assert (groups["a0"], groups["a8"], groups["b0"], groups["b11"], groups["b8"]) == ("a0", "", "b0", "b0", "b")
    assert describe_data(selected, ("a", "b"))["groups"]["by"] == ["--groups", "--group-regex"]


def test_without_groups_nothing_is_said_of_them(selection):
    _, selected = selection(folds=2)
    assert "groups" not in describe_data(selected, ("a", "b"))
    assert not any("group" in line for line in describe_selection(selected))
    _, selected = selection(folds=2, group_regex="nowhere")
    assert "--group-regex finds no group in any path" in list(describe_selection(selected))


def test_groups_change_a_request_and_their_lack_leaves_it_as_earlier_versions_made_it(selection):
    plain, grouped, regrouped = (
        describe_request(TrainOptions(), selection(*rows)[0], None) for rows in ((), ROWS, [*ROWS, "a/8.jpg,a1"])
    )
    assert set(plain.described) == {"options", "classes", "images", "excluded"}
    assert len({plain.digest, grouped.digest, regrouped.digest}) == 3
    assert list(differences(grouped.described, regrouped.described)) == ["other --groups"]
    assert list(differences(plain.described, grouped.described)) == ["other --groups"]
    assert list(differences(grouped.described, plain.described)) == ["other --groups"]


def test_groups_are_kept_for_the_report_by_position(selection, tmp_path):
    _, selected = selection(*ROWS, folds=2)
    output = str(tmp_path / "model")
    assert read_groups(output, selected.positions) is None
    write_groups(output, selected, writer=UNLEASED)
    shuffled = np.random.default_rng(0).permutation(len(selected.positions))
    kept = read_groups(output, selected.positions[shuffled])
    assert (kept.name_N == selected.groups[shuffled]).all() and (kept.unit_N == selected.units[shuffled]).all()
    assert read_groups(output, None) is None, "of a checkpoint that has no positions"


@pytest.mark.parametrize("regex", ["folder", "bids", "{subject}_{session}", "patient(\\d+)"])
def test_a_regex_that_finds_no_group_is_refused(data, tmp_path, regex):
    """Else slices of one patient lie on both sides, though the user has asked that they do not."""
    options = TrainOptions(group_regex=regex)
    with pytest.raises(BadRequest, match=r"--group-regex .*: finds no group in the path of any image, such as .*; cor"):
        list_images(str(data), output=str(tmp_path / "model"), exclude=None, options=options, say=print)
    options = TrainOptions(group_regex=r"/(\d)\d*.jpg")
    assert list_images(str(data), output=str(tmp_path / "model"), exclude=None, options=options, say=print)
