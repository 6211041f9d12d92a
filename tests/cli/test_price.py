"""A price is checked before anything is scored to estimate a cost."""

import pytest

from brainray.cli.app import run


@pytest.mark.parametrize("price", ["-1", "nan", "inf"])
def test_a_price_that_is_no_amount_is_refused(tmp_path, capsys, price):
    code = run(["score", "--input", str(tmp_path), "--output", str(tmp_path / "out"), "--price", price])
    assert (code, capsys.readouterr().err) == (2, f"brainray: --price is {price}; it must be 0 or more\n")
