"""Layers: the INI files that a setting's value comes from, the later over the earlier.

For beam_rider: default.ini, atari/default.ini, atari/beam_rider.ini, each first from the project's own
config folder and then from the user's, so that a user's file says only what it changes; last,
local/beam_rider.ini, where --mode autotune keeps what suits this machine; over these, a study in YAML (see
there). A policy may have a file, too, such as policies/Fast.ini: its arguments take the place of those that
the package lists for its own policy.
"""

import configparser
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.sections import FIXED, FREE, RETIRED, SECTIONS
from pufferlib_kcore.settings.values import Bounds, fold, literal, nearest, read

SHIPPED = Path(__file__).resolve().parents[1] / "config"
DEFAULT = PurePath("default.ini")
TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Layer:
    """One INI file.  values and comments: {(section, key): text}; about: the comment that it begins with"""

    path: Path
    values: dict[tuple[str, str], str]
    comments: dict[tuple[str, str], str]
    about: str = ""

    @property
    def names(self) -> list[str]:
        """The environments that the file is about."""
        text = self.values.get(("base", "env_name"), "None")
        return [] if text == "None" else text.split()

    def without(self, *sections: str) -> "Layer":
        kept = {where: text for where, text in self.values.items() if where[0] not in sections}
        return replace(self, values=kept)


@dataclass(frozen=True)
class Key:
    """One setting: its default's text, its type, what it means, and which numbers it may be."""

    text: str
    kind: Any
    help: str
    bounds: Bounds = Bounds()


class Schema:
    """The settings of one environment (None: those that every environment has), from its layers.

    config: the user's folder of INI files; study: layers over all of these
    policy: the policy that is asked for; None: the one that the layers name
    """

    def __init__(
        self,
        env: str | None = None,
        config: str | Path | None = None,
        policy: str | None = None,
        study: Sequence[Layer] = (),
    ):
        folders = config_folders(config)
        self.env: str | None = None
        paths: list[Path] = []
        if env is not None:
            self.env, paths = _files_of(env, folders)
        bare = [read_layer(path) for path in _existing(folders, [DEFAULT])]
        package = [read_layer(path) for path in paths]
        if not bare:
            raise UserError(f"no settings at {SHIPPED / DEFAULT}: install the package again")
        said = {where: text for layer in [*bare, *package, *study] for where, text in layer.values.items()}
        policy = policy or said.get(("base", "policy_name"), "")
        own = [read_layer(path) for path in _files_of_policy(policy, folders)]
        if own and package:
            package[0] = package[0].without("policy")
        self.keys: dict[tuple[str, str], Key] = {}
        for layers, may_add in ((bare, False), (own, True), (package, True), (study, False)):
            for number, layer in enumerate(layers):
                self._put(layer, may_add and number == 0)
        if self.env is not None:
            self._set("base", "env_name", self.env)

    def _put(self, layer: Layer, may_add: bool) -> None:
        """Lay a file over those before it; the first of a package, or of a policy, lists its arguments."""
        hints = {section: get_type_hints(kind) for section, kind in FIXED.items()}
        for (section, key), text in layer.values.items():
            if section == "sweep" or section.startswith("sweep."):  # PufferLib's, which nothing here reads
                continue
            if f"{section}.{key}" in RETIRED:
                continue
            if section not in SECTIONS:
                raise UserError(unknown(f"{layer.path}: section [{section}]", section, SECTIONS))
            if section in FREE and may_add and (section, key) not in self.keys:
                self.keys[section, key] = _described(text, layer.comments.get((section, key), ""))
            elif section in FIXED and key in hints[section]:
                if (section, key) not in self.keys:
                    bounds = FIXED[section].__dataclass_fields__[key].metadata.get("bounds", Bounds())
                    said = _described(text, layer.comments.get((section, key), ""))
                    self.keys[section, key] = replace(said, kind=hints[section][key], bounds=bounds)
            elif (section, key) not in self.keys:
                where = f"{layer.path}: key {key!r} in [{section}]"
                raise UserError(unknown(where, key, self.names(section)))
            if not text:
                raise UserError(f"{layer.path}: {key} in [{section}] has no value: give one, or None")
            self._set(section, key, text)
            if (section, key) != ("base", "env_name"):
                self.value(section, key, f"{layer.path}: {key} in [{section}]")

    def _set(self, section: str, key: str, text: str) -> None:
        self.keys[section, key] = replace(self.keys[section, key], text=text)

    def names(self, section: str) -> list[str]:
        return [key for owner, key in self.keys if owner == section]

    def value(self, section: str, key: str, where: str, text: str | None = None) -> Any:
        """The typed value of `text`, or of the setting's default. Raises UserError."""
        default = self.keys[section, key]
        example = default.text if text is not None and default.text != "None" else ""
        value = read(default.text if text is None else text, default.kind, where, example)
        return default.bounds.check(value, where)


def read_layer(path: Path) -> Layer:
    """Read one INI file: `key = value  # comment`. Raises UserError where it is not one."""
    try:
        return _parsed(path, path.read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot read the settings in {path}: {reason}; expected lines like gamma = 0.99"
        ) from None


@lru_cache(256)  # every file is asked several times for the environments that it is about
def _parsed(path: Path, text: str) -> Layer:
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=("#", ";"), default_section="no such section"
    )
    parser.read_string(text, source=str(path))
    values = {
        (section, key): " ".join(parser[section][key].split())
        for section in parser.sections()
        for key in parser[section]
    }
    first = text.partition("\n")[0]
    about = first.lstrip("#; ").strip() if first[:1] in ("#", ";") else ""
    return Layer(path, values, _comments(text), about)


def config_folders(config: str | Path | None = None) -> list[Path]:
    """The project's config folder, then the user's: `config`, else ./config where there is one."""
    if config is not None and not Path(config).is_dir():
        raise UserError(f"--config {config}: expected a folder of INI files such as {SHIPPED}")
    own = Path(config or "config")
    return [SHIPPED] + ([own] if own.is_dir() and own.resolve() != SHIPPED else [])


def local_file(env: str, config: str | Path | None = None) -> Path:
    """Where to keep settings of `env` that are for this machine alone: the last layer of all."""
    config_folders(config)  # refuses a --config that is no folder
    return Path(config or "config") / "local" / f"{env}.ini"


def environments(config: str | Path | None = None) -> dict[str, list[str]]:
    """The names that `--env` takes, by package."""
    found: dict[str, list[str]] = {}
    for folder in config_folders(config):
        for path in _ini_files(folder):
            layer = read_layer(path)
            known = found.setdefault(layer.values.get(("base", "package"), "None"), [])
            known += [name for name in layer.names if name not in known]
    return {package: names for package, names in found.items() if names}


def unknown(what: str, word: str, names: Iterable[str]) -> str:
    """The sentence about a name that nobody knows, with the nearest that is known."""
    names = list(names)
    hint = nearest(word, names)
    return f"unknown {what}: " + (
        f"did you mean {hint}?" if hint else f"expected one of {', '.join(names) or 'none'}"
    )


def _described(text: str, comment: str) -> Key:
    """An argument of [env], [policy] or [rnn]: its type is that of its default, or None.

    The comment may begin with bounds, and where the default is None, with the type:
    `frameskip = 4  # from 1: frames`, `reward_clip = None  # float above 0: a bound`,
    `chance = 0.0  # from 0 to 1: of a repeat`
    """
    value = literal(text)
    kind: Any = object if value is None else type(value) | None
    named = re.match(
        rf"(?=\w)({'|'.join(TYPES)})?\s*(?:(from|above) (-?[\d.]+)(?: to (-?[\d.]+))?)?:\s*(.*)", comment
    )
    if named is None:
        return Key(text, kind, comment)
    name, word, low, high, said = named.groups()
    bounds = Bounds(float(low), float(high or "inf"), word == "above") if low else Bounds()
    return Key(text, TYPES[name] | None if name and value is None else kind, said, bounds)


def _files_of(env: str, folders: list[Path]) -> tuple[str, list[Path]]:
    """The environment's listed name and its files: its folder's default.ini, then those that name it."""
    listed = {path: read_layer(path).names for folder in folders for path in _ini_files(folder)}
    names = {name for own in listed.values() for name in own}
    if env not in names:
        same = sorted(name for name in names if fold(name) == fold(env))
        if not same:
            hint = nearest(re.sub(r"-v\d+$", "", env), names)
            raise UserError(
                f"unknown env {env!r}: "
                + (f"did you mean --env {hint}? " if hint else "")
                + "--help lists them all"
            )
        env = same[0]
    homes: list[PurePath] = []
    for folder in folders:
        paths = [path for path, own in listed.items() if env in own and path.is_relative_to(folder)]
        special = [path for path in paths if path.name != DEFAULT.name]
        if len(special) > 1:
            raise UserError(
                f"env {env!r} stands in {special[0]} and in {special[1]}: name it in one of them only"
            )
        homes += [path.relative_to(folder) for path in special or paths]
    shared = [home.parent / DEFAULT.name for home in homes if home.parent != PurePath(".")]
    return env, _existing(folders, dict.fromkeys([*shared, *homes, PurePath("local", f"{env}.ini")]))


def _files_of_policy(policy: str, folders: list[Path]) -> list[Path]:
    """policies/Fast.ini, the project's and the user's."""
    listed = [path for folder in folders for path in _ini_files(folder / "policies")]
    return [path for path in listed if path.stem == policy]


def _existing(folders: list[Path], homes: Iterable[PurePath]) -> list[Path]:
    return [folder / home for home in homes for folder in folders if (folder / home).is_file()]


def _ini_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.ini"))


def _comments(text: str) -> dict[tuple[str, str], str]:
    found, section = {}, ""
    for line in text.splitlines():
        if header := re.match(r"\[(.+)\]", line):
            section = header[1]
        elif said := re.match(r"(\w+)\s*[=:].*?\s[#;]\s*(.*)", line):
            found[section, said[1].lower()] = said[2].strip()
    return found
