"""The package's front: light to import, and complete."""

import subprocess
import sys

import pufferlib_kcore as kcore


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'scipy', 'pufferlib', 'gymnasium', 'matplotlib'}"
    code = f"import sys, pufferlib_kcore; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_engine_needs_neither_pufferlib_nor_gymnasium():
    others = "{'pufferlib', 'gymnasium', 'matplotlib'}"
    code = f"import sys, pufferlib_kcore.graph; print({others} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_everything_named_is_there():
    assert all(callable(getattr(kcore, name)) for name in kcore.__all__)
    assert not hasattr(kcore, "nothing")
