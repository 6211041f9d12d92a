"""Values -> the text of the page."""

from hypothesis import given
from hypothesis import strategies as st
from support.each import each

from brainray.evaluation.metrics import wilson
from brainray.page import text


@given(st.text(), st.integers(20, 60))
def test_cut_text_is_no_longer_than_asked_and_shows_every_character_it_has(value, most):
    shown = text.cut(value, most)
    assert len(shown) <= most
    assert shown == text.visible(shown)


def test_a_long_name_keeps_its_beginning_and_its_end():
    shown = text.cut("/data/site/" + "x" * 10_000 + "/slice0001.jpg")
    assert shown.startswith("/data/site/")
    assert shown.endswith("/slice0001.jpg")
    assert len(shown) == text.NAME_CHARS


@each("mark", ["\u202e", "\u200f", "\u2066", "\u200b", "\x00", "\n", "\ud800"])
def test_characters_that_nobody_sees_are_written_out(mark):
    assert text.visible(f"a{mark}b") == f"a\\u{ord(mark):04x}b"


def test_other_scripts_stay_as_they_are():
    assert text.visible("脑 мозг مخ Gehirn 🧠") == "脑 мозг مخ Gehirn 🧠"


@each(
    ("share", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.9649, "96.5 %"),
        (0.99999, "> 99.9 %"),
        (0.00001, "< 0.1 %"),
    ],
)
def test_only_all_is_a_hundred_percent_and_only_nothing_is_zero(share, shown):
    assert text.percent(share).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_an_interval_ends_at_a_hundred_percent_only_where_all_may_be_right():
    low, high = (float(end) for end in wilson(8_000, 8_000))
    assert text.between(low, high).replace("\N{NO-BREAK SPACE}", " ") == "> 99.9 to 100.0 %"
    assert text.between(0.0, 1 - low).replace("\N{NO-BREAK SPACE}", " ") == "0.0 to < 0.1 %"
    assert text.decimal(low) == "> 0.999"
    assert text.decimal(1 - low) == "< 0.001"
    assert text.decimal(75.41) == "75.410"


@each(("seconds", "shown"), [(0.0, "0.1 s"), (4.2, "4.2 s"), (42, "42 s"), (61, "1 min 1 s"), (5400, "1 h 30 min")])
def test_durations_have_the_unit_that_fits(seconds, shown):
    assert text.duration(seconds) == shown
