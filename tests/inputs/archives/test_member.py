"""Names of archives and of their members."""

from brainray.inputs.archives import (
    kind_of,
    member_uri,
    split_refusal,
    stem,
)


class TestNamesOfContainers:
    def test_the_suffix_tells_the_kind_in_any_case(self):
        kinds = {"a.tar": "tar", "B.ZIP": "zip", "c.Parquet": "parquet", "d.pq": "parquet"}
        assert {name: kind_of(name) for name in kinds} == kinds
        assert [kind_of(name) for name in ("a.gz", "tar", "x.jpg", "zip.png")] == [None] * 4

    def test_a_container_counts_as_a_folder_named_without_the_suffix(self):
        assert [stem(name) for name in ("in/train.000.tar", "b.PQ", "x.jpg")] == ["in/train.000", "b", "x.jpg"]

    def test_a_member_has_a_uri_and_the_container_keeps_its_own(self):
        assert member_uri("s3://b/a.tar", "x/1.jpg") == "s3://b/a.tar#x/1.jpg"
        assert member_uri("s3://b/a.tar", "") == "s3://b/a.tar"

    def test_a_refusal_becomes_the_error_it_was(self):
        error = split_refusal("unsupported: is encrypted: yes")
        assert (error.reason, error.detail) == ("unsupported", "is encrypted: yes")
