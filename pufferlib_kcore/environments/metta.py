"""Metta's arena of simple conversions and shaped rewards, for one agent, where `mettagrid` is installed."""

import importlib.util
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.packages import register
from pufferlib_kcore.errors import UserError

BUILDINGS: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # what one takes, and what it gives
    "mine_red": ({}, {"ore_red": 1}),
    "generator_red": ({"ore_red": 1}, {"battery_red": 1}),
    "altar": ({"battery_red": 1}, {"heart": 1}),
    "lasery": ({"battery_red": 1, "ore_red": 2}, {"laser": 1}),
    "armory": ({"ore_red": 3}, {"armor": 1}),
}
REWARDS = {  # of holding one more, up to so many
    "ore_red": (0.1, 1),
    "battery_red": (0.8, 1),
    "laser": (0.5, 1),
    "armor": (0.5, 1),
    "heart": (1.0, 100),
}
EMPTY, HERE = 0xFF, 0xFE  # places of tokens: none, and of the agent itself
CHANNELS = ("last_action", "last_reward", "episode_completion_pct")
FULL = 10  # of a resource that shows as 1


class Arena(gymnasium.Env):
    """A walled square with mines, generators, altars, laseries and armories, used by walking into them.

    Observation: (15, 11, 11) float32 in 0 .. 1, around the agent: seven kinds of objects, and in the middle
    its last action and reward, the time that has passed, and the five resources that it holds (10 are 1).
    Actions: stay, or step north, south, west or east. An episode is cut off after `max_steps`.
    """

    metadata = {"render_modes": []}

    def __init__(self, size: int = 25, each: int = 5, max_steps: int = 1000):
        self.size, self.each, self.max_steps = size, each, max_steps
        self.simulation: Any = None
        game = self._config(0).game
        self.tags = {i: name for i, name in enumerate(game.id_map().tag_names())}
        self.features = {f.name: f.id for f in game.id_map().features()}
        shown = [*CHANNELS, *(f"inv:{name}" for name in REWARDS)]
        self.channels = np.full(256, -1)
        for channel, name in enumerate(shown, len(self.tags)):
            self.channels[self.features[name]] = channel
        self.scale = np.full(len(self.tags) + len(shown), FULL, np.float32)
        self.scale[: len(self.tags)] = 1
        self.actions = [action.name for action in game.actions.actions()]
        for name, scale in zip(CHANNELS, (len(self.actions), 100, 255), strict=True):
            self.scale[self.channels[self.features[name]]] = scale
        self.window = game.obs.height, game.obs.width
        self.shape = (len(self.scale), *self.window)
        self.observation_space = spaces.Box(0, 1, self.shape, np.float32)
        self.action_space = spaces.Discrete(len(self.actions))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        from mettagrid.simulator import Simulation

        number = int(self.np_random.integers(2**31))
        self.simulation = Simulation(self._config(number), number)
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        core = self.simulation._c_sim
        core.actions()[0] = int(action)
        self.simulation.step()
        reward, over = float(core.rewards()[0]), bool(core.truncations()[0])
        return self._observe(), reward, bool(core.terminals()[0]), over, {}

    def _observe(self) -> np.ndarray:
        """Tokens (place, feature, value) as a picture."""
        place, feature, value = self.simulation._c_sim.observations()[0].T
        here, middle = place == HERE, (self.window[0] // 2, self.window[1] // 2)
        row, column = np.where(here, middle[0], place >> 4), np.where(here, middle[1], place & 15)
        is_tag = feature == self.features["tag"]
        channel = np.where(is_tag, value, self.channels[feature])
        known = (place != EMPTY) & (channel >= 0)
        picture = np.zeros(self.shape, np.float32)
        amount = np.where(is_tag, 1, value) / self.scale[channel]
        picture[channel[known], row[known], column[known]] = np.minimum(amount, 1)[known]
        return picture

    def _config(self, seed: int) -> Any:
        """The arena's description in the words of mettagrid."""
        from mettagrid.builder.envs import make_arena
        from mettagrid.config.filter import actorHas
        from mettagrid.config.game_value import InventoryValue
        from mettagrid.config.handler_config import Handler, updateActor
        from mettagrid.config.mettagrid_config import GridObjectConfig
        from mettagrid.config.reward_config import reward
        from mettagrid.mapgen.mapgen import MapGen
        from mettagrid.mapgen.scenes.random import Random

        objects = {"wall": 10, **dict.fromkeys(BUILDINGS, self.each)}
        scene = Random.Config(agents=1, objects=objects)
        size = dict(width=self.size, height=self.size, border_width=6, instance_border_width=0)
        builder = MapGen.Config(num_agents=1, instance=scene, seed=seed, **size)
        config = make_arena(1, combat=False, map_builder=builder)
        for name, (takes, gives) in BUILDINGS.items():
            change = {**{k: -n for k, n in takes.items()}, **gives}
            use = Handler(filters=[actorHas(takes)] if takes else [], mutations=[updateActor(change)])
            config.game.objects[name] = GridObjectConfig(name=name, on_use_handler=use)
        config.game.agent.rewards = {
            name: reward(InventoryValue(item=name), weight=weight, max=weight * most)
            for name, (weight, most) in REWARDS.items()
        }
        config.game.resource_names = list(REWARDS)
        config.game.obs.width = config.game.obs.height = 11
        config.game.max_steps, config.game.episode_truncates = self.max_steps, True
        return config


@register("mettagrid", ("arena_basic_easy_shaped",))
def make(
    name: str, *, size: int = 25, each: int = 5, max_steps: int = 1000, render_mode: str | None = None
) -> gymnasium.Env:
    """size: cells on a side; each: how many of each building; max_steps: of one episode"""
    if importlib.util.find_spec("mettagrid") is None:
        raise UserError(f"{name} needs mettagrid, which is not installed: make setup EXTRAS=mettagrid")
    if render_mode is not None:
        raise UserError(f"{name} has no pictures: leave --capture-video out")
    return Arena(size, each, max_steps)
