"""What a run says of its listing: inputs that hold nothing, globs that match nothing, images without suffix."""

import gzip

import pytest
from support.each import each
from support.imaging.images import image_bytes
from support.inputs.archives import tar_of, zip_of
from support.scoring.runs import contents, engine_of, request_for

from brainray.commands.score import plan_only, score
from brainray.errors import BadRequest


@each(
    ("name", "data", "said"),
    [
        ("l.csv", b"uri\n", "the list of images is empty"),
        ("z.zip", zip_of({}), "the zip is empty"),
        ("t.tar", tar_of({}), "the tar is empty"),
        ("t.tgz", gzip.compress(tar_of({})), "the compressed tar is empty"),
    ],
)
def test_an_input_that_holds_nothing_is_called_what_it_is(tmp_path, bundle, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadRequest, match=f"{name}: no image files found; {said}$"):
        plan_only(request_for(tmp_path / name, tmp_path / "run", bundle))


def test_several_inputs_that_hold_nothing(tmp_path, bundle):
    (tmp_path / "z.zip").write_bytes(zip_of({}))
    (tmp_path / "in").mkdir()
    with pytest.raises(BadRequest, match=r"no image files found; all are empty: the folder, the zip$"):
        plan_only(request_for((tmp_path / "in", tmp_path / "z.zip"), tmp_path / "run", bundle))


def test_a_glob_that_matches_nothing_is_told_once_and_a_compressed_tar_is_scored(tmp_path, bundle):
    images = {f"glioma/{number}.jpg": image_bytes(number) for number in range(7)}
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar_of(images)))
    (tmp_path / "a.tar").write_bytes(tar_of(images))
    told: list[str] = []
    runs = [
        score(
            request_for(tmp_path / name, tmp_path / f"run {name}", bundle, exclude=("odd/*",)),
            listener=lambda _: None,
            say=told.append,
            engine=engine_of(bundle),
        )
        for name in ("a.tgz", "a.tar")
    ]
    assert told == ["--exclude 'odd/*': matches no path below the inputs"] * 2
    packed, plain = (
        {
            uri.partition("#")[2]: (row["label"], row["status"], row["predicted"], row["content_hash"])
            for uri, row in contents(run.plan.uri).items()
        }
        for run in runs
    )
    assert packed == plain
    assert set(packed) == set(images)


def test_what_look_like_images_are_named_where_nothing_else_is_found(tmp_path, bundle):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bak").write_bytes(image_bytes(0))
    with pytest.raises(BadRequest, match=r"passed over: 1 suffix \.bak"):
        plan_only(request_for(tmp_path / "in", tmp_path / "run", bundle))
    told: list[str] = []
    assert (
        plan_only(request_for(tmp_path / "in", tmp_path / "run", bundle, any_suffix=True), say=told.append).images == 1
    )
    assert told == []
