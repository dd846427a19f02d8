"""Advice: options that do what they say, and none where enough has merged."""

import gymnasium
import numpy as np
import torch

from pufferlib_kcore import graph, settings
from pufferlib_kcore.jobs.advice import advice
from pufferlib_kcore.jobs.merging import nearness
from pufferlib_kcore.policies import build, example_inputs, spec_from

WORDS = ["--mode", "collapse", "--exp-id", "some-run"]


def traced():
    torch.manual_seed(0)
    box = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    spec = spec_from(None, "Policy", "Recurrent", {"hidden_size": 32}, {}, box, gymnasium.spaces.Discrete(2))
    return graph.trace(build(spec), example_inputs(spec))


def advised(original, *words):
    args = settings.load([*WORDS, *words])
    result = graph.collapse(original, threshold=args.settings.collapse.thresholds())
    return advice(args.settings.collapse, original, result.report)


def test_each_option_keeps_what_is_said_beside_it():
    original = traced()
    first, *options, auto = advised(original, "--collapse", "0.001")
    assert first.startswith("0.0% of the parameters went") and options
    for line in options:
        option, kept = line.split("  keeps ")
        args = settings.load([*WORDS, *option.split()])
        report = graph.collapse(original, threshold=args.collapse).report
        assert kept.startswith(f"{report.params_after / report.params_before:.1%} of")
    args = settings.load([*WORDS, *auto.partition("  keeps")[0].split()])
    assert args.collapse == "auto" and args.settings.collapse.target_params == 0.2


def test_no_advice_where_enough_has_merged():
    assert advised(traced(), "--collapse", "2") == []


def test_a_newcomer_is_told_how_near_a_smaller_policy_is():
    near = nearness(graph.Divergence(kl=0.012, value_error=0.0167, look=0.32))
    assert "KL 0.012 nats" in near and "0.32 off" in near and "1.67% of their variance" in near
    early = nearness(graph.Divergence(kl=1e-5, value_error=float("nan"), look=1e-4))
    assert "hardly looks" in early and "hardly looks" not in near and "variance" not in early
