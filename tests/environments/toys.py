"""Envs small enough to work out by hand."""

import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.puffer2.serial import emulated
from pufferlib_kcore.environments.rewards import scaled
from pufferlib_kcore.environments.wrappers import adapt


class Three(gymnasium.Env):
    """Episodes of 3 steps: ended by termination, then truncation, by turns.

    Observation: 10 * episode + step; reward: 1 + action. The seed given at reset is kept in `seed`.
    """

    observation_space = spaces.Box(-1000.0, 1000.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.episode, self.time = -1, 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return self.see(), {"noise": "dropped"}

    def step(self, action):
        self.time += 1
        ended = self.time == 3
        odd = self.episode % 2 == 1
        told = {
            "noise": "dropped",
            "some": [1],
            "time": self.time,
            "half": np.float32(self.time / 2),
            "odd": odd,
        }
        return self.see(), 1.0 + float(action), ended and not odd, ended and odd, told

    def see(self):
        return np.array([10 * self.episode + self.time], np.float32)


class Seeds(Three):
    """Shows the seed that it was reset with, exactly: what it is divided by 1000, and the rest."""

    observation_space = spaces.Box(-1.0, 1e7, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.shown = -1 if seed is None else seed
        return super().reset(seed=seed, options=options)

    def see(self):
        return np.array(divmod(self.shown, 1000), np.float32)


class Trouble(Three):
    """In a worker, misbehaves at its third step (or, "start", when it is made)."""

    def __init__(self, how, main):
        super().__init__()
        self.how, self.main = how, main
        if how == "start" and os.getpid() != main:
            raise LookupError("no such level")

    def step(self, action):
        if self.time == 2 and os.getpid() != self.main:
            if self.how == "raise":
                raise ZeroDivisionError("the third step is unlucky")
            if self.how == "exit":
                print("leaving early")
                os._exit(7)
            if self.how == "segfault":
                os.kill(os.getpid(), 11)
            if self.how == "hang":
                time.sleep(600)
        return super().step(action)


class Mixed(Three):
    """Three, with as many action dimensions as asked for, of the kind asked for."""

    def __init__(self, action_space):
        super().__init__()
        self.action_space = action_space
        self.taken = None

    def step(self, action):
        self.taken = np.array(action)
        seen, _, *rest = super().step(0)
        return seen, float(np.sum(action)), *rest


def puffer(env, **settings):
    return emulated(scaled(adapt(env), **settings))


def three():
    return puffer(Three())


def seeds():
    return puffer(Seeds())


class Maker:
    """A picklable creator: Maker(Trouble, "raise", os.getpid())()"""

    def __init__(self, cls, *args):
        self.cls, self.args = cls, args

    def __call__(self):
        return puffer(self.cls(*self.args))
