"""Arguments: the command line of demo.py, its help, and the settings that it asks for."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import theirs
from pufferlib_kcore.settings.layers import Schema, environments, unknown
from pufferlib_kcore.settings.resolve import fitting, flag, from_plain, resolve
from pufferlib_kcore.settings.sections import SECTIONS, SHORT, SIZES, Settings
from pufferlib_kcore.settings.studies import is_study, read_study
from pufferlib_kcore.settings.uses import check_auto, check_use, uses
from pufferlib_kcore.settings.values import describe, read, run_name

MODES = {
    "train": "train; with --collapse: collapse a trained policy, then train that on (the default)",
    "eval": "play episodes with a trained policy",
    "collapse": "write the collapsed policy and its fibers, no training",
    "fibers": "count the fibers of every checkpoint of a run",
    "export": "write a checkpoint as an ONNX file, its recurrent state as inputs and outputs",
    "report": "compare a run with its collapsed run, as PNG and HTML",
    "diagnose": "look at every checkpoint of a run, or at a file of --metrics, and say what went wrong",
    "fork": "train two children from checkpoints of a run, and walk the lines between them",
    "connectivity": "walk the lines from a run to its collapse, and to what that became by training",
    "autotune": "find the workers, envs and threads that suit this machine",
    "profile": "train for a short while and say where the time goes",
}
BOARD = "board: a local web page over all runs, live; its own options: --mode board --help"
LAYOUTS = ("experiments", "metta")
CONTROLS = ("original", "ablated", "scratch", "scratch-full")
BACKENDS = ("multiprocessing", "serial", "ray", "ale")
TRACKERS = ("wandb", "tensorboard", "none")


@dataclass(frozen=True, kw_only=True)
class Args:
    """What the command line asks for."""

    env: str | None  # as config/ lists it; None where only --exp-id or --eval-model-path can say
    mode: str
    vec: str
    layout: str  # of the folders: "experiments" or "metta"
    run: str | None  # the name of the run to make or to go on with, in Metta's layout
    control: str | None  # what to train in place of the collapsed policy, one of CONTROLS
    exp_id: str | None
    resume: bool
    collapse: float | str | None  # cosine distance or auto; None: no collapse is asked for
    track: str | None  # "wandb" | "tensorboard"
    wandb_project: str
    wandb_group: str | None
    wandb_entity: str | None
    eval_model_path: str | None
    episodes: int | None  # None: as many as there are environments
    capture_video: bool
    metrics: str | None  # a file of anybody's metrics, to diagnose
    trust_checkpoint: bool
    config: str | None  # a folder of INI files
    overrides: dict[str, str]  # {"train.batch_size": "4096"}: what goes over a resumed run's settings too
    settings: Settings  # of env; without one, the project's defaults under those overrides that fit

    @property
    def seed(self) -> int:
        return self.settings.train.seed

    @property
    def collapse_epoch(self) -> int:
        return self.settings.collapse.epoch


Plain = Mapping[str, Mapping[str, Any]]  # what Settings.to_plain gives


def load(
    argv: Sequence[str] | None = None, stored: Callable[[Args], Plain | None] = lambda args: None
) -> Args:
    """Read a command line (that of this process by default). --help prints and exits with 0.

    stored: gives the settings with which the run that the arguments name was made, None where they name none;
    overrides are judged over these.
    Raises UserError for an unknown option, environment or setting, for a value of the wrong type or out of
    bounds, and for an option that the mode does not use. Where only --exp-id says the environment, and
    nothing is stored, overrides of [env], [policy] and [rnn] are checked by `from_plain`.
    """
    flags, dotted, words = _split(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog=program.COMMAND, add_help=False, allow_abbrev=False)
    _add_options(parser)
    given, rest = parser.parse_known_args(words)
    study = read_study(given.config if is_study(given.config) else None, dotted)
    given.config = None if is_study(given.config) else given.config
    typed, filed = {**study.words, **flags}, study.texts
    named = filed.pop("base.env_name", None)  # where no --env says it
    given.env = given.env or (None if named == "None" else named)
    if given.help:
        policy = typed.get("base.policy_name")
        _print_help(Schema(given.env, given.config, policy, study.layers), given.config)
        raise SystemExit(0)
    if rest:
        names = [*parser.options(), *(flag(*key) for key in Schema(given.env, given.config).keys)]
        names = [f"--mode {rest[0]}"] if rest[0] in MODES else names
        raise UserError(unknown(f"argument {rest[0]!r}", rest[0], names) + " --help lists all")
    for name, short in SHORT.items():
        text = getattr(given, name)
        delattr(given, name)
        if text is not None and name in typed:
            raise UserError(f"{short} and {'--' + name} are one setting: give one of them")
        if text is not None:
            typed[name] = text
    check_names(given)
    check_use(given.mode, [*parser.typed(words), *typed], given.trust_checkpoint)
    overrides = {key: text for key, text in filed.items() if uses(given.mode, key, given.trust_checkpoint)}
    overrides |= typed
    if given.layout == "metta":
        overrides.setdefault("train.data_dir", "train_dir")
    elif given.run or given.control:
        raise UserError(
            f"--{'run' if given.run else 'control'} belongs to Metta's layout: add --layout metta"
        )
    given.track = given.track or (study.tracker if uses(given.mode, "--track", False) else None)
    given.track = None if given.track == "none" else given.track
    if given.metrics is not None and given.exp_id is not None:
        raise UserError("--metrics and --exp-id both say what to diagnose: leave one of them out")
    if (given.env, given.exp_id, given.eval_model_path, given.metrics) == (None,) * 4:
        raise UserError(
            f"nothing to {given.mode}: name an environment, as in {program.COMMAND} --mode {given.mode} "
            "--env beam_rider, or a run with --exp-id; --help lists all options"
        )
    study.check(given.env, given.config, typed.get("base.policy_name"))
    judged = fitting(given.env, {**filed, **overrides})
    sizes = {f"train.{name}" for name in SIZES}  # must fit into each other, in the run that they are for
    settings = resolve(given.env, {k: v for k, v in judged.items() if k not in sizes}, given.config)
    thresholds = {f"collapse.{key}" for key in ("threshold", *settings.collapse.thresholds())}
    asked = given.mode == "collapse" or given.control or thresholds & typed.keys()
    if settings.collapse.threshold == "auto" and "collapse.threshold" in typed:
        check_auto(given.mode)
    if given.mode == "train" and not asked:
        idle = [key for key in typed if key.startswith("collapse.") and key != "collapse.epoch"]
        if idle:
            raise UserError(f"{flag(*idle[0].split('.'))} says how to collapse: add --collapse 0.3, or auto")
    if given.mode == "train" and asked and given.resume and given.layout != "metta":
        raise UserError("--resume goes on with a run as it is, --collapse starts another: leave one out")
    del given.help
    given.env = settings.base.env_name
    given.collapse = settings.collapse.threshold if asked else None
    args = Args(**vars(given), overrides=overrides, settings=settings)
    plain = stored(args)
    if plain is None:
        settings = resolve(given.env, judged, given.config)
    else:
        base = plain["base"]
        study.check(base["env_name"], given.config, overrides.get("base.policy_name", base["policy_name"]))
        of_run = from_plain(plain, overrides, given.config)
        settings = replace(settings, train=replace(of_run.train, data_dir=settings.train.data_dir))
    if given.mode == "train":
        settings.train.check_length()
    return replace(args, settings=settings)


def check_names(given: argparse.Namespace) -> None:
    """Raise UserError for a name that no run's folder can have, and for two ways to name one thing."""
    for option, name in (("--exp-id", given.exp_id), ("--run", given.run)):
        if name is not None:
            run_name(name, option)
    if given.eval_model_path is not None and given.exp_id is not None:
        raise UserError("--eval-model-path and --exp-id both say what to load: leave one of them out")


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Part a command line into --section.key overrides, section.key=text words, and the others.

    An override without text is a bare one.

    ["--env", "pong", "--train.gamma=0.9", "--train.compile", "train.seed=2"]
    -> {"train.gamma": "0.9", "train.compile": ""}, ["train.seed=2"], ["--env", "pong"]
    """
    overrides, dotted, words, waiting = {}, [], [], None
    for word in argv:
        name, equals, text = word.partition("=")
        option = re.fullmatch(rf"(--)?({'|'.join((*SECTIONS, *theirs.SECTIONS))})\.(.+)", name)
        key = option and f"{option[2]}.{option[3].replace('-', '_')}"
        key = key and (theirs.typed(key) or key)
        if key and equals and not word.startswith("--"):
            dotted.append(f"{key}={text}")
        elif waiting and not word.startswith("--"):
            overrides[waiting], waiting = word, None
        elif key and word.startswith("--"):
            overrides[key], waiting = text, None if equals else key
        else:
            waiting = None
            words.append(name.replace("_", "-") + equals + text if word.startswith("--") else word)
    return overrides, dotted, words


class Parser(argparse.ArgumentParser):
    """One whose mistakes are a UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))

    def options(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def typed(self, words: Sequence[str]) -> list[str]:
        """The options among the words, by their first names."""
        found = (self._option_string_actions.get(word.partition("=")[0]) for word in words)
        return [action.option_strings[0] for action in found if action is not None]


def _add_options(parser: Parser) -> None:
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this; with --env, with that environment's settings")
    add("--env", "--environment", metavar="NAME", help="environment, such as beam_rider or cartpole")
    modes = ". ".join([*(f"{name}: {what}" for name, what in MODES.items()), BOARD])
    add("--mode", type=_one_of(*MODES, evaluate="eval"), default="train", metavar="MODE", help=modes)
    backends = f"where environments run: {', '.join(BACKENDS)} (default: {BACKENDS[0]}); ale: Atari games on "
    backends += "ALE's own vector environment, whose preprocessing is another"
    vec = _one_of(*BACKENDS)
    add(
        "--vec",
        "--vector",
        "--vectorization",
        type=vec,
        default=BACKENDS[0],
        metavar="BACKEND",
        help=backends,
    )
    add("--seed", dest="train.seed", metavar="INT", help="short for --train.seed")
    add("--exp-id", "--exp-name", metavar="RUN", help="a run: its name, or its path below experiments/")
    layout = "where runs lie: experiments, or metta for train_dir/RUN/RUN/checkpoints (default: experiments)"
    add("--layout", type=_one_of(*LAYOUTS), default=LAYOUTS[0], metavar="LAYOUT", help=layout)
    add("--run", metavar="NAME", help="with --layout metta: the run's name; one that is there goes on")
    control = (
        "with --layout metta: train as long, in place of the collapsed policy, the original, or the same "
    )
    control += "widths by random ablation (ablated) or untrained (scratch; scratch-full: from step 0 on)"
    add("--control", type=_one_of(*CONTROLS), metavar="KIND", help=control)
    add("--resume", action="store_true", help="go on with that run, else with the newest of the env")
    merge = "merge neurons at most this cosine distance apart, 0 to 2, or auto: as many as a budget allows"
    add("--collapse", dest="collapse.threshold", metavar="T", help=merge)
    epoch = "the checkpoint to collapse, else the nearest to it (default: 50); short for --collapse.epoch"
    add("--collapse-epoch", dest="collapse.epoch", metavar="N", help=epoch)
    apart = (
        "keep learning: every so often, of neurons this cosine distance apart keep one and make the others "
    )
    apart += "fresh, [break] says how"
    add("--break-symmetry", dest="break.threshold", metavar="T", help=apart)
    look = "look at the policy after each epoch: diagnosis/.. in metrics.jsonl, [diagnose] says how"
    add("--diagnose", dest="diagnose.on", nargs="?", const="True", metavar="BOOL", help=look)
    failure = "watch for failures while training, and warn, stop, or break-symmetry"
    add("--on-failure", dest="watch.on_failure", metavar="WHAT", help=failure)
    add("--fork-points", dest="fork.points", metavar="X,..", help="short for --fork.points")
    add("--metrics", metavar="FILE", help="with --mode diagnose: anybody's metrics, JSON lines or CSV")
    trackers = f"track with {' or '.join(TRACKERS)} (bare --track: wandb, offline unless a key is set)"
    add("--track", nargs="?", const="wandb", type=_one_of(*TRACKERS), metavar="TRACKER", help=trackers)
    project = "W&B project (default: pufferlib_kcore)"
    add("--wandb-project", metavar="NAME", default="pufferlib_kcore", help=project)
    add("--wandb-group", metavar="NAME", help="W&B group")
    add("--wandb-entity", metavar="NAME", help="W&B entity")
    add(
        "--eval-model-path",
        metavar="FILE",
        help="the checkpoint that --mode eval plays and --mode export writes",
    )
    add(
        "--episodes", type=_whole, metavar="N", help="how many episodes --mode eval plays (default: num_envs)"
    )
    add("--capture-video", action="store_true", help="with --mode eval: write the episodes as video")
    trust = "load a checkpoint that can run code, as published PufferLib models: only if you trust it"
    add("--trust-checkpoint", action="store_true", help=trust)
    config = "a folder of INI files over the project's own (default: ./config), or a YAML file over all INI "
    config += "files; over that come words such as train.gamma=0.9, for which its ${train.gamma} stands"
    add("--config", metavar="PATH", help=config)


def _one_of(*names: str, **aliases: str) -> Callable[[str], str]:
    def kind(text: str) -> str:
        if text in names:
            return text
        if text in aliases:
            return aliases[text]
        raise argparse.ArgumentTypeError(unknown(f"value {text!r}", text, names))

    return kind


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return read(text, int, "")


def _print_help(schema: Schema, config: str | None) -> None:
    """Every option, every setting with its default, and every environment's name."""
    listed = [f"{package}: {' '.join(sorted(names))}" for package, names in environments(config).items()]
    names = "\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in listed)
    about = "" if schema.env is None else f", with the settings of {schema.env}"
    parser = Parser(
        prog=program.COMMAND,
        add_help=False,
        formatter_class=_formatter(),
        usage=f"{program.COMMAND} --mode MODE --env NAME [--section.key VALUE ...]",
        description=f"Train, collapse, resume and compare policies{about}.",
        epilog=f"Environments by package (--env NAME --help shows the settings of one):\n{names}",
    )
    _add_options(parser)
    for section in SECTIONS:
        group = parser.add_argument_group(f"[{section}]")
        for key in schema.names(section):
            if key == "env_name" or f"{section}.{key}" in SHORT:
                continue
            setting = schema.keys[section, key]
            said = f"{setting.help} " if setting.help else ""
            kind = f"{describe(setting.kind)} {setting.bounds}".strip()
            text = f"{said}(default: {setting.text}; {kind})".replace("%", "%%")
            group.add_argument(f"--{section}.{key}".replace("_", "-"), metavar="VALUE", help=text)
    parser.print_help()


def _formatter() -> type[argparse.HelpFormatter]:
    try:
        from rich_argparse import RawDescriptionRichHelpFormatter
    except ImportError:
        return argparse.RawDescriptionHelpFormatter
    plain = {"text_markup": False, "help_markup": False, "group_name_formatter": staticmethod(str)}
    return type("Help", (RawDescriptionRichHelpFormatter,), plain)
