import os
from dataclasses import replace

import pytest

from brainray import storage
from brainray.config import TrainOptions
from brainray.errors import BadRequest
from brainray.training import state
from brainray.training.dataset import list_excluded, list_training_set
from brainray.training.state import WorkFolder, describe_request, inspect_output

OPTIONS = TrainOptions(image_px=32)


@pytest.fixture
def request_for(archive, tmp_path):
    """The request of the command with these options, as the files lie now."""
    data, exclude = str(archive("data", images=3)), str(archive("held-out", images=1))

    def describe(*, excluding=False, **changes):
        return describe_request(
            replace(OPTIONS, **changes),
            list_training_set(data),
            list_excluded(exclude).table if excluding else None,
        )

    return describe


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "model")


def leave(output, request, *, checkpoint=True):
    state.begin_training(output, request, writer=storage.Writer())
    if checkpoint:
        storage.write_bytes(WorkFolder.of(output).checkpoint, b"some epochs")


def test_what_changes_the_model_changes_the_request(request_for, tmp_path):
    first = request_for()
    assert request_for().digest == first.digest
    assert request_for(workers=2).digest == first.digest
    others = [request_for(lr=1e-3), request_for(seed=1), request_for(precision="fp32"), request_for(excluding=True)]
    image = tmp_path / "data" / "glioma" / "0.jpg"
    os.utime(image, ns=(1, 1))
    others.append(request_for())
    image.rename(tmp_path / "data" / "pituitary" / "moved.jpg")
    others.append(request_for())
    assert len({first.digest, *(other.digest for other in others)}) == 7


def test_a_new_or_empty_folder_holds_nothing(request_for, output, tmp_path):
    assert inspect_output(output, request_for()) == "nothing"
    (tmp_path / "model").mkdir()
    assert inspect_output(output, request_for()) == "nothing"


def test_the_same_request_is_gone_on_with_also_by_other_workers(request_for, output):
    leave(output, request_for())
    assert inspect_output(output, request_for(workers=3)) == "unfinished"


def test_another_request_is_refused_with_what_differs_and_what_to_do(request_for, output, tmp_path):
    leave(output, request_for())
    with pytest.raises(BadRequest, match=r"--epochs was 24 and is 9, --lr was 0.003 and is 0.1; .*delete .*\.training"):
        inspect_output(output, request_for(epochs=9, lr=0.1))
    with pytest.raises(BadRequest, match="another --exclude"):
        inspect_output(output, request_for(excluding=True))
    (tmp_path / "data" / "glioma" / "0.jpg").unlink()
    with pytest.raises(BadRequest, match="other request: other images below --data; run"):
        inspect_output(output, request_for())


def test_a_request_that_came_to_no_epoch_holds_nobody_up(request_for, output):
    leave(output, request_for(), checkpoint=False)
    assert inspect_output(output, request_for(epochs=9)) == "nothing"


def test_a_request_that_cannot_be_read_is_refused_in_one_line(request_for, output):
    leave(output, request_for())
    storage.write_bytes(WorkFolder.of(output).request, b"{")
    with pytest.raises(BadRequest, match=r"delete .*\.training to begin anew"):
        inspect_output(output, request_for())


def test_a_bundle_that_was_being_written_is_in_nobodys_way_and_other_files_are(request_for, output):
    leave(output, request_for())
    storage.write_bytes(f"{output}/model.safetensors", b"half")
    storage.write_bytes(f"{output}/training/curves.png", b"half")
    assert inspect_output(output, request_for()) == "unfinished"
    storage.write_bytes(f"{output}/notes.txt", b"mine")
    with pytest.raises(BadRequest, match="is not empty"):
        inspect_output(output, request_for())


def test_only_this_requests_own_model_counts_as_trained(request_for, output):
    storage.write_json(f"{output}/bundle.json", {"provenance": {"request": request_for().digest}})
    assert inspect_output(output, request_for()) == "trained"
    with pytest.raises(BadRequest, match="holds a model already"):
        inspect_output(output, request_for(seed=1))
    for other in (b"{", b'{"provenance": null}', b"{}"):
        storage.write_bytes(f"{output}/bundle.json", other)
        with pytest.raises(BadRequest, match="holds a model already"):
            inspect_output(output, request_for())


def test_beginning_leaves_nothing_of_another_training(request_for, output):
    work = WorkFolder.of(output)
    leave(output, request_for(seed=1))
    storage.write_bytes(work.ray + "/torn/snapshot.json", b"{")
    state.begin_training(output, request_for(), writer=storage.Writer())
    assert storage.list_names(work.uri) == ["request.json"]
    assert work.history() == []
