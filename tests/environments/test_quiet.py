"""Quiet: third parties say nothing, and what they set is undone; errors keep what was said."""

import subprocess
import sys
import warnings

import pytest

from pufferlib_kcore.environments.quiet import quiet


def test_prints_and_warnings_are_dropped_and_filters_restored(capsys):
    before = list(warnings.filters)
    with quiet():
        print("notice")
        print("notice", file=sys.stderr)
        warnings.warn("notice", stacklevel=1)
        warnings.filterwarnings("error")
    assert capsys.readouterr() == ("", "")
    assert warnings.filters == before


def test_errors_pass_and_keep_what_was_printed():
    with pytest.raises(KeyError) as failed, quiet():
        print("almost there")
        raise KeyError("x")
    if sys.version_info >= (3, 11):
        assert failed.value.__notes__ == ["almost there\n"]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_rooms_that_import_pufferlib_are_silent_and_leave_deprecations_to_be_seen():
    code = """if True:
        from pufferlib_kcore.jobs.worker import ignore_pynvml
        ignore_pynvml()
        from pufferlib_kcore import environments, policies
        from pufferlib_kcore.environments import vector, creators
        from pufferlib_kcore.environments.puffer2 import processes
        import warnings
        assert ("ignore", None, DeprecationWarning, None, 0) not in warnings.filters[:-5], warnings.filters
        environments.make_creator("pong")().reset(seed=1)
        environments.make_creator("cartpole")().reset(seed=1)
        """
    done = run(code)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_quiet_itself_imports_neither_torch_nor_pufferlib():
    code = """if True:
        import sys
        import pufferlib_kcore.environments.quiet
        assert not {"torch", "pufferlib", "ale_py", "gym"} & set(sys.modules)
        """
    assert run(code).returncode == 0
