"""Scripts as a user starts them: in a fresh interpreter, or as a fork of a process that has imported them.

A fork is a process of its own, with its own signals, files, settings and end, less the seconds of importing.
Where it matters that what WARM names is imported, as for what that prints, use a fresh interpreter.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from unittest import mock

from pufferlib_kcore.jobs.batch import local

REPO = Path(__file__).resolve().parents[1]
WARM = ["torch._dynamo", "pufferlib_kcore.cli.train", "pufferlib_kcore.cli.batch", "pufferlib_kcore.analysis"]

OF_THE_SERVER = {
    "PYTHONPATH": str(REPO),
    "PYTHONWARNINGS": "ignore::FutureWarning",
}  # pynvml's, as in demo.py

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(WARM)


def fresh(folder, *arguments, script="demo.py", timeout=300, **environment):
    """Run a script in a folder, in a fresh interpreter.  -> (exit status, stdout, stderr)"""
    done = subprocess.run(
        [sys.executable, REPO / script, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def demo(folder, *arguments, timeout=300, **more):
    """Run demo.py, or another script, in a folder, as a fork.  -> (exit status, stdout, stderr)"""
    program = start(folder, *arguments, **more)
    try:
        out, err = program.communicate(timeout)
    finally:
        program.kill()
        program.wait()
    return program.returncode, out, err


def start(folder, *arguments, script="demo.py", before=(), **environment):
    """Start a script in a folder, in the background, as a fork.  before: functions that it calls first"""
    return Fork(folder, script, [str(a) for a in arguments], before, {**os.environ, **environment})


def warm():
    """Let processes by the start method "forkserver" be forks of one that has imported what is in WARM."""
    with mock.patch.dict(os.environ, OF_THE_SERVER):
        multiprocessing.forkserver.ensure_running()


class Fork:
    """What subprocess.Popen is to a program, to a script that runs in a fork."""

    def __init__(self, folder, script, arguments, before, environment):
        self.output = [tempfile.NamedTemporaryFile("w+") for _ in ("stdout", "stderr")]
        names = [file.name for file in self.output]
        warm()
        words = [str(REPO / script), *arguments]
        self.process = FORKS.Process(target=_run, args=(folder, words, names, before, environment))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        """The exit status, the negative of the signal that ended it, or None."""
        return self.process.exitcode

    def wait(self, timeout=300):
        """Wait for its end.  Raises TimeoutError"""
        self.process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"process {self.pid} still runs")

    def communicate(self, timeout=300):
        """Wait for its end.  -> (stdout, stderr)"""
        self.wait(timeout)
        return tuple(Path(file.name).read_text() for file in self.output)

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def trainings_fork():
    """From here on, what kcore.sh runs on this machine is forked as well."""
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork")
    local.execute = _forked


def _forked(command, cores=()):
    """local.execute, whose command is a fork of this process."""
    started, child = time.monotonic(), os.fork()
    if child:
        _, status, usage = os.wait4(child, 0)
        seconds = time.monotonic() - started
        return local.Outcome(os.waitstatus_to_exitcode(status), seconds, 1024 * usage.ru_maxrss)
    status = 1
    try:
        local._settle(cores)
        _run(command.folder, command.argv[1:], [command.log] * 2)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(folder, words, output, before=(), environment=None):
    """In the fork: what the interpreter does before a script begins, and the script."""
    os.chdir(folder)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    for number, path in enumerate((os.devnull, *output)):
        opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    for function in before:
        function()
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")
