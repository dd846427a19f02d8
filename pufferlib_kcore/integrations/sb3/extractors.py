"""Extractors: Stable-Baselines3's convolutions with any number of channels, so that a model can be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import torch
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn

NATURE = ((8, 4), (4, 2), (3, 1))  # kernel and stride of each convolution


class SlimNatureCNN(NatureCNN):
    """NatureCNN with so many channels.  (N, C, H, W) -> (N, features_dim)

    channels  of the three convolutions; others as NatureCNN has them. The same layers by the same names.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        features_dim: int = 512,
        normalized_image: bool = False,
        channels: Sequence[int] = (32, 64, 64),
    ):
        BaseFeaturesExtractor.__init__(self, observation_space, features_dim)
        shape = observation_space.shape or ()
        layers: list[nn.Module] = []
        for ins, outs, (kernel, stride) in zip((shape[0], *channels), channels, NATURE, strict=False):
            layers += [nn.Conv2d(ins, outs, kernel, stride), nn.ReLU()]
        self.cnn = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            width = self.cnn(torch.zeros(1, *shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(width, features_dim), nn.ReLU())


class SlimCombinedExtractor(CombinedExtractor):
    """CombinedExtractor, the convolutions of each key of its own size.  {key: (N, ..)} -> (N, features_dim)

    images  key -> `features_dim` and `channels` of a SlimNatureCNN; what is not named is flattened
    """

    def __init__(
        self,
        observation_space: gymnasium.spaces.Dict,
        images: Mapping[str, Mapping[str, Any]],
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
    ):
        BaseFeaturesExtractor.__init__(self, observation_space, features_dim=1)
        extractors: dict[str, nn.Module] = {}
        self._features_dim = 0
        for key, part in observation_space.spaces.items():
            if key in images:
                extractors[key] = SlimNatureCNN(part, normalized_image=normalized_image, **images[key])
                self._features_dim += images[key]["features_dim"]
            else:
                extractors[key] = nn.Flatten()
                self._features_dim += get_flattened_obs_dim(part)
        self.extractors = nn.ModuleDict(extractors)
