"""Lines: the straight line between two weights on disk, unaligned and aligned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.analysis import interpolations
from pufferlib_kcore.connectivity import actors
from pufferlib_kcore.connectivity.lines import walk
from pufferlib_kcore.connectivity.matching import distance, matched, weight_matching
from pufferlib_kcore.connectivity.summary import summary, told
from pufferlib_kcore.environments import make_creator, vector
from pufferlib_kcore.environments.creators import Creator
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.jobs.references import uniform
from pufferlib_kcore.jobs.source import FileSource, Newest, RunSource
from pufferlib_kcore.store import Run
from pufferlib_kcore.store.forks import write_json
from pufferlib_kcore.training.acting import play

BLIND = 20  # episodes of a random policy, at least
AT_ONCE = 16


@dataclass(frozen=True)
class End:
    """An end of a line, and where it plays."""

    policy: nn.Module
    example: tuple[Any, ...]
    creator: Creator
    env: str
    name: str


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """Two weights: files or folders, of experiments.run_env or of demo.py."""

    one: str | Path
    other: str | Path
    alphas: int = 101
    episodes: int = 100
    seed: int | tuple[int, ...] = 0
    greedy: bool = True
    aligned: bool = False
    jobs: int | None = None
    output: Path = Path()


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was found, as it was written."""

    found: dict[str, Any]
    json: Path
    png: Path

    def __str__(self) -> str:
        f = self.found
        lines = [
            f"A {f['weights_a']}: {f['fork1_reward']:.6g}",
            f"B {f['weights_b']}: {f['fork2_reward']:.6g}   random: {f['random_reward']:.6g}",
            f"{told(f)}; weights {f['distance']:.4g} apart",
        ]
        if f.get("aligned"):
            lines.append(f"aligned, {told(f['aligned'])}; weights {f['aligned']['distance']:.4g} apart")
        return "\n".join([*lines, f"wrote {self.json} and {self.png}"])


def compare(request: CompareRequest, watch: Watch = unwatched) -> Compared:
    """Walk the line, and write lmc_results.json and lmc_plot.png.

    Raises UserError where weights cannot be read, or are of two environments or architectures.
    """
    one, other = end_of(request.one), end_of(request.other)
    if one.env != other.env:
        raise UserError(f"{one.name} is of {one.env}, {other.name} of {other.env}: no line lies between them")
    shapes = [{n: tuple(p.shape) for n, p in end.policy.named_parameters()} for end in (one, other)]
    for name in {**shapes[0], **shapes[1]}:
        a, b = (s.get(name, "none") for s in shapes)
        if a != b:
            raise UserError(
                f"{name} is {a} in {one.name} and {b} in {other.name}: a line lies between policies of one "
                "architecture alone"
            )
    request.output.mkdir(parents=True, exist_ok=True)
    chance = by_chance(one.creator, request.seed, request.episodes)
    found: dict[str, Any] = {"weights_a": one.name, "weights_b": other.name, "env": one.env}
    found["seed"] = request.seed
    found |= between(one, other.policy, request, chance, watch)
    if request.aligned:
        found["aligned"] = realigned(one, other.policy, request, chance, watch)
    json_path, png = request.output / "lmc_results.json", request.output / "lmc_plot.png"
    write_json(json_path, found)
    figure = interpolations.line_figure(found, f"{one.env}: {Path(one.name).name} to {Path(other.name).name}")
    interpolations.save(figure, png)
    return Compared(found=found, json=json_path, png=png)


def between(one: End, other: nn.Module, how: Any, chance: float, watch: Watch = unwatched) -> dict[str, Any]:
    """A line's summary.  how: alphas, episodes, seed, greedy and jobs of it"""
    with watch(f"walking {how.alphas} places with {how.episodes} episodes each") as tell:
        line = walk(
            one.policy,
            other,
            one.creator,
            alphas=how.alphas,
            episodes=how.episodes,
            seed=how.seed,
            greedy=how.greedy,
            jobs=how.jobs,
            tell=tell,
        )
    return {**summary(line, chance), "distance": distance(one.policy, other)}


def realigned(
    one: End, other: nn.Module, how: Any, chance: float, watch: Watch = unwatched
) -> dict[str, Any] | None:
    """The same to the other policy, its neurons in the order that matches; None where none moves."""
    traced = graph.trace(one.policy, one.example)
    which = weight_matching(traced, other)
    moved = sum(int((order != range(len(order))).sum()) for order in which.values())
    if not moved:
        return None
    found = between(one, matched(traced, other, which), how, chance, watch)
    return {**found, "moved": moved}


def by_chance(creator: Creator, seed: Any, episodes: int) -> float:
    """The mean return of actions drawn alike."""
    vec = vector.make(creator, "serial", min(AT_ONCE, max(BLIND, episodes)))
    key = (seed,) if isinstance(seed, int) else tuple(seed)
    try:
        blind = uniform(vec.driver_env.env.unwrapped.action_space)
        return float(play(blind, vec, (*key, 1), episodes=max(BLIND, episodes)).returns.mean())
    finally:
        vec.close()


def end_of(path: str | Path) -> End:
    """Weights of experiments.run_env, or a checkpoint or run of demo.py.  Raises UserError."""
    path = Path(path)
    if path.is_dir() and not (path / "final.pt").is_file():
        run = Run(path)
        if not run.exists():
            raise UserError(f"{path} holds neither final.pt nor a run: name a file of weights, or its folder")
        return end_in(RunSource(run=run).newest())
    if path.is_dir() or weights_in(path):
        held = actors.read(path)
        policy = actors.actor(held, path)
        width = next(policy.parameters()).shape[1]
        creator = make_creator(held["env"], rewards=(), max_episode_steps=held.get("max_episode_steps", 1000))
        return End(policy, (torch.zeros(4, width),), creator, str(held["env"]), str(path))
    return end_in(FileSource(path=path).newest())


def end_in(found: Newest) -> End:
    """Of a checkpoint of demo.py."""
    file = found.restored.file
    if file.env is not None and file.env.preprocessing == "ale":
        raise UserError(
            f"{found.path} was trained on {worlds.PREPROCESSING['ale']}, where no line can be walked: "
            "train without --vec ale"
        )
    creator = worlds.creator(found.settings)
    return End(
        found.restored.policy,
        found.restored.example_inputs,
        creator,
        worlds.env_name(found.settings),
        str(found.path),
    )


def weights_in(path: Path) -> bool:
    """Whether a file is one of experiments.run_env's; one that cannot be read is left to others to refuse."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return False
    return isinstance(held, dict) and "actor" in held
