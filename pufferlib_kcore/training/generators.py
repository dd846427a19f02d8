"""Generators: the state of all that training draws random numbers from, as plain data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def get_rng(generator: torch.Generator) -> dict[str, Any]:
    """Every random number generator that training may draw from, as plain data."""
    kind, keys, pos, has_gauss, gauss = np.random.get_state()
    return {
        "actions": generator.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(gauss),
        ],
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
    }


def set_rng(rng: dict[str, Any], generator: torch.Generator) -> None:
    """Undo get_rng."""
    generator.set_state(rng["actions"])
    torch.set_rng_state(rng["torch"])
    kind, keys, pos, has_gauss, gauss = rng["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), pos, has_gauss, gauss))
    version, state, gauss_next = rng["python"]
    random.setstate((version, tuple(state), gauss_next))
