"""Parameters of careers, by the guide's name of their place."""

from pufferlib_kcore.environments.career.params import PRESETS, REGIMES, EnvironmentParams

MARKET_REGIMES = REGIMES

__all__ = ["MARKET_REGIMES", "PRESETS", "REGIMES", "EnvironmentParams"]
