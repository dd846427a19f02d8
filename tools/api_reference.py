"""API reference: docs/api_reference.md, written from signatures and docstrings as they stand in the source.

    python tools/api_reference.py            # writes it
    python tools/api_reference.py --check    # says whether it is what would be written, 1 where it is not

What is there: the names in `__all__` of pufferlib_kcore and of the packages below its failure_lab; of modules
that name none, those that are documented. Nothing is evaluated: where it runs makes no difference.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "api_reference.md"
HEAD = """# API reference

Written by `python tools/api_reference.py` from the source: edit that, then run it again.
"""
Function = (ast.FunctionDef, ast.AsyncFunctionDef)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def page() -> str:
    """The whole of it."""
    kcore, lab = (
        importlib.import_module(name) for name in ("pufferlib_kcore", "pufferlib_kcore.failure_lab")
    )
    there = [kcore, *places(lab)]
    home: dict[int, str] = {}  # thing: the innermost place that offers it
    for place in sorted(there, key=lambda one: -one.__name__.count(".")):
        for name in names(place):
            home.setdefault(id(offered(place, name)), place.__name__)
    sections = [section(place, home) for place in there]
    return "\n".join([HEAD, *(one for one in sections if one)])


def places(package: ModuleType) -> Iterator[ModuleType]:
    """A package, the packages below it, and the modules of those that name no public names; by name."""
    yield package
    for _, name, is_package in sorted(pkgutil.iter_modules(package.__path__), key=lambda one: one.name):
        if is_package:
            yield from places(importlib.import_module(f"{package.__name__}.{name}"))
        elif not hasattr(package, "__all__") and not name.startswith("_"):
            yield importlib.import_module(f"{package.__name__}.{name}")


def section(place: ModuleType, home: Mapping[int, str]) -> str:
    """What a package or module offers, its names in order; empty where it offers nothing.

    home: where each thing is told, by its id; elsewhere it is told to be there
    """
    stubs: dict[str, str] = {}
    others: list[str] = []
    values: list[str] = []
    for name in sorted(names(place)):
        thing = offered(place, name)
        if home[id(thing)] != place.__name__:
            others.append(f"`{name}` ({home[id(thing)]})")
        elif text := stub_of(thing):
            stubs[name] = text
        else:
            values.append(f"`{name}` ({type(thing).__name__})")
    if not stubs and not others and not values:
        return ""
    said = (inspect.getdoc(place) or "").partition("\n")[0]
    also = [f"Also here: {', '.join(others)}.\n"] if others else []
    also += [f"Values: {', '.join(values)}.\n"] if values else []
    blocks = [f"### {name}\n\n```python\n{text}\n```\n" for name, text in stubs.items()]
    return "\n".join([f"## {place.__name__}\n\n{said}\n", *also, *blocks])


def names(place: ModuleType) -> list[str]:
    """Those in __all__; without it the functions and classes that are made there, and documented."""
    if hasattr(place, "__all__"):
        return list(place.__all__)
    made = [node for node in ast.parse(inspect.getsource(place)).body if isinstance(node, Definition)]
    return [node.name for node in made if not node.name.startswith("_") and ast.get_docstring(node)]


def offered(place: ModuleType, name: str) -> object:
    """What the name stands for; not the module of that name, which takes its place once it is imported."""
    thing = getattr(place, name)
    return getattr(thing, name, thing) if isinstance(thing, ModuleType) else thing


def stub_of(thing: object) -> str:
    """A function's or class's stub; empty for what has no source of its own, as constants have none."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    name = getattr(thing, "__name__", "")
    if module is None or not module.__name__.startswith("pufferlib_kcore"):
        return ""
    source = inspect.getsource(module)
    found = [n for n in ast.parse(source).body if isinstance(n, Definition) and n.name == name]
    return stub(found[-1], source.splitlines()) if found else ""


def stub(node: Definition, lines: list[str]) -> str:
    """Signature and docstring as they are written; of a class also its fields and public methods."""
    parts = [head(node, lines)]
    for inner in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(inner, Function) and (inner.name == "__init__" or not inner.name.startswith("_")):
            parts.append("\n" + head(inner, lines))
        elif isinstance(inner, (ast.AnnAssign, ast.Assign)) and not field(inner).startswith("_"):
            above = "\n" if len(parts) == 1 and ast.get_docstring(node) else ""
            parts.append(above + "\n".join(lines[inner.lineno - 1 : inner.end_lineno]))
    return "\n".join(parts)


def head(node: Definition, lines: list[str]) -> str:
    """From the first decorator to the end of the docstring, or of the signature where there is none."""
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    last = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
    shown = lines[first - 1 : max(last or first, first)]
    return "\n".join(line.partition("  # noqa")[0].rstrip() for line in shown)


def field(node: ast.AnnAssign | ast.Assign) -> str:
    """The name that is assigned to."""
    return ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])


def main(argv: list[str]) -> int:
    """-> 0; 1 where --check finds another page, 2 for a user's mistake"""
    if argv not in ([], ["--check"]):
        print(f"{' '.join(argv)} is not understood: expected --check, or nothing", file=sys.stderr)
        return 2
    from pufferlib_kcore.jobs.worker import ignore_pynvml

    ignore_pynvml()
    new = page()
    if not argv:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == new:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is not what the source says: run python tools/api_reference.py")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
