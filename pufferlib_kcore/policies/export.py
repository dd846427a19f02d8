"""Export: a policy as an ONNX file, its recurrent state as inputs and outputs."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.policies.unvalidated import unvalidated
from pufferlib_kcore.store import atomic

TOLERANCE = 1e-4  # between the file's outputs and the policy's, of the largest where that is above 1
STEPS = 5  # that both are carried through


class Step(nn.Module):
    """One step of a policy, tensors in and tensors out."""

    def __init__(self, policy: nn.Module, recurrent: bool):
        super().__init__()
        self.policy, self.recurrent = policy, recurrent

    def forward(self, obs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        actions, value, *after = self.policy(obs, state) if self.recurrent else self.policy(obs)
        return (*distributions.of(actions).named().values(), value, *(after[0] if self.recurrent else ()))


def to_onnx(restored: Restored, path: str | Path) -> float:
    """Write an ONNX file, and run it beside the policy.  -> how far an output is off, at most

    inputs   obs (batch, *obs), dtype of the observations; recurrent: h_in, c_in (layers, batch, hidden)
    outputs  logits (or logits_0, ..; or mean, std), value (batch, 1); h_out, c_out
    Raises UserError where ONNX is not installed, or an output differs by more than 1e-4 (of the largest,
    where that is above 1), or is no finite number.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UserError(f"no {error.name} here: pip install onnx onnxruntime onnxscript") from None
    recurrent = restored.spec.get("rnn") is not None
    step = Step(restored.policy.eval().cpu().float(), recurrent)
    example = _flat(restored.examples(batch=3))
    inputs = ["obs", "h_in", "c_in"][: len(example)]
    with torch.no_grad():
        actions = restored.policy(*restored.examples(batch=3))[0]
    outputs = [*distributions.of(actions).named(), "value", *["h_out", "c_out"][: len(example) - 1]]
    batch = torch.export.Dim("batch", min=1)
    shapes: tuple = ({0: batch}, tuple({1: batch} for _ in example[1:]))[: len(example)]
    with tempfile.TemporaryDirectory() as folder, _quiet(), unvalidated():
        file = Path(folder) / "policy.onnx"
        torch.onnx.export(
            step,
            example,
            str(file),
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
        data = file.read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with unvalidated():
        apart = float(torch.stack([_difference(session, inputs, step, restored, n) for n in (1, 3, 7)]).max())
    if not math.isfinite(apart):
        raise UserError("outputs of the policy or of its ONNX file are no finite numbers: it was not written")
    if apart > TOLERANCE:
        raise UserError(
            f"the ONNX file's outputs differ by {apart:.2g} from the policy's: it was not written"
        )
    atomic.write(Path(path), data)
    return apart


@torch.no_grad()
def _difference(session: Any, inputs: list[str], step: Step, restored: Restored, batch: int) -> Tensor:
    """The largest over some steps, each carrying its own state on; nan where any number is one."""
    (_, *ours), apart = _flat(restored.examples(batch, seed=batch)), []
    theirs = [h.numpy() for h in ours]
    for i in range(STEPS):
        obs = _flat(restored.examples(batch, seed=100 * batch + i))[0]
        expected = step(obs, *ours)
        found = session.run(None, dict(zip(inputs, [obs.numpy(), *theirs], strict=True)))
        for a, b in zip(map(torch.from_numpy, found), expected, strict=True):
            apart.append((a - b).abs().max() / b.abs().max().clamp(min=1))
        if ours:
            ours, theirs = list(expected[-2:]), found[-2:]
    return torch.stack(apart).max()


def _flat(inputs: tuple) -> tuple[Tensor, ...]:
    return (inputs[0], *inputs[1]) if len(inputs) > 1 else inputs


@contextlib.contextmanager
def _quiet():
    """Without what the exporter has to say."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                yield
    finally:
        logging.disable(level)
