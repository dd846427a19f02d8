"""Sections: which settings there are, of what type and within what bounds.

A setting is declared once, in two halves: here its type and bounds, in config/default.ini its default and, as
the comment beside it, its meaning. A new section is a dataclass here, named by a field of Settings; its lines
in config/default.ini; and a row in uses.py, which says what modes it is for. Files, command line, help and
config.json have it then, and runs made before it take its defaults.

[env], [policy] and [rnn] are the keyword arguments that the INI files of an environment's package, or of a
policy, list, and nothing here knows them.
"""

import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_type_hints

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.values import DISTANCE, Bounds


def within(low: float, high: float = math.inf, hint: str = "", above: bool = False) -> Any:
    """A number within bounds."""
    return field(metadata={"bounds": Bounds(low, high, above, hint)})


def distance() -> Any:
    """A threshold of the coloring."""
    example = f", as in {program.COMMAND} --mode train --env beam_rider --collapse 0.3"
    return within(DISTANCE.low, DISTANCE.high, DISTANCE.hint + example)


KINDS = ("linear", "cnn", "lstm", "critic")  # of spaces: each has a threshold of its own
Colors = Literal["weights", "faithful", "activations"]  # what neurons are compared by
DEVICE = r"auto|cpu|(cuda|xpu)(:\d+)?|mps"
SIZES = ("num_envs", "batch_size", "minibatch_size", "bptt_horizon", "env_batch_size")  # which must fit


@dataclass(frozen=True, kw_only=True)
class Base:
    package: str | None
    env_name: str | None
    policy_name: str
    rnn_name: str | None


@dataclass(frozen=True, kw_only=True)
class Train:
    seed: int = within(0, 2**31 - 1)
    torch_deterministic: bool
    cpu_offload: bool
    device: str
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Literal["auto"] | int = within(1)
    total_timesteps: int = within(1)
    learning_rate: float = within(0)
    anneal_lr: bool
    gamma: float = within(0, 1)
    gae_lambda: float = within(0, 1)
    update_epochs: int = within(1)
    norm_adv: bool
    clip_coef: float = within(0)
    clip_vloss: bool
    vf_coef: float = within(0)
    vf_clip_coef: float = within(0)
    max_grad_norm: float = within(0)
    ent_coef: float = within(0)
    target_kl: float | None = within(0)
    num_envs: int = within(1)
    num_workers: int = within(1)
    env_batch_size: int | None = within(1)
    data_dir: str
    checkpoint_interval: int = within(1)
    keep_state: Literal["auto", "all"]
    batch_size: int = within(1)
    minibatch_size: int = within(1)
    bptt_horizon: int = within(1)
    compile: bool
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]

    def __post_init__(self) -> None:
        """Refuse a device that is none, and sizes that do not fit into each other.

        An epoch is batch_size / num_envs steps of each environment, cut into sequences of bptt_horizon steps,
        minibatch_size steps to a minibatch.
        """
        if not re.fullmatch(DEVICE, self.device):
            raise UserError(f"--train.device = {self.device!r}: expected auto, cpu, cuda or cuda:1")
        sequences = self.num_envs * self.bptt_horizon
        _fits("minibatch_size", self.minibatch_size, f"bptt_horizon = {self.bptt_horizon}", self.bptt_horizon)
        _fits(
            "batch_size",
            self.batch_size,
            f"both num_envs x bptt_horizon = {sequences} and minibatch_size = {self.minibatch_size}",
            math.lcm(sequences, self.minibatch_size),
        )
        if self.env_batch_size is not None and self.num_envs % self.env_batch_size:
            near = max(n for n in range(1, self.env_batch_size) if self.num_envs % n == 0)
            raise UserError(
                f"env_batch_size = {self.env_batch_size} must divide num_envs = {self.num_envs}: "
                f"try --train.env-batch-size {near}"
            )

    def check_length(self) -> None:
        """Refuse a run that is shorter than its first batch, which it would take whole."""
        if self.total_timesteps < self.batch_size:
            raise UserError(
                f"total_timesteps = {self.total_timesteps} is less than one batch, and training takes whole "
                f"batches of batch_size = {self.batch_size} steps: try --train.total-timesteps "
                f"{self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class CollapseSettings:
    threshold: Literal["auto"] | float = distance()
    linear: float | None = distance()
    cnn: float | None = distance()
    lstm: float | None = distance()
    critic: float | None = distance()
    epoch: int = within(0)
    calibrate: int = within(0)
    colors: Colors
    distill: int | None = within(0)
    max_kl: float | None = within(0)
    target_params: float | None = within(0, 1, " (a part of the parameters)", above=True)
    round_to: int = within(1)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        budget = self.max_kl is not None or self.target_params is not None
        if self.threshold == "auto" and kinds:
            raise UserError(f"--collapse auto finds the widths itself: leave --collapse.{kinds[0]} out")
        if self.threshold == "auto" and not self.calibrate and (self.max_kl or not self.target_params):
            raise UserError(
                "--collapse auto without recorded states cannot measure KL: give --collapse.target-params "
                "alone, or a --collapse.calibrate above 0"
            )
        if self.threshold != "auto" and budget:
            name = "max-kl" if self.max_kl is not None else "target-params"
            raise UserError(f"--collapse.{name} is a budget of --collapse auto, not of a threshold")
        if self.colors == "activations" and not self.calibrate:
            raise UserError("--collapse.colors activations needs states: --collapse.calibrate must not be 0")
        if self.distill and not self.calibrate:
            raise UserError("--collapse.distill needs states: --collapse.calibrate must not be 0")

    def thresholds(self) -> dict[str, float]:
        """Each kind's own threshold, else the one: {"linear": 0.3, "cnn": 0.3, "lstm": 0.5, ...}.

        0.3 in place of auto, for what only counts fibers.
        """
        one = 0.3 if self.threshold == "auto" else self.threshold
        return {kind: one if getattr(self, kind) is None else getattr(self, kind) for kind in KINDS}

    def one_or_by_kind(self) -> float | dict[str, float]:
        """The same as one threshold, where all kinds share it."""
        by_kind = self.thresholds()
        return by_kind[KINDS[0]] if len(set(by_kind.values())) == 1 else by_kind

    @property
    def searches(self) -> bool:
        """Whether a search is to find the widths, within a budget, in place of thresholds."""
        return self.threshold == "auto"

    def budget(self) -> dict[str, float]:
        """What a search may cost; 0.01 nats where nothing is said."""
        named = {"max_kl": self.max_kl, "target_params": self.target_params}
        return {name: bound for name, bound in named.items() if bound is not None} or {"max_kl": 0.01}


Method = Literal["fibers", "redo", "regrama", "cbp", "swr", "l2-init", "shrink-perturb"]


@dataclass(frozen=True, kw_only=True)
class BreakSettings:
    threshold: float | None = within(0, 2)
    method: Method
    colors: Literal["weights", "faithful", "activations"]
    every: int = within(1)
    after: int = within(0)
    fraction: float = within(0, 1, " (a part of the neurons)", above=True)
    maturity: int = within(0)
    max_kl: float | None = within(0)
    max_value_error: float | None = within(0)

    def __post_init__(self) -> None:
        """Refuse a number that the method cannot take."""
        if self.threshold is not None and self.method != "fibers" and self.threshold > 1:
            raise UserError(
                f"--break-symmetry is {self.threshold}: {self.method} takes a part, from 0 to 1; "
                "config/default.ini says what of"
            )


@dataclass(frozen=True, kw_only=True)
class DiagnoseSettings:
    on: bool
    every: int = within(1)
    states: int = within(2)
    capacity: int = within(0)
    evaluate: int = within(0)


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    on_failure: Literal["warn", "stop", "break-symmetry"] | None
    true_metric: str | None

    @property
    def on(self) -> bool:
        return self.on_failure is not None


@dataclass(frozen=True, kw_only=True)
class ForkSettings:
    points: str
    data: Literal["same", "fresh"]


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    alphas: int = within(2)
    episodes: int = within(1)
    sampled: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one run.  A None in [env], [policy] or [rnn] leaves the argument out."""

    base: Base
    env: dict[str, Any]
    policy: dict[str, Any]
    rnn: dict[str, Any]
    train: Train
    collapse: CollapseSettings
    break_: BreakSettings
    diagnose: DiagnoseSettings
    watch: WatchSettings
    fork: ForkSettings
    line: LineSettings

    def __post_init__(self) -> None:
        """Refuse to break what nobody says how to break."""
        if self.watch.on_failure == "break-symmetry" and self.break_.threshold is None:
            raise UserError(
                "--on-failure break-symmetry must know which neurons count as one: add --break-symmetry 0.3"
            )

    def __getitem__(self, section: str) -> Any:
        """A section by its name in files and on the command line."""
        return {section_of(f.name): getattr(self, f.name) for f in fields(self)}[section]

    def to_plain(self) -> dict[str, dict[str, Any]]:
        """Nested dicts of plain values, for config.json."""
        return {section_of(name): keys for name, keys in asdict(self).items()}


def section_of(field: str) -> str:
    """The section that a field of Settings is; one that Python would not take for a name ends in _ there."""
    return field.rstrip("_")


SECTIONS = tuple(section_of(f.name) for f in fields(Settings))
FIXED: dict[str, Any] = {
    section_of(name): kind for name, kind in get_type_hints(Settings).items() if is_dataclass(kind)
}
FREE = tuple(name for name in SECTIONS if name not in FIXED)
# Settings of earlier versions, of their runs and of PufferLib's INI files: taken, and read by nothing.
RETIRED = ("train.zero_copy",)
# What the command line also calls them.
SHORT = {
    "train.seed": "--seed",
    "collapse.threshold": "--collapse",
    "collapse.epoch": "--collapse-epoch",
    "break.threshold": "--break-symmetry",
    "diagnose.on": "--diagnose",
    "watch.on_failure": "--on-failure",
    "fork.points": "--fork-points",
}


def _fits(whole: str, size: int, parts: str, step: int) -> None:
    if size % step:
        near = max(step, size - size % step)
        flag = whole.replace("_", "-")
        raise UserError(
            f"{whole} = {size} must be a multiple of {parts}: try --train.{flag} {near} or {near + step}"
        )
