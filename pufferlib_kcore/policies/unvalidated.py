"""Unvalidated: distributions that take their numbers as they are, where these are traced or checked."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def unvalidated() -> Iterator[None]:
    """Within: a policy's Normal(mean, std) neither looks at its numbers nor raises; afterwards as before."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
