"""Laws of tables: every cell is shown, aligned, and as text only."""

from pufferlib_kcore.analysis.tables import Table


def test_columns_line_up_numbers_to_the_right():
    rows = [{"space": "a", "units": 5, "note": None}, {"space": "longer", "units": 12345, "note": "x"}]
    table = Table(rows)
    assert str(table).splitlines() == [
        "space    units  note",
        "a            5",
        "longer  12,345  x",
    ]


def test_only_keeps_the_order_asked_for_and_drops_what_is_empty():
    table = Table([{"a": 1, "b": None, "c": 0}, {"a": 2, "b": None}]).only(["c", "b", "a", "d"])
    assert table == [{"c": 0, "a": 1}, {"c": None, "a": 2}]
    assert table.columns == ["c", "a"]


def test_cells_are_text_in_html_whatever_they_hold():
    html = Table([{"<a>": "<script>alert('x')</script>", "&": "\"quoted\" & 'so'"}])._repr_html_()
    assert "<script" not in html and "<a>" not in html
    assert "&lt;script&gt;" in html and "&amp;" in html


def test_an_empty_table_is_nothing():
    assert str(Table()) == "" and not Table()
