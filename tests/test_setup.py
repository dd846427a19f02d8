"""What set-up leaves: bytecode, so that no process compiles what it imports."""

import importlib.util
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
