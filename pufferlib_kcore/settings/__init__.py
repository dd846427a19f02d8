"""Settings of a run, from INI files, a stored run and the command line. Standard library only."""

from pufferlib_kcore.settings.arguments import Args, load
from pufferlib_kcore.settings.layers import environments
from pufferlib_kcore.settings.resolve import fitting, flag, from_plain, resolve
from pufferlib_kcore.settings.sections import Base, CollapseSettings, Settings, Train
from pufferlib_kcore.settings.values import nearest

__all__ = [
    "Args",
    "Base",
    "CollapseSettings",
    "Settings",
    "Train",
    "environments",
    "fitting",
    "flag",
    "from_plain",
    "load",
    "nearest",
    "resolve",
]
