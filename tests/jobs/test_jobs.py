"""The room's public names are there, and asking for none of them loads no torch."""

import subprocess
import sys

import pytest

from pufferlib_kcore import jobs


@pytest.mark.parametrize("name", jobs.__all__)
def test_each_name_is_there(name):
    assert getattr(jobs, name).__name__ == name


def test_the_room_alone_needs_no_torch():
    code = "import sys, pufferlib_kcore.jobs, pufferlib_kcore.jobs.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="has no attribute 'colapse'"):
        jobs.colapse  # noqa: B018
