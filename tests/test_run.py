"""A run on disk, scored here without Ray, one shard after the other."""

import json
import os
import shutil

import pytest
from conftest import CLASSES

from brainray import results, storage
from brainray.bundle import save_bundle
from brainray.config import ScoreOptions
from brainray.errors import AccountingError, BadRequest, OtherModel
from brainray.listing import read_shard
from brainray.predict import Predictor
from brainray.report import build_summary, read_summary
from brainray.run import Request, close_run, open_run, publish
from brainray.scoring import decode_shard, predict_shard

OPTIONS = ScoreOptions(shard_size=3)


@pytest.fixture
def run(bundle, tmp_path):
    """Plans, scores and publishes; `only` scores so many shards and stops there, as a killed run does."""
    predictor = Predictor(bundle, batch_size=8)
    uri = str(tmp_path / "run")

    def start(root, *, only=None, options=OPTIONS, model=bundle):
        plan = open_run(Request(inputs=(str(root),), output=uri, bundle=model, truth=None, options=options))
        for shard in plan.todo[:only]:
            manifest = read_shard(shard)
            predict_shard(
                manifest,
                decode_shard(manifest, model.image),
                predictor,
                run_uri=uri,
                classes=CLASSES,
                fingerprint=model.fingerprint,
            )
        if only is None and not plan.complete:
            account = close_run(plan, model)
            build_summary(uri)
            publish(plan, model, account)
        return plan

    start.uri = uri
    return start


def rows(uri):
    names = storage.list_names(f"{uri}/predictions")
    return [row for name in names for row in storage.read_parquet(f"{uri}/predictions/{name}").to_pylist()]


def without_time(uri):
    return sorted(({k: v for k, v in row.items() if k != "scored_at"} for row in rows(uri)), key=lambda row: row["uri"])


def test_a_whole_run_has_a_row_an_image_and_says_so(run, archive):
    root = archive(images=4)
    run(root)
    assert sorted(row["uri"] for row in rows(run.uri)) == sorted(map(str, root.rglob("*.jpg")))
    success = storage.read_json(f"{run.uri}/_SUCCESS")
    assert (success["rows"], success["failed"]) == (16, 0)
    described = storage.read_json(f"{run.uri}/run.json")
    assert described["classes"] == list(CLASSES)
    assert described["fingerprint"] == success["fingerprint"]


def test_with_nothing_new_nothing_is_written(run, archive):
    root = archive(images=2)
    run(root)
    before = {path: os.stat(path).st_mtime_ns for path, *_ in os.walk(run.uri)}
    plan = run(root)
    assert plan.complete and not plan.todo
    assert {path: os.stat(path).st_mtime_ns for path, *_ in os.walk(run.uri)} == before


def test_an_interrupted_run_goes_on_where_it_stopped(run, archive, tmp_path):
    root = archive(images=4)
    first = run(root, only=2)
    assert not storage.exists(f"{run.uri}/_SUCCESS")
    finished = {shard.shard_id for shard in first.todo[:2]}
    second = run(root)
    assert finished.isdisjoint(shard.shard_id for shard in second.todo)
    resumed = without_time(run.uri)
    shutil.rmtree(run.uri)
    run(root)
    assert without_time(run.uri) == resumed


def test_an_added_image_gets_a_row_and_full_shards_are_kept(run, archive):
    root = archive(images=3)
    run(root)
    before = {
        name: os.stat(f"{run.uri}/predictions/{name}").st_mtime_ns for name in os.listdir(f"{run.uri}/predictions")
    }
    (root / "pituitary" / "new.jpg").write_bytes((root / "pituitary" / "0.jpg").read_bytes())
    run(root)
    after = {
        name: os.stat(f"{run.uri}/predictions/{name}").st_mtime_ns for name in os.listdir(f"{run.uri}/predictions")
    }
    assert len(before.items() & after.items()) >= 3
    assert len(rows(run.uri)) == len({row["uri"] for row in rows(run.uri)}) == 13


def test_a_changed_and_a_removed_image_leave_no_old_row(run, archive):
    root = archive(images=3)
    run(root)
    (root / "glioma" / "0.jpg").write_bytes(b"broken now")
    (root / "glioma" / "1.jpg").unlink()
    run(root)
    found = {row["uri"].removeprefix(f"{root}/"): row for row in rows(run.uri)}
    assert len(found) == len(rows(run.uri)) == 11
    assert found["glioma/0.jpg"]["error"] == "not_an_image"


def test_success_is_gone_while_a_run_is_extended(run, archive):
    root = archive(images=3)
    run(root)
    (root / "pituitary" / "new.jpg").write_bytes(b"x")
    run(root, only=0)
    assert not storage.exists(f"{run.uri}/_SUCCESS")


def test_another_model_is_refused_and_touches_nothing(run, archive, bundle, tmp_path):
    root = archive(images=1)
    run(root)
    other = save_bundle(
        str(tmp_path / "other"),
        weights=storage.read_bytes(f"{bundle.uri}/model.safetensors"),
        image=bundle.image,
        model=bundle.model,
        temperature=2.0,
        metrics={},
        reference=None,
        provenance={},
    )
    before = storage.read_bytes(f"{run.uri}/run.json")
    with pytest.raises(OtherModel, match=rf"{bundle.fingerprint}.*{other.fingerprint}"):
        run(root, model=other)
    assert storage.read_bytes(f"{run.uri}/run.json") == before
    assert storage.exists(f"{run.uri}/_SUCCESS")


def test_other_inputs_are_refused_and_more_inputs_extend_the_run(run, archive, bundle):
    first, second = archive("first", images=1), archive("second", images=1)
    run(first)
    with pytest.raises(BadRequest, match=f"holds a run of --input {first} too"):
        run(second)
    request = Request(inputs=(str(first), str(second)), output=run.uri, bundle=bundle, truth=None, options=OPTIONS)
    assert len(open_run(request, dry=True).shards) == 3
    assert storage.exists(f"{run.uri}/_SUCCESS")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: (p.mkdir(), (p / "thesis.doc").write_text("x")), "holds other files and no run"),
    ],
)
def test_an_output_that_is_not_ours_is_left_alone(run, archive, tmp_path, make, complaint):
    make(tmp_path / "run")
    with pytest.raises(BadRequest, match=complaint):
        run(archive(images=1))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ((), "no image files found; the folder is empty"),
        (("a.txt", "b.txt"), r"no image files found \(passed over: 2 suffix .txt\)"),
    ],
)
def test_an_input_without_images_is_refused_and_nothing_is_written(run, tmp_path, files, complaint):
    (tmp_path / "in").mkdir()
    for name in files:
        (tmp_path / "in" / name).write_text("x")
    with pytest.raises(BadRequest, match=complaint):
        run(tmp_path / "in")
    assert not os.path.exists(run.uri)


def test_a_missing_part_is_named_and_nothing_is_published(run, archive, bundle):
    plan = run(archive(images=3), only=3)
    with pytest.raises(AccountingError, match=r"part-[0-9a-f]+ is missing"):
        close_run(plan, bundle)
    assert not storage.exists(f"{run.uri}/_SUCCESS")


def test_a_part_of_another_model_is_named(run, archive, bundle):
    plan = run(archive(images=1))
    uri = results.part_uri(run.uri, plan.shards[0].shard_id)
    table = storage.read_parquet(uri)
    note = json.loads(table.schema.metadata[results.METADATA_KEY]) | {"model": "another"}
    storage.write_parquet(uri, table.replace_schema_metadata({results.METADATA_KEY: json.dumps(note)}))
    with pytest.raises(AccountingError, match="of model another"):
        close_run(plan, bundle)


def test_a_summary_is_read_back_as_it_was_written(run, archive):
    run(archive(images=2))
    read, built = read_summary(run.uri), build_summary(run.uri)
    assert read.figures == built.figures
    assert read.confusion == built.confusion
    assert read.per_class.equals(built.per_class)


def test_a_plan_writes_nothing(bundle, archive, tmp_path):
    request = Request(
        inputs=(str(archive(images=2)),), output=str(tmp_path / "run"), bundle=bundle, truth=None, options=OPTIONS
    )
    plan = open_run(request, dry=True)
    assert len(plan.todo) == 3
    assert not (tmp_path / "run").exists()
