"""Slots: which number in `policy_kwargs` gives which layers their width, read and written.

Layers that one number is for are as wide as each other: both critics of SAC, the actor's LSTM and the
critic's, two features extractors of one class. What no number is for stays whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from pufferlib_kcore.fibration.refinement import reads
from pufferlib_kcore.graph.network import Network

Slot = tuple[str, ...]  # ("pi", "0"), ("vf", "2"), ("qf", "0"), ("lstm",), ("features", key, "cnn.0")
NETS = (  # where a space is, and which list of `net_arch` its layer's width stands in
    (r"mlp_extractor\.policy_net\.(\d+)", "pi"),
    (r"mlp_extractor\.value_net\.(\d+)", "vf"),
    (r"q_net\.q_net\.(\d+)", "q"),
    (r"actor\.latent_pi\.(\d+)", "pi"),
    (r"actor\.mu\.(\d+)", "pi"),
    (r"critic\.qf\d+\.(\d+)", "qf"),
)
LSTM = r"(lstm_actor|lstm_critic|critic)(\.\d+|\.l\d+|\.\w+)?"
EXTRACTOR = r"(?:\w+\.)?(\w*features_extractor)(?:\.extractors\.(.+))?\.((?:cnn|linear)\.\d+)"
NO_SLOT = "no argument of its policy says how wide this is"


def slot_of(space: str, policy: Any) -> Slot | None:
    """The number that gives a space, by its name in the view, its width; None where there is none."""
    name = space.removeprefix("policy.")
    if name.startswith("actor.mu") and hasattr(policy.actor, "latent_pi"):
        return None  # actions
    for pattern, net in NETS:
        if found := re.fullmatch(pattern, name):
            return net, found[1]
    if found := re.fullmatch(EXTRACTOR, name):
        return ("features", found[2] or "", found[3]) if _known_extractor(policy) else None
    if hasattr(policy, "lstm_actor") and re.fullmatch(LSTM, name):
        return ("lstm",)
    return None


def _known_extractor(policy: Any) -> bool:
    from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

    from pufferlib_kcore.integrations.sb3.extractors import SlimCombinedExtractor, SlimNatureCNN

    known = (NatureCNN, CombinedExtractor, SlimNatureCNN, SlimCombinedExtractor)
    return policy.features_extractor_class in known


def fitted(network: Network, policy: Any) -> Network:
    """The network, in which layers of one slot are as wide as each other, and what has none stays whole."""
    slots = {s.name: slot_of(s.name, policy) for s in network.spaces}
    whole = {s.name: s.whole or (None if slots[s.name] else NO_SLOT) for s in network.spaces}
    if getattr(policy, "use_sde", False) or getattr(getattr(policy, "actor", None), "use_sde", False):
        latent = reads([n for n in network.table if _reads_for_actions(n)], network.table)
        whole |= {name: whole[name] or "gSDE explores along its units" for name in latent}
    together: dict[Slot, list[str]] = defaultdict(list)
    for name, slot in slots.items():
        if slot:
            together[slot].append(name)
    for names in together.values():
        kept = next((name for name in names if whole[name]), None)
        if kept:
            for name in names:
                whole[name] = whole[name] or f"it is as wide as {kept}, which stays whole"
    groups = [tuple(names) for names in together.values() if len(names) > 1 and not whole[names[0]]]
    return replace(
        network,
        spaces=type(network.spaces)(replace(s, whole=whole[s.name]) for s in network.spaces),
        same_width=tuple(groups),
    )


def _reads_for_actions(parameter: str) -> bool:
    return bool(re.fullmatch(r"policy\.(action_net|actor\.mu(\.0)?)\.weight", parameter))


def policy_kwargs(model: Any, widths: Mapping[str, int]) -> dict[str, Any]:
    """The model's `policy_kwargs`, for these widths.  widths: space -> units"""
    policy = model.policy
    slots = {slot: k for name, k in widths.items() if (slot := slot_of(name, policy))}

    def sizes(net: str, layers: nn.Sequential) -> list[int]:
        linear = [(str(i), m.out_features) for i, m in enumerate(layers) if isinstance(m, nn.Linear)]
        return [slots.get((net, i), size) for i, size in linear]

    kwargs = dict(model.policy_kwargs)
    if hasattr(policy, "mlp_extractor"):
        mlp = policy.mlp_extractor
        kwargs["net_arch"] = {"pi": sizes("pi", mlp.policy_net), "vf": sizes("vf", mlp.value_net)}
    elif hasattr(policy, "q_net"):
        kwargs["net_arch"] = sizes("q", policy.q_net.q_net)[:-1]
    else:
        actor = policy.actor
        pi = sizes("pi", actor.latent_pi) if hasattr(actor, "latent_pi") else sizes("pi", actor.mu)[:-1]
        kwargs["net_arch"] = {"pi": pi, "qf": sizes("qf", policy.critic.qf0)[:-1]}
    if ("lstm",) in slots:
        kwargs["lstm_hidden_size"] = slots["lstm",]
    if any(slot[0] == "features" for slot in slots):
        kwargs |= _extractor(policy, slots)
    return kwargs


def _extractor(policy: Any, slots: Mapping[Slot, int]) -> dict[str, Any]:
    """features_extractor_class and its kwargs."""
    from pufferlib_kcore.integrations.sb3.extractors import SlimCombinedExtractor, SlimNatureCNN

    def image(key: str) -> dict[str, Any]:
        return {
            "features_dim": slots["features", key, "linear.0"],
            "channels": [slots["features", key, f"cnn.{i}"] for i in (0, 2, 4)],
        }

    kwargs = {k: v for k, v in policy.features_extractor_kwargs.items() if k == "normalized_image"}
    keys = sorted({slot[1] for slot in slots if slot[0] == "features"})
    if keys == [""]:
        return {"features_extractor_class": SlimNatureCNN, "features_extractor_kwargs": kwargs | image("")}
    more = {"images": {key: image(key) for key in keys}}
    return {"features_extractor_class": SlimCombinedExtractor, "features_extractor_kwargs": kwargs | more}
