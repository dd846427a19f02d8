"""Following: one run of a policy, unedited, in which every number computed carries its neuron's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.gains import record_gains, record_signs
from pufferlib_kcore.graph.macs import MACS, plus
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import axis_of, numbered_inputs, varies
from pufferlib_kcore.graph.operations import Operation, operation
from pufferlib_kcore.graph.running import (
    caller,
    chance_kept,
    is_script,
    is_torchs,
    line_of,
    place_of,
    uncompiled,
)
from pufferlib_kcore.graph.shadows import Shadow
from pufferlib_kcore.graph.sizes import Size, learn_sizes, sizes_in, tagged_shape
from pufferlib_kcore.graph.tracing import INPUT, Trace
from pufferlib_kcore.graph.unfollowed import Unfollowed, is_wrapped, leave_whole, unwrapped

ASKS_A_VALUE = set("item tolist numpy array bool int float index complex equal allclose is_nonzero".split())


class Follower(TorchFunctionMode):
    """Records a run of the policy of a trace in it, operation by operation.

    originals  parameters of the policy that this one is a copy of, which a run must not use
    """

    def __init__(self, trace: Trace, originals: Mapping[str, Tensor] = {}):
        super().__init__()
        self.trace = trace
        self._originals = {id(x): name for name, x in originals.items()}
        self._busy = False  # whether an operation is running that is being followed

    def run(self, method: str, inputs: tuple) -> Any:
        """Call a method of the policy.  -> its output

        Raises UserError where the policy does not run.
        """
        trace, policy, numbered = self.trace, self.trace.policy, 0
        for x in tensors_in(inputs):
            trace.inputs.append(numbered_inputs(x, numbered))
            nonnegative = x.dtype in (torch.uint8, torch.bool)
            trace.shadows.keep(x, Shadow(trace.inputs[-1], frozenset({INPUT}), nonnegative))
            numbered += x.numel()
        function = getattr(policy, method)
        trace.takes_more = takes_more(function, inputs)
        with ExitStack() as stack:
            for name, module in policy.named_modules():
                if is_script(module):
                    continue
                before = module.register_forward_pre_hook(lambda *_, name=name: trace.path.append(name))
                after = module.register_forward_hook(lambda *_: (trace.path.pop(), None)[1])
                stack.callback(before.remove), stack.callback(after.remove)
            stack.enter_context(chance_kept(policy))
            stack.enter_context(uncompiled())
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            stack.enter_context(Unfollowed(trace, lambda: self._busy))
            try:
                return function(*inputs)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{type(policy).__name__}.{method} does not run on the example inputs "
                    f"({type(error).__name__}: {error}) at {line_of(error) or 'no line of its own'}"
                ) from error

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        busy, self._busy = self._busy, True
        try:
            return self._operation(func, args, kwargs or {})
        finally:
            self._busy = busy

    def _operation(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Run an operation, and follow it."""
        out = func(*args, **kwargs)
        trace, name = self.trace, self.trace.begin(func)
        if name in ("shape", "size"):
            return self._remembering(out, *args, **kwargs)
        given, results = list(tensors_in((args, kwargs))), list(tensors_in(out))
        if any(map(is_wrapped, [*given, *results])):
            leave_whole(trace, map(unwrapped, given), map(unwrapped, results))
            return out
        if name in ("numel", "nelement", "len"):
            return self._counted(out, *given)
        for x in given:
            trace.use_indices(x)
            if isinstance(x, nn.Parameter) and not trace.name(x):
                self._use_foreign(x)
        known = operation(name)
        self._use_numbers(known, args, kwargs)
        if name == "setitem":
            results = [args[0]]
        if results:
            self._record(known, given, results, out, args, kwargs)
        elif name in ASKS_A_VALUE:
            self._ask(given)
        return out

    def _use_foreign(self, x: Tensor) -> None:
        """A parameter that the policy, as it was copied, does not have: a number like any other."""
        if id(x) in self._originals:
            raise UserError(
                f"{self.trace.here()} uses {self._originals[id(x)]} through a method that was bound before "
                "the policy was copied, as torch.compile(self.method) binds it: compile the whole module "
                "instead"
            )
        self.trace.foreign[id(x)] = x

    def _record(
        self,
        known: Operation,
        given: list[Tensor],
        results: list[Tensor],
        out: Any,
        args: tuple,
        kwargs: dict,
    ) -> None:
        """Keep what an operation makes of neurons."""
        trace = self.trace
        sources = frozenset().union(*map(trace.sources, given))
        if known.random:
            sources |= {INPUT}
        if known.tells_if_finite:  # which neurons there are does not matter to the answer
            sources &= {INPUT}
        trace.touched |= {name for x in given if (name := trace.name(x))}
        trace.macs = plus(trace.macs, self._macs(known, given, out, args, kwargs))
        neurons = self._neurons(known, given, out, args, kwargs)
        record_gains(trace, known, given, results, args)
        nonnegative, preactivation = record_signs(trace, known, given, args)
        moved = list(tensors_in(args[:1])) if known.moves else []
        state = bool(moved) and all(map(trace.is_state, moved))
        for x, ids in zip(results, neurons, strict=True):
            if not trace.viewing:
                handed_on = state or trace.is_handed_on(x)
                shadow = Shadow(ids, sources | trace.written, nonnegative, preactivation, handed_on)
                trace.overwrite(x, shadow, in_place=any(x is y for y in given))
        if known.takes_shape and len(args) > 1:
            learn_sizes(args[1] if isinstance(args[1], (tuple, list)) else args[1:], neurons[0])

    def _neurons(
        self, known: Operation, given: list[Tensor], out: Any, args: tuple, kwargs: dict
    ) -> list[Tensor]:
        """The neurons of an operation's results, by its rule; without one, only if nothing is lost."""
        trace = self.trace
        ours = any(trace.is_named(x) or (trace.neurons(x) > 0).any() for x in given)
        if known.rule and (ours or known.uniform or any(trace.neurons(x).any() for x in given)):
            told = {name: value for name, value in kwargs.items() if name != "out"}  # where to put it
            try:
                return list(tensors_in(known.rule(trace, out, *args, **told)))
            except UserError:
                raise
            except Exception as error:
                if not ours:
                    return trace.nobody(out)
                why = f"is called in a way that its rule does not follow ({type(error).__name__}: {error})"
                return trace.refuse(given, out, why, "register one of yours with @pufferlib_kcore.rule")
        why, name = "is unknown", trace.operation
        if given and all(trace.is_named(x) or not trace.sources(x) for x in given):  # weights are computed
            for x in given:
                trace.keep_whole(x, why)
            return trace.nobody(out)
        return trace.refuse(given, out, why, f'register a rule for it with @pufferlib_kcore.rule("{name}")')

    def _macs(self, known: Operation, given: list[Tensor], out: Any, args: tuple, kwargs: dict) -> int | None:
        """An operation's multiply-accumulates; None for one of others' on what is not the input alone."""
        trace = self.trace
        if trace.operation in MACS:
            return MACS[trace.operation](out, *args, **{k: v for k, v in kwargs.items() if k != "out"})
        module = getattr(getattr(known.rule, "func", known.rule), "__module__", "")
        ours = str(module).startswith(f"{__package__}.")
        return 0 if ours or not any(trace.is_named(x) or trace.sources(x) - {INPUT} for x in given) else None

    def _ask(self, given: list[Tensor]) -> None:
        """The policy asks for a value: the inputs' is no neuron's, and it goes on as it would."""
        trace = self.trace
        sources = frozenset().union(*map(trace.sources, given))
        frame = caller()
        if is_torchs(frame):
            return
        if sources - {INPUT} - trace.stored:
            raise UserError(
                f"{trace.here()} cannot be traced: the policy's course depends on a value at "
                f"{place_of(frame)}, and one run shows one course only; make the choice before calling the "
                "policy, or name a method without it"
            )
        if sources:
            trace.branches[f"{trace.here()} at {place_of(frame)}"] = None

    def _counted(self, count: int, x: Tensor) -> int:
        """The number of all elements, or of those along the first axis, which Python hands on as it is."""
        trace = self.trace
        if trace.operation == "len":
            if not trace.is_named(x) and (axis := axis_of(trace.neurons(x), 0)) is not None and varies(axis):
                trace.protect(axis, f"{trace.here()} counts it")
            return count
        sizes = self._remembering(x.shape, x)
        origins = [origin for size in sizes if isinstance(size, Size) for origin in size.origins]
        return Size.computed(count, origins, trace.ledger) if origins else count

    def _use_numbers(self, known: Operation, args: tuple, kwargs: dict) -> None:
        """Sizes among the arguments that are values, and not shapes or places."""
        values: Any = (args, kwargs)
        if self.trace.operation in ("full", "new_full"):
            values = (args[2 if self.trace.operation == "new_full" else 1 :], kwargs.get("fill_value"))
        elif known.takes_sizes:
            return
        for size in sizes_in(values):
            size.use_as_a_number()

    def _remembering(self, out: Any, x: Tensor, dim: int | None = None) -> Any:
        """A shape, or one size of it, that remembers which neurons lie along its axes."""
        trace = self.trace
        if trace.is_named(x):
            places = [trace.axis(x, d) for d in range(x.ndim)]
            shape = torch.Size(
                Size(size, [place], trace.ledger) if place else size
                for size, place in zip(x.shape, places, strict=True)
            )
        else:
            shape = tagged_shape(trace.neurons(x), trace.ledger)
        return shape if dim is None else shape[dim]


def takes_more(function: Callable, inputs: tuple) -> bool:
    """Whether a method takes arguments that it was not given, such as a state to go on from."""

    def missing(value: Any) -> bool:
        if isinstance(value, dict):
            value = list(value.values())
        return value is None or isinstance(value, (tuple, list)) and any(map(missing, value))

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a function of C
        return False
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return missing(inputs) or len(named) > len(inputs) or any(p.kind == p.KEYWORD_ONLY for p in parameters)
