"""Lines: returns at places of the straight line between two policies, all places at once.

    theta_a = (1 - a) theta_0 + a theta_1

Episode e starts alike at every place, and draws alike (common random numbers). A policy that can compute in
float64 does, and its actions are rounded to float32: so returns are those of one network after the other, a
step at a time, though kernels of many networks round otherwise. (About one action in 1e8 lies so near the
middle of two float32 that it is rounded to the other one. Policies that say .float() compute in float32;
their returns agree as far as the task forgives a rounding.)
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pufferlib_kcore.connectivity.stacked import Stack, between
from pufferlib_kcore.environments import cores, seeds
from pufferlib_kcore.environments.control import one_model
from pufferlib_kcore.environments.creators import Creator
from pufferlib_kcore.environments.episodes import EpisodesOf
from pufferlib_kcore.environments.puffer2.serial import Serial
from pufferlib_kcore.errors import UserError

ENVS = 1024  # environments in a process, at most, unless there are more places
STACK = 2**29  # bytes of the weights of places that are played at once, at most
WORTH = 500  # episodes from which on processes are worth their start
BLOCK = 64  # steps' draws that are made at once
POLL = 0.2  # seconds between looks at how far it is


@dataclass(frozen=True)
class Line:
    """What was returned.  alphas (A,) from 0 to 1; returns, lengths (A, E)"""

    alphas: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Walk:
    """What is walked, as far as all processes need it."""

    one: nn.Module
    other: nn.Module
    creator: Creator
    alphas: np.ndarray
    seed: tuple[int, ...]
    greedy: bool

    def part(self, places: slice, episodes: Sequence[int], tell: Callable[[int], None]) -> np.ndarray:
        """Some places, and some episodes at each.  -> (2, places, episodes): returns, lengths"""
        alphas = self.alphas[places]
        slots = max(1, min(len(episodes), ENVS // len(alphas)))
        own = [list(range(len(episodes)))[s::slots] for s in range(slots)]  # the episodes of each slot
        starts = [tuple(seeds.env_seed(self.seed, episodes[i]) for i in mine) for mine in own]
        with one_model():
            vec = Serial([EpisodesOf(self.creator, starts[s]) for _ in alphas for s in range(slots)], 0)
        stack = Stack(between(self.one, self.other, alphas), self.one, vec, slots)
        found = np.full((2, len(alphas), len(episodes)), np.nan)
        played = np.zeros((len(alphas), slots), int)
        share = np.array([len(mine) for mine in own])
        draws = None if self.greedy else Draws(self.seed, [[episodes[i] for i in mine] for mine in own])
        try:
            vec.reset(0)
            ended = np.ones(len(alphas) * slots, bool)  # next, episodes start
            while True:
                got = vec.recv(0)
                starting, ended = ended, got.terminals | got.truncations
                for place, info in zip(np.flatnonzero(ended), got.infos, strict=True):
                    a, s = divmod(int(place), slots)
                    episode = own[s][played[a, s]]
                    found[:, a, episode] = info["episode_return"], info["episode_length"]
                    played[a, s] += 1
                    tell(1)
                live = (played < share).any(1)
                if not live.any():
                    return found
                actions = stack.act(got.obs, starting, live, played, draws)
                vec.send(0, actions)
        finally:
            vec.close()


class Draws:
    """The random numbers of each episode, wherever and whenever it is played."""

    def __init__(self, seed: tuple[int, ...], episodes: list[list[int]]):
        self.seed, self.episodes = seed, episodes
        self.running: dict[tuple[int, int], tuple[int, Iterator[np.ndarray]]] = {}

    def next(self, place: int, slot: int, number: int, width: int) -> np.ndarray:
        """The next (width,) of the slot's episode of that number: uniform, between 0 and 1."""
        known = self.running.get((place, slot))
        if known is None or known[0] != number:
            episode = self.episodes[slot][min(number, len(self.episodes[slot]) - 1)]
            known = number, uniforms(seeds.env_seed((*self.seed, 1), episode), width)
            self.running[place, slot] = known
        return next(known[1])


def uniforms(seed: int, width: int) -> Iterator[np.ndarray]:
    """Rows of (width,) between 0 and 1, neither of them, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.random((BLOCK, width)).clip(1e-12, 1 - 1e-12)


def walk(
    one: nn.Module,
    other: nn.Module,
    creator: Creator,
    *,
    alphas: int | np.ndarray = 101,
    episodes: int = 100,
    seed: int | Sequence[int] = 0,
    greedy: bool = True,
    jobs: int | None = None,
    tell: Callable[[float], None] = lambda part: None,
) -> Line:
    """Play at each place of the line; what is given stays untouched.

    one, other  policies that return (actions, value), recurrent or not, of one architecture
    alphas      how many places, evenly spread and the ends among them, or which
    greedy      take the most likely actions instead of drawing them
    jobs        processes, by default one for each core where there is much to play; numbers do not depend on
                how many
    tell        called with the part that is done
    Raises UserError for less than 2 places or 1 episode, for policies of other shapes, for weights that are
    not finite; Diverged where actions are not.
    """
    if isinstance(alphas, int):
        if alphas < 2:
            raise UserError(f"{alphas} place(s) are no line: its two ends are the least, as in --alphas 2")
        alphas = np.linspace(0, 1, alphas)
    if episodes < 1:
        raise UserError(f"{episodes} episodes tell nothing: take 1 or more")
    key = (seed,) if isinstance(seed, (int, np.integer)) else tuple(seed)
    trip = Walk(one, other, creator, np.asarray(alphas, float), key, greedy)
    size = between(one, other, trip.alphas[:1]).bytes
    total, done = len(trip.alphas) * episodes, 0
    if jobs is None:
        jobs = cores.available_cores() if total >= WORTH else 1
    jobs = min(jobs, episodes)
    shares = [list(range(episodes))[j::jobs] for j in range(jobs)]
    fit = min(STACK // max(1, size), ENVS // len(shares[0]))  # few places: their weights stay cached
    at_once = max(1, min(len(trip.alphas), fit))
    places = [slice(i, i + at_once) for i in range(0, len(trip.alphas), at_once)]
    found = np.empty((2, len(trip.alphas), episodes))

    def told(more: int) -> None:
        nonlocal done
        done += more
        tell(done / total)

    if jobs == 1:
        for some in places:
            found[:, some] = trip.part(some, shares[0], told)
        return Line(trip.alphas, *found)
    context = multiprocessing.get_context("spawn")
    counts = context.SimpleQueue()
    with ProcessPoolExecutor(jobs, context, _start, (counts,)) as pool:
        running = {
            pool.submit(_part, trip, some, share): (some, share) for some in places for share in shares
        }
        while running:
            ready, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
            while not counts.empty():
                told(counts.get())
            for future in ready:
                some, share = running.pop(future)
                found[:, some, share] = future.result()
    return Line(trip.alphas, *found)


_counts: Any = None


def _start(counts: Any) -> None:
    global _counts
    _counts = counts
    torch.set_num_threads(1)


def _part(trip: Walk, places: slice, episodes: list[int]) -> np.ndarray:
    return trip.part(places, episodes, _counts.put)
