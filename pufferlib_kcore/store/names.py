"""Names on disk: each name is written by one function and read back by one parser."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from pufferlib_kcore.errors import UserError

Thresholds = float | Mapping[str, float]  # one cosine distance in [0, 2], or one a kind of space

# Tags of the kinds in a folder's name, in the order in which they are written.
KIND_TAGS = {"default": "def", "linear": "lin", "cnn": "cnn", "lstm": "lstm", "critic": "crit"}
COLOR_TAGS = {"weights": "thr", "faithful": "size", "activations": "act"}
# What is retrained, and the word for it in the run's name in Metta's layout.
METTA_ROLE_OF = {
    "original": "original",
    "collapsed": "base",
    "ablated": "ablationsrandom",
    "scratch": "scratch",
    "scratch-full": "scratchfull",
}
METTA_ROLES = tuple(METTA_ROLE_OF.values())

_VALUE = r"(?:\d\d|\d+p\d+)"  # '03' is 0.3; '0p25' is 0.25
_BY_KIND = r"(?:def|lin|cnn|lstm|crit)"
_TAG = rf"{_VALUE}|{_BY_KIND}{_VALUE}(?:_{_BY_KIND}{_VALUE})*"
_NUMBER_TAG = r"\d+(?:p\d+)?"
_BUDGET = rf"(?:kl{_NUMBER_TAG})?_?(?:params{_NUMBER_TAG})?"
_AGAIN = r"(?:_(?:[2-9]|[1-9]\d{1,4}))?"  # the number of one that differs in other settings
_FOLDER = re.compile(rf"collapsed_model_(?:(thr|size|act)_({_TAG})|auto_({_BUDGET}))_(\d{{6,}}){_AGAIN}")
_MODEL = re.compile(r"model_(\d{6,})(_collapsed)?(\.state)?\.pt")
_RUN = re.compile(r"(.+)-([0-9a-f]{8})")
_METTA_CHECKPOINT = re.compile(r"(.+)__e(\d+)__s(\d+)__t(\d+)__sc(\d+)\.pt")
_NUMBER = r"(\d+(?:\.\d+)?)"
_SETTING = rf"{_NUMBER}_{_NUMBER}_{_NUMBER}_{_NUMBER}|params{_NUMBER}"
_METTA_RUN = re.compile(
    rf"(.+)_epoch_(\d+)_(?:({'|'.join(METTA_ROLES[1:])})_({_SETTING})|original)(?:_seed(\d+))?"
)


# --- thresholds ---------------------------------------------------------------------------------


def check_threshold(threshold: float, name: str = "collapse threshold") -> float:
    """The threshold as a float.  Raises UserError unless it is a number in [0, 2]."""
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = float("nan")
    if isinstance(threshold, bool) or not 0.0 <= value <= 2.0:
        raise UserError(
            f"{name} is {threshold!r}, expected a cosine distance from 0 (merge only what is identical) "
            f"to 2 (merge everything), e.g. --collapse 0.3"
        )
    return value + 0.0  # -0.0 becomes 0.0


def threshold_tag(thresholds: Thresholds) -> str:
    """The thresholds as a folder's name says them.

    >>> threshold_tag(0.3), threshold_tag(1), threshold_tag(0.25)
    ('03', '10', '0p25')
    >>> threshold_tag({"linear": 0.3, "cnn": 0.5, "lstm": 1.0, "critic": 0.8})
    'lin03_cnn05_lstm10_crit08'
    """
    if not isinstance(thresholds, Mapping):
        return _value_tag(check_threshold(thresholds))
    unknown = [kind for kind in thresholds if kind not in KIND_TAGS]
    if unknown or not thresholds:
        what = f"{unknown[0]!r}" if unknown else "no kind at all"
        raise UserError(f"thresholds by kind name {what}, expected some of {', '.join(KIND_TAGS)}")
    return "_".join(
        tag + _value_tag(check_threshold(thresholds[kind], f"{kind} threshold"))
        for kind, tag in KIND_TAGS.items()
        if kind in thresholds
    )


def parse_threshold_tag(tag: str) -> float | dict[str, float]:
    """The thresholds that a tag says; the inverse of threshold_tag.  Raises UserError on any other text."""
    if re.fullmatch(_VALUE, tag):
        return check_threshold(_tag_value(tag), f"threshold '{tag}'")
    kinds = {short: kind for kind, short in KIND_TAGS.items()}
    found = [re.fullmatch(rf"({_BY_KIND})({_VALUE})", part) for part in tag.split("_")]
    pairs = [(kinds[part[1]], _tag_value(part[2])) for part in found if part]
    if len(pairs) < len(found) or len(dict(pairs)) < len(pairs):
        raise UserError(
            f"'{tag}' names no thresholds, expected e.g. '03', '0p25' or 'lin03_cnn05_lstm10_crit08'"
        )
    return {kind: check_threshold(value, f"{kind} threshold") for kind, value in pairs}


def _value_tag(value: float) -> str:
    tenths = round(value * 10)
    return f"{tenths:02d}" if tenths / 10 == value else decimal(value).replace(".", "p")


def _tag_value(tag: str) -> float:
    return float(tag.replace("p", ".")) if "p" in tag else int(tag) / 10


def decimal(value: float) -> str:
    """The shortest decimal text that reads back as value, without an exponent."""
    return format(Decimal(repr(float(value))), "f")


# --- run folders and the files in them ----------------------------------------------------------


class CollapseName(NamedTuple):
    thresholds: float | dict[str, float] | None  # None: found by a search
    epoch: int
    colors: str = "weights"  # what the thresholds are of


class ModelName(NamedTuple):
    epoch: int
    collapsed: bool  # the policy as it came out of a collapse
    state: bool  # optimizer, schedule and random state, not weights


class RunName(NamedTuple):
    env: str
    id: str  # eight hexadecimal digits


def collapse_folder(thresholds: Thresholds, epoch: int, colors: str = "weights") -> str:
    """
    >>> collapse_folder(0.3, 51), collapse_folder(0.3, 51, "activations")
    ('collapsed_model_thr_03_000051', 'collapsed_model_act_03_000051')
    """
    return f"collapsed_model_{COLOR_TAGS[colors]}_{threshold_tag(thresholds)}_{epoch:06d}"


def search_folder(budget: Mapping[str, float], epoch: int) -> str:
    """The folder of a collapse found by a search within max_kl, target_params or both.

    >>> search_folder({"max_kl": 0.01, "target_params": 0.2}, 51)
    'collapsed_model_auto_kl0p01_params0p2_000051'
    """
    names = {"max_kl": "kl", "target_params": "params"}
    tags = [tag + decimal(budget[name]).replace(".", "p") for name, tag in names.items() if name in budget]
    return f"collapsed_model_auto_{'_'.join(tags)}_{epoch:06d}"


def numbered(folder: str, number: int) -> str:
    """A collapse folder's name where another of that name is kept for the runs that started from it.

    >>> numbered("collapsed_model_thr_03_000051", 1), numbered("collapsed_model_thr_03_000051", 2)
    ('collapsed_model_thr_03_000051', 'collapsed_model_thr_03_000051_2')
    """
    return folder if number == 1 else f"{folder}_{number}"


def parse_collapse_folder(name: str) -> CollapseName | None:
    """What a collapse folder's name says; None where the name is no collapse folder's."""
    match = _FOLDER.fullmatch(name)
    if not match:
        return None
    kind, thresholds, budget, epoch = match.groups()
    if kind is None:
        return CollapseName(None, int(epoch)) if budget else None
    try:
        colors = next(name for name, tag in COLOR_TAGS.items() if tag == kind)
        return CollapseName(parse_threshold_tag(thresholds), int(epoch), colors)
    except UserError:
        return None


def model_file(epoch: int, *, collapsed: bool = False, state: bool = False) -> str:
    """
    >>> model_file(50), model_file(50, state=True), model_file(51, collapsed=True)
    ('model_000050.pt', 'model_000050.state.pt', 'model_000051_collapsed.pt')
    """
    return f"model_{epoch:06d}{'_collapsed' if collapsed else ''}{'.state' if state else ''}.pt"


def parse_model_file(name: str) -> ModelName | None:
    """What a checkpoint's file name says; None for every other file (temporary ones too)."""
    match = _MODEL.fullmatch(name)
    return ModelName(int(match[1]), bool(match[2]), bool(match[3])) if match else None


def run_folder(env: str, id: str) -> str:
    """
    >>> run_folder("beam_rider", "e3d19a76")
    'beam_rider-e3d19a76'
    """
    return f"{env_tag(env)}-{id}"


def env_tag(env: str) -> str:
    """The env's name as part of a folder's name: what a path cannot hold becomes '_'."""
    return re.sub(r"[^\w.+-]", "_", env).lstrip(".") or "_"


def parse_run_folder(name: str) -> RunName | None:
    """The env and the id in a run folder's name; None where it has another form."""
    match = _RUN.fullmatch(name)
    return RunName(match[1], match[2]) if match else None


# --- the Metta layout ---------------------------------------------------------------------------


class MettaCheckpoint(NamedTuple):
    run: str
    epoch: int
    agent_steps: int
    seconds: int
    score: int = 0


class MettaRun(NamedTuple):
    experiment: str
    epoch: int
    role: str  # 'base' (the collapsed run), or a control: 'ablationsrandom', 'scratch', ..
    setting: tuple[float, ...]  # thresholds (linear, cnn, lstm, critic), or (part of the parameters,), or ()
    seed: int | None = None


def metta_checkpoint(name: MettaCheckpoint) -> str:
    """
    >>> metta_checkpoint(MettaCheckpoint("t1", 340, 1000, 59))
    't1__e340__s1000__t59__sc0.pt'
    """
    return f"{name.run}__e{name.epoch}__s{name.agent_steps}__t{name.seconds}__sc{name.score}.pt"


def parse_metta_checkpoint(name: str) -> MettaCheckpoint | None:
    match = _METTA_CHECKPOINT.fullmatch(name)
    return MettaCheckpoint(match[1], *map(int, match.groups()[1:])) if match else None


def metta_run(name: MettaRun) -> str:
    """
    >>> metta_run(MettaRun("t1", 340, "base", (0.7, 0.5, 1.0, 0.8)))
    't1_epoch_340_base_0.7_0.5_1.0_0.8'
    >>> metta_run(MettaRun("t1", 340, "scratch", (0.2,), 3)), metta_run(MettaRun("t1", 340, "original", ()))
    ('t1_epoch_340_scratch_params0.2_seed3', 't1_epoch_340_original')
    """
    if name.role not in METTA_ROLES or len(name.setting) not in ((0,) if name.role == "original" else (1, 4)):
        raise UserError(
            f"a Metta run is one of {', '.join(METTA_ROLES[1:])}, with four thresholds or a part of the "
            f"parameters, or {METTA_ROLES[0]} without; not {name.role!r} with {name.setting}"
        )
    seed = "" if name.seed is None else f"_seed{name.seed}"
    setting = name.setting and f"_{metta_setting(name.setting)}" or ""
    return f"{name.experiment}_epoch_{name.epoch}_{name.role}{setting}{seed}"


def metta_setting(setting: tuple[float, ...]) -> str:
    """
    >>> metta_setting((0.7, 0.5, 1.0, 0.8)), metta_setting((0.2,)), metta_setting(())
    ('0.7_0.5_1.0_0.8', 'params0.2', '')
    """
    if len(setting) == 1:
        return f"params{decimal(setting[0])}"
    return "_".join(decimal(check_threshold(t)) for t in setting)


def parse_metta_run(name: str) -> MettaRun | None:
    """What the name of a retrained Metta run says; None where the name has another form."""
    match = _METTA_RUN.fullmatch(name)
    if not match:
        return None
    experiment, epoch, role, said, *numbers, seed = match.groups()
    setting = tuple(float(n) for n in numbers if n is not None)
    return MettaRun(experiment, int(epoch), role or "original", setting, None if seed is None else int(seed))
