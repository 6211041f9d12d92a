"""What the command does around the search, with no Ray: a stand-in reads; and the whole command with Ray, once."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.imaging.pictures import audit_here, cropped, head, jpeg, resized, save, toned
from support.storage.s3_servers import fast_s3, s3_endpoints

from brainray import storage
from brainray.cli.app import run
from brainray.cli.audit import _advice
from brainray.commands import audit as audit_job
from brainray.commands.audit import AuditRequest, audit
from brainray.duplicates.groups import SCHEMA
from brainray.duplicates.report import figure_rows
from brainray.errors import BadRequest, OutputHeld
from brainray.storage.lease import hold
from brainray.storage.s3.backend import S3Objects

__all__ = ["fast_s3", "s3_endpoints"]  # fixtures


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Training and Testing folders with copies, a leak, a conflict, a black image twice and two broken files."""
    root = tmp_path_factory.mktemp("drawn")
    for k in range(4):
        save(head(k), root, "Training", "glioma", f"patient{k}_a.png")
    save(head(1)[:, ::-1], root, "Training", "glioma", "patient1_b.png")
    save(head(2), root, "Training", "no_tumor", "patient9_a.png", mode="RGB")
    save(resized(head(3), 0.6), root, "Testing", "glioma", "patient3_b.png")
    save(head(24), root, "Testing", "no_tumor", "patient24_a.png")
    for name in ("black1.png", "black2.png"):
        save(np.zeros((50, 50), np.uint8), root, "Testing", "no_tumor", name)
    (root / "Training" / "glioma" / "empty.png").write_bytes(b"")
    (root / "Training" / "glioma" / "text.jpg").write_bytes(b"no image at all")
    (root / "notes.txt").write_text("passed over")
    return root


@pytest.fixture
def data(drawn, tmp_path):
    """These folders, which a test may change."""
    return shutil.copytree(drawn, tmp_path / "data")


@pytest.fixture
def command(data, tmp_path):
    def find(*, against=(), output=tmp_path / "audit", roots=(data,), group_regex=None, groups=None):
        said = []
        request = AuditRequest.of(
            [str(root) for root in roots],
            against=[str(root) for root in against],
            output=str(output),
            group_regex=group_regex,
            groups=groups,
        )
        figures = audit(request, say=said.append, start=audit_here)
        rows = pq.read_table(output / "groups.parquet")
        assert rows.schema.equals(SCHEMA)
        return figures, rows.to_pylist(), said

    return find


def by_name(rows):
    return {row["uri"].rpartition("/")[2]: row for row in rows}


def test_every_image_has_one_row_and_copies_share_a_group(command):
    figures, rows, said = command()
    assert len(rows) == len({row["uri"] for row in rows}) == figures["images"] == 12
    named = by_name(rows)
    assert named["patient1_a.png"]["group"] == named["patient1_b.png"]["group"]
    assert named["patient2_a.png"]["group"] == named["patient9_a.png"]["group"]
    assert named["patient3_a.png"]["group"] == named["patient3_b.png"]["group"]
    assert named["black1.png"]["group"] == named["black2.png"]["group"]
    assert len({row["group"] for row in rows} - {None}) == figures["pictures"] == 6
    assert (figures["readable"], figures["surplus"]) == (10, 4)
    assert "passed over: 1 suffix .txt" in said


def test_unreadable_images_have_a_reason_and_nothing_else(command):
    figures, rows, _ = command()
    named = by_name(rows)
    assert (named["empty.png"]["error"], named["text.jpg"]["error"]) == ("empty", "not_an_image")
    assert all(named[name]["group"] is named[name]["similarity"] is None for name in ("empty.png", "text.jpg"))
    assert figures["unreadable"] == {"empty": 1, "not_an_image": 1}
    assert all(row["error"] is None for row in rows if row["group"])


def test_the_largest_image_stands_for_its_group_and_the_others_say_what_they_are(command):
    named = by_name(command()[1])
    assert (named["patient3_a.png"]["transform"], named["patient3_b.png"]["transform"]) == (None, "resized")
    assert {named[f"patient1_{x}.png"]["transform"] for x in "ab"} == {None, "mirrored"}
    assert {named[f"patient{x}_a.png"]["transform"] for x in (2, 9)} == {None, "identical"}
    assert named["patient3_a.png"]["similarity"] == named["patient9_a.png"]["similarity"] == 1
    assert 0.56 <= named["patient3_b.png"]["similarity"] < 1


def test_conflicts_and_leaks_between_folders_are_counted(command):
    figures, rows, _ = command(group_regex=r"patient(\d+)")
    assert by_name(rows)["patient3_b.png"]["subject"] == "3"
    assert by_name(rows)["black1.png"]["subject"] is None
    assert figures["conflicts"] == {"pictures": 1, "images": 2, "between": {"glioma + notumor": 1}}
    both = {"pictures": 1, "images": {"Testing": 1, "Training": 1}}
    assert figures["leaks"]["folders"] == figures["leaks"]["subjects"] == {"Testing + Training": both}
    assert figures["by_class"]["glioma"] == {"images": 6, "pictures": 4, "surplus": 2}
    assert figures["transforms"] == {"identical": 2, "mirrored": 1, "resized": 1}


def test_a_group_file_tells_which_groups_are_in_both_sets_and_which_pictures_in_two(command, data, tmp_path):
    other = save(head(30), tmp_path, "other", "y.png")
    file = tmp_path / "groups.csv"
    rows = ("patient3_b.png,p3", "patient3_a.png,other", "patient0_a.png,p0", "y.png,p0", "black1.png,")
    file.write_text("\n".join(["file,patient", *rows]) + "\n")
    figures, rows, said = command(against=[other.parent], groups=str(file), group_regex=r"patient(9)")
    subjects = {name: row["subject"] for name, row in by_name(rows).items() if row["subject"]}
    names = ("patient3_b.png", "patient3_a.png", "patient0_a.png", "y.png", "patient9_a.png")
    assert subjects == dict(zip(names, ("p3", "other", "p0", "p0", "9"), strict=True))
    assert figures["subjects"] == {
        "subjects": 4,
        "images_without": 6,
        "share_without": 6 / 11,
        "pictures_in_several": 1,
    }
    assert figures["leaks"]["subjects_against"] == {"pictures": 1, "images": {"against": 1, "data": 1}}
    assert "--groups: 1 row(s) have no group (empty, NA or unknown)" in said
    table = dict(figure_rows(figures))
    assert table["groups, such as patients"] == "4" and table["images without a group"] == "6 (54.5%)"
    assert table["groups in both --data and --against"] == "1"
    advice = " ".join(_advice(figures, "audit"))
    assert "--data and --against share groups" in advice and "pictures lie in two groups or more" in advice
    assert "folders share groups" not in advice
    shared = command(group_regex=r"(patient3)", output=tmp_path / "by path")[0]
    assert "folders share groups" in " ".join(_advice(shared, "audit"))


def test_without_groups_an_audit_has_no_row_for_them(command):
    table = dict(figure_rows(command()[0]))
    assert not any(
        "group," in name or "groups" in name or "without a group" in name for name in table if "proposed" not in name
    )


def test_what_the_data_shares_with_another_set_is_counted(command, data, tmp_path):
    other = save(jpeg(cropped(head(0), 0.05, np.random.default_rng(0)), 60), tmp_path, "other", "x.jpg", kind="JPEG")
    save(toned(head(30), lambda x: x), tmp_path, "other", "y.png")
    figures, rows, _ = command(against=[other.parent])
    assert figures["leaks"]["against"] == {"pictures": 1, "images": {"against": 1, "data": 1}}
    assert by_name(rows)["x.jpg"]["source"] == "against"
    assert by_name(rows)["x.jpg"]["group"] == by_name(rows)["patient0_a.png"]["group"]


def test_ids_of_groups_depend_on_what_is_in_them_alone(command, data, tmp_path):
    _, rows, _ = command()
    moved = tmp_path / "moved"
    for place, path in enumerate(sorted(data.rglob("*.*"), reverse=True)):
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved / path.parent.name / f"{place}{path.suffix}")
    _, again, _ = command(roots=[moved], output=tmp_path / "again")
    assert sorted(row["group"] or "" for row in rows) == sorted(row["group"] or "" for row in again)


def test_the_page_is_whole_and_needs_no_network(command, tmp_path):
    command()
    html = (tmp_path / "audit" / "audit.html").read_text()
    assert "One picture, two labels" in html and "One picture, in two sets or folders" in html
    assert html.count("data:image/jpeg;base64,") == 8
    assert "http" not in html and "<script" not in html and "$" not in html


def test_names_in_the_page_are_no_markup(command, tmp_path):
    root = tmp_path / "odd"
    for name in ("a<b>.png", '"quoted" & $sources.png'):
        save(head(5), root, "x<i>", name)
    command(roots=[root])
    html = (tmp_path / "audit" / "audit.html").read_text()
    assert "<b>" not in html and "<i>" not in html and "&amp; $sources" in html


def test_an_earlier_audit_is_replaced_and_anything_else_is_refused(command, data, tmp_path):
    before = command()[0]
    (data / "Testing" / "no_tumor" / "black2.png").unlink()
    assert command()[0]["images"] == before["images"] - 1
    (tmp_path / "audit" / "mine.txt").write_text("")
    with pytest.raises(BadRequest, match=r"holds mine\.txt, which no audit wrote"):
        command()
    storage.write_json(str(tmp_path / "run" / "summary.json"), {"schema_version": 1})
    with pytest.raises(BadRequest, match=r"holds summary\.json, which no audit wrote"):
        command(output=tmp_path / "run")
    with pytest.raises(BadRequest, match="is a file"):
        command(output=tmp_path / "audit" / "mine.txt")


def test_a_killed_audit_leaves_the_earlier_one_and_is_run_again(command, tmp_path, monkeypatch):
    before = command()[0]

    def killed(*_):
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(audit_job, "_publish", killed)
        with pytest.raises(SystemError):
            command()
    assert storage.read_json(str(tmp_path / "audit" / "summary.json")) == before
    assert command()[0] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"roots": ["nowhere"]}, "--data .*nowhere"),
        ({"roots": ["empty"]}, "no image files found"),
        ({"roots": ["data", "data/Testing"]}, "lies within"),
        ({"against": ["data"]}, "is given twice"),
        ({"group_regex": "("}, "--group-regex '\\(' is no regular expression"),
    ],
)
def test_what_a_user_can_do_wrong_is_told_in_a_line(command, tmp_path, options, words):
    (tmp_path / "empty").mkdir()
    paths = {name: [tmp_path / path for path in options[name]] for name in ("roots", "against") if name in options}
    with pytest.raises(BadRequest, match=words):
        command(**options | paths)


def test_an_output_that_somebody_holds_is_refused(command, tmp_path):
    with hold(str(tmp_path / "audit"), purpose="audit", say=print), pytest.raises(OutputHeld):
        command()


def test_one_image_and_only_broken_ones_are_no_trouble(command, tmp_path):
    save(head(0), tmp_path, "one", "glioma", "a.png")
    assert command(roots=[tmp_path / "one"])[0]["pictures"] == 1
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    figures, rows, _ = command(roots=[tmp_path / "broken"])
    assert (figures["pictures"], figures["largest_group"], rows[0]["error"]) == (0, None, "empty")


def test_a_bucket_is_audited_into_a_bucket(data, fast_s3, monkeypatch):
    backend = S3Objects(sleep=lambda _: None)
    monkeypatch.setattr(storage, "_s3", lambda: backend)
    for path in data.rglob("*.*"):
        fast_s3.put(f"in/{path.relative_to(data)}", path.read_bytes())
    root, output = f"{fast_s3.root}/in", f"{fast_s3.root}/audit"
    figures = audit(AuditRequest.of([root], against=[], output=output, group_regex=None), say=print, start=audit_here)
    assert (figures["images"], figures["pictures"], figures["data"]) == (12, 6, [root])
    rows = storage.read_parquet(f"{output}/groups.parquet").to_pylist()
    assert by_name(rows)["patient1_b.png"]["uri"] == f"{root}/Training/glioma/patient1_b.png"
    assert storage.list_names(output) == ["audit.html", "groups.parquet", "proposed_groups.csv", "summary.json"]


def test_the_whole_command_with_ray(data, tmp_path, local_ray, capfd):
    other = save(head(0)[::-1, ::-1], tmp_path, "other", "x.png").parent
    arguments = ["--data", str(data), "--against", str(other), "--output", str(tmp_path / "audit")]
    assert run(["audit", *arguments]) == 0
    shown = capfd.readouterr()
    assert f"train with --exclude {other}" in shown.out
    assert "correct the labels" in shown.out
    assert "Traceback" not in shown.err
    figures = json.loads((tmp_path / "audit" / "summary.json").read_text())
    assert (figures["images"], figures["pictures"], figures["leaks"]["against"]["pictures"]) == (13, 6, 1)
    rows = by_name(pq.read_table(tmp_path / "audit" / "groups.parquet").to_pylist())
    assert {rows["x.png"]["transform"], rows["patient0_a.png"]["transform"]} == {None, "turned 180"}
    assert rows["text.jpg"]["error"] == "not_an_image"
    assert sorted(storage.list_names(str(tmp_path / "audit"))) == [
        "audit.html",
        "groups.parquet",
        "proposed_groups.csv",
        "summary.json",
    ]
