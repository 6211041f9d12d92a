"""The first image of a list may be a member of an archive: the archive is what doctor reads."""

from support.inputs.archives import zip_of

from brainray.doctor.inputs import first_image


def test_the_archive_of_a_listed_member_is_found(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of({"1.jpg": b"x"}))
    (tmp_path / "b.zip#1.jpg").write_bytes(b"a file")
    for name, file in (("a.zip#1.jpg", "a.zip"), ("b.zip#1.jpg", "b.zip#1.jpg")):
        (tmp_path / "list.csv").write_text(f"uri\n{name}\n")
        found, _ = first_image(str(tmp_path / "list.csv"))
        assert found.uri == f"{tmp_path}/{file}"
