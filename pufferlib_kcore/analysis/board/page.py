"""Page: the board's one page, served beside its parts, or all in one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pufferlib_kcore.analysis.board.details import details, picture_files
from pufferlib_kcore.analysis.board.index import Index
from pufferlib_kcore.analysis.report import render

STATIC = Path(__file__).parent / "static"
ASSETS = {"board.css": "text/css", "chart.js": "text/javascript", "board.js": "text/javascript"}


def asset(name: str) -> str:
    return (STATIC / name).read_text()


def page() -> str:
    """The page that asks for the rest."""
    return render("board.html", title="Board", data=None, assets=None)


def exported(index: Index) -> str:
    """The page with all that it would ask for, pictures included; it loads nothing."""
    data: dict[str, Any] = {"runs": list(index.entries.values()), "details": {}, "pictures": {}}
    for id_, one in index.found.items():
        found = details(one)
        data["details"][id_] = found
        for number, path in enumerate(picture_files(one) if found.get("pictures") else []):
            picture = base64.b64encode(path.read_bytes()).decode()
            data["pictures"][f"{id_}/{number}"] = f"data:image/png;base64,{picture}"
    return render("board.html", title="Board", data=embedded(data), assets={n: asset(n) for n in ASSETS})


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that no HTML parser takes for markup."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
