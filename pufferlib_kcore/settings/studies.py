"""Studies: settings in YAML files, as in `--config study.yaml`, and words like train.gamma=0.9 over them.

    defaults: [common.yaml]  # other files, read first and in this order, from the folder of this one
    base: {env_name: cartpole}
    train:
      batch_size: 4096
      minibatch_size: ${train.batch_size}

Sections and keys are those of the INI files, or what `theirs` calls them, and a study comes over these.
OmegaConf reads it, and is imported only where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import theirs
from pufferlib_kcore.settings.layers import Layer, Schema, unknown
from pufferlib_kcore.settings.sections import FREE, SECTIONS
from pufferlib_kcore.settings.values import nearest

SUFFIXES = (".yaml", ".yml")
EXPECTED = "expected sections of settings, such as train: {gamma: 0.99}"


@dataclass(frozen=True)
class Study:
    """What files and words say once every `${...}` in them is replaced."""

    layers: tuple[Layer, ...] = ()  # a file each: that of which it has the last word
    words: dict[str, str] = field(default_factory=dict)  # {"train.gamma": "0.9"}, which come over the files
    tracker: str | None = None  # that the files ask for

    @property
    def texts(self) -> dict[str, str]:
        """What the files say: {"train.gamma": "0.9"}"""
        return {".".join(key): text for layer in self.layers for key, text in layer.values.items()}

    def check(self, env: str | None, config: str | Path | None = None, policy: str | None = None) -> None:
        """Raise UserError, naming the file, for a key that is none, and for a wrong type or number.

        Without an environment, none of [env], [policy] and [rnn] can be judged.
        """
        layers = [layer.without(*(FREE if env is None else ())) for layer in self.layers]
        Schema(env, config, policy, layers)


def is_study(path: str | Path | None) -> bool:
    """Whether --config names a YAML file, not a folder of INI files."""
    return path is not None and Path(path).suffix in SUFFIXES


def read_study(path: str | Path | None, words: Sequence[str] = ()) -> Study:
    """The settings in a YAML file, in those that its `defaults` name, and in words such as train.gamma=0.9.

    Raises UserError, naming the file, for one that is missing or damaged, for defaults that go in a circle,
    for a section that nobody knows, and for a `${...}` that names nothing. Keys, types and bounds are the
    Schema's to judge.
    """
    if path is None and not words:
        return Study()
    from omegaconf import OmegaConf

    found = [] if path is None else list(_files(Path(path), (), set()))
    files = [(file, held) for file, held, _ in found]
    said = _guarded("the command line", lambda: OmegaConf.from_dotlist(list(words)))
    author = {(section, key): file for file, held in files for section in held for key in held[section]}
    typed = {(section, key) for section in said for key in said[section]}
    whole = OmegaConf.merge(*(held for _, held in files), said)
    plain = _resolved(whole, {**author, **dict.fromkeys(typed, "the command line")})
    texts = {(str(s), str(key)): str(value) for s, keys in plain.items() for key, value in keys.items()}
    layers = [
        Layer(file, {key: texts[key] for key in texts if key not in typed and author[key] == file}, {})
        for file, _ in files
    ]
    trackers = [tracker for *_, tracker in found if tracker is not None]
    return Study(
        tuple(layers), {".".join(key): texts[key] for key in typed}, trackers[-1] if trackers else None
    )


def table(path: str | Path) -> dict[str, Any]:
    """What a YAML file holds, names to values, tables and lists.  Raises UserError, naming the file."""
    from omegaconf import OmegaConf

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; name a YAML file")
    held = _guarded(str(path), lambda: OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    if not isinstance(held, dict):
        raise UserError(f"{path} holds {held!r:.40}: expected names and values, such as seed: 1")
    return {str(name): value for name, value in held.items()}


def text_of(held: Mapping[str, Any]) -> str:
    """The same as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(held)))


def flat(path: str | Path) -> dict[str, str]:
    """The settings of a file that has no sections, as texts, lists parted by commas; null is left out.

    Raises UserError, naming the file, for one that is missing, damaged, or no table of plain values.
    """
    from omegaconf import OmegaConf

    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file; name a YAML file")
    held = _guarded(str(path), lambda: OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    if not isinstance(held, dict):
        raise UserError(f"{path} holds {held!r:.40}: expected settings such as total_steps: 200000")
    for name, value in held.items():
        if isinstance(value, dict):
            raise UserError(f"{path}: {name} has parts: expected one value, as in total_steps: 200000")
    return {
        str(name): ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in held.items()
        if value is not None
    }


def _files(path: Path, above: tuple[Path, ...], seen: set[Path]) -> Iterator[tuple[Path, Any, str | None]]:
    """A file's sections, and its tracker, after those of its defaults, each file once.

    above: the files by whose defaults it is read
    """
    if path.resolve() in {file.resolve() for file in above}:
        circle = " -> ".join(map(str, (*above, path)))
        raise UserError(f"{above[-1]}: its defaults go in a circle: {circle}; take one of them out")
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    defaults, held, tracker = _parts(path)
    for name in defaults:
        other = path.parent / name
        if not other.is_file() or not is_study(other):
            beside = [file.name for file in path.parent.iterdir() if is_study(file)]
            near = nearest(name, beside)
            cure = f"did you mean {near}?" if near else f"name a YAML file, from {path.parent} on"
            raise UserError(f"{path}: defaults name {name!r}, which is no YAML file: {cure}")
        yield from _files(other, (*above, path), seen)
    yield path, held, tracker


def _parts(path: Path) -> tuple[list[str], Any, str | None]:
    """The names in a file's `defaults`, its sections, and the tracker that it asks for."""
    from omegaconf import OmegaConf

    if not path.is_file():
        raise UserError(f"--config {path}: no such file; name a YAML file, or a folder of INI files")
    held = _guarded(str(path), lambda: OmegaConf.load(path))
    plain = OmegaConf.to_container(held)
    if not isinstance(plain, dict):
        raise UserError(f"{path} holds {plain!r:.40}: {EXPECTED}")
    defaults = plain.pop("defaults", None) or []
    if not isinstance(defaults, list):
        raise UserError(f"{path}: defaults = {defaults!r}: expected a list of YAML files")
    defaults = [name for one in defaults for name in _named(one, path)]
    plain, tracker = theirs.translated({str(name): keys for name, keys in plain.items()}, str(path))
    for section, keys in plain.items():
        if section not in SECTIONS:
            raise UserError(unknown(f"{path}: section {section!r}", str(section), SECTIONS))
        if not isinstance(keys, dict | None):
            raise UserError(f"{path}: {section} = {keys!r}: {EXPECTED}")
    return defaults, OmegaConf.create({section: keys for section, keys in plain.items() if keys}), tracker


def _named(default: Any, path: Path) -> list[str]:
    """Files that an entry of `defaults` names: "common.yaml", or {base: small} for base/small.yaml.

    {base: default} without such a file is what everything starts from here anyway.
    """
    if isinstance(default, str):
        return [] if default == "_self_" else [default]
    if isinstance(default, dict) and all(isinstance(x, str) for pair in default.items() for x in pair):
        names = []
        for group, name in default.items():
            files = [f"{group}/{name}{suffix}" for suffix in SUFFIXES]
            there = [file for file in files if (path.parent / file).is_file()]
            names += there[:1] or ([] if name == "default" else files[:1])
        return names
    raise UserError(f"{path}: defaults = [{default!r}]: expected a list of YAML files, or a group and a name")


def _resolved(whole: Any, author: Mapping[tuple[Any, Any], Any]) -> Any:
    """Plain data, every `${...}` replaced.  author: where each key comes from"""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(whole, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        section, _, key = str(getattr(error, "full_key", None) or "").partition(".")
        where = author.get((section, key.partition(".")[0]), next(iter(author.values())))
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{where}: {key or 'a key'} in [{section}]: {reason}; "
            "${train.gamma} stands for a key of the files, or of a word such as train.gamma=0.9"
        ) from None


def _guarded(where: str, read: Any) -> Any:
    """What is read.  Raises UserError where that is not YAML."""
    import yaml
    from omegaconf.errors import OmegaConfBaseException

    try:
        return read()
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the settings in {where}: {reason}; {EXPECTED}") from None
