"""`--max-file-size` takes a size with its unit."""

import pytest
from support.each import each

from brainray.config import ScoreOptions, parse_size
from brainray.errors import BadRequest


@each(
    ("text", "size_bytes"),
    [("4096", 4096), ("500MB", 500_000_000), ("1 GiB", 1 << 30), ("1.5kib", 1536), ("2 tb", 2 * 10**12), ("7B", 7)],
)
def test_size_is_read_with_its_unit(text: str, size_bytes: int) -> None:
    assert parse_size("--max-file-size", text) == size_bytes


@each("text", ["", "big", "1 parsec", "-1", "1e9", "10%"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadRequest, match=f"--max-file-size is '{text}'; give a size such as 500MB"):
        parse_size("--max-file-size", text)


def test_no_bytes_are_no_limit() -> None:
    with pytest.raises(BadRequest, match="--max-file-size"):
        ScoreOptions(max_file_bytes=0)
