"""Environments, by the guide's name of their place."""

from pufferlib_kcore.environments.career import CareerEnv, CareerVectorEnv
from pufferlib_kcore.environments.cartpole_variants import DelayedActions, NoisyObservations
from pufferlib_kcore.environments.gridworld import CoinGrid

__all__ = ["CareerEnv", "CareerVectorEnv", "CoinGrid", "DelayedActions", "NoisyObservations"]
