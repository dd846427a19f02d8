"""Training: a new run, one that goes on, or one that starts from a policy made of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pufferlib_kcore import store
from pufferlib_kcore.diagnostics.findings import Finding
from pufferlib_kcore.environments.contract import WorkerDied
from pufferlib_kcore.errors import RunFailed, UserError
from pufferlib_kcore.jobs import commands, stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.collapsing import Ready
from pufferlib_kcore.jobs.commands import Home
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.policies import build
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.settings.sections import RETIRED
from pufferlib_kcore.store import EnvFacts, Facts, Run, StateFile, checkpoints, metrics
from pufferlib_kcore.training import breaking, diagnosing, precision, reporting, watching  # noqa: F401
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.algorithm import Tools, algorithms
from pufferlib_kcore.training.companions import companions
from pufferlib_kcore.training.loop import Loop, Start
from pufferlib_kcore.training.metrics import Reporter
from pufferlib_kcore.training.parallel import ALONE, Group
from pufferlib_kcore.training.ppo import PPO
from pufferlib_kcore.training.reporting import Tracking

Named = Mapping[str, Mapping[str, Any]]  # what is registered by these names, each with these settings


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a training begins with, where that is no fresh policy."""

    policy: nn.Module
    spec: dict[str, Any]
    start: Start
    collapse: dict[str, Any] | None = None  # how the policy was made, where it is another's
    bad: tuple[int, ...] = ()  # epochs after the start whose checkpoints are not good


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What to train, where from, and where to."""

    settings: Settings
    home: Home
    root: str | Path  # the folder in which the run's folder is made
    run: Run | None = None  # to go on with; None: made when everything else is known to work
    name: str | None = None  # of a new run's folder; None: the environment's, and random digits
    origin: Origin | None = None
    tracking: Tracking = Tracking()
    algorithm: str = PPO.name
    algorithm_settings: Mapping[str, Any] = field(default_factory=dict)  # its own, beside [train]
    companions: Named = field(default_factory=dict)

    @property
    def start(self) -> Start:
        return Start() if self.origin is None else self.origin.start

    @property
    def collapse(self) -> dict[str, Any] | None:
        return None if self.origin is None else self.origin.collapse

    @property
    def log_name(self) -> str:
        """Of the plain log: the guides tell a collapsed run's by it."""
        return "log_collapsed.out" if self.collapse and self.home.layout != "metta" else "log.out"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training ended; what it learned is saved."""

    run: Run
    finished: bool  # all steps are done
    reason: str | None = None  # why a companion has stopped it


def resumed(
    source: RunSource, home: Home, say: Callable[[str], None] = lambda text: None, **more: Any
) -> TrainRequest:
    """Go on from a run's newest checkpoint that is whole, finite, and has an optimizer state.

    say: told of checkpoints that are passed over; more: of the request.  Raises UserError where none is good.
    """
    source.check()
    run, bad = source.run, []
    for epoch, path in reversed(run.resumable()):
        try:
            restored = source.read(path)
            state = StateFile.load(run.state_path(epoch))
        except checkpoints.Unfit as error:
            say(f"passed over: {str(error).partition(';')[0]}")
            bad.append(epoch)
            continue
        if bad:
            say(f"going on from {path}, the last good checkpoint; files passed over are renamed to *.bad")
        origin = Origin(
            policy=restored.policy,
            spec=restored.spec,
            start=Start.at(state),
            collapse=restored.file.collapse,
            bad=tuple(bad),
        )
        settings = source.settings(restored.spec)
        return TrainRequest(
            settings=settings, home=home, root=run.path.parent, run=run, origin=origin, **more
        )
    raise UserError(
        f"no checkpoint of {run.path} with an optimizer state is good; train anew with "
        f"`{run.train_command(anew=True)}`"
    )


def retrained(ready: Ready, home: Home, root: str | Path, **more: Any) -> TrainRequest:
    """Train a policy on that was made of another run's, in a new run.  more: of the request"""
    origin = Origin(
        policy=ready.policy,
        spec=ready.spec,
        start=Start(ready.epoch, ready.agent_steps, ready.optimizer),
        collapse=ready.provenance,
    )
    settings = ready.source.settings(ready.spec)
    return TrainRequest(settings=settings, home=home, root=root, origin=origin, **more)


def train(
    request: TrainRequest,
    together: Group = ALONE,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Train to the end, in this process or together with others, until `stop` or a companion says so.

    say: told what a companion could not go on with. Raises UserError where nothing is left to train, or
    environments, policy and run do not fit; RunFailed where training diverged or an environment died.
    """
    check_length(request)
    if request.origin is None:
        stored.check_names(request.settings)
    with ExitStack() as stack:
        world = worlds.open_world(request.settings, request.home.vec, together)
        stack.callback(world.vec.close)
        about = store.provenance()
        loop = loop_in(world, request, about, together, stack)
        if together.leads:
            for note in loop.notes:
                say(note)
            loop.reporters = stack.enter_context(reporters(request, world, loop, about))
            if request.home.layout == "metta" and request.collapse and request.run is None:
                loop.save()  # what it starts from is the run's first checkpoint, and its own to go on from
        finished = fitted(loop, request, stop)
    return Trained(run=loop.run, finished=finished, reason=loop.reason)


def check_length(request: TrainRequest) -> None:
    """Raise UserError where all steps are taken."""
    done, asked = request.start.agent_steps, request.settings.train.total_timesteps
    if done >= asked:
        raise UserError(
            f"nothing to train: {done:,} steps are done and train.total_timesteps is "
            f"{asked:,}; go further with --train.total-timesteps {2 * done}"
        )


def loop_in(
    world: worlds.World, request: TrainRequest, about: dict[str, Any], together: Group, stack: ExitStack
) -> Loop:
    """The training in these environments, its run made, and locked until the stack unwinds.

    about: see `store.provenance`
    """
    settings, t, origin = request.settings, request.settings.train, request.origin
    device, env_name = worlds.device(t.device), worlds.env_name(settings)
    if origin is not None:
        world.check(origin.spec, str(request.run.path if request.run else request.root))
    spec = world.spec(settings) if origin is None else origin.spec
    torch.manual_seed(t.seed)
    torch.backends.cudnn.deterministic = t.torch_deterministic
    policy = (build(spec) if origin is None else origin.policy).to(device)
    tools = Tools(t.seed, together)
    own = algorithms.settings(request.algorithm, request.algorithm_settings)
    algorithm = algorithms[request.algorithm](policy, world.vec, t, tools, **own)
    members = {
        name: companions[name](**companions.settings(name, said))
        for name, said in {**companions_in(settings), **request.companions}.items()
    }
    layout = store.MettaFolder if request.home.layout == "metta" else Run
    run = together.first(lambda: request.run or layout.create(request.root, env_name, request.name))
    if together.leads:
        stack.enter_context(run.lock())
        begin(run, request, config_of(request, spec, about))
    return Loop(
        algorithm,
        world.vec,
        run,
        t,
        tools,
        facts_of(request, spec, about),
        request.start,
        members,
        collapse_epochs=(settings.collapse.epoch,),
        threads=worlds.threads(settings, world, policy),
    )


def companions_in(settings: Settings) -> Named:
    """The companions that settings ask for, in the order in which they hear of an epoch."""
    plain, found = settings.to_plain(), {}
    if settings.diagnose.on:
        found["diagnose"] = {
            key: value for key, value in plain["diagnose"].items() if key not in ("on", "evaluate")
        }
    if settings.watch.on:
        found["watch"] = plain["watch"]
    if settings.break_.threshold is not None:
        found["break"] = plain["break"]
    return found


def begin(run: Run, request: TrainRequest, config: dict[str, Any]) -> None:
    """Take a run's files up where the training begins: what came later is dropped, the settings are kept."""
    epoch = request.start.epoch
    run.truncate_metrics(epoch)
    for bad in () if request.origin is None else request.origin.bad:
        run.set_aside(bad)
    before = run.config()
    differ = changes(before.get("settings", {}), config["settings"])
    now = [{"after_epoch": epoch, "settings": differ}] if differ else []
    run.write_config({**config, "changes": [*before.get("changes", []), *now]})


def config_of(request: TrainRequest, spec: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """What config.json and trackers say of a run."""
    return {
        "settings": request.settings.to_plain(),
        "seed": request.settings.train.seed,
        "policy": spec,
        "collapse": request.collapse,
        **about,
    }


def facts_of(request: TrainRequest, spec: dict[str, Any], about: dict[str, Any]) -> Facts:
    """What every model file of the run repeats."""
    settings = request.settings
    return Facts(
        policy=spec,
        env=EnvFacts(
            name=worlds.env_name(settings),
            package=settings.base.package,
            kwargs=dict(settings.env),
            preprocessing=worlds.preprocessing(request.home.vec),
        ),
        versions=about["versions"],
        git_commit=about["git_commit"],
        collapse=request.collapse,
    )


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Which settings a run that goes on changes: {"train.learning_rate": {"before": 0.001, "now": 0.0005}}"""
    plain = json.loads(json.dumps(now, default=str))  # as config.json holds them
    return {
        f"{section}.{key}": {"before": old.get(key), "now": plain[section].get(key)}
        for section, old in before.items()
        for key in {**old, **plain[section]}
        if old.get(key) != plain[section].get(key) and f"{section}.{key}" not in RETIRED
    }


@contextmanager
def reporters(
    request: TrainRequest, world: worlds.World, loop: Loop, about: dict[str, Any]
) -> Iterator[list[Reporter]]:
    """Within: the plain log and the terminal, and a tracker where one is asked for."""
    run = loop.run
    with ExitStack() as stack:
        total, header = request.settings.train.total_timesteps, header_line(world, loop, request.collapse)
        made, close = reporting.reporter(run.path / request.log_name, header, total, loop.tools.clock)
        stack.callback(close)
        config = config_of(request, loop.facts.policy, about)
        if tracker := reporting.tracker(request.tracking, run.path.name, run.path, config):
            made = [*made, tracker[0]]
            stack.callback(tracker[1])
        yield made


def header_line(world: worlds.World, loop: Loop, collapse: dict[str, Any] | None) -> str:
    """The plain log's first line: what runs, where, and how the cores are shared."""
    spec, policy = loop.facts.policy, loop.policy
    name = f"{spec['rnn']}({spec['name']})" if spec["rnn"] else spec["name"]
    fields: dict[str, Any] = dict(
        run=loop.run.path,
        env=stored.trained_on(loop.facts),
        policy=name,
        params=sum(p.numel() for p in policy.parameters()),
        vec=world.backend,
        workers=world.plan.workers,
        envs=world.vec.num_envs,
        env_batch=world.vec.num_envs // len(world.vec.groups),
        threads=loop.threads[1] if loop.threads else torch.get_num_threads(),
        precision=precision.resolve(loop.train.precision, policy, next(policy.parameters()).device),
    )
    if world.backend == "ray":
        fields["nodes"] = len(set(world.vec.nodes))
    if collapse:
        fields |= dict(
            collapsed_from=collapse["source"],
            collapse_epoch=collapse["epoch"],
            threshold=collapse["tag"],
            params_before=collapse["params_before"],
            params_after=collapse["params_after"],
        )
        if "merged" in collapse:
            fields["merged"] = f"{collapse['merged']} of {collapse['units']}"
    return " ".join(f"{key}={value}" for key, value in fields.items())


def note_nan(run: Run, epoch: int, where: str) -> None:
    """Keep as a finding what ended a training."""
    found = Finding(
        kind="nan",
        severity="critical",
        onset=epoch,
        said=epoch,
        confidence=1.0,
        evidence={},
        advice=f"{where}: a smaller --train.learning-rate or --train.max-grad-norm, from the last checkpoint",
    )
    metrics.append(run.findings_path, {"epoch": epoch, **found.to_plain()})


def fitted(loop: Loop, request: TrainRequest, stop: Callable[[], bool]) -> bool:
    """Loop.fit.  Raises RunFailed in words that say what was saved, and what to do."""
    run = loop.run
    try:
        return loop.fit(stop)
    except Diverged as error:
        note_nan(run, loop.epoch + 1, str(error))
        saved = f"the last good checkpoint is {run.latest()[1]}" if run.checkpoints() else "none was saved"
        raise RunFailed(
            f"training diverged in epoch {loop.epoch + 1}: {error}; {saved}; "
            f"try a smaller --train.learning-rate or --train.max-grad-norm"
        ) from error
    except WorkerDied as error:
        then = "\nThe" if "\n" in str(error) else "; the"
        cure = "start it again"
        if run.checkpoints():
            cure = f"go on with `{commands.go_on(request.home, run)}`"
        raise RunFailed(f"{error}{then} run stopped in {run.path}; {cure}") from error
