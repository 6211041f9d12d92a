"""What is said of images that cannot be read names none of them, in no spelling."""

import pickle
import traceback

import pytest
from support.each import each

from brainray.errors import BadRequest, BrainrayError, ImageError, Outage, StorageError
from brainray.inputs.unread import UNREAD
from brainray.scoring.pseudonyms.errors import hidden, without_names

URI, PSEUDONYM = "/in/Ward 3/王伟/Jane^Doe.zip#scan/jane.jpg", "p:ab/cd.zip#ef/gh.jpg"


@each(
    ("detail", "shown"),
    [
        (f"{URI}: is gone since it was listed", f"{PSEUDONYM}: is gone since it was listed"),
        ("/in/Ward 3/王伟/Jane^Doe.zip: short read, got 1 of 2 bytes", "p:ab/cd.zip: short read, got 1 of 2 bytes"),
        ("unpacks to 7 of 9 bytes", "unpacks to 7 of 9 bytes"),
        ("another member, 'mary o\\'hara.jpg', is at its place", "another member, (a name), is at its place"),
        ('another member, "o\'hara.jpg", is at its place', "another member, (a name), is at its place"),
        ("GET /in/Ward%203/JANE^DOE.zip: 500", f"{PSEUDONYM}: it may not be read"),
        ("the folder Ward 3 is empty", f"{PSEUDONYM}: it may not be read"),
        ("row of 王伟 is damaged", f"{PSEUDONYM}: it may not be read"),
    ],
)
def test_details_lose_names_and_keep_what_is_wrong(detail, shown):
    assert hidden(ImageError("forbidden", detail), PSEUDONYM, URI).detail == shown


def test_an_image_whose_reader_is_missing_stays_known_as_such_in_a_folder_named_like_it():
    detail = "it is a DICOM file; to read it: pip install 'brainray[dicom]', then run again with --retry-unread"
    found = hidden(ImageError("unsupported", detail), "p:ab/cd.dcm", "/in/dicom/a.dcm")
    assert "it is a DICOM file" in found.detail


def test_a_file_that_could_not_be_listed_stays_known_as_such_in_a_folder_named_like_what_is_said():
    """Else the next run would take it for one image."""
    detail = f"{UNREAD}, so that its frames are not known; run again to look once more: no answer"
    found = hidden(ImageError("read_failed", detail), "p:ab/cd.tif", "/in/frames/run/a.tif")
    assert found.detail.startswith(f"{UNREAD}; p:ab/cd.tif: ")


@each(
    ("raised", "kind"),
    [
        (Outage(f"the last image could not be read ({URI}: no such file)"), Outage),
        (StorageError("forbidden", f"{URI}: denied"), Outage),
        (BadRequest(f"{URI}: no credentials"), BrainrayError),
    ],
)
def test_an_error_that_ends_a_run_carries_no_name_into_the_logs_of_workers(raised, kind):
    def images():
        yield b"bytes", 1
        raise raised

    found = without_names(images(), [PSEUDONYM, PSEUDONYM], [URI, URI])
    assert next(found) == (b"bytes", 1)
    with pytest.raises(kind) as caught:
        next(found)
    logged = "".join(traceback.format_exception(caught.value)) + str(pickle.dumps(caught.value))
    assert "ane" not in logged.replace("lane", "")
    assert type(caught.value) is kind
