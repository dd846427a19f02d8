"""Values: the text of a setting turned into the type it must have, or one sentence about why not."""

import ast
import difflib
import math
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pufferlib_kcore.errors import UserError

TRUE, FALSE = {"true", "yes", "on"}, {"false", "no", "off"}


@dataclass(frozen=True)
class Bounds:
    """The numbers that a setting may be: at least `low`, or above it, and at most `high`.

    hint: ends the sentence about one that is not
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    hint: str = ""

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low:g}" + (f" and at most {self.high:g}" if math.isfinite(self.high) else "")
        if math.isfinite(self.high):
            return f"from {self.low:g} to {self.high:.12g}"
        return f"at least {self.low:g}" if math.isfinite(self.low) else ""

    def check(self, value: Any, where: str) -> Any:
        """The value.  Raises UserError where it is a number that is not within; None and text pass."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not self.low <= value <= self.high or (self.above and value == self.low):
                raise UserError(f"{where} = {value}: expected a number {self}{self.hint}")
        return value


DISTANCE = Bounds(0, 2, hint=" (a cosine distance)")


def read(text: str, kind: Any, where: str, example: str = "") -> Any:
    """The value that `text` says, of the annotation `kind`: `int`, `float | None`, `Literal["auto"] | int`.

    Whole numbers may be written 9216000, 9_216_000, 9,216,000 (PufferLib's own files hold such) or 1e6.
    No text at all makes a truth value True. `where` names the setting in the UserError, `example` is a value
    that would do.
    """
    text = _unquoted(text.strip())
    if not text and object not in _options(kind):
        if bool in _options(kind):
            return True
        raise UserError(
            f"{where} needs a value: {describe(kind)}" + (f", such as {example}" if example else "")
        )
    for option in _options(kind):
        try:
            return _READERS[option](text) if option in _READERS else _one_of(text, get_args(option))
        except ValueError:
            continue
    hint = nearest(text, [str(name) for option in _options(kind) for name in get_args(option)])
    if float in _options(kind) and re.fullmatch(r"[+-]?\d+,\d+", text):
        hint = text.replace(",", ".")
    cure = f"; did you mean {hint}?" if hint else f", such as {example}" if example else ""
    raise UserError(f"{where} = {text!r}: expected {describe(kind)}{cure}")


def literal(text: str) -> Any:
    """The plain value that `text` looks like: None, a truth value, a number, a list; else the text itself."""
    return read(text, None | bool | object, "")


def describe(kind: Any) -> str:
    """The annotation in words: `int | None` is "a whole number or None"."""
    words = [_WORDS.get(option) or _listed(get_args(option)) for option in _options(kind)]
    return " or ".join(sorted(words, key="None".__eq__))


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like `word`, whatever its case, dashes and dots; None where nothing is near.

    Initials come first: train.lr is train.learning_rate
    """
    names = list(names)
    section, _, short = word.lower().lstrip("-").rpartition(".")
    for name in names:
        owner, _, own = name.lower().lstrip("-").rpartition(".")
        initials = "".join(part[:1] for part in re.split("[-_]", own))
        if len(short) > 1 and initials == short and section in ("", owner):
            return name
    folded = {fold(name): name for name in names}
    found = difflib.get_close_matches(fold(word), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


LONGEST = 200  # bytes of a name, which the names of files in a run's folder extend


def run_name(text: str, where: str) -> str:
    """The name of a run, or its path.  Raises UserError where a part of it can name no folder."""
    shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
    if not text.strip() or not text.isprintable():
        raise UserError(f"{where} = {shown}: expected a name of letters, digits and other visible characters")
    size = max(len(part.encode()) for part in text.split("/"))
    if size > LONGEST:
        raise UserError(f"{where} = {shown}: expected a name of at most {LONGEST} bytes, this has {size}")
    return text


def fold(name: str) -> str:
    """A name without case, dashes, underscores and ALE's prefix: "ALE/Beam-Rider" is "beamrider"."""
    return re.sub(r"[^a-z0-9.]", "", name.lower().removeprefix("ale/"))


def _options(kind: Any) -> tuple:
    """The types of an annotation, None first: any text would do for a str."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(sorted(options, key=lambda option: option is not types.NoneType))


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _bool(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise ValueError
    return text.lower() in TRUE


def _int(text: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", text):
        return int(text.replace(",", ""))
    try:
        return int(text)
    except ValueError:
        number = _float(text)
        if number != int(number):
            raise
        return int(number)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _object(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _one_of(text: str, names: tuple) -> str:
    if text not in names:
        raise ValueError
    return text


def _sequence(kind: type) -> Any:
    def reader(text: str) -> Any:
        value = _object(text)
        if not isinstance(value, kind):
            raise ValueError
        return value

    return reader


def _listed(names: tuple) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


_READERS: dict[Any, Any] = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: str,
    object: _object,
}
_READERS |= {kind: _sequence(kind) for kind in (list, tuple, dict)}
_WORDS = {
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    object: "any value",
    list: "a list",
    tuple: "a tuple",
    dict: "a dict",
}
