"""Checkpoints: plain tensors and plain data, written whole, read without running anything in them.

What the formats hold, key by key, is said in `models`, `states` and `probes`.
"""

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import finite
from pufferlib_kcore.store import atomic

MODEL, STATE, PROBE = "pufferlib_kcore", "pufferlib_kcore.state", "pufferlib_kcore.probe"  # the formats
VERSION = 1
REQUIRED = {  # format: keys without which a checkpoint is of no use
    MODEL: ("policy", "shapes", "state_dict", "epoch", "agent_steps"),
    STATE: ("optimizer", "epoch", "agent_steps"),
    PROBE: ("inputs", "epoch"),
}
CONTENT = {
    MODEL: "a policy's weights (model_*.pt)",
    STATE: "an optimizer's state (model_*.state.pt)",
    PROBE: "recorded states (probe.pt)",
}
ANOTHER = "delete it and use another checkpoint of the run"
DAMAGED = f"is damaged or cut short; {ANOTHER}"
TRAIN = f"`{program.COMMAND} --mode train --env ENV`"


class Unfit(UserError):
    """A file that is damaged, or holds NaN or infinity: an earlier checkpoint of the run may do."""


def save(path: str | Path, payload: dict[str, Any]) -> Path:
    """Write a checkpoint atomically.  payload: format, version and at least the keys that REQUIRED names.

    Scalars of numpy become Python's.  Raises TypeError naming the key of what is neither plain data nor a
    tensor, ValueError where a required key is absent, UserError where the disk refuses.
    """
    complaint = _complaint(payload)
    if complaint:
        raise ValueError(f"cannot save {path}: the payload {complaint}")
    buffer = io.BytesIO()
    torch.save(plain(payload), buffer)
    return atomic.write(path, buffer.getbuffer())


def load(path: str | Path, trust: bool = False, format: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing that the file holds is run or imported.

    format: MODEL, STATE or PROBE, where only one will do.
    trust: read a pickled torch.nn.Module as well, such as a published PufferLib 2.0 checkpoint, which CAN
        run code; it comes back as {"format": "module", "module": ...}.
    Raises UserError, one sentence with the cure, where the file is missing, damaged, hostile or foreign;
    of those Unfit where it is damaged, or a moment is NaN or infinite.
    """
    path = Path(path)
    _check_file(path)
    try:
        with warnings.catch_warnings():  # torch's advice on pickle protocols is not for the user
            warnings.simplefilter("ignore")
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if trust:
            return {"format": "module", "module": _load_module(path)}
        raise UserError(
            f"{path} is a pickle that may run code when loaded, expected plain tensors; "
            f"pass --trust-checkpoint if you know who made it, else use a checkpoint of your own"
        ) from error
    except Exception as error:  # torch names damage in many ways: RuntimeError, EOFError, KeyError, ...
        raise Unfit(f"{path} {DAMAGED}") from error
    complaint = _complaint(payload)
    if complaint:
        raise UserError(f"{path} {complaint}; name a model_*.pt file that {TRAIN} wrote")
    if format not in (None, payload["format"]):
        held, wanted = CONTENT[payload["format"]], CONTENT[str(format)]
        raise UserError(f"{path} holds {held}, expected {wanted}; name that file instead")
    if (
        payload["format"] == STATE
    ):  # of weights only their policy knows which are buffers: see policies.restore
        check_numbers(path, payload["optimizer"])
    return payload


def known(noun: type, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What a payload holds of a dataclass's fields; keys of no field are passed over."""
    return {f.name: payload[f.name] for f in fields(noun) if f.name in payload}


def check_numbers(source: str | Path, numbers: Any, masks: Collection[str] = ()) -> None:
    """Raise Unfit for NaN and infinity in nested containers, naming the file and what holds it."""
    if odd := not_finite(numbers, masks):
        raise Unfit(f"{source}: {odd}; {ANOTHER}")


def not_finite(numbers: Any, masks: Collection[str] = ()) -> str | None:
    """The first in nested containers that is not: 'lstm.bias holds NaN in 1 of its 8 numbers', or None.

    masks  names of tensors that may hold infinity
    """
    if masks:
        numbers = {n: x.masked_fill(x.isinf(), 0) if n in masks else x for n, x in numbers.items()}
    return next((f"{key} holds {wrong}" for key, wrong in _odd(numbers, "")), None)


def masks_of(policy: torch.nn.Module) -> set[str]:
    """The buffers that hold infinity in a policy as it is built."""
    return {name for name, buffer in policy.named_buffers() if buffer.isinf().any()}


def digest(path: str | Path) -> str:
    """What a file holds, in 64 hexadecimal digits.  Raises UserError where it cannot be read."""
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    return found.hexdigest()


def plain(value: Any, key: str = "") -> Any:
    """A copy in plain containers, tensors free of autograd.  Raises TypeError naming the key that resists."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()  # a view would be saved with all that it is a view of
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, dict):
        for name in value:
            if type(name) not in (str, int):
                raise TypeError(f"'{key}' has the key {name!r}: keys of a checkpoint are str or int")
        return {name: plain(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        items = [plain(item, f"{key}[{i}]") for i, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    kind = type(value)
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return plain(value.item(), key)
    raise TypeError(
        f"'{key}' is a {kind.__module__}.{kind.__qualname__}: a checkpoint holds tensors and plain data only"
    )


def _check_file(path: Path) -> None:
    """Raise UserError for what is seen to be no checkpoint before it is unpickled."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a checkpoint file; name a model_*.pt file in it")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint {path}; check the path, or make one with {TRAIN}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    archive = start == b"PK\x03\x04"
    if not start:
        raise Unfit(f"{path} is empty; {ANOTHER}")
    if archive and not _sums_agree(path):
        raise Unfit(f"{path} {DAMAGED}")
    if not archive and not start.startswith(b"\x80"):  # neither torch's archive nor a bare pickle
        raise UserError(f"{path} is no checkpoint; name a model_*.pt file that {TRAIN} wrote")


def _odd(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of each tensor and number below value that is not finite."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _odd(item, f"{key}.{name}" if key else str(name))
    elif wrong := finite.not_finite(torch.tensor(value) if isinstance(value, float) else value):
        yield key, wrong


def _sums_agree(path: Path) -> bool:
    """Whether every part of an archive has the checksum it was written with; torch itself does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        return False


def _complaint(payload: Any) -> str | None:
    """What keeps payload from being a checkpoint of ours, as the end of a sentence; None where nothing."""
    if not isinstance(payload, dict) or payload.get("format") not in REQUIRED:
        return "holds no checkpoint of pufferlib_kcore (a policy's name, shapes and weights)"
    version = payload.get("version")
    if version != VERSION:
        return f"has format version {version!r}, which this pufferlib_kcore (version {VERSION}) cannot read"
    missing = [key for key in REQUIRED[payload["format"]] if key not in payload]
    return f"lacks {', '.join(missing)}" if missing else None


def _load_module(path: Path) -> torch.nn.Module:
    """The pickled module in path; this can run code."""
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path} needs code that is not here ({error}); install its package") from error
    except Exception as error:
        raise Unfit(f"{path} {DAMAGED}") from error
    if not isinstance(module, torch.nn.Module):
        kind = type(module).__name__
        raise UserError(f"{path} holds a {kind}, expected a torch.nn.Module; save the policy itself")
    return module
