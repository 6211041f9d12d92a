"""An index of URIs finds what a dictionary finds, also where hashes are equal."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from brainray.inputs import listed_image
from brainray.inputs.listed_image import UriIndex

URIS = st.lists(st.text("ab/é", max_size=3), max_size=30)


def find(held, wanted):
    return UriIndex(pa.array(held, pa.string())).find(pa.array(wanted, pa.string())).to_pylist()


@given(URIS, URIS)
def test_it_gives_the_first_place_and_null_for_none(held, wanted):
    assert find(held, wanted) == [held.index(uri) if uri in held else None for uri in wanted]


def test_equal_hashes_of_other_uris_do_not_mislead_it(monkeypatch):
    plain = listed_image.hashes_of
    monkeypatch.setattr(listed_image, "hashes_of", lambda uris: plain(uris) % 2)
    held = [f"s3://bucket/{number}.png" for number in range(50)]
    assert find(held, [*reversed(held), "s3://bucket/50.png"]) == [*range(49, -1, -1), None]
