"""Cells: what a spreadsheet shows, for the formats that occur."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.data.cells import Value, plain, shown

DAY = datetime.datetime(1998, 7, 13)
ACCOUNTING = '_-* #,##0.00\\ "€"_-;\\-* #,##0.00\\ "€"_-;_-* "-"??\\ "€"_-;_-@_-'
SHOWN: list[tuple[Value, str, str, str]] = [
    (1001, "00000", "01001", "01001"),
    (612345678, '0#" "##" "##" "##" "##', "06 12 34 56 78", "06 12 34 56 78"),
    (0.25, "0%", "25%", "25%"),
    (0.25, "0\\ %", "25 %", "25 %"),
    (0.2555, "0.0%", "25,6%", "25.6%"),
    (1234567.891, "#,##0.00", "1\u202f234\u202f567,89", "1,234,567.89"),
    (1234.5, '#,##0.00\\ "€"', "1\u202f234,50 €", "1,234.50 €"),
    (1234.5, "#,##0.00\\ [$€-40C]", "1\u202f234,50 €", "1,234.50 €"),
    (1234.5, "[$$-409]#,##0.00", "$1\u202f234,50", "$1,234.50"),
    (-1234.5, ACCOUNTING, "-1\u202f234,50 €", "-1,234.50 €"),
    (0, ACCOUNTING, "- €", "- €"),
    (-3, "0;[Red](0)", "(3)", "(3)"),
    (-3, "0.00", "-3,00", "-3.00"),
    (0, '0;-0;"zéro"', "zéro", "zéro"),
    (2, '[<=1]0" mois";0" jours"', "2 jours", "2 jours"),
    (1500000, '0.0,,"M"', "1,5M", "1.5M"),
    (2.675, "0.00", "2,68", "2.68"),
    (2.5, "0", "3", "3"),
    (1.25, "# ?/?", "1 1/4", "1 1/4"),
    (0.375, "# ?/8", "3/8", "3/8"),
    (12345.678, "0.00E+00", "1,23E+04", "1.23E+04"),
    (12345.678, "##0.0E+0", "12,3E+3", "12.3E+3"),
    (12, "General", "12", "12"),
    (12.0, "General", "12", "12"),
    (0.1 + 0.2, "General", "0,3", "0.3"),
    (1 / 3, "General", "0,333333333", "0.333333333"),
    (9782070360024, "General", "9782070360024", "9782070360024"),
    (1e20, "General", "1E+20", "1E+20"),
    (0.0000015, "General", "1,5E-06", "1.5E-06"),
    (7, "@", "7", "7"),
    (DAY, "mm-dd-yy", "13/07/1998", "7/13/1998"),
    (DAY, "dd/mm/yyyy", "13/07/1998", "13/07/1998"),
    (DAY, "yyyy-mm-dd", "1998-07-13", "1998-07-13"),
    (DAY, "d mmmm yyyy", "13 juillet 1998", "13 July 1998"),
    (DAY, "[$-40C]d mmmm yyyy", "13 juillet 1998", "13 juillet 1998"),
    (DAY, "[$-fr-FR]dddd d mmmm yyyy;@", "lundi 13 juillet 1998", "lundi 13 juillet 1998"),
    (DAY, "[$-409]d-mmm-yy", "13-Jul-98", "13-Jul-98"),
    (DAY, "mmm-yy", "juil.-98", "Jul-98"),
    (
        DAY,
        "[$-F800]dddd\\,\\ mmmm\\ dd\\,\\ yyyy",
        "lundi 13 juillet 1998",
        "Monday, July 13, 1998",
    ),
    (DAY.replace(hour=18, minute=5), "dd/mm/yyyy hh:mm", "13/07/1998 18:05", "13/07/1998 18:05"),
    (DAY.replace(hour=18, minute=5), "h:mm AM/PM", "6:05 PM", "6:05 PM"),
    (DAY.replace(hour=18, minute=5, second=9), "mm:ss", "05:09", "05:09"),
    (datetime.time(18, 0), "h:mm", "18:00", "18:00"),
    (datetime.timedelta(hours=36), "[h]:mm:ss", "36:00:00", "36:00:00"),
]


@pytest.mark.parametrize(("value", "code", "french", "english"), SHOWN)
def test_a_value_is_read_as_it_is_shown(value: Value, code: str, french: str, english: str) -> None:
    assert (shown(value, code, lambda: "fr"), shown(value, code, lambda: "en")) == (french, english)


@pytest.mark.parametrize("code", [";;;", "[$-411]ggge", "0.0 xyz", "[DBNum1]0", "[$-407]mmmm"])
def test_a_format_that_is_not_known_or_shows_nothing_gives_no_text(code: str) -> None:
    value = DAY if "m" in code else 7
    assert shown(value, code, lambda: "fr") is None
    assert plain(value, lambda: "fr") == ("1998-07-13" if value is DAY else "7")


PARTS = ["0", "#", "?", ".", ",", "%", "E+", "/", "@", "yyyy", "mm", "d", "h", "ss", "AM/PM", "[h]"]
PARTS += ['"x"', "\\ ", "_-", "* ", "[$€-40C]", "[Red]", ";", "General", "[>5]", '"', "[", "]", "("]
VALUES: list[Value] = [0, 1, -1, 12.5, -0.001, 1e20, 1e-9, DAY, DAY.date(), datetime.time(4, 5)]


@given(st.sampled_from(VALUES), st.lists(st.sampled_from(PARTS), max_size=9))
def test_any_format_gives_a_text_or_none(value: Value, parts: list[str]) -> None:
    text = shown(value, "".join(parts), lambda: "fr")
    assert text is None or text == text.strip() != ""


def test_the_language_is_asked_only_where_it_matters() -> None:
    def never() -> str:
        raise AssertionError

    assert shown(12, "General", never) == "12"
    assert shown(1001, "00000", never) == "01001"
    assert shown(DAY, "dd/mm/yyyy", never) == "13/07/1998"
