"""Reports: one HTML page that holds all it shows, with no script and nothing loaded from elsewhere."""

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from pufferlib_kcore.analysis.tables import Table

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
    notes: Mapping[str, str] | None = None,
    folded: Mapping[str, Any] | None = None,
) -> str:
    """The page as text.

    png: the figure.  tables: by heading, an empty one left out.  notes: a sentence below a heading.
    folded: plain data by name, shown as JSON when it is clicked.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", image(png, title)]
    for name, table in tables.items():
        if table:
            note = html.escape((notes or {}).get(name, ""))
            content = f"<p>{note}</p>\n{table._repr_html_()}"
            parts.append(f'<h2>{html.escape(name)}</h2>\n<div class="scroll">\n{content}\n</div>')
    if folded:
        parts.append("<h2>Settings</h2>")
        parts += [_folded(name, content) for name, content in folded.items()]
    return document(title, "\n".join(parts))


def document(title: str, body: str, style: str = "") -> str:
    """A page as text around its body, which is HTML; style: rules beside those of every report."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def image(png: bytes, title: str) -> str:
    """A picture that lies in the page itself."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _folded(name: str, content: Any) -> str:
    text = html.escape(json.dumps(content, indent=2, default=str, ensure_ascii=False))
    return f"<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>"
