"""Recipes: Metta's command line, `experiments.recipes.NAME.train --args .. --overrides ..`, in our words."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pufferlib_kcore import cli
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.installed import is_installed
from pufferlib_kcore.settings import Train, flag, nearest, resolve
from pufferlib_kcore.settings.layers import Layer, Schema, read_layer, unknown
from pufferlib_kcore.settings.sections import SECTIONS
from pufferlib_kcore.settings.values import fold, read, run_name
from pufferlib_kcore.text import aligned

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "recipes"
QUOTES = "'\"‘’‚“”„"  # a guide's word processor curls them
NEEDS = {"mujoco": "mujoco", "mettagrid": "mettagrid"}  # what a package's environments import
LOSS = ("clip_coef", "vf_clip_coef", "ent_coef", "vf_coef", "gamma", "gae_lambda", "clip_vloss", "target_kl")

# Metta's names, and ours
ABOUT = {
    "run": "the run's name, a folder in train_dir (default: the recipe's)",
    "seed": "seed of weights, environments, actions and minibatches",
    "data_dir": "folder of the runs (default: train_dir)",
    "wandb": "on or off (default: on, offline, where it is installed)",
}
ARGS = {"run": "run", "seed": "train.seed", "data_dir": "train.data_dir", "wandb": "wandb"}
OVERRIDES = {
    **{f"trainer.{field.name}": f"train.{field.name}" for field in fields(Train)},
    **{f"trainer.losses.ppo.{name}": f"train.{name}" for name in LOSS},
    "trainer.optimizer.learning_rate": "train.learning_rate",
    "trainer.checkpoint.checkpoint_interval": "train.checkpoint_interval",
    "system.device": "train.device",
    "system.seed": "train.seed",
    "policy_architecture.name": "architecture",
    "trainer.checkpoint.wandb_checkpoint_interval": "wandb_checkpoints",
    "trainer.evaluation.evaluate_interval": "evaluate",
    "trainer.evaluation.replay_dir": "nothing",
    "trainer.evaluation.skip_git_check": "nothing",
}


@dataclass(frozen=True)
class Translation:
    """A recipe as demo.py is told of it, and what to say beside."""

    argv: list[str]
    notes: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one recipe.  -> 0, 2 for a user's mistake (one sentence on stderr), 1 for a failed run"""
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(words):
        print(usage())
        return 0

    def run() -> int:
        command = command_of(words)
        for note in command.notes:
            print(f"note: {note}")
        print(f"python demo.py {shlex.join(command.argv)}", flush=True)
        try:
            return cli.run(command.argv)
        except UserError as error:
            raise UserError(in_mettas_words(str(error))) from error

    return cli.answered("run.py", run, "free space, then run it again")


def usage() -> str:
    """What --help says."""
    recipes = [(name, read_recipe(name).about) for name in names()]
    overrides = [(name, _meaning(ours)) for name, ours in OVERRIDES.items() if "." in ours]
    overrides.append(("policy_architecture.name", "a registered policy, such as fast"))
    lines = [
        "usage: tools/run.py experiments.recipes.NAME.train --args run=RUN [NAME=VALUE ...] "
        "[--overrides NAME=VALUE ...]",
        "",
        "Train in Metta's layout: train_dir/RUN/RUN/checkpoints. A run that is there goes on.",
        "",
        "recipes, files in experiments/recipes:",
        aligned(recipes, indent="  "),
        "",
        "--args:",
        aligned(ABOUT.items(), indent="  "),
        "",
        "--overrides, Metta's names:",
        aligned(overrides, indent="  "),
        "or ours, such as train.batch_size, env.frameskip and policy.hidden_size, which "
        "python demo.py --env NAME --help lists",
        "",
        "for example: tools/run.py experiments.recipes.cartpole.train --args run=t1 "
        "--overrides trainer.total_timesteps=100000",
    ]
    return "\n".join(lines)


def _meaning(setting: str) -> str:
    section, _, key = setting.partition(".")
    return Schema().keys[section, key].help


def in_mettas_words(text: str) -> str:
    """A sentence about demo.py's options as one about these.

    >>> in_mettas_words("try --train.batch-size 128 or 256; --seed = 'x', --run = '/': expected ..")
    'try trainer.batch_size=128 or 256; system.seed = 'x', run = '/': expected ..'
    """
    ours = {"--seed": "system.seed", "--run": "run", "--train.device": "system.device"}

    def named(found: re.Match) -> str:
        option, value = found.groups()
        section, _, key = option.removeprefix("--").replace("-", "_").partition(".")
        name = ours.get(option) or (f"{'trainer' if section == 'train' else section}.{key}")
        return name if value is None else f"{name}={value}"

    return re.sub(rf"(--(?:(?:{'|'.join(SECTIONS)})\.[\w-]+|seed|run)\b)(?: (?!=)([\w.-]+))?", named, text)


def command_of(words: Sequence[str]) -> Translation:
    """demo.py's arguments for a command line of Metta's run.py.  Raises UserError.

    ["experiments.recipes.pong.train", "--args", "run=one"]
    -> ["--mode", "train", "--layout", "metta", "--run", "one", "--env", "pong", ...]
    """
    path, args, overrides = parse(words)
    name = recipe_name(path)
    recipe = read_recipe(name)
    env = recipe.values["base", "env_name"]
    if absent := missing(recipe):
        raise UserError(
            f"the recipe {name} needs {absent}, which is not installed (config/{absent}.ini says how); "
            + here()
        )
    said, notes = translated(overrides)
    own = {f"{section}.{key}": text for (section, key), text in recipe.values.items()}
    del own["base.env_name"]
    if said.get("base.policy_name", own.get("base.policy_name")) != own.get("base.policy_name"):
        own = {key: text for key, text in own.items() if not key.startswith("policy.")}
    given = {ARGS[key]: text for key, text in args.items() if ARGS[key].startswith("train.")}
    values = {"train.data_dir": "train_dir", **own, **given, **said}
    check(values, env)
    argv = ["--mode", "train", "--layout", "metta", "--run", args.get("run", name), "--env", env]
    for key, text in values.items():
        argv += [flag(*key.split(".", 1)), text]
    wandb = args.get("wandb", "on" if is_installed("wandb") else None)
    if wandb == "on":
        argv += ["--track", "wandb"]
    elif wandb is None:
        notes.append(
            "wandb is not installed, metrics.jsonl holds the metrics; make setup EXTRAS=wandb adds it"
        )
    return Translation(argv, notes)


def parse(words: Sequence[str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """The dotted path, --args and --overrides of a command line, without quotes.  Raises UserError."""
    path, *rest = [word.strip(QUOTES) for word in words] or [""]
    found: dict[str, dict[str, str]] = {"--args": {}, "--overrides": {}}
    into = "--args"
    for word in rest:
        if word in found:
            into = word
            continue
        if word.startswith("-"):
            raise UserError(unknown(f"argument {word!r}", word, found))
        key, equals, text = word.partition("=")
        text = text.strip(QUOTES)
        if not (key and equals and text):
            raise UserError(f"{word!r} after {into}: expected name=value, as in {_EXAMPLES[into]}")
        found[into][key] = text
    args, overrides = found["--args"], found["--overrides"]
    if odd := next((key for key in args if key not in ARGS), None):
        raise UserError(unknown(f"argument {odd!r} after --args", odd, ARGS))
    if "--args" in rest and "run" not in args:
        raise UserError("--args names no run: give it one, as in --args run=exp_name")
    if "run" in args:
        run_name(args["run"], "run")
    if args.get("wandb", "on") not in ("on", "off"):
        raise UserError(f"wandb={args['wandb']}: expected on or off")
    return path, args, overrides


_EXAMPLES = {"--args": "--args run=exp_name", "--overrides": "--overrides trainer.batch_size=4096"}


def recipe_name(path: str) -> str:
    """experiments.recipes.pong.train -> pong.  Raises UserError, with the recipes that run here."""
    match = re.fullmatch(r"(?:experiments\.)?(?:recipes\.)?(\w+)\.(\w+)", path)
    if match is None:
        shown = repr(path) if path else "no recipe"
        raise UserError(f"{shown}: expected experiments.recipes.NAME.train; {here()}")
    name, tool = match.groups()
    if name not in names():
        hint = nearest(name, names())
        cure = f"did you mean {hint}? " if hint else f"no file experiments/recipes/{name}.ini; "
        raise UserError(f"unknown recipe {name!r}: {cure}{here()}")
    if tool != "train":
        raise UserError(
            f"recipes have no {tool!r} here, only train; to play episodes: python demo.py --mode eval"
        )
    return name


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.ini"))


def read_recipe(name: str) -> Layer:
    """The settings that a recipe names.  Raises UserError where it names no environment."""
    recipe = read_layer(FOLDER / f"{name}.ini")
    if len(recipe.names) != 1:
        raise UserError(f"{recipe.path}: expected one env_name in [base], as in env_name = pong")
    return recipe


def here() -> str:
    """The end of a sentence: the recipes whose environments are installed."""
    found = [name for name in names() if not missing(read_recipe(name))]
    return f"recipes that run here: {', '.join(found)}"


def missing(recipe: Layer) -> str | None:
    """The Python package that a recipe's environment needs and that is not here."""
    package = resolve(recipe.values["base", "env_name"]).base.package
    module = NEEDS.get(package or "")
    return module if module and not is_installed(module) else None


def translated(overrides: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Settings by our names, and notes on what has no place here.  Raises UserError for unknown names."""
    policy = overrides.get("policy_architecture.name")
    said = {} if policy is None else policy_settings(policy)
    notes = []
    for key, text in overrides.items():
        ours = OVERRIDES.get(key, key)
        if ours == "evaluate":
            if read(text, int, key, "0"):
                notes.append(f"{key}={text}: training here does not evaluate; run python demo.py --mode eval")
        elif ours == "wandb_checkpoints":
            notes.append(f"{key}={text}: checkpoints stay on disk, W&B gets metrics alone")
        elif ours.split(".")[0] in SECTIONS:
            said[ours.replace("-", "_")] = text
        elif ours not in ("architecture", "nothing"):
            hint = nearest(key, OVERRIDES)
            cure = f"did you mean {hint}?" if hint else "expected Metta's, or ours, such as train.batch_size"
            raise UserError(f"unknown override {key!r}: {cure}")
    return said, notes


def check(values: dict[str, str], env: str) -> None:
    """Raise UserError for what is no setting of this environment and policy."""
    schema = Schema(env, policy=values.get("base.policy_name"))
    known = [f"{section}.{key}" for section, key in schema.keys if (section, key) != ("base", "env_name")]
    for key in values:
        if key not in known:
            raise UserError(unknown(f"setting {key!r}", key, known))


def policy_settings(name: str) -> dict[str, str]:
    """The settings that choose a policy; Metta's `fast` has an LSTM of 2 layers.  Raises UserError."""
    from pufferlib_kcore.policies import registry

    known = {fold(policy): policy for policy in ("Policy", *registry.POLICIES)}
    if fold(name) not in known:
        raise UserError(unknown(f"policy_architecture.name {name!r}", name, known.values()))
    said = {"base.policy_name": known[fold(name)]}
    if said["base.policy_name"] == "Fast":
        said |= {"base.rnn_name": "Recurrent", "rnn.num_layers": "2"}
    return said
