"""Rewards of careers, by the guide's name of their place."""

from pufferlib_kcore.environments.career.rewards import (
    CAREER_REWARDS,
    CareerReward,
    Reward,
    get_reward,
    list_rewards,
)

__all__ = ["CAREER_REWARDS", "CareerReward", "Reward", "get_reward", "list_rewards"]
