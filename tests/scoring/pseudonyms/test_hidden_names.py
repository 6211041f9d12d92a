"""A tree whose paths name patients is scored with pseudonyms: no name is in any output, and all goes on working."""

import io
import os
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.canaries import CANARY, betrays
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.scoring.laid_out import laid_out
from support.scoring.runs import brightness, contents, engine_of, parts, request_for, rows, score_here

from brainray import storage
from brainray.commands.compare import compare
from brainray.commands.estimate import estimate
from brainray.commands.export import export
from brainray.commands.pick import pick
from brainray.commands.report import report
from brainray.commands.score import read_request
from brainray.config import Explain, MaxFailed, PageOptions, ScoreOptions
from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.labels.group_file import read_group_file
from brainray.scoring.pseudonyms.key import FIELD
from brainray.scoring.pseudonyms.names import names_for
from brainray.scoring.run_folder import is_published, verify_run

README = Path(__file__).resolve().parents[3] / "brainray" / "scoring" / "README.md"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom


def tarred(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def poisoned_tree(root: Path) -> tuple[Path, Path]:
    """A folder and a list whose names hold the canary wherever names can stand; some images cannot be read."""
    who = root / f"Ward {CANARY}" / f"{CANARY}^JANE"
    who.mkdir(parents=True)
    for number in range(3):
        (who / f"{CANARY} {number}.jpg").write_bytes(image_bytes(number))
    (who / f"scan.{CANARY}").write_bytes(b"text")  # a suffix is a part of a name
    (who / f"cut {CANARY}.png").write_bytes(image_bytes(5)[:40])
    (who / f"{CANARY}.dcm").write_bytes(dicom(frames(2), WindowCenter=1000, WindowWidth=2000))
    (who / f"large {CANARY}.jpg").write_bytes(image_bytes(7) + bytes(90_000))
    tarred(root / f"{CANARY}.tar", {f"{CANARY}/a.jpg": image_bytes(11), f"{CANARY}.png": image_bytes(12)})
    with zipfile.ZipFile(root / f"of {CANARY}.zip", "w") as file:
        file.writestr(f"in {CANARY}/{CANARY}.jpg", image_bytes(13))
        file.writestr("plain.jpg", image_bytes(14))
    images = [{"bytes": image_bytes(15), "path": f"{CANARY}.jpg"}]
    pq.write_table(pa.table({"image": images}), root / f"{CANARY}.parquet")
    listed = root.parent / "lists" / f"{CANARY}.csv"
    listed.parent.mkdir()
    names = [who / f"{CANARY} gone.jpg", root.parent / f"{CANARY} listed.jpg"]
    names[1].write_bytes(image_bytes(21))
    listed.write_text("uri\n" + "\n".join(map(str, names)) + "\n")
    return root, listed


def frames(number):
    return np.stack([slice_pixels(seed=k) for k in range(number)])


class Home:
    """A tree, and what scores it into one output with the names in another folder."""

    def __init__(self, folder: Path, bundle):
        self.folder, self.bundle = folder, bundle
        self.tree = folder / "in", folder / "lists" / f"{CANARY}.csv"
        self.output, self.names = folder / "run", folder / "names"

    def __call__(self, inputs, *, output="run", **options):
        chosen = {"max_failed": MaxFailed(share=1.0), "max_file_bytes": 90_000, "shard_size": 10} | options
        chosen.setdefault("pseudonymise_uris", str(self.names))
        request = request_for(inputs, self.folder / output, self.bundle, **chosen)
        score_here(request, engine_of(self.bundle, predict=brightness))
        return rows(self.folder / output)


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("scored")


@pytest.fixture
def run(homes, bundle, no_plot):
    """With a tree that is drawn, and not scored yet."""
    return Home(laid_out(homes[0], lambda now: poisoned_tree(now / "in")), bundle)


@pytest.fixture
def tree(run):
    return run.tree


@pytest.fixture
def scored(homes, bundle, no_plot):
    """With a tree that is scored, by itself and with real names, too, into `plain`."""

    def begin(now):
        home = Home(now, bundle)
        poisoned_tree(now / "in")
        home(home.tree)
        home(home.tree, output="plain", pseudonymise_uris=None)

    return Home(laid_out(homes[1], begin), bundle)


def written(folder) -> dict[Path, bytes]:
    found = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return {path: path.read_bytes() for path in found}


def telling(folder) -> list[Path]:
    """The files whose content or path holds the canary."""
    return [path for path, content in written(folder).items() if betrays(content) or betrays(str(path).encode())]


def looked_up(names) -> dict[str, str]:
    """Every pseudonym with what it stands for."""
    table = pq.read_table(Path(names) / "names")
    return dict(zip(table["pseudonym"].to_pylist(), table["real"].to_pylist(), strict=True))


def test_no_output_holds_a_name_and_the_folder_has_them_all(tree, run):
    found = run(tree, group_by=("ward=folder", "patient=folder:1"), explain=Explain(which="all"), report=True)
    assert {row["status"] for row in found} == {"ok", "error"}
    assert {row["error"] for row in found} >= {None, "not_found", "too_large", "truncated"}
    assert telling(run.output) == []
    suffixes = {path.suffix for path in written(run.output)}
    assert suffixes >= {".parquet", ".json", ".html", ".csv"}
    assert b"data:image/" in (run.output / "summary" / "report.html").read_bytes()
    real = looked_up(run.names)
    assert all(CANARY in real[row["uri"]] for row in found)
    assert {real[row["group"]] for row in found if row["group"]} >= {f"Ward {CANARY}/{CANARY}^JANE"}
    assert set(map(str, tree)) <= set(real.values())
    for where, _, files in os.walk(run.names):
        assert stat.S_IMODE(os.stat(where).st_mode) == 0o700
        assert {stat.S_IMODE(os.stat(Path(where, name)).st_mode) for name in files} <= {0o600}


def test_the_way_back_that_the_readme_shows(tree, run, monkeypatch):
    found = run(tree, group_by="folder")
    monkeypatch.chdir(run.output.parent)
    text = README.read_text().split("### Pseudonyms")[1].split("\n### ")[0]
    (query,), (code,) = (
        re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S) for language in ("sql", "python")
    )
    names: dict[str, object] = {}
    exec(compile(code, README.name, "exec"), names)
    shown = {str(uri) for uri in names["rows"]["uri"]}
    assert (
        shown == {uri for uri, _ in duckdb.sql(query).fetchall()} == {looked_up(run.names)[row["uri"]] for row in found}
    )
    assert f"Ward {CANARY}" in set(names["rows"]["group"])


def test_predictions_are_those_of_a_run_with_names(scored):
    hidden, plain = rows(scored.output), rows(scored.folder / "plain")
    told = ("content_hash", "status", "predicted", "confidence", "width", "error", "size_bytes", "slice_position")
    one, other = (sorted(str([row[name] for name in told]) for row in each) for each in (hidden, plain))
    assert one == other


def test_each_night_scores_what_is_new_and_nothing_twice(scored):
    run, tree = scored, scored.tree
    before = rows(run.output)
    old = parts(run.output)
    names = written(run.names)
    (tree[0] / f"new {CANARY}.jpg").write_bytes(image_bytes(31))
    after = run(tree)
    assert len(after) == len(before) + 1 == verify_run(str(run.output)).rows
    assert {name: time for name, time in parts(run.output).items() if name in old} == old
    assert names.items() <= written(run.names).items(), "names that were there are changed or gone"
    assert run(tree) == after
    assert telling(run.output) == []


def test_images_that_go_keep_their_names_and_their_rows(scored):
    run, tree = scored, scored.tree
    before = {row["uri"] for row in rows(run.output)}
    real = looked_up(run.names)
    next(tree[0].glob("Ward*/*/*1.jpg")).unlink()
    assert {row["uri"] for row in run(tree)} == before
    assert looked_up(run.names) == real
    assert len(run(tree, rescore=True)) == len(run(tree)) == len(before) - 1, "a new generation is without them"
    assert telling(run.output) == []


def test_labels_and_groups_of_files_name_real_images_and_answers_name_pseudonyms(tree, run, bundle, tmp_path):
    image = next(tree[0].glob("Ward*/*/*0.jpg"))
    (tmp_path / "labels.csv").write_text(f"uri,label\n{image},glioma\n")
    (tmp_path / f"groups {CANARY}.csv").write_text(f"uri,group\n{image},{CANARY}\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), bundle.classes)
    group_file = read_group_file(str(tmp_path / f"groups {CANARY}.csv"))
    found = run(tree, label_file=label_file, group_file=group_file, labels_may_miss=True)
    (labelled,) = [row for row in found if row["label"]]
    assert labelled["group"] and looked_up(run.names)[labelled["group"]] == CANARY
    assert looked_up(run.names)[labelled["uri"]] == str(image)
    other = next(row["uri"] for row in found if row["status"] == "ok" and not row["label"])
    (tmp_path / "answers.csv").write_text(f"uri,label\n{other},meningioma\n")
    report(str(run.output), say=lambda _: None, labels=str(tmp_path / "answers.csv"))
    again = {row["uri"]: row["label"] for row in run(tree, group_file=group_file)}
    assert (again[other], telling(run.output)) == ("meningioma", [])


def test_a_page_is_rebuilt_with_names_or_without_thumbnails(tree, run, tmp_path):
    run(tree, report=True)
    first = written(run.output / "summary")
    report(str(run.output), say=lambda _: None, real_uris=str(run.names))
    assert written(run.output / "summary") == first
    said: list[str] = []
    report(str(run.output), say=said.append)
    assert len(said) == 1 and "no thumbnails" in said[0] and "--real-uris" in said[0]
    assert b"data:image/jpeg" not in (run.output / "summary" / "report.html").read_bytes()
    for options, told in (
        ({"explain": Explain(most=1)}, "--explain: .* give the folder of its --pseudonymise-uris with --real-uris"),
        ({"real_uris": str(tmp_path)}, "has no file key"),
    ):
        with pytest.raises(BadRequest, match=told):
            report(str(run.output), say=lambda _: None, **options)
    plain = storage.read_json(f"{run.output}/run.json") | {FIELD: None}
    with pytest.raises(BadRequest, match=r"holds real names, so --real-uris .* leave it out"):
        names_for("run", plain, str(tmp_path), needed_by=None)  # which has no key either
    page = PageOptions(report=False)
    report(str(run.output), say=lambda _: None, page=page, real_uris=str(run.names), explain=Explain(which="all"))
    maps = storage.read_parquet(f"{run.output}/summary/maps.parquet")
    assert set(maps["uri"].to_pylist()) == {row["uri"] for row in rows(run.output) if row["status"] == "ok"}
    assert telling(run.output) == []


def test_images_are_picked_estimated_compared_and_exported(scored, tmp_path):
    run, tree = scored, scored.tree
    found = rows(run.output)
    run(tree, output="other")
    picked = pick(run.output, labels=20, thumbnails=False)
    label = "\n".join(f"{uri},glioma" for uri in picked.rows["uri"].to_pylist())
    (tmp_path / "given.csv").write_text(f"uri,label\n{label}\n")
    assert estimate(run.output, str(tmp_path / "given.csv")).figures["labels"]["answered"] == len(picked.rows)
    options = {"output": str(tmp_path / "compared"), "thumbnails": True, "say": lambda _: None}
    result = compare(str(run.output), str(run.folder / "other"), real_uris=str(run.names), **options)
    assert result.compared == sum(row["status"] == "ok" for row in found)
    export(run.output, to="omop", output=tmp_path / "omop")
    assert sum(export(run.output, to="sr", output=tmp_path / "sr", real_uris=run.names).counts.values()) == 1
    with pytest.raises(BadRequest, match=r"--to sr: .* with --real-uris"):
        export(run.output, to="sr", output=tmp_path / "sr2")
    assert telling(run.output) == telling(tmp_path / "compared") == telling(tmp_path / "omop") == []
    with pytest.raises(BadRequest, match="name images differently"):
        compare(str(run.output), str(run.folder / "plain"), **options)


@pytest.mark.parametrize("series_by", ["folder", rf".*/(?P<patient>{CANARY}\^JANE)/"])
def test_series_by_name_are_those_of_a_run_with_names(series_by, tree, run, tmp_path):
    run(tree, series_by=series_by)
    run(tree, series_by=series_by, output="plain", pseudonymise_uris=None)
    real = looked_up(run.names)
    hidden, plain = (
        storage.read_parquet(f"{output}/series/series-00000.parquet").to_pylist()
        for output in (run.output, run.folder / "plain")
    )
    told = ("slices", "scored", "failed", "predicted", "reason", "gaps")
    shown = sorted([real[row["uri"]], *(str(row[name]) for name in told)] for row in hidden)
    assert shown == sorted([row["uri"], *(str(row[name]) for name in told)] for row in plain)
    assert telling(run.output) == []
    (tmp_path / "labels.csv").write_text(f"uri,label\n{rows(run.output)[0]['uri']},glioma\n")
    with pytest.raises(BadRequest, match=r"--series-by .* with --real-uris"):
        report(str(run.output), say=lambda _: None, labels=str(tmp_path / "labels.csv"))
    assert is_published(str(run.output)), "refused before its labels are changed"
    before = written(run.output / "series")
    report(str(run.output), say=lambda _: None, real_uris=str(run.names))
    assert written(run.output / "series") == before
    assert run(tree) == rows(run.output)  # without --series-by, which the run remembers


def test_what_a_run_with_names_left_that_was_killed_early_goes(tree, run):
    for name in ("containers/index.parquet", "manifest/manifest-00000-abc.parquet"):
        (run.output / name).parent.mkdir(parents=True)
        (run.output / name).write_bytes(CANARY.encode())
    run(tree)
    assert telling(run.output) == []


def test_texts_that_the_folder_has_lost_are_written_again_when_nothing_is_new(tree, run):
    found = run(tree, group_by="folder")
    before = written(run.names)
    for lost in (run.names / "names").glob("texts-*"):
        lost.unlink()
    assert run(tree, group_by="folder") == found
    assert written(run.names) == before


def test_columns_of_a_list_are_not_kept_beside_pseudonyms(tree, bundle, tmp_path):
    options = ScoreOptions(pseudonymise_uris=str(tmp_path / "names"), keep_columns=("patient",))
    with pytest.raises(BadRequest, match="--keep-columns copies values as they are"):
        read_request(list(map(str, tree)), model=bundle.uri, output=str(tmp_path), labels=None, options=options)


def test_a_folder_that_is_lost_or_of_another_key_is_one_line(scored, tmp_path):
    run, tree = scored, scored.tree
    with pytest.raises(BadRequest, match=r"is not the folder of --output .* give that, restore it"):
        run(tree, pseudonymise_uris=str(tmp_path / "others"))
    assert not (tmp_path / "others").exists()
    with pytest.raises(BadRequest, match="holds a run with pseudonyms; give its folder"):
        run(tree, pseudonymise_uris=None, rescore=True)
    with pytest.raises(BadRequest, match="holds a run with real names; give another output"):
        run(tree, output="plain", rescore=True)
    shard = sorted((run.names / "names").glob("[0-9a-f]*.parquet"))[0]
    shard.rename(tmp_path / "kept")
    with pytest.raises(BadRequest, match=r"has lost the names of 1 of \d+ shards"):
        run(tree)
    (tmp_path / "kept").rename(shard)
    (run.names / "key").unlink()
    with pytest.raises(BadRequest, match="has lost its file key; put it back"):
        run(tree)
    assert contents(run.output)
