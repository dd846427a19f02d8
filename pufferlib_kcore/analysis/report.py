"""Reports: HTML pages from templates, that hold all they show, without scripts and loads from elsewhere."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pufferlib_kcore.text import readable

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str | Path, **shown: Any) -> str:
    """A page as text. What is shown is text in it, whatever it holds.

    template  a file here, or the path of one elsewhere, which may build on those here
    """
    path = TEMPLATES / template
    pages = Environment(
        loader=FileSystemLoader([TEMPLATES, path.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters |= {"base64": _base64, "readable": readable}
    return pages.get_template(path.name).render(shown)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
