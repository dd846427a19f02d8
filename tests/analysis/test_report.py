"""Pages from templates: what is shown is text, a picture lies in the page, what is forgotten is an error."""

import base64

import jinja2
import pytest

from pufferlib_kcore.analysis import report
from pufferlib_kcore.analysis.tables import Cell, Table

EVIL = "<script>alert(1)</script>\"'&"
MINE = (
    '{% extends "page.html" %}{% from "parts.html" import boxed, image %}'
    "{% block body %}{{ image(png, title) }}{{ boxed(rows) }}{% endblock %}"
)


@pytest.fixture
def mine(tmp_path):
    """A template elsewhere, which builds on those of the room."""
    path = tmp_path / "mine.html"
    path.write_text(MINE)
    return path


def test_what_is_shown_is_text_whatever_it_holds(mine):
    rows = Table([{EVIL: Cell(EVIL, href=EVIL, look=EVIL), "n": 1234}])
    page = report.render(mine, title=EVIL, png=b"picture", rows=rows)
    assert "<script" not in page and page.count("&lt;script&gt;") == 7
    assert f'src="data:image/png;base64,{base64.b64encode(b"picture").decode()}"' in page
    assert '<td class="number">1,234</td>' in page


def test_what_a_template_is_not_given_is_an_error(mine):
    with pytest.raises(jinja2.UndefinedError, match="title"):
        report.render(mine, png=b"", rows=Table())


def test_links_and_looks_are_around_the_text_alone():
    rows = Table([{"a": Cell("x", href="to/x", look="long"), "b": Cell("y"), "c": None}])
    assert '<td><a href="to/x"><span class="long">x</span></a></td><td>y</td><td></td>' in rows._repr_html_()
