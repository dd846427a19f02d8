"""Envs in processes that sleep between steps, in groups that are visited in a fixed order."""

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from pufferlib.vector import CLOSE, RESET, STEP

from pufferlib_kcore.environments.contract import Batch, Seed, Turns, WorkerDied, as_actions
from pufferlib_kcore.environments.puffer2.worker import ERROR, Desk, Shared, Wire, work
from pufferlib_kcore.environments.seeds import env_seeds

FORK = multiprocessing.get_context("fork")  # whatever the global start method is
PATIENCE = 2.0  # seconds that workers get to close their envs before they are killed


class Multiprocessing:
    """Envs in forked workers, over memory that they share. Group g is the workers of its envs."""

    def __init__(self, creators: list[Callable], num_workers: int, env_batch_size: int, seed: int):
        self.num_envs, self.seed = len(creators), seed
        self.driver_env = creators[0]()  # never stepped
        self.single_observation_space = self.driver_env.single_observation_space
        self.single_action_space = self.driver_env.single_action_space
        self.groups = list(np.arange(self.num_envs).reshape(-1, env_batch_size))
        self.turns = Turns(len(self.groups))
        self.each = each = self.num_envs // num_workers
        spaces = self.single_observation_space, self.single_action_space
        self.shared = Shared.made(num_workers, each, *spaces)
        self.wires = [Wire() for _ in range(num_workers)]
        self.workers = [slice(ids[0] // each, ids[-1] // each + 1) for ids in self.groups]
        self.views = [self.shared.of(workers) for workers in self.workers]
        self.processes: list = []
        try:
            desk = Desk(self.wires)
            with _calm():
                for worker in range(num_workers):
                    own = creators[worker * each : (worker + 1) * each]
                    process = FORK.Process(target=work, args=(desk, own, self.shared, worker))
                    process.start()
                    self.processes.append(process)
        except BaseException:
            _stop(self.wires, self.processes)
            raise
        for wire in self.wires:
            wire.keep("main")
        # Also runs when this object is collected, and before multiprocessing joins its children at exit
        self._stop = multiprocessing.util.Finalize(
            self, _stop, args=(self.wires, self.processes), exitpriority=10
        )

    def reset(self, seed: Seed = None, first: int = 0) -> None:
        """Start a new episode in every env, without waiting. Steps under way are waited for and dropped."""
        for group, turn in enumerate(self.turns.next):
            if turn == "recv":
                self._answers(group)
        seeds = env_seeds(self.seed if seed is None else seed, first, self.num_envs)
        self.shared.seeds[:] = np.reshape(seeds, self.shared.seeds.shape)
        for wire in self.wires:
            wire.wake(RESET)
        self.turns.start()

    def recv(self, group: int) -> Batch:
        """Wait for the group's workers.  Raises WorkerDied with the worker's traceback or last words."""
        self.turns.take(group, "recv", then="send")
        infos = self._answers(group)
        views = self.views[group]
        return Batch(
            views.observations, views.rewards, views.terminals, views.truncations, infos, self.groups[group]
        )

    def send(self, group: int, actions: np.ndarray) -> None:
        """Start the group's next step.  actions: (B, *action)"""
        actions = as_actions(actions, len(self.groups[group]), self.single_action_space)
        self.turns.take(group, "send", then="recv")
        self.views[group].actions[:] = actions
        for wire in self.wires[self.workers[group]]:
            wire.wake(STEP)

    def close(self) -> None:
        """End the workers. May be called again."""
        self.turns.close()
        self._stop()

    def _answers(self, group: int) -> list[dict]:
        """Wait for each worker of the group; the infos of episodes that ended."""
        infos: list[dict] = []
        for worker in range(self.workers[group].start, self.workers[group].stop):
            try:
                code, message = self.wires[worker].hear()
            except EOFError:
                self._give_up(worker, _fate(self.processes[worker]))
            if code == ERROR:
                self._give_up(worker, f"failed:\n{message}")
            infos.extend(message or ())
        return infos

    def _give_up(self, worker: int, fate: str) -> NoReturn:
        """Stop all workers and say what became of this one."""
        first = worker * self.each
        words = _tail(self.wires[worker])
        self.close()
        raise WorkerDied(
            f"env worker {worker} (envs {first} to {first + self.each - 1}) {fate}"
            + (f"\nits last output:\n{words}" if words else "")
        )


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Within it processes fork with signals to stop held back until they can answer them, and no warning."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning
            )
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _stop(wires: list[Wire], processes: list) -> None:
    """Tell the workers to close, wait a little, kill those that did not, and free their pipes."""
    for wire in wires:
        wire.wake(CLOSE)
    end = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    for wire in wires:
        wire.close()


def _fate(process: Any) -> str:
    """How a process that is gone ended."""
    process.join(PATIENCE)
    code = process.exitcode
    if code is None:
        return "vanished"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _tail(wire: Wire, size: int = 4000) -> str:
    """The last characters that the worker printed; of a crash, where it was first."""
    length = os.fstat(wire.output.fileno()).st_size
    text = (
        os.pread(wire.output.fileno(), 1 << 16, max(0, length - (1 << 16))).decode(errors="replace").strip()
    )
    crash = text.rfind("Fatal Python error")
    return text[-size:] if crash < 0 else text[crash:][:size]
