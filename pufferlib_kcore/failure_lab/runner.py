"""ExperimentRunner: a protocol carried out seed by seed, in a folder: trained, evaluated, judged, drawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pufferlib_kcore import store
from pufferlib_kcore.diagnostics.findings import Finding, diagnose
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.claims import Answer, Claim
from pufferlib_kcore.failure_lab.evaluation import Evaluation, evaluate
from pufferlib_kcore.failure_lab.learning import Learned, learn
from pufferlib_kcore.failure_lab.protocol import ExperimentProtocol
from pufferlib_kcore.failure_lab.references import Known, known
from pufferlib_kcore.failure_lab.report import report
from pufferlib_kcore.store import atomic
from pufferlib_kcore.store.forks import read_json, write_json
from pufferlib_kcore.store.lab import ROOT, LabFolder, read_result
from pufferlib_kcore.store.lock import locked

CURVE_EPISODES = 20  # with each checkpoint
EVALUATION = 2**21  # seed of the episodes that policies are judged by


@dataclass(frozen=True)
class ExperimentResult:
    """What came of a protocol; its plain data is result.json."""

    plain: Mapping[str, Any]
    folder: Path | None = None

    @property
    def answer(self) -> Answer:
        return Answer(**self.plain["answer"])

    @property
    def final_eval_reward(self) -> float:
        """Mean return of the world's own reward, over seeds."""
        returns = [one["episode_return"] for one in self.plain["seeds"]]
        return float(sum(returns) / len(returns))

    @property
    def detected_failures(self) -> list[dict[str, Any]]:
        """What detectors found, of all seeds."""
        return [{"seed": one["seed"], **found} for one in self.plain["seeds"] for found in one["findings"]]

    def save(self, path: str | Path) -> None:
        write_json(Path(path), dict(self.plain))

    @classmethod
    def load(cls, path: str | Path) -> ExperimentResult:
        """Raises UserError, naming the file, where it is cut short or none."""
        return cls(read_result(Path(path)), Path(path).parent)

    def generate_report(self) -> str:
        return report(self.plain)


class ExperimentRunner:
    """runner.run(protocol) -> ExperimentResult, and its folder below `root`."""

    def __init__(
        self,
        root: str | Path = ROOT,
        enable_failure_detection: bool = True,
        enable_introspection: bool = True,
        verbose: bool = False,
    ):
        self.root = Path(root)
        self.detects, self.draws, self.verbose = enable_failure_detection, enable_introspection, verbose

    def run(self, protocol: ExperimentProtocol) -> ExperimentResult:
        """Seeds that are done are not run again.

        Raises UserError where the folder holds another protocol, or another process works there.
        """
        folder = LabFolder(self.root / protocol.name)
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder.path, "wait until it ends, or give the protocol another name"):
            check_same(folder, protocol)
            protocol.save(folder.protocol_path)
            say = self._sayer(folder)
            seeds = [self._seed(folder, protocol, seed, say) for seed in protocol.seeds]
            learned = [one for one in seeds if one is not None]
            plain = {
                "protocol": protocol.plain(),
                "answer": vars(answered(protocol, learned)),
                "references": known(protocol.world).plain(),
                "seeds": learned,
                **{key: store.provenance()[key] for key in ("versions", "git_commit", "machine", "time")},
            }
            folder.write_result(plain)
            atomic.write(folder.report_path, report(plain).encode())
            if self.draws:
                self._draw(folder, protocol, plain)
            say(f"{protocol.name}: {plain['answer']['verdict']}")
        return ExperimentResult(plain, folder.path)

    def _seed(
        self, folder: LabFolder, protocol: ExperimentProtocol, seed: int, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """One seed, from its file where it is done."""
        path = folder.seed_path(seed) / "seed.json"
        if path.is_file():
            return read_json(path)
        began = time.time()
        learned = learn_seed(folder, protocol, seed)
        played = evaluate(learned.agent, protocol.world, protocol.eval_episodes, EVALUATION + seed)
        found = measured(protocol, learned, played, seed, self.detects)
        write_json(path, found)
        say(
            f"seed {seed}: return {found['episode_return']:.5g}, of the reward that is meant "
            f"{found['true_return']:.5g}, {len(found['findings'])} findings, {time.time() - began:.0f} s"
        )
        return found

    def _draw(self, folder: LabFolder, protocol: ExperimentProtocol, plain: dict[str, Any]) -> None:
        from pufferlib_kcore.failure_lab import pictures

        folder.pictures.mkdir(exist_ok=True)
        learned = learn_seed(folder, protocol, protocol.seeds[0])
        played = evaluate(learned.agent, protocol.world, 20, EVALUATION + protocol.seeds[0])
        pictures.draw(folder.pictures, protocol.world, plain, learned, played)

    def _sayer(self, folder: LabFolder) -> Callable[[str], None]:
        def say(line: str) -> None:
            with open(folder.log_path, "a") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            if self.verbose:
                print(line, flush=True)

        return say


def check_same(folder: LabFolder, protocol: ExperimentProtocol) -> None:
    """Raise UserError where the folder has results of another protocol; more seeds are no other."""
    if not folder.protocol_path.is_file() or not list(folder.path.glob("seed_*/seed.json")):
        return
    before = ExperimentProtocol.of(_table(folder)).plain()
    now = protocol.plain()
    free = ("seeds", "hypothesis", "claim", "expected_failure", "description")
    for name in {**before, **now}:
        if name not in free and before.get(name) != now.get(name):
            raise UserError(
                f"{folder.path} holds results with {name} {before.get(name)}, and this has {now.get(name)}: "
                "give the protocol another name"
            )


def _table(folder: LabFolder) -> dict[str, Any]:
    from pufferlib_kcore.settings.studies import table

    return table(folder.protocol_path)


def learn_seed(folder: LabFolder, protocol: ExperimentProtocol, seed: int) -> Learned:
    """Train, or read what is trained."""
    return learn(
        protocol.agent_type,
        protocol.world,
        protocol.budget,
        seed,
        folder.seed_path(seed),
        protocol.agent_params,
        protocol.checkpoint_every,
    )


def measured(
    protocol: ExperimentProtocol, learned: Learned, played: Evaluation, seed: int, detects: bool = True
) -> dict[str, Any]:
    """Plain data of one seed."""
    findings: tuple[Finding, ...] = ()
    unjudged: Mapping[str, str] = {}
    if learned.records and detects:
        found = diagnose(Records.of(learned.records), known(protocol.world).references)
        findings, unjudged = found.findings, found.unjudged
    curve = []
    for steps, agent in sorted(learned.checkpoints.items()):
        one = evaluate(agent(), protocol.world, CURVE_EPISODES, EVALUATION + seed)
        told = {"episode_return": float(one.returns.mean()), "true_return": float(one.true_returns.mean())}
        curve.append({"steps": steps, **told, "entropy": one.entropy, "dominance": one.dominance})
    largest = [row["max_q"] for row in learned.records if row.get("max_q") is not None]
    return {
        "seed": seed,
        **played.summary(),
        "dominance": played.dominance,
        "max_q": max(largest) if largest else None,
        "curve": curve,
        "findings": [one.to_plain() for one in findings],
        "unjudged": dict(unjudged),
    }


def numbers_of(seed: Mapping[str, Any], references: Known) -> dict[str, float | None]:
    """What a claim may name, of one seed."""
    own = {name: seed[name] for name in ("episode_return", "true_return", "dominance", "entropy", "max_q")}
    own |= {name: seed.get(name) for name in ("episode_length", "value", "final_burnout", "final_salary")}
    return {
        **own,
        "optimum": references.optimum,
        "uniform": references.uniform,
        "true_uniform": references.true_uniform,
        "constant": references.constant,
        "true_constant": references.true_constant,
        "findings": float(len(seed["findings"])),
    }


def answered(protocol: ExperimentProtocol, seeds: list[dict[str, Any]]) -> Answer:
    """Whether the hypothesis held, by its claim and by the failure that it expects."""
    answers = []
    if protocol.claim:
        references = known(protocol.world)
        answers.append(Claim(protocol.claim).answer([numbers_of(seed, references) for seed in seeds]))
    if protocol.expected_failure is not None:
        answers.append(found_in(protocol.expected_failure, seeds))
    if not answers:
        return Answer("cannot be told", "no claim, and no failure that is expected, decides it")
    verdicts = [one.verdict for one in answers]
    why = "; ".join(one.why for one in answers)
    for verdict in ("did not hold", "cannot be told"):
        if verdict in verdicts:
            return Answer(verdict, why)  # type: ignore[arg-type]
    return Answer("held", why)


def found_in(kind: str, seeds: list[dict[str, Any]]) -> Answer:
    """Held where every seed shows the failure, as itself or as another's symptom; not where none does."""
    shows = [any(kind in (f["kind"], *f["symptoms"]) for f in seed["findings"]) for seed in seeds]
    blind = [seed["unjudged"].get(kind) for seed in seeds]
    why = f"{kind} found with {sum(shows)} of {len(seeds)} seeds"
    if not any(shows) and (reason := next((b for b in blind if b), None)):
        return Answer("cannot be told", f"{kind} could not be judged: {reason}")
    if all(shows):
        return Answer("held", why)
    return Answer("cannot be told" if any(shows) else "did not hold", why)
