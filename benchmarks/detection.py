"""Detection: runs that really fail, each in a way that is known, and what the detectors say of them.

    python benchmarks/detection.py train      # an hour on 2 cores; goes on where it was stopped
    python benchmarks/detection.py report     # seconds, from the records in benchmarks/detection

Every run is PPO of this project, with --diagnose's companion, on a task of `detection_worlds`. Seeds 0 to
4 are there to choose the detectors' thresholds on; what is reported is seeds 5 and 6, which nobody chose by.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

OUT = Path(__file__).resolve().parent / "detection"
ENVS = 8
EPOCHS = {"cartpole": 90, "acrobot": 70, "pendulum": 60, "grid": 80, "memory": 70}
BATCH = {"cartpole": 1024, "acrobot": 1024, "pendulum": 2048, "grid": 1024, "memory": 1024}
SETTINGS: dict[str, dict[str, Any]] = {  # over classic control's
    "cartpole": {},
    "acrobot": {},
    "pendulum": {"update_epochs": 10, "gamma": 0.95, "ent_coef": 0.0},
    "grid": {},
    "memory": {},
}
CHOOSING = 5  # seeds below this


@dataclass(frozen=True)
class Case:
    """A way to fail, on one task.  wrong: of the world; settings: of training; meddle: (part of the run after
    which, what then)"""

    kind: str  # a detector's, or healthy
    world: str
    name: str
    wrong: tuple = ()
    settings: dict[str, Any] = field(default_factory=dict)
    meddle: tuple[float, dict[str, Any]] | None = None
    recurrent: bool = False
    misled: bool = False  # evaluated with statistics that are not those of training
    epochs: int | None = None

    def steps(self, part: float) -> int:
        """Of one environment, in that part of the run."""
        return int(part * self.length * BATCH[self.world] / ENVS)

    @property
    def length(self) -> int:
        return self.epochs or EPOCHS[self.world]


def cases() -> list[Case]:
    found = [Case("healthy", w, "plain") for w in ("cartpole", "acrobot", "pendulum", "grid")]
    found += [Case("healthy", "memory", "lstm", recurrent=True)]
    found += [Case("healthy", "cartpole", "lstm", recurrent=True)]
    found += [Case("healthy", "grid", "greedy", settings={"ent_coef": 0.0, "learning_rate": 2e-3})]
    found += [Case("healthy", "cartpole", "shaped", wrong=(("proxy", (0.0,)),))]
    for w in ("cartpole", "grid", "acrobot"):
        found.append(Case("policy_collapse", w, "from the start", settings={"ent_coef": -5.0}))
    found.append(
        Case("policy_collapse", "memory", "from the start", settings={"ent_coef": -5.0}, recurrent=True)
    )
    for w in ("cartpole", "grid"):
        found.append(Case("policy_collapse", w, "early", meddle=(0.05, {"ent_coef": -5.0})))
    fast = {
        **{"learning_rate": 1.0, "max_grad_norm": 1e9, "clip_coef": 1e6, "update_epochs": 8},
        "anneal_lr": False,
    }
    for w in ("cartpole", "grid", "pendulum"):
        found.append(Case("gradient_pathology", w, "from the start", settings=fast))
        found.append(Case("gradient_pathology", w, "later", meddle=(0.5, fast)))
    for w in ("cartpole", "grid", "pendulum"):
        case = Case("value_explosion", w, "rewards grow")
        start, every = case.steps(0.4), case.steps(0.02)
        free = {"max_grad_norm": 1e6}
        found.append(Case("value_explosion", w, "rewards grow", (("spoiled", ("grow", start, every)),), free))
    for w in ("cartpole", "grid", "pendulum"):
        found.append(Case("no_learning", w, "no rate", settings={"learning_rate": 0.0}))
        found.append(Case("no_learning", w, "no reward", (("spoiled", ("zero", 0, 1)),)))
    found.append(Case("no_learning", "memory", "no memory"))
    for w, recurrent in (("cartpole", False), ("cartpole", True), ("acrobot", False)):
        case = Case("nonstationarity", w, "once", epochs=140)
        steady = {"anneal_lr": False, "ent_coef": 0.02}
        for name, when in (("once", (0.5, 9)), ("twice", (0.3, 0.3))):
            change = (("changes", tuple(case.steps(part) for part in when)),)
            name = f"{name} {'lstm' if recurrent else ''}".strip()
            found.append(Case("nonstationarity", w, name, change, steady, recurrent=recurrent, epochs=140))
    for w in ("cartpole", "grid"):
        long = Case("plasticity_loss", w, "many tasks", epochs=240)
        every = long.steps(1 / 16)
        hard = {"anneal_lr": False, "learning_rate": 6e-3, "update_epochs": 12, "ent_coef": 0.0}
        found.append(
            Case("plasticity_loss", w, "many tasks", (("changes", (every, every)),), hard, epochs=240)
        )
    for w in ("cartpole", "grid", "pendulum"):
        found.append(Case("representation_collapse", w, "decay", meddle=(0.5, {"decay": 0.6})))
    for w, strength in (("cartpole", 6.0), ("grid", 0.3), ("pendulum", 3.0)):
        found.append(Case("reward_hacking", w, "proxy", (("proxy", (strength,)),), epochs=160))
    for w in ("cartpole", "grid", "pendulum"):
        found.append(Case("evaluation_gap", w, "frozen statistics", misled=True))
    for w in ("cartpole", "grid", "pendulum"):
        case = Case("nan", w, "reward")
        found.append(Case("nan", w, "reward", (("spoiled", ("nan", case.steps(0.5), 1)),)))
    return found


def train_settings(case: Case, seed: int) -> SimpleNamespace:
    """The [train] settings of classic control, changed as the case says; they can be meddled with."""
    from dataclasses import asdict

    from pufferlib_kcore import settings

    plain = asdict(settings.resolve("cartpole").train)
    size = BATCH[case.world]
    own = {
        "seed": seed,
        "num_envs": ENVS,
        "batch_size": size,
        "minibatch_size": 256,
        "bptt_horizon": 8,
        "total_timesteps": size * case.length,
        "checkpoint_interval": 10**6,
        "precision": "float32",
    }
    return SimpleNamespace(**{**plain, **own, **SETTINGS[case.world], **case.settings})


def one(case: Case, seed: int) -> dict[str, Any]:
    """Make one run.  -> its records, and what it was"""
    import torch

    torch.set_num_threads(1)
    from detection_worlds import creator

    from pufferlib_kcore.environments import vector
    from pufferlib_kcore.policies import build, spec_from
    from pufferlib_kcore.store import Facts, Run
    from pufferlib_kcore.training.acting import Diverged
    from pufferlib_kcore.training.algorithm import Tools
    from pufferlib_kcore.training.diagnosing import Diagnosing
    from pufferlib_kcore.training.loop import Loop
    from pufferlib_kcore.training.ppo import PPO

    began = time.process_time()
    vec = vector.make(creator(case.world, seed, *case.wrong), "serial", ENVS, seed=seed)
    wrong = (("wrong", ()),) if case.misled else ()
    plain = tuple(w for w in case.wrong if w[0] == "proxy")
    other = vector.make(creator(case.world, seed, *plain, *wrong), "serial", ENVS, seed=seed + 999)
    package = "classic_control_continuous" if case.world == "pendulum" else "classic_control"
    rnn = "Recurrent" if case.recurrent else None
    spaces = vec.single_observation_space, vec.single_action_space
    spec = spec_from(package, "Policy", rnn, {}, {}, *spaces)
    torch.manual_seed(seed)
    policy, train = build(spec), train_settings(case, seed)
    tools = Tools(seed)
    changing = any(w[0] == "changes" for w in case.wrong)
    members = {
        "meddle": meddler(case),
        "diagnose": Diagnosing(states=128),
        "evaluate": evaluator(other, seed, every=4 if not changing else 10**9),
    }
    crashed = None
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, case.world, "run")
        loop = Loop(
            PPO(policy, vec, train, tools), vec, run, train, tools, Facts(policy=spec), companions=members
        )
        try:
            loop.fit()
        except Diverged as error:
            crashed = str(error)
        records = run.metrics()
    vec.close(), other.close()
    if crashed is not None:  # as who goes on with what is not finite would write it
        records.append({"epoch": len(records) + 1, "value_loss": "NaN", "policy_loss": "NaN"})
    return {
        "kind": case.kind,
        "world": case.world,
        "name": case.name,
        "seed": seed,
        "recurrent": case.recurrent,
        "epochs": case.length,
        "cpu_seconds": round(time.process_time() - began, 1),
        "crashed": crashed,
        "records": [kept(record) for record in records],
    }


def meddler(case: Case) -> Any:
    """A companion that changes settings in the middle of the run, or lets weights decay from then on."""
    import torch

    from pufferlib_kcore.training.companions import Companion, Said

    class Meddles(Companion):
        def after(self, epoch: Any) -> Said:
            if case.meddle is None or epoch.number < case.meddle[0] * case.length:
                return Said()
            what = dict(case.meddle[1])
            decay = what.pop("decay", None)
            for name, value in what.items():
                setattr(epoch.algorithm.train, name, value)
            if decay is None:
                return Said()
            with torch.no_grad():
                for name, p in epoch.policy.named_parameters():
                    if "encoder" in name:
                        p.mul_(decay)
            return Said(changed=True)

    return Meddles()


def evaluator(vec: Any, seed: int, every: int) -> Any:
    """A companion that plays greedily every so many epochs, in environments of its own."""
    from pufferlib_kcore.training.acting import play
    from pufferlib_kcore.training.companions import Companion, Said

    class Evaluates(Companion):
        def after(self, epoch: Any) -> Said:
            if epoch.number % every:
                return Said()
            played = play(epoch.policy, vec, (seed, epoch.number), episodes=ENVS)
            return Said({"evaluation/episode_return": float(played.returns.mean())})

    return Evaluates()


LEFT_OUT = ("SPS", "uptime", "wall_time", "policy_loss", "old_approx_kl", "episodes", "episode_length")


def kept(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is by space, or told twice; numbers to five digits."""
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value
        for name, value in record.items()
        if name.count("/") < 2 and name not in LEFT_OUT and value is not None
    }


def blind_returns() -> dict[str, dict[str, float]]:
    """Of each world, and of each that pays by proxy: what it pays without skill."""
    from detection_worlds import creator

    from pufferlib_kcore.environments import vector
    from pufferlib_kcore.jobs.references import constants, uniform
    from pufferlib_kcore.training.acting import play

    found = {}
    for case in cases():
        proxy = tuple(w for w in case.wrong if w[0] == "proxy")
        key = key_of(case.world, case.kind if proxy else "")
        if key in found:
            continue
        vec = vector.make(creator(case.world, 0, *proxy), "serial", ENVS, seed=0)
        space = vec.single_action_space
        means = [
            float(play(p, vec, 1, episodes=32).returns.mean()) for p in (uniform(space), *constants(space))
        ]
        vec.close()
        found[key] = {"uniform": means[0], "constant": max(means[1:]), "episodes": 32}
    return found


def key_of(world: str, kind: str) -> str:
    return f"{world} {kind}".strip()


def runs_path() -> Path:
    return OUT / "runs.jsonl.gz"


def load() -> list[dict[str, Any]]:
    if not runs_path().is_file():
        return []
    with gzip.open(runs_path(), "rt") as file:
        return [json.loads(line) for line in file]


def train(seeds: int, jobs: int, only: str | None) -> None:
    """Make what is missing; each run is kept as soon as it is done."""
    OUT.mkdir(exist_ok=True)
    done = {(r["kind"], r["world"], r["name"], r["seed"]) for r in load()}
    todo = [
        (case, seed)
        for seed in range(seeds)
        for case in cases()
        if (case.kind, case.world, case.name, seed) not in done and (only is None or only in case.kind)
    ]
    if not (OUT / "references.json").is_file():
        (OUT / "references.json").write_text(json.dumps(blind_returns(), indent=1) + "\n")
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {pool.submit(one, case, seed): (case, seed) for case, seed in todo}
        for number, future in enumerate(as_completed(waiting), 1):
            run = future.result()
            with gzip.open(runs_path(), "at") as file:
                file.write(json.dumps(run) + "\n")
            returns = [r["episode_return"] for r in run["records"] if "episode_return" in r]
            last = sum(returns[-5:]) / max(1, len(returns[-5:]))
            print(
                f"{number}/{len(todo)} {run['kind']:24} {run['world']:9} {run['name']:24} seed {run['seed']} "
                f"return {last:8.1f} best {max(returns):8.1f} {run['cpu_seconds']} CPU s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "report"])
    parser.add_argument("--seeds", type=int, default=7, help="of each case")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once; each takes one core")
    parser.add_argument("--only", help="kinds that hold this word")
    args = parser.parse_args()
    if args.what == "train":
        train(args.seeds, args.jobs, args.only)
    else:
        from detection_report import report

        report(load(), json.loads((OUT / "references.json").read_text()), OUT)


if __name__ == "__main__":
    main()
