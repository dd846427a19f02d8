"""Finite: what is not is named and counted; what is no number, or all numbers, passes."""

import pytest
import torch
from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.finite import finite, finite_policy


def test_finite_numbers_and_what_is_no_tensor_pass():
    for x in (
        torch.ones(3),
        torch.arange(3),
        torch.tensor(True),
        torch.zeros(0),
        7,
        None,
        "adam",
        float("nan"),
    ):
        finite(x, "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_is_named_and_counted(dtype):
    x = torch.ones(4, 3, dtype=dtype)
    x[1, 1] = x[2, 2] = torch.inf
    with pytest.raises(
        UserError, match=r"^'exp_avg' of body holds infinity in 2 of its 12 numbers: .*earlier"
    ):
        finite(x, "'exp_avg' of body")
    x[0, 0] = torch.nan
    with pytest.raises(UserError, match="body holds NaN in 3 of its 12 numbers: restart$"):
        finite(x, "body", "restart")
    with pytest.raises(UserError, match="^step holds NaN: "):
        finite(torch.tensor(torch.nan), "step")


def test_a_policys_buffers_may_hold_a_mask_but_not_where_they_are_merged():
    policy = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    policy.register_buffer("mask", torch.tensor([0, -torch.inf]))
    finite_policy(policy, {"1.running_var"})
    policy[1].running_var[1] = torch.inf
    with pytest.raises(UserError, match="^1.running_var holds infinity in 1 of its 3"):
        finite_policy(policy, {"1.running_var"})
    policy[1].running_var[1], policy.mask[0] = 1, torch.nan
    with pytest.raises(UserError, match="^mask holds NaN"):
        finite_policy(policy, {"1.running_var"})
