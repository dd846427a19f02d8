"""Suite: every agent with every reward, over seeds: run, gone on with, and told in one report.

<folder>/suite.json  <agent>-<reward>/..  RESULTS_REPORT.md  full_comparison_<stamp>.json  index.html
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.agents import HEURISTICS
from pufferlib_kcore.failure_lab.learning import NINE, check_agent
from pufferlib_kcore.failure_lab.protocol import ExperimentProtocol
from pufferlib_kcore.failure_lab.runner import ExperimentRunner
from pufferlib_kcore.jobs.batch import launch
from pufferlib_kcore.jobs.batch.local import Command
from pufferlib_kcore.jobs.batch.schedule import told
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.store import atomic
from pufferlib_kcore.store.forks import read_json, write_json
from pufferlib_kcore.store.lab import LabFolder
from pufferlib_kcore.store.lock import locked

REWARDS = ("short_term_v1", "short_term_v2", "long_term_shaped_v1", "risk_sensitive_v1", "sparse_v1")
PROGRAM = "experiments.run_all_experiments"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is run: agents x rewards x seeds, in one regime."""

    folder: Path = Path("results") / "lab" / "suite"
    agents: tuple[str, ...] = NINE
    rewards: tuple[str, ...] = REWARDS
    seeds: tuple[int, ...] = (0, 1, 2)
    regime: str = "stable"
    episodes: int = 100  # of training
    eval_episodes: int = 100
    jobs: int = 1
    launcher: str = "local"
    slurm: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for agent in self.agents:
            check_agent(agent)
        for reward in self.rewards:
            self.protocol(self.agents[0], reward)
        launch.check_launcher(self.launcher, self.slurm)

    def protocol(self, agent: str, reward: str) -> ExperimentProtocol:
        return ExperimentProtocol(
            name=f"{agent}-{reward}",
            hypothesis=f"with {reward}, {agent} comes to nine tenths of the optimum of the base reward",
            claim="true_return > 0.9 * optimum",
            seeds=self.seeds,
            env_params={"regime": self.regime},
            reward_type=reward,
            agent_type=agent,
            n_episodes=self.episodes,
            eval_interval=max(1, self.episodes // 5),
            eval_episodes=self.eval_episodes,
        )

    @property
    def fixed(self) -> dict[str, Any]:
        """What may not change in a folder; agents, rewards and seeds may be added."""
        return {name: asdict(self)[name] for name in ("regime", "episodes", "eval_episodes")}

    def experiments(self) -> Iterator[tuple[str, str]]:
        for agent in self.agents:
            for reward in self.rewards:
                yield agent, reward

    def is_done(self, agent: str, reward: str) -> bool:
        folder = LabFolder(self.folder / f"{agent}-{reward}")
        return all((folder.seed_path(s) / "seed.json").is_file() for s in self.seeds) and (
            folder.result_path.is_file() and set(folder.result()["protocol"]["seeds"]) >= set(self.seeds)
        )


def run_suite(suite: Suite, say: Callable[[str], None], watch: Watch = unwatched) -> list[str]:
    """Run what is missing, write the reports.  -> what failed, in words

    Raises UserError where the folder holds a suite of other settings, or one runs there.
    """
    from pufferlib_kcore.failure_lab.suite_report import write

    suite.folder.mkdir(parents=True, exist_ok=True)
    with locked(suite.folder, "wait until it ends, or name another --folder"):
        check_same(suite)
        write_json(suite.folder / "suite.json", {"settings": suite.fixed})
        logs = suite.folder / "logs"
        logs.mkdir(exist_ok=True)
        commands = list(commands_of(suite, logs))
        done = launch.run_all(suite.launcher, suite.jobs, suite.slurm, commands, lambda c, o: None)
        failed = []
        for command, outcome in counted(done, len(commands), "experiments", watch):
            say(told(command, outcome))
            if outcome.status:
                failed.append(told(command, outcome))
        results = [
            LabFolder(suite.folder / f"{agent}-{reward}").result()
            for agent, reward in suite.experiments()
            if suite.is_done(agent, reward)
        ]
        if results:
            stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
            for old in suite.folder.glob("full_comparison_*.json"):
                old.unlink()
            path = suite.folder / f"full_comparison_{stamp}.json"
            atomic.write(path, (json.dumps(results, indent=1) + "\n").encode())
            write(suite.folder, results)
    return failed


def check_same(suite: Suite) -> None:
    """Raise UserError where the folder's suite has other settings."""
    path = suite.folder / "suite.json"
    before = read_json(path).get("settings", {}) if path.is_file() else suite.fixed
    for name, value in suite.fixed.items():
        if before.get(name) != value:
            raise UserError(
                f"{suite.folder} holds a suite with {name} {before.get(name)}, and this has {value}: "
                "name another --folder"
            )


def commands_of(suite: Suite, logs: Path) -> Iterator[Command]:
    """One for each experiment of a learner, one for all of a rule, of those that are not done."""
    for agent in suite.agents:
        left = [reward for reward in suite.rewards if not suite.is_done(agent, reward)]
        groups = [left] if agent in HEURISTICS else [[reward] for reward in left]
        for rewards in filter(None, groups):
            name = agent if agent in HEURISTICS else f"{agent}-{rewards[0]}"
            argv = (sys.executable, "-m", PROGRAM, "--part", *words(suite, agent, rewards))
            yield Command(name, argv, (logs / f"{name}.log").absolute())


def words(suite: Suite, agent: str, rewards: list[str]) -> list[str]:
    """The same suite with these alone, as its program is told."""
    said = {"--folder": suite.folder.absolute(), "--regime": suite.regime, "--episodes": suite.episodes}
    said |= {"--eval-episodes": suite.eval_episodes}
    plain = [str(word) for pair in said.items() for word in pair]
    return [*plain, "--agents", agent, "--rewards", *rewards, "--seeds", *map(str, suite.seeds)]


def run_part(suite: Suite) -> None:
    """All of a small suite, in this process; nothing is reported."""
    runner = ExperimentRunner(suite.folder, verbose=True)
    for agent, reward in suite.experiments():
        runner.run(suite.protocol(agent, reward))
