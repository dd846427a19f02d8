"""A worker process: steps its envs when woken, sleeps otherwise, and never outlives the main process."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import math
import mmap
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

import numpy as np
import threadpoolctl
from pufferlib.vector import CLOSE, INFO, MAIN, RESET, Serial

from pufferlib_kcore.environments.contract import as_actions

ERROR = 7  # beside PufferLib's own codes; its message is a traceback
OUTPUT_LIMIT = 1 << 20  # bytes of a worker's own output that are kept


class Wire:
    """One worker's two pipes: a byte wakes it, a byte answers, and the end of a process ends its pipes."""

    def __init__(self) -> None:
        self.sleeping, self.waking = Pipe(duplex=False)  # read by the worker, written by the main process
        self.hearing, self.saying = Pipe(duplex=False)  # read by the main process, written by the worker
        self.output = tempfile.TemporaryFile(buffering=0)  # what the worker prints
        fcntl.fcntl(self.output, fcntl.F_SETFL, fcntl.fcntl(self.output, fcntl.F_GETFL) | os.O_APPEND)

    # In the worker

    def sleep(self) -> int:
        """Until a command comes; CLOSE when the main process has gone."""
        byte = os.read(self.sleeping.fileno(), 1)
        return byte[0] if byte else CLOSE

    def say(self, code: int, message: Any = None) -> None:
        """The byte first: a long message then waits for its reader, and the reader does not wait for it."""
        os.write(self.saying.fileno(), bytes([code]))
        if message:
            self.saying.send(message)

    # In the main process

    def wake(self, command: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # hear finds out that the worker has gone
            os.write(self.waking.fileno(), bytes([command]))

    def hear(self) -> tuple[int, Any]:
        """Wait for the worker's code and message.  Raises EOFError when the worker has gone."""
        byte = os.read(self.hearing.fileno(), 1)
        if not byte:
            raise EOFError
        return byte[0], None if byte[0] == MAIN else self.hearing.recv()

    # In both

    def keep(self, mine: str) -> None:
        """Close the ends that belong to the other process.  mine: "main" or "worker" """
        for end in (self.sleeping, self.saying) if mine == "main" else (self.waking, self.hearing):
            end.close()

    def close(self) -> None:
        for end in (self.sleeping, self.waking, self.hearing, self.saying, self.output):
            end.close()


class Desk:
    """What a worker needs to know of the process that forks it: all wires, and whether to die with it."""

    def __init__(self, wires: list[Wire]):
        self.wires = wires
        self.parent = os.getpid()
        # The kernel's signal comes when the forking thread ends, so only the main thread may ask for it
        self.bound = threading.current_thread() is threading.main_thread()

    def sit(self, worker: int) -> Wire:
        """Turn the fresh fork into a quiet, single-threaded worker that lives no longer than its parent."""
        for code in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(code, signal.SIG_IGN)  # the main process decides when to stop
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if self.bound:
            with contextlib.suppress(OSError, AttributeError):  # Linux only; the pipe's end is noticed anyway
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != self.parent:
            os._exit(0)
        wire = self.wires[worker]
        for other in self.wires:
            if other is not wire:
                other.close()
        wire.keep("worker")
        for fd in (1, 2):
            os.dup2(wire.output.fileno(), fd)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
        faulthandler.enable(2)
        threadpoolctl.threadpool_limits(1)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"  # for libraries that are still to be loaded
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(1)
        gc.freeze()  # what the main process had allocated is not this one's to collect
        return wire


@dataclass(frozen=True)
class Shared:
    """What the main process and its workers both see, as arrays (workers, envs of each, ..)."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    truncations: np.ndarray
    masks: np.ndarray
    seeds: np.ndarray

    @classmethod
    def made(cls, workers: int, each: int, observation: Any, action: Any) -> Shared:
        """Zeros in memory that a fork shares, for these spaces."""

        def array(dtype: Any, *shape: int) -> np.ndarray:
            size = workers * each * math.prod(shape) * np.dtype(dtype).itemsize
            return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(workers, each, *shape)

        return cls(
            observations=array(observation.dtype, *observation.shape),
            actions=array(as_actions(np.zeros((0, *action.shape)), 0, action).dtype, *action.shape),
            rewards=array(np.float32),
            terminals=array(bool),
            truncations=array(bool),
            masks=array(bool),
            seeds=array(np.int64),
        )

    def of(self, workers: slice) -> Shared:
        """Views of the part that belongs to some workers, env by env: (envs, ..)"""
        parts = {name: array[workers] for name, array in vars(self).items()}
        return Shared(**{name: part.reshape(-1, *part.shape[2:]) for name, part in parts.items()})


def work(desk: Desk, creators: list[Callable], shared: Shared, worker: int) -> None:
    """A worker's life: its envs in PufferLib's serial backend, over its part of what is shared."""
    wire = desk.sit(worker)
    try:
        none: list = [[]] * len(creators)
        envs = Serial(creators, none, [{}] * len(creators), len(creators))
        mine = shared.of(slice(worker, worker + 1))
        envs._assign_buffers(mine)
        while (command := wire.sleep()) != CLOSE:
            if command == RESET:
                *_, infos = envs.reset(seed=mine.seeds.tolist())
            else:
                *_, infos = envs.step(mine.actions)
            wire.say(INFO if infos else MAIN, infos)
            if os.fstat(1).st_size > OUTPUT_LIMIT:
                os.ftruncate(1, 0)
        envs.close()
    except BrokenPipeError:
        pass  # the main process has gone
    except BaseException:
        with contextlib.suppress(OSError):
            wire.say(ERROR, traceback.format_exc())
    os._exit(0)
