"""Which files are of one series, so that no split of training divides them."""

import gzip

from support.each import each
from support.imaging.dicoms import dicom
from support.imaging.encoded import drawing, packed

from brainray.imaging.dicom.same_series import series_digest

ONE, OTHER = (dicom(SeriesInstanceUID=f"1.2.826.0.1.{number}") for number in (7, 8))


def test_slices_packed_by_gzip_are_of_the_series_of_those_that_are_not():
    assert series_digest(gzip.compress(ONE)) == series_digest(ONE) != ""
    assert len({series_digest(gzip.compress(ONE)), series_digest(gzip.compress(OTHER)), ""}) == 3
    assert series_digest(gzip.compress(ONE), otherwise="a.dcm.gz") == series_digest(ONE)


@each(
    "content", [packed(drawing()), gzip.compress(packed(drawing())), gzip.compress(ONE)[:-30], gzip.compress(b""), b""]
)
def test_what_is_of_no_series_has_the_digest_of_its_file(content):
    assert series_digest(content) == ""
    assert series_digest(content, otherwise="a.tif") == series_digest(b"", otherwise="a.tif") != ""


def test_a_bomb_is_not_unpacked_for_its_series():
    assert series_digest(gzip.compress(ONE + bytes(1 << 20)), max_pixels=1000) == ""
