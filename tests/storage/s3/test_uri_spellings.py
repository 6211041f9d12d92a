"""Other spellings of S3 locations: Hadoop's schemes, upper case, ARNs of access points."""

import pytest
from support.each import each

from brainray import storage
from brainray.errors import BadRequest
from brainray.storage.s3 import uris

POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/scans"


@each("scheme", ["s3", "S3", "s3a", "S3A", "s3n"])
def test_schemes_of_hadoop_and_upper_case_name_the_same(scheme: str) -> None:
    assert storage.normalise(f"{scheme}://Bucket/a/B.jpg/") == "s3://Bucket/a/B.jpg"
    assert storage.normalise_listed(f"{scheme}://bucket//a/") == "s3://bucket//a/"


@each(
    "arn",
    [
        POINT,
        POINT.replace("accesspoint/", "accesspoint:"),
        "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/scans",
        "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/small",
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/scans",
    ],
)
def test_arn_of_an_access_point_is_a_bucket(arn: str) -> None:
    assert uris.split(storage.normalise(f"s3://{arn}/a/b.jpg")) == (arn, "a/b.jpg")
    assert uris.split(storage.normalise(f"s3://{arn}/")) == (arn, "")
    assert uris.resolve(f"s3://{arn}/lists", "../b.jpg") == f"s3://{arn}/b.jpg"


def test_alias_of_an_access_point_is_a_usual_bucket() -> None:
    alias = "scans-aqfqprnstn7aefdfbarligizwgyfouse1a-s3alias"
    assert uris.split(storage.normalise(f"s3://{alias}/a")) == (alias, "a")


@each("arn", ["arn:aws:s3::123456789012:accesspoint/m.mrap", "arn:aws:s3:::bucket"])
def test_other_arn_is_refused_with_the_way_out(arn: str) -> None:
    with pytest.raises(BadRequest, match="alias of the access point"):
        storage.normalise(f"s3://{arn}/a")
