"""Launching commands: so many at once on shares of the cores; what goes wrong is its own command's alone."""

import os
import signal
import sys
import threading
import time

import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch import launch, local
from pufferlib_kcore.jobs.batch.local import Command, Outcome


@pytest.fixture
def commands(tmp_path):
    return [Command(f"c{i}", ("program", str(i)), tmp_path / f"c{i}.log") for i in range(5)]


def launched(commands, jobs, remember=lambda command, outcome: None):
    return {c.name: outcome for c, outcome in launch.run_all("local", jobs, {}, commands, remember)}


def test_cores_are_shared_out():
    assert launch.share_out(2, [0, 1, 2, 3]) == [[0, 2], [1, 3]]
    for jobs in (1, 3, 4, 7):
        shares = launch.share_out(jobs, [2, 3, 5, 7])
        assert len(shares) == jobs and all(shares) and {c for share in shares for c in share} == {2, 3, 5, 7}


def test_as_many_run_at_once_as_are_asked_for_each_on_a_share_of_its_own(commands, monkeypatch):
    together, running, most = threading.Barrier(2), [], []

    def execute(command, cores):
        running.append(tuple(cores))
        most.append(sorted(running))
        if command.name != "c4":  # the odd one
            together.wait(60)
        running.remove(tuple(cores))
        return Outcome(0, seconds=1.0)

    monkeypatch.setattr(local, "execute", execute)
    monkeypatch.setattr(launch, "share_out", lambda jobs: [[7], [8]][:jobs])
    found = launched(commands, 2)
    assert found == {command.name: Outcome(0, seconds=1.0) for command in commands}
    assert max(map(len, most)) == 2 and {tuple(now) for now in most if len(now) == 2} == {((7,), (8,))}


def test_what_cannot_be_launched_is_its_own_outcome(commands, monkeypatch):
    def execute(command, cores):
        if command.name == "c1":
            raise OSError("no such\n  program")
        return Outcome(3 if command.name == "c2" else 0)

    monkeypatch.setattr(local, "execute", execute)
    remembered = []
    found = launched(commands, 1, lambda command, outcome: remembered.append(command.name))
    assert [found[f"c{i}"].status for i in range(5)] == [0, 1, 3, 0, 0]
    assert found["c1"].message == "OSError: no such program" and remembered == ["c0", "c2", "c3", "c4"]
    assert launched([], 1) == {}


def test_an_interruption_stops_what_runs_and_starts_no_more(commands, monkeypatch):
    second, stopped, began, remembered = threading.Event(), threading.Event(), [], []

    def execute(command, cores):
        began.append(command.name)
        if command.name != "c0":
            second.set()
            assert stopped.wait(10)
        return Outcome(0)

    def remember(command, outcome):
        remembered.append(command.name)

    monkeypatch.setattr(local, "execute", execute)
    monkeypatch.setattr(local, "stop", stopped.set)
    running = launch.run_all("local", 1, {}, commands, remember)
    assert next(running)[0].name == "c0" and second.wait(60)
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    assert began == remembered == ["c0", "c1"]  # what ran is remembered all the same


def test_a_command_runs_on_its_cores_and_its_use_is_known(tmp_path):
    code = "import os; x = bytearray(50_000_000); print(sorted(os.sched_getaffinity(0)))"
    core = min(os.sched_getaffinity(0))
    done = local.execute(Command("c", (sys.executable, "-c", code), tmp_path / "log"), [core])
    assert done.status == 0 and (tmp_path / "log").read_text() == f"[{core}]\n"
    assert done.peak_bytes > 50_000_000 and done.seconds > 0


def test_what_runs_here_is_asked_to_stop(tmp_path):
    log = tmp_path / "log"
    code = "import time; print('here', flush=True); time.sleep(60)"
    ended = []
    command = Command("c", (sys.executable, "-c", code), log)
    thread = threading.Thread(target=lambda: ended.append(local.execute(command)))
    thread.start()
    while not (log.is_file() and log.read_text()):
        time.sleep(0.01)
    local.stop()
    thread.join(60)
    assert ended[0].status == -signal.SIGTERM


def test_a_launcher_that_is_not_here_is_refused(monkeypatch):
    launch.check_launcher("local", {})
    monkeypatch.setattr(launch, "is_installed", lambda module: True)
    for name in ("local", "ray"):
        with pytest.raises(
            UserError, match=f"--slurm is for --launcher slurm, and this is --launcher {name}"
        ):
            launch.check_launcher(name, {"nodes": "1"})
    monkeypatch.setattr(launch, "is_installed", lambda module: False)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        with pytest.raises(UserError, match=f'is not installed: pip install "{package}"'):
            launch.check_launcher(name, {})
