"""An input whose mount is missing is an empty folder: a run over several must not lose its rows for that."""

import pytest
from support.scoring.runs import contents, request_for, success

from brainray import storage
from brainray.commands.score import plan_only
from brainray.errors import BadRequest


@pytest.fixture
def two(archive, run, tmp_path):
    """A run over two inputs, and what takes the content of the second one away."""
    roots = archive("a", images=1), archive("b", images=1)
    run(roots)

    def unmount() -> None:
        roots[1].rename(tmp_path / "away")
        (roots[1] / "sub").mkdir(parents=True)
        (roots[1] / ".mountpoint").write_bytes(b"")

    return roots, unmount


@pytest.mark.parametrize("option", ["forget_missing", "rescore"])
def test_rows_of_an_input_that_is_empty_now_are_not_dropped(option, two, run):
    roots, unmount = two
    before = contents(run.uri)
    unmount()
    with pytest.raises(BadRequest, match=rf"/b is empty, and --{option.replace('_', '-')} .* 4 images .* EMPTY\.txt"):
        run(roots, **{option: True})
    assert contents(run.uri) == before and success(run.uri)
    (roots[1] / "EMPTY.txt").write_bytes(b"")
    run(roots, **{option: True})
    assert sorted(contents(run.uri)) == sorted(map(str, roots[0].rglob("*.jpg")))


def test_a_rescore_that_goes_on_does_not_take_them_for_lost(two, run):
    """The new generation has their rows already; scored as missing files, they would replace the good ones."""
    roots, unmount = two
    run(roots, rescore=True, only=1)
    unmount()
    with pytest.raises(BadRequest, match=r"/b is empty, and --rescore "):
        run(roots, rescore=True)


def test_rows_that_stay_are_told_of(two, run, bundle):
    roots, unmount = two
    unmount()
    for gone_before in (False, True):
        said: list[str] = []
        plan = plan_only(request_for(roots, run.uri, bundle), say=said.append)
        assert plan.images == 8, gone_before
        assert [note for note in said if "/b is empty, and the run has 4 images of it" in note]
        run(roots)
    assert storage.read_json(f"{run.uri}/run.json")["gone"] == 4


def test_an_input_that_never_had_images_stops_nothing(archive, run, tmp_path):
    root = archive(images=2)
    (tmp_path / "empty").mkdir()
    run((root, tmp_path / "empty"))
    (root / "glioma" / "1.jpg").unlink()
    run((root, tmp_path / "empty"), forget_missing=True)
    assert len(contents(run.uri)) == 7


def test_behind_pseudonyms_too(archive, run, tmp_path):
    roots = archive("a", images=1), archive("b", images=1)
    names = str(tmp_path / "names")
    run(roots, pseudonymise_uris=names)
    roots[1].rename(tmp_path / "away")
    roots[1].mkdir()
    with pytest.raises(BadRequest, match=r"/b is empty, and --forget-missing would drop the rows of images "):
        run(roots, pseudonymise_uris=names, forget_missing=True)
