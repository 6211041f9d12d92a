"""The groups that an audit proposes, as a file that train takes; with no Ray, a stand-in reads."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.imaging.pictures import audit_here, jpeg, neighbour, resized, save

from brainray.cli.audit import _advice
from brainray.commands.audit import AuditRequest, audit
from brainray.duplicates.groups import list_images
from brainray.duplicates.report import figure_rows
from brainray.errors import BadRequest
from brainray.inputs.labels.group_file import read_group_file

STEPS = (0.0, 0.7, 1.0)
DRAWN = (0, 1, 3, 6)  # heads whose slices at these steps are no copies of each other
HEADS = len(DRAWN)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Slices of six heads under names that tell nothing; the first of each head has a mirrored and a smaller copy."""
    root = tmp_path_factory.mktemp("drawn") / "scans"
    for k, head in enumerate(DRAWN):
        for place, step in enumerate(STEPS):
            label = "glioma" if k % 2 else "no_tumor"
            save(neighbour(head, step=step), root, label, f"{(7 * k + 5 * place) % 18:02}-{k}{'abc'[place]}.png")
        save(neighbour(head, step=STEPS[0])[:, ::-1], root, label, f"m-{k}a.png")
        save(jpeg(resized(neighbour(head, step=STEPS[0]), 0.7), 80), root, label, f"s-{k}a.png")
    return root


@pytest.fixture
def scans(drawn, tmp_path):
    """The same, to be changed."""
    return Path(shutil.copytree(drawn, tmp_path / "scans"))


@pytest.fixture(scope="module")
def audited(drawn):
    """Of the slices as they are: (figures, group of each name, folder)."""
    return *proposal(drawn, drawn.parent / "audit"), drawn.parent / "audit"


def proposal(root, output, **options):
    request = AuditRequest.of([str(root)], output=str(output), **{"against": (), "group_regex": None} | options)
    figures = audit(request, say=lambda _: None, start=audit_here)
    with (output / "proposed_groups.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["uri", "group"]
    return figures, {uri.rpartition("/")[2]: group for uri, group in rows[1:]}


def test_slices_of_one_head_and_all_their_copies_have_one_group(audited):
    figures, groups, _ = audited
    assert len(groups) == HEADS * 5
    heads = {name: name.partition("-")[2][0] for name in groups}
    assert {(heads[name], group) for name, group in groups.items()} == {
        (head, next(group for name, group in groups.items() if heads[name] == head)) for head in heads.values()
    }, "one group a head"
    assert len(set(groups.values())) == HEADS and all(group.startswith("proposed-") for group in groups.values())
    assert figures["proposed"] == {
        "groups": HEADS,
        "pictures": 3 * HEADS,
        "of_pictures": 3 * HEADS,
        "largest": 3,
        "median": 3,
        "pairs": 3 * HEADS,
        "share_two_labels": 0,
        "share_two_labels_by_chance": pytest.approx(6 * 6 / (12 * 11 / 2)),
    }


def test_train_takes_the_file_as_it_is(drawn, audited):
    _, groups, folder = audited
    listed = list_images([str(drawn)], (), group_regex=None).table
    taken = read_group_file(str(folder / "proposed_groups.csv")).groups_of(listed)
    by_name = {
        uri.rpartition("/")[2]: group for uri, group in zip(listed["uri"].to_pylist(), taken.to_pylist(), strict=True)
    }
    assert by_name == groups


def test_the_same_groups_come_out_each_time_and_under_other_names(scans, audited, tmp_path):
    _, groups, folder = audited
    earlier = tmp_path / "again"
    shutil.copytree(folder, earlier)
    for place, path in enumerate(sorted(scans.rglob("*.png"), key=lambda path: path.name[::-1])):
        path.rename(path.with_name(f"{place:02}+{path.name}"))
    renamed = proposal(scans, earlier)[1]  # an earlier audit is replaced
    assert {name.partition("+")[2]: group for name, group in renamed.items()} == groups


def test_the_proposal_is_shown_as_one(audited):
    figures, _, folder = audited
    table = dict(figure_rows(figures))
    assert table["proposed groups: pictures that look like slices of one head"] == str(HEADS)
    assert table["pairs in a proposed group with two labels (by chance)"] == "0.0% (55%)"
    (advice,) = _advice(figures, "out")
    assert "a guess" in advice and "--groups out/proposed_groups.csv" in advice
    page = (folder / "audit.html").read_text()
    assert "Proposed groups: pictures that look like neighbouring slices of one head" in page


def test_one_image_has_no_group_and_train_says_to_leave_the_file_out(tmp_path):
    root = save(neighbour(0, step=0.7), tmp_path, "scans", "glioma", "a.png").parents[1]
    figures, groups = proposal(root, tmp_path / "audit")
    assert groups == {"a.png": ""}
    assert (figures["proposed"]["groups"], figures["proposed"]["share_two_labels"]) == (0, None)
    assert dict(figure_rows(figures))["proposed groups: pictures that look like slices of one head"] == "0"
    assert _advice(figures, "out") == []
    with pytest.raises(BadRequest, match="no image gets a group by it; leave it out"):
        file = read_group_file(str(tmp_path / "audit" / "proposed_groups.csv"))
        file.groups_of(list_images([str(root)], (), group_regex=None).table)


def test_images_that_cannot_be_read_have_no_group(tmp_path):
    root = tmp_path / "scans"
    (root / "glioma").mkdir(parents=True)
    (root / "glioma" / "empty.png").write_bytes(b"")
    assert proposal(root, tmp_path / "audit")[1] == {"empty.png": ""}


def test_known_patients_keep_their_names_and_only_others_count_as_proposed(scans, tmp_path):
    figures, groups = proposal(scans, tmp_path / "audit", group_regex=r"-([01])[abc]\.png")
    assert {group for name, group in groups.items() if "-0" in name} == {"0"}
    assert {group for name, group in groups.items() if "-1" in name} == {"1"}
    assert (figures["proposed"]["groups"], figures["proposed"]["of_pictures"]) == (HEADS - 2, 3 * (HEADS - 2))


def test_of_two_patients_that_share_a_picture_each_keeps_its_name(scans, tmp_path):
    """`train` joins them by the picture; a name that is another's would send a person to the wrong patient."""
    known = {path.name: path.name[0] for path in scans.rglob("[ms]-0a.png")}  # two copies of one picture
    file = tmp_path / "known.csv"
    file.write_text("".join(["file,patient\n", *(f"{p.name},{known.get(p.name, '')}\n" for p in scans.rglob("*.png"))]))
    _, groups = proposal(scans, tmp_path / "audit", groups=str(file))
    assert {name: groups[name] for name in known} == known
    assert {group for name, group in groups.items() if "-0" in name} == {"m", "s"}


def test_a_picture_of_nobody_joins_the_patient_it_looks_like(scans, tmp_path):
    known = tmp_path / "known.csv"
    names = [path.name for path in scans.rglob("*-0[ab].png")]
    known.write_text("\n".join(["file,patient", *(f"{name},Ann" for name in names)]) + "\n")
    others = [path.name for path in scans.rglob("*.png") if path.name not in names]
    known.write_text(known.read_text() + "".join(f"{name},\n" for name in others))
    _, groups = proposal(scans, tmp_path / "audit", groups=str(known))
    assert {group for name, group in groups.items() if "-0" in name} == {"Ann"}


def test_slices_of_one_head_in_both_sets_are_counted(scans, tmp_path):
    for path in list(scans.rglob("*-0c.png")):
        target = tmp_path / "test" / "glioma" / path.name
        target.parent.mkdir(parents=True)
        path.rename(target)
    figures, _ = proposal(scans, tmp_path / "audit", against=(str(tmp_path / "test"),))
    assert figures["leaks"]["against"]["pictures"] == 0
    assert figures["leaks"]["proposed_against"] == {"pictures": 1, "images": {"against": 1, "data": 4}}
    assert dict(figure_rows(figures))["proposed groups in both --data and --against"] == "1"


def test_the_groups_are_in_the_table_too(audited):
    figures, groups, folder = audited
    rows = pq.read_table(folder / "groups.parquet").to_pylist()
    assert {row["uri"].rpartition("/")[2]: row["proposed_group"] for row in rows} == groups
    assert json.loads((folder / "summary.json").read_text())["proposed"] == figures["proposed"]
    assert np.isfinite(figures["proposed"]["share_two_labels_by_chance"])
