"""Fast: a small network for images in the manner of Metta's `fast`: a wide critic, action embeddings."""

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.registry import POLICIES, register

with quiet():
    from pufferlib.pytorch import layer_init

WIDE = 16  # pixels on a side of the first convolution's output, above which the second one strides


def _complete(args: dict, observation: Space, action: Space) -> dict:
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 3:
        raise UserError(
            f"Fast needs image observations, a Box with 3 axes, not {observation}: choose the policy Default"
        )
    if not isinstance(action, (spaces.Discrete, spaces.MultiDiscrete)):
        raise UserError(
            f"Fast needs discrete or multi-discrete actions, not {action}: choose the policy Default"
        )
    args = POLICIES.settings("Fast", args)
    for name, value in args.items():
        if name != "channels_last" and not (isinstance(value, int) and value >= 1):
            raise UserError(f"Fast's {name} is {value!r}: expected a whole number of at least 1")
    return args


@register("Fast", complete=_complete)
class Fast(nn.Module):
    """Two convolutions, two linear layers; for the LSTMWrapper, whose LSTM has 2 layers in Metta's `fast`.

    observations (B, channels, height, width), or (B, height, width, channels) with channels_last; whole
    numbers are divided by 255. The convolutions have kernels 5 and 3 (smaller where the image is) and
    strides 3 and 1. Where the first leaves more than 16 pixels on a side, the second strides by 3, its own
    width, so that 105 x 80 pixels end as 11 x 8 x 64 numbers instead of 32 x 24 x 64; above 200 pixels, take
    a downsample of 2 as well, which keeps every second pixel.

    logits_a = h^T W e_a + b_a, with h the actor's hidden layer and e_a the learned embedding of action a;
    a list of them for multi-discrete actions. value (B, 1), through a tanh layer of its own.
    """

    def __init__(
        self,
        env,
        hidden_size: int = 128,
        channels: int = 64,
        critic_size: int = 1024,
        actor_size: int = 512,
        embedding_size: int = 16,
        downsample: int = 1,
        channels_last: bool = False,
    ):
        super().__init__()
        observation, action = env.single_observation_space, env.single_action_space
        self.channels_last, self.downsample = channels_last, downsample
        self.scale = 255.0 if np.issubdtype(observation.dtype, np.integer) else 1.0
        self.parts = action.nvec.tolist() if isinstance(action, spaces.MultiDiscrete) else None

        *size, depth = observation.shape if channels_last else np.roll(observation.shape, -1).tolist()
        size = [-(-length // downsample) for length in size]
        first = tuple(min(5, length) for length in size)
        size = [(length - kernel) // 3 + 1 for length, kernel in zip(size, first, strict=True)]
        second, stride = tuple(min(3, length) for length in size), 3 if max(size) > WIDE else 1
        size = [(length - kernel) // stride + 1 for length, kernel in zip(size, second, strict=True)]

        self.cnn_1 = layer_init(nn.Conv2d(depth, channels, first, stride=3))
        self.cnn_2 = layer_init(nn.Conv2d(channels, channels, second, stride=stride))
        self.fc_1 = layer_init(nn.Linear(channels * size[0] * size[1], hidden_size))
        self.fc_2 = layer_init(nn.Linear(hidden_size, hidden_size))
        self.critic = layer_init(nn.Linear(hidden_size, critic_size))
        self.value = layer_init(nn.Linear(critic_size, 1), std=1)
        self.actor = layer_init(nn.Linear(hidden_size, actor_size))
        self.bilinear = nn.Linear(actor_size, embedding_size, bias=False)
        nn.init.orthogonal_(self.bilinear.weight)
        self.actions = layer_init(nn.Linear(embedding_size, sum(self.parts or [int(action.n)])), std=1)

    def forward(self, observations: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
        return self.decode_actions(*self.encode_observations(observations))

    def encode_observations(self, observations: Tensor) -> tuple[Tensor, None]:
        """(B, *observation) -> (B, hidden_size)"""
        if self.channels_last:
            observations = observations.permute(0, 3, 1, 2)
        if self.downsample > 1:
            observations = observations[:, :, :: self.downsample, :: self.downsample]
        x = torch.relu(self.cnn_1(observations.float() / self.scale))
        x = torch.relu(self.cnn_2(x)).flatten(1)
        return torch.relu(self.fc_2(torch.relu(self.fc_1(x)))), None

    def decode_actions(self, hidden: Tensor, lookup: None = None) -> tuple[Tensor | list[Tensor], Tensor]:
        """(B, hidden_size) -> logits (B, n), or a list of them; value (B, 1)"""
        value = self.value(torch.tanh(self.critic(hidden)))
        logits = self.actions(self.bilinear(torch.relu(self.actor(hidden))))
        return logits if self.parts is None else list(logits.split(self.parts, dim=-1)), value
