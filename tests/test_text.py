"""Text for people: every cell is shown, in its column."""

import doctest

from pufferlib_kcore import text
from pufferlib_kcore.text import aligned, markdown, readable


def test_the_examples():
    assert doctest.testmod(text) == (0, 3)


def test_numbers_are_for_people():
    shown = {1234567: "1,234,567", 312.5: "312.5", 0.123456: "0.1235", 2.0: "2", -20.5: "-20.5", 0: "0"}
    assert {value: readable(value) for value in shown} == shown
    assert [readable(value) for value in (None, float("nan"), True, "a b", 123456.7)] == [
        *("", "", "True", "a b", "123,457")
    ]


def test_columns_begin_or_end_at_one_place_whatever_they_hold():
    rows = [["a", 5, "x"], ["longer", 12345, None], ["", 0.25, "yy"]]
    lines = aligned(rows, right=[1], indent="  ").splitlines()
    assert lines == ["  a            5  x", "  longer  12,345", "            0.25  yy"]
    assert aligned([]) == "" and aligned([[]]) == ""


def test_a_markdown_table_has_as_many_cells_in_every_line():
    head, rule, *body = markdown(["kept", "return", "n"], [["20%", 1234, 3], ["5%", None, 12]])
    assert {line.count("|") for line in (head, rule, *body)} == {4}
    assert len({len(line) for line in (head, rule, *body)}) == 1
    assert rule == "|------|-------:|---:|" and body[1] == "| 5%   |        | 12 |"
