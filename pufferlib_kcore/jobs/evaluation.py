"""Evaluation: play whole episodes with a checkpoint, and film them where asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.film import Film, film
from pufferlib_kcore.jobs.source import Newest, Source
from pufferlib_kcore.training.acting import Played, play

AT_ONCE = 16  # environments that are played in, at most


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What to play, and for how long."""

    source: Source
    episodes: int | None = None  # None: as many as training has environments
    film: bool = False  # one environment alone, its pictures written beside the checkpoint


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a checkpoint's policy returned."""

    path: Path  # of the checkpoint
    env: str | None
    played: Played
    film: Film | None = None

    def __str__(self) -> str:
        lines = [f"checkpoint={self.path} env={self.env} {self.played}"]
        return "\n".join([*lines, *([] if self.film is None else [str(self.film)])])


def evaluate(request: EvaluateRequest) -> Evaluated:
    """Play whole episodes.  Raises UserError where there is nothing to play, or nothing to film it with."""
    found = request.source.newest()
    episodes = found.settings.train.num_envs if request.episodes is None else request.episodes
    shot = None
    if not request.film:
        played = played_in(found, request.source.vec, episodes)
    elif request.source.vec == "ale":
        raise UserError("--vec ale has no pictures to film: leave --capture-video out")
    else:
        played, shot = film(found.path, found.restored, found.settings, episodes)
    return Evaluated(path=found.path, env=found.settings.base.env_name, played=played, film=shot)


def played_in(found: Newest, backend: str, episodes: int) -> Played:
    """Whole episodes in one group of environments."""
    settings, policy = found.settings, found.restored.policy
    vec = worlds.one_group(settings, backend, min(episodes, AT_ONCE))
    try:
        worlds.World(vec, None, backend).check(found.restored.spec, str(found.path))
        return play(policy, vec, settings.train.seed, episodes=episodes)
    finally:
        vec.close()
