"""The documents' examples run as they stand."""

import re
from pathlib import Path

import gymnasium
import pytest
import torch
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.graph.operations import OPERATIONS, TRAITS
from pufferlib_kcore.policies import build, example_inputs, spec_from
from pufferlib_kcore.store import checkpoints

DOCS = Path(__file__).resolve().parents[1] / "docs"


def example(name):
    return re.search(r"```python\n(.*?)```", (DOCS / name).read_text(), re.S)[1]


def test_what_the_readme_shows_from_python():
    torch.manual_seed(0)
    layers = nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 3)
    policy = nn.Sequential(*layers).double()

    def states(count):
        return [(torch.randn(50, 5).double(),) for _ in range(count)]

    names = dict(policy=policy, example_inputs=states(1)[0], optimizer=torch.optim.Adam(policy.parameters()))
    names |= dict(recorded=states(4), held_out=states(2), others=states(2))
    exec(example("../README.md"), names)
    x, found, control = names["example_inputs"], names["found"], names["control"]
    torch.testing.assert_close(names["large"](*x), names["result"].policy(*x), rtol=1e-10, atol=1e-10)
    assert names["large"][0].out_features == 32 and found.collapse.widths == control.widths


@pytest.fixture
def own_rules():
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)


def test_a_layer_kind_in_ten_lines(own_rules):
    source = example("layers.md")
    assert len(source[source.index("@kcore.rule") :].strip().splitlines()) <= 10
    names = {}
    exec(source, names)

    class Policy(nn.Module):
        def __init__(self, low, rank, high):
            super().__init__()
            self.first, self.actor, self.value = nn.Linear(5, low), nn.Linear(high, 3), nn.Linear(high, 1)
            self.down, self.up = nn.Parameter(torch.randn(low, rank)), nn.Parameter(torch.randn(rank, high))

        def forward(self, x):
            h = names["low_rank"](self.first(x).relu(), self.down, self.up).tanh()
            return self.actor(h), self.value(h)

    torch.manual_seed(0)
    base, x = Policy(6, 4, 7).double(), (torch.randn(9, 5).double(),)
    spaces = {row["space"]: row["units"] for row in graph.spaces(base, x).rows if row["reason"] is None}
    assert spaces == {"first": 6, "down": 4, "up": 7}
    labels = {name: torch.arange(2 * units).numpy() % units for name, units in spaces.items()}
    large = graph.lift(base, x, labels, generator=torch.Generator().manual_seed(0))
    found = graph.collapse(large, x, 0)
    for one, other in zip(found.policy.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(large(*x), base(*x), rtol=1e-10, atol=1e-10)


def test_the_traits_of_operations_are_those_that_rules_take(own_rules):
    table = re.findall(r"^\| `(\w+)` \|", (DOCS / "layers.md").read_text(), re.M)
    assert len(table) == 7 and set(table) <= set(TRAITS)
    graph.rule("mine", **dict.fromkeys(table, True))(lambda trace, out, x: trace.neurons(x))
    assert all(getattr(OPERATIONS["mine"], trait) for trait in table)


def test_a_collapsed_checkpoint_is_loaded_in_ten_lines(tmp_path):
    import gymnasium

    box = gymnasium.spaces.Box(-1, 1, (5,))
    spec = spec_from(None, "Policy", "Recurrent", {"hidden_size": 12}, {}, box, gymnasium.spaces.Discrete(3))
    found = graph.collapse(build(spec), example_inputs(spec), 1.05).policy
    weights = found.state_dict()
    payload = {
        "format": checkpoints.MODEL,
        "version": checkpoints.VERSION,
        "policy": spec,
        "shapes": {name: list(x.shape) for name, x in weights.items()},
        "state_dict": weights,
        "epoch": 1,
        "agent_steps": 1,
    }
    checkpoints.save(tmp_path / "model_000001_collapsed.pt", payload)
    source = example("checkpoints.md")
    assert len(source.strip().splitlines()) <= 10
    names = {"path": tmp_path / "model_000001_collapsed.pt"}
    exec(source, names)
    loaded = names["policy"].state_dict()
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[n], weights[n]) for n in weights)


@pytest.mark.parametrize("page, said", [("symmetry_breaking.md", "array("), ("diagnosis.md", "no_learning")])
def test_what_these_pages_show_from_python(page, said, capsys):
    torch.manual_seed(0)
    exec(example(page), {})
    assert said in capsys.readouterr().out


def test_the_diagnosis_page_names_every_metric_and_every_finding():
    from pufferlib_kcore.diagnostics.detectors import DETECTORS
    from pufferlib_kcore.diagnostics.look import fibers_of, look

    page = (DOCS / "diagnosis.md").read_text()
    policy = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    traced = graph.trace(policy, (torch.randn(3, 5),))
    seen = {**look(traced, [(torch.randn(20, 5),)]).metrics, **fibers_of(traced)}
    for name in (*(n for n in seen if "/" not in n), "churn", "capacity", *DETECTORS):
        assert f"`{name}`" in page, name


def test_a_line_between_two_policies_from_python():
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        spaces = gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(2)
        made.append(build(spec_from("classic_control", "Policy", None, {}, {}, *spaces)))
    names = dict(zip(("one", "other"), made, strict=True))
    exec(example("connectivity.md"), names)
    assert names["line"].returns.shape == (5, 20) and names["barrier"].low <= names["barrier"].value
