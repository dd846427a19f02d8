"""PPO: proximal policy optimization (Schulman et al. 2017), recurrent or not."""

from pufferlib_kcore.training.ppo.algorithm import PPO

__all__ = ["PPO"]
