"""Uses: which mode uses which option, so that none is ignored without a word."""

from collections.abc import Sequence

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.resolve import flag

RUNS = ("train", "autotune", "profile")  # modes that train
LINES = ("fork", "connectivity")  # modes that walk lines between policies
PLAYS = (*RUNS, "eval", "collapse", "diagnose", *LINES)  # modes in which environments run
WORLD = (*PLAYS, "export")
COLORING = ("train", "collapse", "fibers", "report", "diagnose")  # modes that find fibers at a threshold
LOADS = ("train", "eval", "collapse", "fibers", "export", "report", "diagnose", *LINES)

# Options, sections and settings, the more special one first to decide; what is not here goes with every mode.
USED_BY: dict[str, tuple[str, ...]] = {
    "--exp-id": LOADS,
    "--run": ("train",),
    "--control": ("train",),
    "--resume": ("train",),
    "--track": ("train",),
    "--wandb-project": ("train",),
    "--wandb-group": ("train",),
    "--wandb-entity": ("train",),
    "--eval-model-path": ("eval", "export"),
    "--episodes": ("eval", "diagnose"),
    "--capture-video": ("eval",),
    "--metrics": ("diagnose",),
    "break": ("train",),
    "diagnose.states": ("train", "diagnose"),
    "diagnose.capacity": ("train", "diagnose"),
    "diagnose.evaluate": ("diagnose",),
    "diagnose": ("train",),
    "watch.true_metric": ("train", "diagnose"),
    "watch": ("train",),
    "fork": ("fork",),
    "line": LINES,
    "train.total_timesteps": (*RUNS, "fork"),
    "collapse.threshold": COLORING,
    "collapse.linear": COLORING,
    "collapse.cnn": COLORING,
    "collapse.lstm": COLORING,
    "collapse.critic": COLORING,
    "collapse": ("train", "collapse"),
    "env": WORLD,
    "base": RUNS,
    "policy": RUNS,
    "rnn": RUNS,
    **dict.fromkeys(
        (
            *("train.learning_rate", "train.anneal_lr", "train.gamma"),
            *("train.gae_lambda", "train.update_epochs", "train.norm_adv", "train.clip_coef"),
            *("train.clip_vloss", "train.vf_coef", "train.vf_clip_coef", "train.max_grad_norm"),
            *("train.ent_coef", "train.target_kl", "train.checkpoint_interval", "train.keep_state"),
        ),
        RUNS,
    ),
}
DESCRIBES = ("base", "policy", "rnn")  # sections that tell a --trust-checkpoint what it holds


def users(name: str) -> tuple[str, ...] | None:
    """The modes that use an option (--episodes) or a setting (collapse.epoch); None: all of them."""
    return USED_BY.get(name, USED_BY.get(name.partition(".")[0]))


def uses(mode: str, name: str, trusting: bool) -> bool:
    """Whether the mode uses an option or a setting.

    trusting: with --trust-checkpoint, where settings describe a policy that does not say what it is
    """
    modes = users(name)
    return modes is None or mode in modes or (trusting and name.partition(".")[0] in DESCRIBES)


def check_use(mode: str, names: Sequence[str], trusting: bool) -> None:
    """Raise UserError for the first option or setting that the mode does not use.  trusting: see `uses`"""
    for name in names:
        if not uses(mode, name, trusting):
            shown = name if name.startswith("--") else flag(*name.split(".", 1))
            those = listed(users(name) or ())
            raise UserError(f"--mode {mode} does not use {shown}: it is for --mode {those}")


def check_auto(mode: str) -> None:
    """Raise UserError where the mode needs a threshold, and --collapse auto was asked for."""
    modes = users("collapse") or ()
    if mode not in modes:
        raise UserError(
            f"--mode {mode} does not use --collapse auto: it is for --mode {listed(modes)}; give a threshold "
            "from 0 to 2, as in --collapse 0.3"
        )


def listed(modes: Sequence[str]) -> str:
    """("eval", "export", "train") -> "eval, export or train\""""
    return modes[0] if len(modes) == 1 else f"{', '.join(modes[:-1])} or {modes[-1]}"
