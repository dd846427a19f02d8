"""Policies by registered name, built from plain data: PufferLib's own, unedited, and yours."""

import pufferlib_kcore.environments  # noqa: F401  imports gymnasium quietly
from pufferlib_kcore.policies.build import build, example_inputs, named, noise_inputs, spec_from
from pufferlib_kcore.policies.registry import register
from pufferlib_kcore.policies.spaces import plain_to_space, space_to_plain

__all__ = [
    "build",
    "example_inputs",
    "named",
    "noise_inputs",
    "plain_to_space",
    "register",
    "space_to_plain",
    "spec_from",
]
