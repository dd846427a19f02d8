"""Train: a new run, one that goes on, or one that starts from a collapsed policy."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pufferlib_kcore import store
from pufferlib_kcore.cli.collapse import collapse_request
from pufferlib_kcore.cli.found import run_source, taken_up
from pufferlib_kcore.environments.contract import WorkerDied
from pufferlib_kcore.errors import RunFailed, UserError
from pufferlib_kcore.jobs import collapsing, commands, controls, stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.policies import build
from pufferlib_kcore.settings import Args, Settings
from pufferlib_kcore.store import EnvFacts, Facts, StateFile, checkpoints, names, runs
from pufferlib_kcore.training import parallel, precision, reporting
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.algorithm import Tools
from pufferlib_kcore.training.loop import Loop, Start
from pufferlib_kcore.training.parallel import ALONE, Group
from pufferlib_kcore.training.ppo import PPO


@dataclass
class Job:
    """What to train, where from, and where to."""

    settings: Settings
    root: Any  # the folder in which the run's folder is made
    run: runs.Run | None = None  # None: made when everything else is known to work
    policy: nn.Module | None = None  # None: built anew
    spec: dict[str, Any] | None = None
    start: Start = field(default_factory=Start)
    collapse: dict[str, Any] | None = None  # provenance of a collapsed policy
    log_name: str = "log.out"
    name: str | None = None  # of a new run's folder; None: the environment's, and random digits
    layout: type[runs.Run] = runs.Run
    bad: list[int] = field(default_factory=list)  # epochs after the start whose checkpoints are not good


def run(args: Args) -> int:
    """--mode train"""
    with parallel.group(worlds.device(args.settings.train.device)) as together:
        job = together.first(lambda: job_of(args))
        return fit(job, args, together)


def job_of(args: Args) -> Job:
    """Which of the three kinds of training the arguments ask for."""
    data_dir = args.settings.train.data_dir
    if args.layout == "metta":
        return metta_job(args)
    if args.collapse is not None:
        return after_collapse(args)
    if args.exp_id is not None:
        try:
            found = store.find_run(data_dir, args.exp_id)
        except UserError:
            if args.resume:
                raise
            return Job(args.settings, data_dir, name=args.exp_id)
        if found.checkpoints():
            return resumed(found, args)
        stored.check_env(args.env, stored.env_of(found), found.path)
        return Job(args.settings, data_dir, name=args.exp_id)
    if args.resume:
        return resumed(store.newest_run(data_dir, worlds.env_name(args.settings)), args)
    return Job(args.settings, data_dir)


def resumed(found: runs.Run, args: Args) -> Job:
    """Go on from a run's newest checkpoint that is whole, finite, and has an optimizer state."""
    source = taken_up(args, found)
    source.check()
    bad: list[int] = []
    for epoch, path in reversed(found.resumable()):
        try:
            restored = source.read(path)
            state = StateFile.load(found.state_path(epoch))
        except checkpoints.Unfit as error:
            say(f"passed over: {str(error).partition(';')[0]}")
            bad.append(epoch)
            continue
        if bad:
            say(f"going on from {path}, the last good checkpoint; files passed over are renamed to *.bad")
        start = Start.at(state)
        collapse = restored.file.collapse
        return Job(
            source.settings(restored.spec),
            found.path.parent,
            found,
            restored.policy,
            restored.spec,
            start,
            collapse,
            "log_collapsed.out" if collapse and args.layout != "metta" else "log.out",
            bad=bad,
        )
    raise UserError(
        f"no checkpoint of {found.path} with an optimizer state is good; train anew with "
        f"`{found.train_command(anew=True)}`"
    )


def after_collapse(args: Args) -> Job:
    """Collapse a run's checkpoint, then train the smaller policy on in a run inside the collapse's folder."""
    done = collapsing.collapse(collapse_request(args), shown)
    say(done.text)
    return Job(
        done.source.settings(done.spec),
        done.folder.path,
        None,
        done.policy,
        done.spec,
        Start(done.epoch, done.agent_steps, done.optimizer),
        done.provenance,
        "log_collapsed.out",
    )


def metta_job(args: Args) -> Job:
    """A run in Metta's layout: new, going on, or retrained from a checkpoint of another."""
    root, retrained = args.settings.train.data_dir, args.collapse is not None or args.control is not None
    name = args.run or (retraining_name(args) if retrained else None)
    if name is None or re.search(r"[\s,/]", name) or name.startswith("."):
        raise UserError(f"which run? name it in one word, as in --layout metta --run t1, not {name!r}")
    found = store.MettaFolder(Path(root) / name)
    stored.check_env(args.env, stored.env_of(found), found.path)
    if found.checkpoints():
        return resumed(found, args)
    if not retrained:
        return Job(args.settings, root, name=name, layout=store.MettaFolder)
    job = retrained_from(args)
    say(job.text)
    return Job(
        job.source.settings(job.spec),
        root,
        None,
        job.policy,
        job.spec,
        Start(job.epoch, job.agent_steps, job.optimizer),
        job.provenance,
        name=name,
        layout=store.MettaFolder,
    )


def retrained_from(args: Args) -> collapsing.Ready:
    """The collapsed policy, or the control that --control names, both ready to train on."""
    request = collapse_request(args)
    if args.control is None:
        return collapsing.collapse(request, shown)
    kind: Any = args.control
    return controls.control(controls.ControlRequest(kind=kind, collapse=request), shown)


def retraining_name(args: Args) -> str:
    """What a retrained run is called where --run does not say it."""
    source = run_source(args).run
    c, epoch = args.settings.collapse, source.nearest(args.settings.collapse.epoch)[0]
    role = names.METTA_ROLE_OF[args.control or "collapsed"]
    setting = tuple(c.thresholds().values()) if args.collapse != "auto" else (c.target_params or 0.0,)
    setting = () if role == "original" else setting
    if args.collapse == "auto" and c.target_params is None:
        raise UserError(
            "a run in Metta's layout is named after --collapse.target-params: give it, or --run NAME"
        )
    return names.metta_run(names.MettaRun(source.exp_id, epoch, role, setting))


def fit(job: Job, args: Args, together: Group = ALONE) -> int:
    """Train a job to its end, in this process or together with others.

    -> exit status: 0, 1 where the run failed, 128 + the signal that stopped it
    """
    settings, t = job.settings, job.settings.train
    env_name = worlds.env_name(settings)
    if job.start.agent_steps >= t.total_timesteps:
        raise UserError(
            f"nothing to train: {job.start.agent_steps:,} steps are done and train.total_timesteps is "
            f"{t.total_timesteps:,}; go further with --train.total-timesteps {2 * job.start.agent_steps}"
        )
    if job.spec is None:
        stored.check_names(settings)
    device = worlds.device(t.device)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        world = worlds.open_world(settings, args.vec, together)
        stack.callback(world.vec.close)
        if job.spec is not None:
            world.check(job.spec, str(job.run.path if job.run else job.root))
        spec = job.spec or world.spec(settings)
        torch.manual_seed(t.seed)
        torch.backends.cudnn.deterministic = t.torch_deterministic
        policy = (job.policy if job.policy is not None else build(spec)).to(device)
        run = together.first(lambda: job.run or job.layout.create(job.root, env_name, job.name))
        if together.leads:
            stack.enter_context(run.lock())
            run.truncate_metrics(job.start.epoch)
            for epoch in job.bad:
                run.set_aside(epoch)
        about = store.provenance()
        config = {
            "settings": settings.to_plain(),
            "seed": t.seed,
            "policy": spec,
            "collapse": job.collapse,
            **about,
        }
        if together.leads:
            before = run.config()
            earlier = before.get("changes", [])
            differ = changes(before.get("settings", {}), config["settings"])
            now = [{"after_epoch": job.start.epoch, "settings": differ}] if differ else []
            run.write_config({**config, "changes": [*earlier, *now]})
        facts = Facts(
            policy=spec,
            env=EnvFacts(
                name=env_name,
                package=settings.base.package,
                kwargs=dict(settings.env),
                preprocessing=worlds.preprocessing(args.vec),
            ),
            versions=about["versions"],
            git_commit=about["git_commit"],
            collapse=job.collapse,
        )
        epochs = (settings.collapse.epoch,)
        threads = worlds.threads(settings, world, policy)
        tools = Tools(t.seed, together)
        ppo = PPO(policy, world.vec, t, tools)
        trainer = Loop(
            ppo, world.vec, run, t, tools, facts, job.start, collapse_epochs=epochs, threads=threads
        )
        if not together.leads:
            return 0 if trainer.fit(stop) else stop.status
        header = header_line(run, world, trainer, job.collapse)
        trainer.reporters, close = reporting.reporter(
            run.path / job.log_name, header, t.total_timesteps, tools.clock
        )
        stack.callback(close)
        tracked = reporting.tracker(
            args.track,
            run.path.name,
            run.path,
            config,
            args.wandb_project,
            args.wandb_group,
            args.wandb_entity,
        )
        if tracked is not None:
            trainer.reporters.append(tracked[0])
            stack.callback(tracked[1])
        try:
            if job.layout is store.MettaFolder and job.collapse:
                trainer.save()  # what it starts from is the run's first checkpoint, and its own to go on from
            finished = trainer.fit(stop)
        except Diverged as error:
            saved = (
                f"the last good checkpoint is {run.latest()[1]}" if run.checkpoints() else "none was saved"
            )
            raise RunFailed(
                f"training diverged in epoch {trainer.epoch + 1}: {error}; {saved}; "
                f"try a smaller --train.learning-rate or --train.max-grad-norm"
            ) from error
        except WorkerDied as error:
            then = "\nThe" if "\n" in str(error) else "; the"
            cure = (
                f"go on with `{commands.go_on(home(args), run)}`" if run.checkpoints() else "start it again"
            )
            raise RunFailed(f"{error}{then} run stopped in {run.path}; {cure}") from error
    say(ending(run, finished, job.collapse, args))
    return 0 if finished else stop.status


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Which settings a run that goes on changes: {"train.learning_rate": {"before": 0.001, "now": 0.0005}}"""
    plain = json.loads(json.dumps(now, default=str))  # as config.json holds them
    return {
        f"{section}.{key}": {"before": old.get(key), "now": plain[section].get(key)}
        for section, old in before.items()
        for key in {**old, **plain[section]}
        if old.get(key) != plain[section].get(key)
    }


def header_line(run: runs.Run, world: worlds.World, trainer: Loop, collapse: dict[str, Any] | None) -> str:
    """The plain log's first line: what runs, where, and how the cores are shared."""
    spec = trainer.facts.policy
    name = f"{spec['rnn']}({spec['name']})" if spec["rnn"] else spec["name"]
    params = sum(p.numel() for p in trainer.policy.parameters())
    device = next(trainer.policy.parameters()).device
    fields: dict[str, Any] = dict(
        run=run.path,
        env=stored.trained_on(trainer.facts),
        policy=name,
        params=params,
        vec=world.backend,
        workers=world.plan.workers,
        envs=world.vec.num_envs,
        env_batch=world.vec.num_envs // len(world.vec.groups),
        threads=trainer.threads[1] if trainer.threads else torch.get_num_threads(),
        precision=precision.resolve(trainer.train.precision, trainer.policy, device),
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


def ending(run: runs.Run, finished: bool, collapse: dict[str, Any] | None, args: Args) -> str:
    """What was made, and what to do next."""
    if not run.checkpoints():
        return "stopped before the first epoch ended, and nothing is saved: the same command starts again"
    done = f"{'done' if finished else 'stopped'}; saved {run.latest()[1]}"
    if not finished:
        return f"{done}\ngo on: {commands.go_on(home(args), run)}"
    where, steps = home(args), args.settings.train.total_timesteps
    if args.layout == "metta":
        return done if collapse else f"{done}\ncollapse and retrain: {commands.batch(where, run, steps)}"
    if collapse:
        return f"{done}\ncompare: {commands.compare(where, run)}"
    return f"{done}\ncollapse: {commands.collapse(where, run, args.settings.collapse.epoch, steps)}"


def home(args: Args) -> commands.Home:
    return commands.Home(data_dir=str(args.settings.train.data_dir), layout=args.layout, vec=args.vec)


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Stop:
    """Whether a signal has asked to stop."""

    number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    @property
    def status(self) -> int:
        """What a shell calls the end by a signal: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within: the first Ctrl-C or SIGTERM asks training to stop and save; a second Ctrl-C interrupts it."""
    stop = Stop()

    def on_signal(number: int, frame: Any) -> None:
        if stop() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = number

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
