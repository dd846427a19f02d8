"""Laws of provenance: it is plain data and says what is so."""

import json
import os
import platform
import subprocess

import numpy as np

from pufferlib_kcore.store.provenance import git_commit, packages, provenance


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=/dev/null"]
    return subprocess.check_output([*command, *arguments], cwd=folder, text=True).strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path):
    assert git_commit(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) == (None, None)
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    (tmp_path / "untracked").write_text("1")
    assert git_commit(tmp_path) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == (git(tmp_path, "rev-parse", "HEAD"), True)


def test_a_machine_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) == (None, None)


def test_versions_packages_and_machine_are_those_here():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"] == np.__version__
    assert {"pufferlib_kcore", "pufferlib", "torch", "gymnasium", "ale-py"} <= found["versions"].keys()
    assert f"numpy=={np.__version__}" in found["packages"] == packages()
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert found["machine"]["cpu"] and found["machine"]["platform"]
