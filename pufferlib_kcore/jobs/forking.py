"""Forking: train a trunk of SAC or DDPG, fork it, train the children, and walk the line between each two."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pufferlib_kcore import store
from pufferlib_kcore.connectivity import learners, replay
from pufferlib_kcore.connectivity.actors import Actor, actor, read
from pufferlib_kcore.connectivity.plan import Plan
from pufferlib_kcore.connectivity.summary import told
from pufferlib_kcore.environments import cores, make_creator, seeds, vector
from pufferlib_kcore.errors import RunFailed, UserError
from pufferlib_kcore.jobs.lines import CompareRequest, between, end_of, realigned
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.jobs.references import uniform
from pufferlib_kcore.jobs.worker import ignore_pynvml
from pufferlib_kcore.store.forks import (
    ForkFolder,
    earlier,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
    write_tensors,
)
from pufferlib_kcore.store.lock import locked
from pufferlib_kcore.text import aligned
from pufferlib_kcore.training.acting import play

EVALUATION, LINE, CHANCE, SPLIT, CHILD = 11, 12, 13, 14, 15  # the second number of their entropy
FREE = ("jobs",)  # settings that change nothing in what comes out
POLL = 0.5  # seconds between looks for a fork that the trunk has left


@dataclass(frozen=True)
class Forked:
    """An experiment that is done."""

    folder: ForkFolder
    forks: list[dict[str, Any]]

    def __str__(self) -> str:
        rows: list[list[Any]] = [
            ["fork", "at", "steps", "child 1", "child 2", "barrier", "in heights", "stable"]
        ]
        for f in self.forks:
            b, of = f["barrier"], " (forked before the first update)" if f["of_initialisation"] else ""
            interval = [f"{b[k]:.4g}" if b[k] is not None else "?" for k in ("low", "high")]
            rows.append([
                f["fork_id"], f"{f['fork_point']:.0%}", f["step"], f"{f['fork1_reward']:.5g}",
                f"{f['fork2_reward']:.5g}", f"{b['value']:.4g} [{', '.join(interval)}]",
                "-" if f["relative"] is None else f"{f['relative']:.3f}",
                ("yes" if f["is_stable"] else "no") + of,
            ])  # fmt: skip
        return aligned(rows, range(7))


def fork(plan: Plan, root: Path = Path(), *, anew: bool = False, watch: Watch = unwatched) -> Forked:
    """Run the whole of it, or what is missing of one that was stopped; all stays on disk.

    root  the folder of results/ and model_weights/
    anew  never go on with an earlier one of the same settings
    Raises UserError for an environment, a size or a device that cannot be.
    """
    learners.check_env(plan.env)
    check_memory(plan)
    torch_device(plan.device)
    folder, plan, lock = taken(plan, root, anew)
    with lock:
        prepare(folder, plan)
        train_all(folder, plan, watch)
        forks = [read_json(folder.fork_path(i)) for i in range(len(plan.fork_points))]
        write_json(folder.all_path, forks)
        for i in range(len(plan.fork_points)):
            for path in (folder.state_path(i), buffer_path(folder, i)):
                path.unlink(missing_ok=True)
    return Forked(folder, forks)


def taken(plan: Plan, root: Path, anew: bool) -> tuple[ForkFolder, Plan, AbstractContextManager[None]]:
    """The folders of an experiment that was stopped, else new ones; locked."""
    cure = "wait until it ends, or run with --anew"
    for found in () if anew else earlier(root, plan.experiment_name, plan.env, plan.algo):
        if found.all_path.is_file():
            continue
        asked, stands = plan.plain(), found.config().get("settings", {})
        drawn = plan.seed is None and found.config().get("seed_drawn", False)
        odd = [k for k, v in asked.items() if k not in FREE and jsonable(v) != stands.get(k)]
        if odd and not (odd == ["seed"] and drawn):
            continue
        lock = locked(found.results, cure)
        try:
            lock.__enter__()
        except UserError:  # it is running: this is another one
            continue
        seeded = type(plan)(**{**asked, "seed": int(stands["seed"])})
        found.weights.mkdir(parents=True, exist_ok=True)
        return found, seeded, _entered(lock)
    seeded = plan.seeded()
    assert seeded.seed is not None
    made = ForkFolder.create(root, plan.experiment_name, plan.env, plan.algo, seeded.seed)
    config = {"version": 1, "settings": {k: jsonable(v) for k, v in seeded.plain().items()}}
    write_json(made.config_path, {**config, "seed_drawn": plan.seed is None, "made_with": provenance()})
    return made, seeded, locked(made.results, cure)


class _entered(AbstractContextManager[None]):
    """A context that is entered already."""

    def __init__(self, context: AbstractContextManager[None]):
        self.context = context

    def __exit__(self, *error: Any) -> bool | None:
        return self.context.__exit__(*error)


def jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def provenance() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("stable-baselines3", "gymnasium", "torch", "numpy")}


def check_memory(plan: Plan) -> None:
    """Raise UserError where the buffers of all that trains at once do not fit."""
    import psutil

    env = learners.make_env(plan)
    observation, action = (int(np.prod(s.shape or (1,))) for s in (env.observation_space, env.action_space))
    env.close()
    sizes = [plan.capacity(2 if plan.fork_buffer_strategy == "shared" else 1)] * min(
        plan.jobs, 1 + 2 * len(plan.fork_points)
    )
    needed = sum(replay.bytes_of(size, observation, action) for size in sizes)
    replay.check_memory(
        needed, psutil.virtual_memory().available, f"{len(sizes)} replay buffer(s) of {plan.env}"
    )


def torch_device(name: str) -> None:
    from pufferlib_kcore.jobs.world import device

    device(name)


# --- tasks, each in a process of its own ----------------------------------------------------------


Task = tuple[str, int, int]  # kind, fork, child


def train_all(folder: ForkFolder, plan: Plan, watch: Watch) -> None:
    """The trunk, each fork's children as soon as it is made, each line as soon as its ends are there."""
    threads = max(1, cores.available_cores() // plan.jobs)
    pool = ProcessPoolExecutor(plan.jobs, multiprocessing.get_context("spawn"), _alone, (threads,))
    running: dict[Future, Task] = {}
    asked: set[Task] = set()
    total = 1 + sum(2 * (1 - point) for point in plan.fork_points)

    def ask() -> None:
        for task in wanted(folder, plan):
            if task not in asked:
                asked.add(task)
                running[pool.submit(TASKS[task[0]], folder, plan, *task[1:])] = task

    with pool, watch(f"{plan.algo} on {plan.env}, seed {plan.seed}") as tell:
        try:
            ask()
            while running:
                done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    said = future.result()
                    tell(min(1.0, _done(folder, plan) / total), running.pop(future)[0], said)
                ask()
                tell(min(1.0, _done(folder, plan) / total))
        except BrokenProcessPool:
            raise RunFailed(
                f"a training of {folder.results} was killed, for want of memory perhaps; "
                "the same command goes on"
            ) from None
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def wanted(folder: ForkFolder, plan: Plan) -> Iterator[Task]:
    """What is not there yet and can be made of what is."""
    shared = plan.fork_buffer_strategy == "shared"
    if not folder.final_path.is_file():
        yield "trunk", 0, 0
    for fork in range(len(plan.fork_points)):
        missing = [child for child in (1, 2) if not folder.child_path(fork, child).is_file()]
        if not missing and not folder.fork_path(fork).is_file():
            yield "line", fork, 0
        elif missing and folder.state_path(fork).is_file():
            yield from [("children", fork, 0)] if shared else [("child", fork, child) for child in missing]


def _done(folder: ForkFolder, plan: Plan) -> float:
    """Steps that are done, in parts of the trunk's."""
    found = sum(
        (1 - p) for i, p in enumerate(plan.fork_points) for c in (1, 2) if folder.child_path(i, c).is_file()
    )
    names = [p.stem for p in (folder.results / "evaluations").glob("step_*.json")]
    newest = max((int(name.removeprefix("step_")) for name in names), default=0)
    return found + newest / plan.total_steps


def _alone(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    ignore_pynvml()
    torch.set_num_threads(threads)


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it: else both it and who goes on would write."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


def trunk(folder: ForkFolder, plan: Plan, fork: int, child: int) -> str:
    """Train the trunk, from its newest fork where there is one; leave a fork at each of its points."""
    steps = [plan.step_of(point) for point in plan.fork_points]
    states = [
        i for i in range(len(steps)) if folder.state_path(i).is_file() and buffer_path(folder, i).is_file()
    ]
    model = learners.learner(plan, _seed(plan), plan.capacity())
    if states:
        model.set_random_seed(seeds.env_seed((_seed(plan), CHILD, states[-1]), 0))
        learners.put_up(
            model, read(folder.state_path(states[-1])), read_arrays(buffer_path(folder, states[-1]))
        )
    due = [i for i, step in enumerate(steps) if not states or i > states[-1]]
    judge = Judge(plan)
    if not states:
        judge.write(folder, model, 0)
    began = model.num_timesteps
    for step in learners.turns(model, plan.total_steps):
        while due and step >= steps[due[0]]:
            write_arrays(buffer_path(folder, due[0]), replay.held(model.replay_buffer))
            write_tensors(folder.state_path(due[0]), learners.taken_down(model, plan))
            due.pop(0)
        if step // plan.eval_freq > (step - plan.train_freq) // plan.eval_freq or step >= plan.total_steps:
            judge.write(folder, model, step)
    judge.close()
    found = judge.last
    write_tensors(folder.final_path, learners.weights(model, plan, seed=_seed(plan), kind="trunk"))
    since = f" (gone on from step {began:,})" if began else ""
    return f"trunk{since}: {found:.5g} after {plan.total_steps:,} steps"


def one_child(folder: ForkFolder, plan: Plan, fork: int, child: int) -> str:
    """Train one child of a fork to the end, and keep its weights."""
    model = put_up(folder, plan, fork, child, plan.capacity())
    for _ in learners.turns(model, plan.total_steps):
        pass
    return keep(folder, plan, model, fork, child)


def both_children(folder: ForkFolder, plan: Plan, fork: int, child: int) -> str:
    """Train both children in turns, on one buffer to which both add; each with its own random numbers."""
    models, chances = [], []
    for child in (1, 2):
        models.append(put_up(folder, plan, fork, child, plan.capacity(children=2)))
        chances.append(learners.Chance())
    models[1].replay_buffer = models[0].replay_buffer
    going = [learners.turns(model, plan.total_steps) for model in models]
    ended = [False, False]
    while not all(ended):
        for i, one in enumerate(going):
            chances[i].back()
            ended[i] = next(one, None) is None
            chances[i] = learners.Chance()
    return "\n".join(keep(folder, plan, model, fork, child) for child, model in enumerate(models, 1))


def put_up(folder: ForkFolder, plan: Plan, fork: int, child: int, capacity: int) -> Any:
    model = learners.learner(plan, seeds.env_seed((_seed(plan), CHILD, fork), child), capacity)
    buffer = read_arrays(buffer_path(folder, fork))
    own = replay.given(buffer, plan.fork_buffer_strategy, child - 1, [_seed(plan), SPLIT, fork])
    learners.put_up(model, read(folder.state_path(fork)), own)
    return model


def keep(folder: ForkFolder, plan: Plan, model: Any, fork: int, child: int) -> str:
    told = {"seed": _seed(plan), "kind": f"fork {fork}, child {child}"}
    write_tensors(folder.child_path(fork, child), learners.weights(model, plan, **told))
    return f"fork {fork} at {plan.fork_points[fork]:.0%}: child {child} trained"


def line(folder: ForkFolder, plan: Plan, fork: int, child: int) -> str:
    """Walk from one child to the other, and say how high the barrier is."""
    one, other = (end_of(folder.child_path(fork, child)) for child in (1, 2))
    chance = by_chance(folder, plan)
    how = CompareRequest(
        one=one.name, other=other.name, alphas=plan.alphas, episodes=plan.fork_episodes,
        seed=(_seed(plan), LINE), greedy=not plan.sampled, jobs=1,
    )  # fmt: skip
    step = plan.step_of(plan.fork_points[fork])
    found = {
        "fork_id": fork,
        "fork_point": plan.fork_points[fork],
        "step": step,
        "of_initialisation": step < plan.first_update,
        "strategy": plan.fork_buffer_strategy,
        **between(one, other.policy, how, chance),
        "aligned": realigned(one, other.policy, how, chance),
    }
    write_json(folder.fork_path(fork), found)
    ends = f"{found['fork1_reward']:.5g} and {found['fork2_reward']:.5g}"
    return f"fork {fork} at {plan.fork_points[fork]:.0%}: {ends}, {told(found)}"


TASKS: Mapping[str, Callable[[ForkFolder, Plan, int, int], str]] = {
    "trunk": trunk,
    "child": one_child,
    "children": both_children,
    "line": line,
}


# --- returns ---------------------------------------------------------------------------------------


def creator(plan: Plan) -> Any:
    return make_creator(plan.env, rewards=(), max_episode_steps=plan.max_episode_steps)


def by_chance(folder: ForkFolder, plan: Plan) -> float:
    """The mean return of actions drawn uniformly, measured once."""
    path = folder.results / "random.json"
    if path.is_file():
        return float(read_json(path)["mean_reward"])
    vec = vector.make(creator(plan), "serial", 10)
    env = learners.make_env(plan)
    played = play(uniform(env.action_space), vec, (_seed(plan), CHANCE), episodes=max(20, plan.fork_episodes))
    vec.close()
    env.close()
    found = {"mean_reward": float(played.returns.mean()), "std_reward": float(played.returns.std())}
    write_json(path, {**found, "episodes": len(played.returns)})
    return found["mean_reward"]


class Judge:
    """Evaluates the trunk, in environments of its own, whose episodes are the same every time."""

    def __init__(self, plan: Plan):
        self.plan, self.last = plan, float("nan")
        self.vec = vector.make(creator(plan), "serial", min(plan.eval_episodes, 10))

    def write(self, folder: ForkFolder, model: Any, step: int) -> None:
        policy: Actor = actor(learners.weights(model, self.plan), "the trunk")
        played = play(
            policy, self.vec, (_seed(self.plan), EVALUATION), episodes=self.plan.eval_episodes, greedy=True
        )
        returns = played.returns[: self.plan.eval_episodes]
        self.last = float(returns.mean())
        told = {"step": step, "mean_reward": self.last, "std_reward": float(returns.std())}
        told_all: dict[str, Any] = {**told, "returns": returns.tolist(), "lengths": played.lengths.tolist()}
        write_json(folder.evaluation_path(step), told_all)

    def close(self) -> None:
        self.vec.close()


def buffer_path(folder: ForkFolder, fork: int) -> Path:
    return folder.weights / f"fork_{fork}_buffer.npz"


def prepare(folder: ForkFolder, plan: Plan) -> None:
    """Remove what a killed process left half written."""
    for path in (folder.results, folder.weights, *(p for p in folder.results.iterdir() if p.is_dir())):
        store.atomic.sweep(path)


def _seed(plan: Plan) -> int:
    assert plan.seed is not None
    return plan.seed
