"""Worker processes: they report why they ended, sleep, stay quiet, and never stay behind."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import cv2
import numpy as np
import psutil
import pytest
import threadpoolctl

from pufferlib_kcore.environments.contract import WorkerDied
from pufferlib_kcore.environments.puffer2 import processes
from pufferlib_kcore.environments.vector import make

from . import toys


@pytest.fixture
def vec_of():
    """Makes vectorizations that are closed at the end of the test, and then leave no process."""
    made = []

    def build(creator, *args):
        made.append(make(creator, "multiprocessing", *args))
        return made[-1]

    yield build
    for vec in made:
        vec.close()
        assert not any(psutil.pid_exists(process.pid) for process in vec.processes)


def step(vec, group=0):
    """One step of a group; what its first env showed before."""
    batch = vec.recv(group)
    seen = batch.obs[0].item()
    vec.send(group, np.zeros(len(batch.env_ids), int))
    return seen


def trouble(how):
    return toys.Maker(toys.Trouble, how, os.getpid())


def until(condition, seconds=20):
    """Wait for the condition; whether it came true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raise", ["env worker 0 (envs 0 to 1)", "ZeroDivisionError: the third step is unlucky", "in step"]),
        ("start", ["LookupError: no such level", "in __init__"]),
        ("exit", ["exited with code 7", "leaving early"]),
        ("segfault", ["was killed by SIGSEGV", "toys.py"]),  # with the line where it happened
    ],
)
def test_a_worker_that_ends_says_why(vec_of, how, says):
    vec = vec_of(trouble(how), 4, 2, 2)
    vec.reset(0)
    with pytest.raises(WorkerDied) as died:
        for _ in range(4):
            step(vec)
    for text in says:
        assert text in str(died.value)
    assert not any(psutil.pid_exists(process.pid) for process in vec.processes)  # the others ended with it


def test_a_killed_worker_is_noticed(vec_of):
    vec = vec_of(toys.three, 4, 4, 2)
    vec.reset(0)
    step(vec)
    os.kill(vec.processes[1].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"env worker 1 \(envs 1 to 1\) was killed by SIGKILL"):
        for _ in range(3):
            step(vec)


def test_a_worker_killed_in_the_middle_of_a_step_is_noticed(vec_of):
    vec = vec_of(trouble("hang"), 2, 1, 2)
    vec.reset(0)
    for _ in range(3):
        step(vec)
    threading.Timer(0.2, os.kill, (vec.processes[0].pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        vec.recv(0)


def test_an_env_that_hangs_does_not_keep_close_waiting(vec_of, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    vec = vec_of(trouble("hang"), 2, 2, 1)
    vec.reset(0)
    for _ in range(3):
        step(vec, 0)
    vec.close()
    assert not any(psutil.pid_exists(process.pid) for process in vec.processes)


def test_workers_leave_it_to_the_main_process_when_to_stop(vec_of):
    vec = vec_of(toys.three, 2, 2, 2)
    vec.reset(0)
    step(vec)
    for process in vec.processes:
        for code in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, code)
    assert [step(vec) for _ in range(3)] == [1, 2, 3]


def test_waiting_workers_take_no_time_of_the_cores(vec_of):
    vec = vec_of(toys.three, 4, 4, 2)
    vec.reset(0)
    step(vec)
    for group in (0, 1):
        vec.recv(group)

    def used():
        times = [psutil.Process(process.pid).cpu_times() for process in vec.processes]
        return sum(t.user + t.system for t in times)

    def rest():
        before = used()
        time.sleep(0.5)  # PufferLib's own workers spin for at least this long
        return used() - before < 0.1

    assert any(rest() for _ in range(6))  # the time of their start may be told late, on a busy machine


def test_workers_run_single_threaded(vec_of):
    with threadpoolctl.threadpool_limits(3):
        vec = vec_of(toys.Maker(Threads), 1, 1, 1)
    vec.reset(0)
    assert vec.recv(0).obs.tolist() == [[1]]


class Threads(toys.Three):
    """Shows the most threads that any library here would use."""

    def see(self):
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        return np.array([max([*pools, cv2.getNumThreads()])], np.float32)


def test_a_thread_that_made_the_workers_may_end(vec_of):
    made = []
    thread = threading.Thread(target=lambda: made.append(vec_of(toys.three, 2, 2, 2)))
    thread.start()
    thread.join()
    vec = made[0]
    vec.reset(0)
    assert [step(vec) for _ in range(3)] == [0, 1, 2]


def test_close_frees_processes_and_files_even_without_being_called(vec_of):
    def open_files():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    vec = vec_of(toys.three, 2, 2, 2)
    vec.close()
    assert vec.wires[0].waking.closed and vec.wires[0].hearing.closed
    before = open_files()
    for _ in range(3):
        vec = make(toys.three, "multiprocessing", 4, 4, 2)
        pids = [process.pid for process in vec.processes]
        vec.reset(0)
        del vec
        gc.collect()
        assert not any(psutil.pid_exists(pid) for pid in pids)
    assert open_files() == before


def test_workers_of_a_constructor_that_fails_are_ended(monkeypatch):
    children = set(psutil.Process().children())
    start, count = multiprocessing.process.BaseProcess.start, []

    def fail_at_third(self):
        count.append(1)
        if len(count) == 3:
            raise OSError("no more processes")
        return start(self)

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", fail_at_third)
    with pytest.raises(OSError, match="no more processes"):
        make(toys.three, "multiprocessing", 4, 4, 2)
    assert set(psutil.Process().children()) == children


def test_output_is_kept_only_at_its_end(vec_of):
    vec = vec_of(toys.Maker(Talker), 1, 1, 1)
    vec.reset(0)
    for _ in range(60):
        step(vec)
    assert os.fstat(vec.wires[0].output.fileno()).st_size < 2 << 20


class Talker(toys.Three):
    """Prints 100 kB a step."""

    def see(self):
        print("x" * 100_000)
        return super().see()


SCRIPT = """
    import os, signal, sys, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    sys.path.insert(0, {tests!r})
    import numpy as np
    from pufferlib_kcore.environments import make_creator
    from pufferlib_kcore.environments.vector import make
    from environments import toys

    if __name__ == "__main__":
        how = {how!r}
        creator = make_creator("pong") if how == "atari" else toys.Maker(toys.Trouble, how, os.getpid())
        made = []
        build = lambda: made.append(make(creator, "multiprocessing", 4, 4, 2))
        if how == "thread":  # the kernel does not tell these workers of their parent's end: their pipes do
            thread = threading.Thread(target=build)
            thread.start()
            thread.join()
        else:
            build()
        vec = made[0]
        other = make(toys.three, "multiprocessing", 2, 2, 2)  # holds copies of the first one's pipes
        vec.reset(0)
        for _ in range(3):
            for group in (0, 1):
                vec.recv(group)
                vec.send(group, np.zeros(2, int))
        vec.recv(0) if how != "hang" else None
        {end}
"""


@pytest.fixture
def start_script():
    """Starts a program that makes workers; it does not outlive the test."""
    started = []

    def start(how, end):
        started.append(_start(how, end))
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.wait()


def _start(how, end):
    tests = os.path.dirname(os.path.dirname(__file__))
    script = textwrap.dedent(SCRIPT).format(tests=tests, how=how, end=end)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)


TELL = "print(*[p.pid for v in (vec, other) for p in v.processes], flush=True); time.sleep(600)"


@pytest.mark.parametrize("how", ["none", "hang", "thread"])
def test_no_worker_outlives_a_killed_main_process(start_script, how):
    main = start_script(how, TELL)
    pids = [int(pid) for pid in main.stdout.readline().split()]
    assert len(pids) == 6 and all(psutil.pid_exists(pid) for pid in pids)
    main.kill()
    main.communicate()
    assert until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.parametrize("end", ["vec.close(); vec.close(); other.close()", "pass", "raise SystemExit(0)"])
def test_atari_in_workers_is_silent_and_ends_with_the_program(start_script, end):
    main = start_script("atari", end)
    out, err = main.communicate(timeout=120)
    assert (out, err, main.returncode) == ("", "", 0)


def test_an_interrupt_from_the_terminal_is_seen_by_the_main_process_alone(start_script):
    main = start_script("none", TELL)
    pids = [int(pid) for pid in main.stdout.readline().split()]
    for pid in (*pids, main.pid):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    _, err = main.communicate(timeout=120)
    assert err.count("KeyboardInterrupt") == 1
    assert until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
