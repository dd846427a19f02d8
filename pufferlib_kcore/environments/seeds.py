"""Seeds: a stream of chance of its own for every environment, wherever and whenever it starts.

Entropy is a whole number, or several: training says (run seed, steps taken so far), a recording (run seed,
RECORDING, its number). What differs in any number, or in how many there are, shares no stream; adding to a
seed would give run 2 the environments of run 1, moved by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

RECORDING, MADE_UP, COMPANION = 1, 2, 3  # what draws beside training: the second number of its entropy


def env_seed(entropy: int | Sequence[int], env: int) -> int:
    """The seed of an environment, below 2**31, as Gymnasium and ALE take it.

    From np.random.SeedSequence, of the entropy and the environment's number.
    """
    return int(_sequence(entropy, env).generate_state(1)[0]) >> 1


def env_seeds(entropy: int | Sequence[int], first: int, count: int) -> list[int]:
    """The seeds of the environments first, .., first + count - 1."""
    return [env_seed(entropy, first + i) for i in range(count)]


def generator(entropy: int | Sequence[int]) -> torch.Generator:
    """torch's random numbers of this entropy."""
    import torch  # not needed where environments run

    return torch.Generator().manual_seed(int(_sequence(entropy).generate_state(1)[0]))


def _sequence(entropy: int | Sequence[int], *last: int) -> np.random.SeedSequence:
    """Each number has 64 bits and a place: SeedSequence takes none below 0, and drops zeros at the end."""
    numbers = [entropy] if isinstance(entropy, Integral) else list(entropy)  # type: ignore[arg-type]
    words = [word for n in (*numbers, *last) for word in divmod(int(n) % 2**64, 2**32)]
    return np.random.SeedSequence([len(numbers), *words])
