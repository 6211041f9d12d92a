"""Pseudonyms: what they keep of names, what they hide, and where the folder of their key may lie."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.each import each

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs import archives
from brainray.inputs.frames.listing import is_frame
from brainray.scoring.pseudonyms.key import Pseudonyms, is_local, read_pseudonyms

HIDDEN = Pseudonyms("/names", bytes(range(32)))
NO_PLACE = (None, None, None)
names = st.text(st.characters(blacklist_characters="/#\0", blacklist_categories=("Cs",)), min_size=5, max_size=20)


@given(folders=st.lists(names, min_size=1, max_size=3), name=names, suffix=st.sampled_from([".jpg", ".DCM", ".x", ""]))
def test_no_part_of_a_path_is_in_its_pseudonym_and_another_path_has_another(folders, name, suffix):
    uri = "/".join(["", *folders, name + suffix])
    found = HIDDEN.of_image(uri, None, NO_PLACE)
    assert not any(part in found for part in (*folders, name))
    assert found == Pseudonyms("/elsewhere", HIDDEN.key).of_image(uri, None, NO_PLACE)
    assert found != HIDDEN.of_image(uri + "x", None, NO_PLACE)
    assert found != Pseudonyms("/names", bytes(32)).of_image(uri, None, NO_PLACE)
    assert found.endswith(suffix.lower()) == (suffix != ".x") and not any(sign.isdigit() for sign in found)


def test_images_of_one_folder_have_one_folder_and_members_begin_with_their_archive():
    one, two, other = (HIDDEN.of_file(f"/in/{name}") for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"))
    assert one.rpartition("/")[0] == two.rpartition("/")[0] != other.rpartition("/")[0]
    archive = "/in/jane.tar.gz"
    members = [HIDDEN.of_image(f"{archive}#{name}", archive, (512, 9, 9)) for name in ("j/1.png", "j/2.png", "k/1.png")]
    assert all(each.startswith(HIDDEN.of_file(archive) + "#") for each in members)
    assert [each.rpartition("/")[0] == members[0].rpartition("/")[0] for each in members] == [True, True, False]
    assert archives.kind_of(members[0].partition("#")[0]) == "compressed tar"


@each(
    ("file", "name", "place"),
    [
        ("/in/jane.dcm", "3", (2, 10, 30)),
        ("/in/jane.nii.gz", "t=1,z=57", (57, 10, 30)),
        ("/in/jane", "2", (1, 10, 30)),
        ("/in/jane.zip", "doe.dcm#frame=3", (0, 10, 30)),
        ("/in/jane.zip", "doe/doe.nii.gz#t=1,z=57", (0, 10, 30)),
    ],
)
def test_frames_and_slices_keep_their_numbers_and_stay_what_they_are(file, name, place):
    found = HIDDEN.of_image(f"{file}#{name}", file, place)
    container = HIDDEN.of_file(file)
    assert found.endswith("#" + name.rpartition("#")[2]) and "doe" not in found
    was, now = (is_frame(*each, *place) for each in ((file, name), (container, found[len(container) + 1 :])))
    assert was == now == ("zip" not in file)


def test_a_member_whose_name_is_a_number_is_no_frame_afterwards():
    found = HIDDEN.of_image("/in/bag#513", "/in/bag", (512, 9, 9))
    assert not found[-1].isdigit()


def test_suffixes_stay_only_where_they_are_those_of_formats():
    kept = {name: HIDDEN.of_file(f"/in/{name}").partition("/")[2][20:] for name in (
        "a.JPG", "a.nii.gz", "a.dcm.gz", "a.tar.gz", "a.parquet", "dr.jane", "jane.1956", "a.jane.gz", ".zip", "jane"
    )}  # fmt: skip
    assert list(kept.values()) == [".jpg", ".nii.gz", ".dcm.gz", ".tar.gz", ".parquet", "", "", "", "", ""]


def test_groups_have_a_pseudonym_for_each_level_and_scan_columns_stay():
    made = Pseudonyms("/names", HIDDEN.key)
    one, two = made.of_group("A/jane", 2), made.of_group("B/jane", 2)
    assert one.split("/")[1] != two.split("/")[1], "a patient of another site is another one"
    assert made.of_group("A/{scan_vendor}/", 3) == f"{one.split('/')[0]}/{{scan_vendor}}/"
    assert "/" not in made.of_group("A/jane", 1) and made.of_group(None, 1) is None
    assert made.texts[one] == "A/jane" and made.texts[one.split("/")[0]] == "A"


def test_what_group_by_counts_is_told_and_what_it_names_is_not():
    told = ("folder", "site=folder,patient=folder:1", "bids", "scan_vendor,folder")
    assert [HIDDEN.of_group_by(text) for text in told] == list(told)
    assert "jane" not in HIDDEN.of_group_by("(jane|doe)")


def test_an_image_of_a_bucket_is_known_to_be_in_one():
    assert not is_local(HIDDEN.of_file("s3://bucket/jane.png")) and is_local(HIDDEN.of_file("/in/jane.png"))


def test_neither_key_nor_folder_is_made_before_something_is_to_be_kept(tmp_path):
    found = read_pseudonyms(str(tmp_path / "names"), output=str(tmp_path / "run"), inputs=[str(tmp_path / "in")])
    assert not os.path.exists(found.folder) and repr(found.key) not in repr(found)
    found.write_key()
    again = read_pseudonyms(str(tmp_path / "names"), output=str(tmp_path / "run"), inputs=[str(tmp_path / "in")])
    assert again.key == found.key


def test_of_two_runs_that_begin_a_folder_at_once_one_is_refused(tmp_path):
    one, two = (read_pseudonyms(str(tmp_path / "names"), output=str(tmp_path / "run"), inputs=[]) for _ in range(2))
    one.write_key()
    with pytest.raises(BadRequest, match="another run has just begun it; run the same command again"):
        two.write_key()
    one.write_key()


@each(
    ("folder", "told"),
    [
        ("s3://bucket/names", "would lie in a bucket"),
        ("run/names", "lies in --output"),
        ("in/names", "lies in --input"),
        ("in", "lies in --input"),
        (".", "lies in --pseudonymise-uris"),
        ("link/names", "lies in --input"),
        ("file", "is a file"),
        ("others", "holds other files and no key"),
        ("short", "is no key of brainray"),
    ],
)
def test_a_folder_that_readers_would_find_or_that_is_none_is_refused(folder, told, tmp_path):
    for name in ("in", "others", "short"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for name in ("file", "others/notes", "short/key"):
        (tmp_path / name).write_bytes(b"text")
    given_folder = folder if "://" in folder else str(tmp_path / folder)
    with pytest.raises(BadRequest, match=told):
        read_pseudonyms(given_folder, output=str(tmp_path / "run"), inputs=[str(tmp_path / "in")])


def test_a_folder_that_another_command_is_just_beginning_is_one_folder(tmp_path, monkeypatch):
    """Its key is there before any of its files, and whoever finds files finds the key."""
    folder = str(tmp_path / "names")
    other, late = (read_pseudonyms(folder, output="/out", inputs=["/in"]) for _ in range(2))
    list_names = storage.list_names

    def begun_meanwhile(uri):
        other.write_key()
        return list_names(uri)

    monkeypatch.setattr(storage, "list_names", begun_meanwhile)
    assert read_pseudonyms(folder, output="/out", inputs=["/in"]) == other
    with pytest.raises(BadRequest, match="another run has just begun it; run the same command again"):
        late.write_key()
    assert (tmp_path / "names" / "key").read_bytes() == other.key
