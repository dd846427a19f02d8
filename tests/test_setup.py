"""What set-up leaves: bytecode, so that no process compiles what it imports."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="this Python was set up in another way")
def test_what_was_installed_was_compiled():
    imported = [module for name, module in sys.modules.items() if name.startswith(torch.__name__)]
    files = {Path(getattr(module, "__file__", None) or "") for module in imported}
    sources = {file for file in files if file.suffix == ".py" and file.is_file()}
    assert len(sources) > 100
    assert not {file for file in sources if not Path(importlib.util.cache_from_source(file)).exists()}


def test_what_every_user_installs_is_imported_by_the_package():
    """What only tests and benchmarks use stands in the group `test` of pyproject.toml."""
    declared = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.S)[1]
    modules = {"scikit_learn": "sklearn", "pyyaml": "yaml"}
    projects = {name.lower().replace("-", "_") for name in re.findall(r'"([\w-]+)', declared)}
    names = {modules.get(name, name) for name in projects}
    source = "\n".join(path.read_text() for path in (ROOT / "pufferlib_kcore").rglob("*.py"))
    unused = {n for n in names if not re.search(rf"^\s*(import|from) ([\w.]*\.)?{n}\b", source, re.M)}
    assert {"torch", "numpy"} <= names and not unused
