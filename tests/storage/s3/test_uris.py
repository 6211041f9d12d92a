"""Locations in a bucket have one spelling, and keys survive it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.each import each
from support.storage.s3_objects import files

from brainray.errors import (
    BadRequest,
)
from brainray.storage.s3 import uris as s3_uris


@each(
    ("given_uri", "wanted"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket//a//", "s3://bucket/a"),
        ("s3://my.bucket-1/a b/%41#?x", "s3://my.bucket-1/a b/%41#?x"),
    ],
)
def test_a_location_has_one_spelling(given_uri, wanted):
    assert files().normalise(given_uri) == wanted
    assert files().normalise(wanted) == wanted


@each("uri", ["s3://", "s3:///key", "s3://b/key", "s3://no spaces/key", "s3://bucket/a/../b", "s3://_x/y"])
def test_a_location_that_names_nothing_is_refused_in_one_line(uri):
    with pytest.raises(BadRequest) as caught:
        files().normalise(uri)
    assert len(str(caught.value).splitlines()) == 1


@given(key=st.text(min_size=1).filter(lambda key: not key.endswith("/")))
def test_a_key_survives_its_uri(key):
    assert s3_uris.split(f"s3://bucket/{key}") == ("bucket", key)
    assert s3_uris.name_of(f"s3://bucket/{key}") == key.rpartition("/")[2]
