"""Groups in one level or several: which group an image gets, and what is refused."""

import pytest
from support.each import each

from brainray.errors import BadRequest
from brainray.inputs.image_files import Grouper, GroupLevels

URI, FOLDERS = "/in/A/patient 7/s2/x.png", ("A", "patient 7", "s2")


@each(
    ("group_by", "names", "group"),
    [
        (None, (), None),
        ("folder", ("folder",), "A"),
        ("folder:1", ("folder:1",), "patient 7"),
        ("folder:-1", ("folder:-1",), "s2"),
        ("folder:3", ("folder:3",), None),
        (r"patient (\d)", ("group",), "7"),
        (r"patient \d{1,2}", ("group",), "patient 7"),
        (r"(?P<patient>patient \d)", ("patient",), "patient 7"),
        (r"site=([^/]+)", ("group",), None),
        ("folder,folder:1", ("folder", "folder:1"), "A/patient 7"),
        ("site=folder, patient=folder:1", ("site", "patient"), "A/patient 7"),
        (("site=folder", r"(?P<patient>\d)/"), ("site", "patient"), "A/7"),
        (r"/(?P<site>[^/]+)/patient (?P<patient>\d)/(?P<series>\w+)", ("site", "patient", "series"), "A/7/s2"),
        (("site=folder", "none=folder:9"), ("site", "none"), "A/"),
        (("a=folder:8", "b=folder:9"), ("a", "b"), None),
        (("site=folder", r"(?P<path>A/p)"), ("site", "path"), "A/A%2Fp"),
    ],
)
def test_each_level_is_a_folder_or_a_match(group_by, names, group):
    levels = GroupLevels(group_by)
    assert (levels.names, levels(URI, FOLDERS)) == (names, group)


@each(
    ("uri", "group", "subject"),
    [
        ("/ds/sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz#z=5", "sub-01/ses-2", "sub-01"),
        ("s3://b/sub-study/ds/sub-A9/anat/sub-A9_T1w.nii.gz#z=5", "sub-A9/", "sub-A9"),
        ("/ds/sub-01/ses-2/scan.dcm#3", "sub-01/ses-2", "sub-01"),
        ("/ds/subject-01/scan.dcm", None, None),
    ],
)
def test_subject_and_session_of_bids_are_levels_and_the_subject_a_group(uri, group, subject):
    levels = GroupLevels("bids")
    assert (levels.names, levels(uri, ())) == (("subject", "session"), group)
    assert Grouper("bids", option="--group-regex")(uri, ()) == subject


@each(
    ("group_by", "why"),
    [
        ("(", r"--group-by '\(' is no regular expression"),
        (("folder", "folder"), "two levels are named 'folder'"),
        ((r"a(\d)", r"b(\d)"), "two levels are named 'group'; give each a name"),
        (r"folder,(\d)", "mixes folders and a regular expression"),
    ],
)
def test_what_is_no_level_is_refused(group_by, why):
    with pytest.raises(BadRequest, match=why):
        GroupLevels(group_by)
