"""PufferLib 2's envs and their vectorization: all that is built on its internals stands here."""

from pufferlib_kcore.environments.quiet import quiet

with quiet():  # here, before any module of this folder does
    import pufferlib.emulation
    import pufferlib.vector  # noqa: F401
