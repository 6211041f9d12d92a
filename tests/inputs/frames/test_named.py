"""Frames of objects that a list names: each object is looked up once."""

import numpy as np
import pytest
from support.imaging.dicoms import dicom

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs import unnamed_files
from brainray.inputs.frames.named import NamedFrames
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unread import UNREAD
from brainray.storage.base import FileInfo

CONTENT = {
    "s3://bucket/a.dcm": dicom(np.zeros((3, 8, 8), np.uint16)),
    "s3://bucket/IM0001": dicom(np.zeros((3, 8, 8), np.uint16)),
    "s3://bucket/notes": b"plain text",
}


@pytest.fixture
def requests(monkeypatch):
    """The requests that a bucket with `CONTENT` got."""
    made = []

    def list_files(uri):
        made.append(uri)
        if uri == "s3://bucket/secret.dcm":
            raise StorageError("forbidden", uri)
        found = CONTENT.get(uri)
        return iter(() if found is None else [FileInfo(uri=uri, folders=(), size_bytes=len(found), version="v")])

    monkeypatch.setattr(storage, "list_files", list_files)
    monkeypatch.setattr(unnamed_files, "read_span", lambda uri, start, length: CONTENT[uri][start : start + length])
    return made


@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
def test_frames_of_an_object_are_found_by_one_look(requests, name):
    frames, uri = NamedFrames(), f"s3://bucket/{name}"
    found = [frames.find(ListedImage(f"{uri}#{number}", size_bytes=100)) for number in (1, 3)]
    assert [(each.container, each.offset, each.version) for each in found] == [(uri, 0, "v"), (uri, 2, "v")]
    assert {each.stored_bytes for each in found} == {len(CONTENT[uri])}, "not the share that a row of a run has"
    assert requests == [uri]


@pytest.mark.parametrize("name", ["notes#3", "gone#3", "gone.dcm#3", "a.dcm#x", "a.dcm"])
def test_other_names_are_keys_as_they_stand(requests, name):
    assert NamedFrames().find(ListedImage(f"s3://bucket/{name}")) is None


def test_a_file_that_cannot_be_looked_up_is_a_row_that_says_so(requests):
    found = NamedFrames().find(ListedImage("s3://bucket/secret.dcm#3"))
    assert (found.uri, found.container, found.offset) == ("s3://bucket/secret.dcm#3", "s3://bucket/secret.dcm", 2)
    assert found.refused.startswith(f"forbidden: {UNREAD}")
