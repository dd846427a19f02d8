"""Imports point down, PufferLib stays in three rooms, and what needs no PufferLib does not load it."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "pufferlib_kcore"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def rooms() -> dict[str, set[str]]:
    """What each room may import of the others, as docs/architecture.md has it."""
    found: dict[str, set[str]] = {}
    for line in ARCHITECTURE.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if len(row) == 3 and row[0].startswith("`"):
            allowed = set(re.findall("`(.*?)`", row[2]))
            allowed |= set(found) if row[2] == "all above" else set()
            allowed |= set(GROUND) if row[2].startswith("ground") else set()
            found[row[0].strip("`")] = allowed
        elif found and not line:
            break
    return found


GROUND = ("errors", "text", "program", "settings", "registry")
BELOW = rooms()
BELOW["__init__"] = set(BELOW) - {"jobs", "failure_lab", "integrations", "cli"}
BELOW["__main__"] = {"cli", "jobs"}  # it is a program
MAY_USE_PUFFERLIB = {"environments", "policies", "training"}
STANDARD_ONLY = set(GROUND)
WHERE_ASKED = {"settings": {"rich_argparse", "omegaconf", "yaml"}}  # imported in the functions that need them


def imported(source: str, package: str) -> set[str]:
    """The absolute names of modules that a module of `package` imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def complaints(room: str, source: str, package: str) -> list[str]:
    """What a module of a room imports and must not."""
    bad = []
    for name in sorted(imported(source, package)):
        first, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if first == PACKAGE and other in BELOW and other != room:
            if other not in BELOW[room]:
                bad.append(f"{room} imports {other}")
        elif first == "pufferlib" and room not in MAY_USE_PUFFERLIB:
            bad.append(f"{room} imports {name}")
        elif room in STANDARD_ONLY and first != PACKAGE:
            if first not in sys.stdlib_module_names and first not in WHERE_ASKED.get(room, ()):
                bad.append(f"{room} imports {name}")
    return bad


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_imports_point_down(path):
    package = ".".join(path.parent.relative_to(ROOT).parts)
    assert room_of(path) in BELOW, f"{path} stands in no room: give it one, and say what it may import"
    assert complaints(room_of(path), path.read_text(), package) == []


STARTS = {"demo.py", "tools/kcore.py", "tools/run.py"}  # the programs, each a few lines long
SCRIPTS = [*ROOT.glob("*.py"), *ROOT.glob("*.ipynb"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tools/*.py")]


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


@pytest.mark.parametrize("path", sorted(SCRIPTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_is_imported_by_the_programs_that_start_it_alone(path):
    uses = any(name.startswith(f"{PACKAGE}.cli") for name in imported(code_of(path), ""))
    assert uses == (str(path.relative_to(ROOT)) in STARTS)
    assert not uses or len(path.read_text().splitlines()) < 30


LONGEST = 40  # lines of a function
SHORT = [path for path in MODULES if room_of(path) in ("cli", "jobs")]


def long_functions(source: str) -> list[str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if f.end_lineno is None or f.end_lineno - f.lineno + 1 > LONGEST]


@pytest.mark.parametrize("path", SHORT, ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_what_programs_do_is_said_in_short_functions(path):
    assert long_functions(path.read_text()) == []


def test_a_long_function_is_seen_also_inside_another():
    body = "        x = 1\n" * LONGEST
    assert long_functions(f"class A:\n    def f(self):\n{body}") == ["f"]
    assert long_functions("def f():\n" + "    x = 1\n" * (LONGEST - 1)) == []


def test_the_rooms_are_those_that_are_written_down():
    there = {room_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert there == BELOW.keys() - {"__init__", "__main__"}
    assert all(allowed <= BELOW.keys() for allowed in BELOW.values())
    assert "jobs" in BELOW["cli"] and not any("cli" in BELOW[room] for room in BELOW.keys() - {"__main__"})


@pytest.mark.parametrize(
    "path",
    sorted(set(re.findall(r"`((?:graph|training|environments|settings|config)/[\w./]+)`", ARCHITECTURE))),
)
def test_what_the_page_names_is_there(path):
    assert (ROOT / PACKAGE / path).exists() or (ROOT / path).exists()


@pytest.mark.parametrize(
    "room, line",
    [
        ("fibration", "from pufferlib_kcore.graph import collapse"),
        ("fibration", "import pufferlib_kcore.store.runs"),
        ("graph", "from pufferlib_kcore import store"),
        ("graph", "from .. import training"),
        ("store", "def f():\n    from pufferlib_kcore.training import ppo"),
        ("store", "import pufferlib.models"),
        ("analysis", "from pufferlib_kcore.training import ppo"),
        ("training", "import pufferlib_kcore.analysis.curves"),
        ("analysis", "from pufferlib import models"),
        ("cli", "import pufferlib.vector"),
        ("settings", "import numpy"),
        ("errors", "import omegaconf"),
        ("errors", "from pufferlib_kcore import settings"),
        ("settings", "from pufferlib_kcore.registry import Registry"),
        ("registry", "from pufferlib_kcore import store"),
        ("policies", "from pufferlib_kcore.cli import main"),
        ("jobs", "from pufferlib_kcore.cli import main"),
        ("jobs", "from ..cli import found"),
        ("training", "from pufferlib_kcore.jobs import collapse"),
        ("jobs", "from pufferlib_kcore.cli import main"),
        ("analysis", "from pufferlib_kcore.jobs import batch"),
    ],
)
def test_an_upward_import_is_seen(room, line):
    assert len(complaints(room, line, f"{PACKAGE}.{room}")) == 1


@pytest.mark.parametrize(
    "room, line",
    [
        ("graph", "import pufferlib_kcore.fibration"),
        ("training", "import pufferlib"),
        ("fibration", "from pufferlib_kcore.registry import Registry"),
    ],
)
def test_a_downward_import_is_let_pass(room, line):
    assert complaints(room, line, f"{PACKAGE}.{room}") == []


@pytest.mark.parametrize("name", ["", ".fibration", ".graph", ".store", ".analysis", ".settings"])
def test_importing_it_loads_no_pufferlib(name):
    code = f"import sys, {PACKAGE}{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert PACKAGE in loaded
    assert not loaded & {"pufferlib", "gym", "gymnasium", "ale_py"}
    if name in ("", ".fibration", ".graph", ".settings"):
        assert "matplotlib" not in loaded
    if name == ".settings":
        assert not loaded & {"torch", "numpy", *WHERE_ASKED["settings"]}


def test_only_the_file_that_reads_yaml_imports_what_does():
    users = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        for name in imported(path.read_text(), PACKAGE):
            users.setdefault(name.partition(".")[0], set()).add(path.name)
    assert users["omegaconf"] == users["yaml"] == {"studies.py"}


@pytest.mark.parametrize(
    "words",
    [
        ["demo.py", "--env", "cartpole", "--collapse", "3"],
        ["demo.py", "--env", "cartpole", "--help"],
        ["demo.py", "--mode", "collapse", "--env", "cartpole", "--train.data-dir", "nowhere"],
        ["tools/kcore.py", "--exp-name", "nobody"],
        ["tools/kcore.py", "--help"],
        ["tools/run.py", "pogn.train"],
        ["tools/run.py", "--help"],
    ],
    ids=" ".join,
)
def test_a_mistake_and_help_are_answered_without_what_training_needs(words):
    """`-X importtime` lists what is imported."""
    command = [sys.executable, "-X", "importtime", ROOT / words[0], *words[1:]]
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    )
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert done.returncode == (0 if "--help" in words else 2) and "argparse" in loaded
    assert not loaded & {"torch", "numpy", "gymnasium", "pufferlib", "matplotlib", "scipy"}
