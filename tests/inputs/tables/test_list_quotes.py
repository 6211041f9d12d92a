"""An unclosed quote in a CSV list swallows no rows; quoted line breaks where they belong are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainray.errors import BadRequest
from brainray.inputs.lists.file_lists import open_file_list
from brainray.inputs.tables.csv_quotes import CheckedQuotes


def rows_of(path, text, keep=()):
    path.write_bytes(text.encode())
    return list(open_file_list(str(path)).rows(keep))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "list.csv"


def hundreds(**replaced):
    lines = {number: f"{number}.jpg" for number in range(2, 302)}
    return "\n".join(["uri", *(lines | {int(k[1:]): v for k, v in replaced.items()}).values(), ""])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (hundreds(n290='"290.jpg'), "line 290 is not closed"),
        (hundreds(n301='"301.jpg'), "line 301 is not closed"),
        (hundreds(n290='"290.jpg', n295='295.jpg"'), "line 290 takes 5 more line(s) into the name of an image"),
        (hundreds(n290='"290.jpg', n295='"295.jpg"'), "line 290 is closed 5 line(s) below, in the middle of a value"),
        (hundreds(n290='"290.jpg').replace("\n", "\r\n"), "line 290 is not closed"),
        ('uri,note\na.jpg,x\nb.jpg,"open\nc.jpg,y\n', "line 3 is not closed"),
        ('uri,note\na.jpg,"two\nlines"\nb.jpg,"open\nc.jpg,y\n', "line 4 is not closed"),
        ('uri,note\na.jpg,"open\nb.jpg,"x"\nc.jpg,y\n', "line 2 is closed 1 line(s) below, in the middle"),
        ('note,uri\n"two\nlines","a.jpg\nb.jpg"\n', "line 3 takes 1 more line(s) into the name"),
        ('uri,"note\na.jpg,x\nb.jpg,y\n', "line 1 is not closed"),
        ('\ufeff"uri\na.jpg\n', "line 1 is not closed"),
        ('uri,note\na.jpg,"' + "x\n" * (1 << 20) + '"\n', "line 2 is not closed within 1,048,576 bytes"),
    ],
    ids=range(12),
)
def test_an_unclosed_quote_is_refused_with_its_line(path, text, told):
    with pytest.raises(BadRequest) as raised:
        rows_of(path, text)
    assert f"--input {path}: the quote in {told}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        'note,uri\nx,a.jpg\n"x,b.jpg\nx,c.jpg\nx",d.jpg\n',
        'uri,note\na.jpg,x\nb.jpg,"x\nc.jpg,x"\nd.jpg,x\n',
        'uri,note\r\na.jpg,x\r\nb.jpg,"x\r\nc.PNG,x"\r\nd.jpg,x\r\n',
    ],
    ids=range(3),
)
def test_two_stray_quotes_take_no_rows_into_a_note(path, text):
    with pytest.raises(
        BadRequest, match=r"the quote in line 3 is closed \d line\(s\) below, and the lines between look"
    ):
        rows_of(path, text)


def test_a_note_over_several_lines_may_speak_of_images(path):
    text = 'uri,note\na.jpg,"see\nb.jpg\nand c.jpg, too, d.jpg"\n'
    assert [row.uri.rpartition("/")[2] for row in rows_of(path, text)] == ["a.jpg"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_quoted_line_breaks_in_other_columns_are_kept(path, ending):
    text = ending.join(
        ['note,"uri",more', '"a ""b""', ',c","x, 1.jpg",5" thick', '"",2.jpg ,"d', 'e" ', ' "f,3.jpg,', ""]
    )
    found = rows_of(path, text, keep=("note", "more"))
    assert [row.uri.rpartition("/")[2] for row in found] == ["x, 1.jpg", "2.jpg ", "3.jpg"]
    broken = "\\r\\n" if ending == "\r\n" else "\\n"
    assert found[0].kept == f'["a \\"b\\"{broken},c", "5\\" thick"]'
    assert found[1].kept in (f'["", "d{broken}e "]', f'[null, "d{broken}e "]')


def test_a_quote_within_a_name_is_a_character(path):
    assert [row.uri.rpartition("/")[2] for row in rows_of(path, 'uri\n5"a.jpg\n"6""b".jpg\n')] == ['5"a.jpg', '6"b.jpg']


class Pieces:
    """A file that is read in pieces of a fixed size, wherever they end."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def read(self, nbytes: int | None = None) -> bytes:
        data, self._data = self._data[: self._size], self._data[self._size :]
        return data


def outcome(data: bytes, size: int) -> str:
    checked = CheckedQuotes(Pieces(data, size), source="list", one_line={0})
    try:
        while checked.read():
            pass
    except BadRequest as exc:
        return str(exc)
    return "well"


@given(data=st.lists(st.sampled_from(['"', ",", "\n", "\r\n", "a", " "]), max_size=24), size=st.integers(1, 9))
def test_the_finding_does_not_depend_on_the_pieces(data, size):
    text = "".join(data).encode()
    assert outcome(text, size) == outcome(text, 1000)
