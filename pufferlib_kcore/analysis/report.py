"""Reports: one HTML page that holds all it shows, with no script and nothing loaded from elsewhere."""

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from pufferlib_kcore.analysis.tables import Table, number
from pufferlib_kcore.store import provenance as here

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; }
body { max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.3; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
img { width: 100%; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } .number { text-align: right; font-variant-numeric: tabular-nums; }
p { margin: 0 0 .8rem; color: #555; font-size: .9rem; }
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: #f6f6f6; padding: .8rem; }
"""


def page(
    title: str,
    png: bytes,
    tables: Mapping[str, Table],
    settings: Mapping[str, Mapping[str, Any]],
    notes: Mapping[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """The page as text.

    png: the figure.  tables: by heading; an empty one is left out.  notes: a sentence below a heading.
    settings: the config of each run by name.
    provenance: of the report itself, default: that of this process.
    """
    made = here() if provenance is None else provenance
    parts = [f"<h1>{html.escape(title)}</h1>", _image(png, title)]
    for name, table in tables.items():
        if table:
            note = (notes or {}).get(name, "")
            parts.append(_section(name, f"<p>{html.escape(note)}</p>\n{table._repr_html_()}"))
    parts.append(_section("Provenance of this report", _facts(made)))
    if settings:
        parts.append(_section("Settings of the runs", "\n".join(_folded(*item) for item in settings.items())))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{"".join(part + chr(10) for part in parts)}</body>
</html>
"""


def _image(png: bytes, title: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _section(heading: str, content: str) -> str:
    return f'<h2>{html.escape(heading)}</h2>\n<div class="scroll">\n{content}\n</div>'


def _facts(facts: Mapping[str, Any]) -> str:
    """Nested facts as a table of two columns; lists, which are long, folded."""
    rows, folded = Table(), []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += [{"": f"{name} · {key}", "value": _text(item)} for key, item in value.items()]
        elif isinstance(value, list):
            folded.append(_folded(f"{name} ({len(value)})", value))
        else:
            rows.append({"": name, "value": _text(value)})
    return "\n".join([rows._repr_html_(), *folded])


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    return ("no", "yes")[value] if isinstance(value, bool) else number(value)


def _folded(name: str, content: Any) -> str:
    text = "\n".join(content) if isinstance(content, list) else json.dumps(content, indent=2, default=str)
    return f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
