"""Doctor finds images without suffix, as `score` does."""

from support.imaging.images import image_bytes

from brainray.doctor.inputs import first_image


def test_images_without_suffix_are_found(tmp_path):
    (tmp_path / "LICENSE").write_text("text")
    assert first_image(str(tmp_path)) == (None, 1)
    (tmp_path / "MR.1.2.840.1").write_bytes(image_bytes(0))
    found, skipped = first_image(str(tmp_path))
    assert (found.uri, skipped) == (f"{tmp_path}/MR.1.2.840.1", 2)
