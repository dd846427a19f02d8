"""Distributions: laws; the second route to each number is torch.distributions, an integral or many draws."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, kl_divergence

from pufferlib_kcore import UserError, distributions
from pufferlib_kcore.distributions import Continuous, Discrete, Joint, Squashed

LOG_2 = math.log(2)


def logits(*shape, seed=0, dtype=torch.float64):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ragged(*lead, seed=0):
    return [logits(*lead, n, seed=seed + n) for n in (2, 3, 5)]


def normal(*shape, seed=0):
    return Normal(logits(*shape, seed=seed), logits(*shape, seed=seed + 1).div(4).exp())


def hybrid(*lead, seed=0):
    return [logits(*lead, 4, seed=seed), normal(*lead, 2, seed=seed), logits(*lead, 3, seed=seed + 9)]


KINDS = {
    "discrete": lambda *lead, seed=0: logits(*lead, 5, seed=seed),
    "multi-discrete": ragged,
    "continuous": lambda *lead, seed=0: normal(*lead, 3, seed=seed),
    "hybrid": hybrid,
}


def of(output):
    return distributions.of(output, torch.float64)


def torchs(output):
    """[(torch distribution, its columns of an action)]"""
    if isinstance(output, torch.Tensor):
        return [(Categorical(logits=output), 0)]
    if isinstance(output, Normal):
        return [(Independent(output, 1), slice(None))]
    found, first = [], 0
    for part in output:
        ((own, _),) = torchs(part)
        width = sum(own.event_shape)
        found.append((own, slice(first, first + width) if width else first))
        first += max(1, width)
    return found


def summed(numbers):
    return torch.stack(list(numbers)).sum(0)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize("lead", [(7,), (4, 3)])
def test_numbers_are_those_of_torch(kind, lead):
    p, q = kind(*lead), kind(*lead, seed=50)
    ours, parts = of(p), torchs(p)
    actions = ours.sample(torch.Generator().manual_seed(1))
    columns = (
        actions if isinstance(p, list) else actions[..., None] if isinstance(ours, Discrete) else actions
    )
    want = summed(part.log_prob(columns[..., own]) for part, own in parts)
    torch.testing.assert_close(ours.log_prob(actions), want)
    torch.testing.assert_close(ours.entropy(), summed(part.entropy() for part, _ in parts))
    apart = summed(kl_divergence(a, b) for (a, _), (b, _) in zip(parts, torchs(q), strict=True))
    torch.testing.assert_close(ours.kl(of(q)), apart)
    assert ours.entropy().shape == ours.log_prob(actions).shape == ours.js(of(q)).shape == lead


def test_entropy_and_kl_are_means_over_draws(kind):
    p, q = of(kind(1)), of(kind(1, seed=50))
    many = p.map(lambda x: x.expand(200_000, -1))
    actions = many.sample(torch.Generator().manual_seed(0))
    log_p, log_q = many.log_prob(actions), q.map(lambda x: x.expand(200_000, -1)).log_prob(actions)
    for draws, exact in ((-log_p, p.entropy()), (log_p - log_q, p.kl(q))):
        assert abs(float(draws.mean() - exact)) < 4 * float(draws.std()) / len(draws) ** 0.5


def test_probabilities_add_up_to_one():
    p = of(ragged(6))
    every = torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 5)))
    total = sum(p.log_prob(action.expand(6, 3)).exp() for action in every)
    torch.testing.assert_close(total, torch.ones(6).double())
    x = torch.linspace(-30, 30, 60_001).double()
    density = of(Normal(torch.tensor([[0.7]]), torch.tensor([[1.3]]))).log_prob(x[:, None]).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1)


def test_draws_follow_their_distribution(kind):
    p = kind(1)
    actions = of(p).map(lambda x: x.expand(100_000, -1)).sample(torch.Generator().manual_seed(0))
    columns = actions[:, None] if actions.ndim == 1 else actions
    for part, own in torchs(p):
        if isinstance(part, Categorical):
            share = torch.bincount(columns[:, own].long(), minlength=part.logits.shape[-1]) / 100_000
            torch.testing.assert_close(share.double(), part.probs[0], atol=0.01, rtol=0)
        else:
            torch.testing.assert_close(columns[:, own].mean(0), part.mean[0], atol=0.03, rtol=0)
            torch.testing.assert_close(columns[:, own].std(0), part.stddev[0], atol=0.03, rtol=0)


def test_a_seed_draws_what_torchs_own_functions_draw_in_float32():
    """What a training run draws stays the same from version to version."""
    x, several = logits(64, 5).bfloat16(), [part.float() for part in ragged(64)]
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    for _ in range(3):
        drawn = torch.multinomial(x.float().softmax(-1), 1, generator=theirs)[:, 0]
        assert torch.equal(distributions.of(x).sample(ours), drawn)
        drawn = torch.cat([torch.multinomial(y.softmax(-1), 1, generator=theirs) for y in several], 1)
        assert torch.equal(distributions.of(several).sample(ours), drawn)
        loc, scale = x.float(), x.float().exp()
        drawn = loc + scale * torch.randn(loc.shape, generator=theirs)
        assert torch.equal(distributions.of(Normal(loc, scale)).sample(ours), drawn)


def test_the_mode_is_the_most_likely_action():
    assert distributions.of(torch.tensor([[0.0, 3.0], [2.0, 1.0]])).mode().tolist() == [1, 0]
    pair = distributions.of([torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 1.0]])])
    assert pair.mode().tolist() == [[1, 0]]
    assert distributions.of(Normal(torch.tensor([[0.5]]), torch.ones(1, 1))).mode().tolist() == [[0.5]]


def test_no_draw_is_likelier_than_the_mode(kind):
    p = of(kind(500))
    assert (p.log_prob(p.mode()) >= p.log_prob(p.sample(torch.Generator().manual_seed(0)))).all()


def test_divergences_of_itself_are_zero_and_of_others_are_not(kind):
    p, q = of(kind(9)), of(kind(9, seed=50))
    for one in (p, p.to(torch.float32)):
        assert float(one.kl(one).abs().max()) == float(one.js(one).max()) == 0
    assert float(p.kl(q).min()) > 0 < float(p.js(q).min())


def test_js_is_symmetric_and_bounded_and_below_kl(kind):
    p, q = of(kind(50)), of(kind(50, seed=50))
    torch.testing.assert_close(p.js(q), q.js(p), rtol=0, atol=0)
    assert ((p.js(q) > 0) & (p.js(q) <= LOG_2)).all()
    assert (p.js(q) <= (p.kl(q) + q.kl(p)) / 4 + 1e-9).all()  # Lin's bound


def test_js_of_discrete_actions_is_the_mean_kl_to_the_mixture():
    p, q = logits(20, 5), logits(20, 5, seed=1)
    a, b = Categorical(logits=p), Categorical(logits=q)
    m = Categorical(probs=(a.probs + b.probs) / 2)
    want = (kl_divergence(a, m) + kl_divergence(b, m)) / 2
    torch.testing.assert_close(of(p).js(of(q)), want)
    parts = ragged(20), ragged(20, seed=1)
    tables = [torch.einsum("si,sj,sk->sijk", *(x.softmax(-1) for x in several)) for several in parts]
    whole, other = (of(table.flatten(1).log()) for table in tables)
    torch.testing.assert_close(of(parts[0]).js(of(parts[1])), whole.js(other))
    assert (whole.js(other) < sum(of(x).js(of(y)) for x, y in zip(*parts, strict=True))).all()  # no sum


def test_js_knows_no_left_and_right():
    p, q = of(normal(9, 3)), of(normal(9, 3, seed=2))
    mirrored = (Continuous(-one.loc, one.scale) for one in (p, q))
    torch.testing.assert_close(p.js(q), next(mirrored).js(next(mirrored)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "a, b",
    [((0, 1), (0.2, 1)), ((0, 1), (0, 3)), ((1, 0.5), (-1, 2)), ((0, 1), (0, 1.01)), ((0, 1), (60, 1))],
)
def test_js_of_normals_is_its_integral(a, b):
    x = torch.linspace(-80, 80, 800_001).double()
    p, q = (of(Normal(*(torch.tensor([[float(v)]]) for v in one))) for one in (a, b))
    log_p, log_q = (one.log_prob(x[:, None]) for one in (p, q))
    log_m = torch.logaddexp(log_p, log_q) - LOG_2
    want = sum(torch.trapezoid(log.exp() * (log - log_m), x) for log in (log_p, log_q)) / 2
    assert float(p.js(q)) == pytest.approx(float(want), rel=0.005, abs=1e-6)


def test_js_of_many_dimensions_is_its_mean_over_draws():
    p, q = of(normal(4, 6)), of(normal(4, 6, seed=2))
    generator, sides = torch.Generator().manual_seed(0), []
    for own, other in ((p, q), (q, p)):
        x = own.map(lambda t: t.expand(100_000, 4, 6)).sample(generator)
        sides.append((LOG_2 - torch.logaddexp(other.log_prob(x) - own.log_prob(x), torch.zeros(()))).mean(0))
    torch.testing.assert_close(p.js(q), (sides[0] + sides[1]) / 2, rtol=0, atol=2e-3)


def test_js_of_too_many_outcomes_is_refused():
    p = of([logits(2, 20, seed=i) for i in range(5)])
    with pytest.raises(UserError, match="3,200,000 outcomes"):
        p.js(p)


def test_masked_actions_have_probability_zero_and_spoil_nothing():
    x, y = logits(30, 4), logits(30, 4, seed=1)
    masked = [torch.cat([z, torch.full_like(z[:, :1], -torch.inf)], 1).requires_grad_() for z in (x, y)]
    p, q = of(masked[0]), of(masked[1])
    assert (p.sample(torch.Generator().manual_seed(0)) < 4).all()
    for ours, plain in (
        (p.entropy(), of(x).entropy()),
        (p.kl(q), of(x).kl(of(y))),
        (p.js(q), of(x).js(of(y))),
        (p.kl(p.mean()), of(x).kl(of(x).mean())),
    ):
        torch.testing.assert_close(ours, plain)
    (p.entropy() + p.kl(q)).sum().backward()
    assert all(torch.isfinite(z.grad).all() for z in masked)
    whole = of(logits(30, 5))
    assert torch.isinf(whole.kl(p)).all() and (whole.js(p) <= LOG_2).all()


def test_the_mean_mixes_probabilities_and_matches_a_mixtures_moments():
    p = logits(40, 5)
    torch.testing.assert_close(of(p).mean().log_p.exp(), p.softmax(-1).mean(0, keepdim=True))
    n = normal(40, 3)
    draws = (
        of(n).map(lambda x: x.expand(20_000, 40, 3)).sample(torch.Generator().manual_seed(0)).flatten(0, 1)
    )
    torch.testing.assert_close(of(n).mean().loc[0], draws.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(of(n).mean().scale[0], draws.std(0), atol=0.02, rtol=0)


def test_no_distribution_is_nearer_to_all_states_than_their_mean(kind):
    """The mean minimizes the mean KL from the states, be they in one row or in several."""
    p = of(kind(6, 5))
    least = float(p.kl(p.mean()).mean())
    for seed in range(5):
        moved = p.mean().map(lambda x, seed=seed: x * (1 + logits(*x.shape, seed=seed).abs() / 50))
        assert float(p.kl(moved).mean()) > least
    one = of(kind(1))
    assert float(one.kl(one.mean()).max()) < 1e-12


def test_it_reads_what_policies_return():
    x, n = logits(7, 4, dtype=torch.float32), normal(7, 3)
    for output, expected in ((x, Discrete), (Categorical(logits=x), Discrete), (n, Continuous)):
        assert type(distributions.of(output)) is expected
    torch.testing.assert_close(of(Independent(n, 1)).entropy(), of(n).entropy())
    several = distributions.of((x, [x, n]))
    assert type(several) is Joint and several.width == 5
    assert several.sample(torch.Generator().manual_seed(0)).shape == (7, 5)
    assert list(several.named()) == ["logits_0", "logits_0_1", "mean_1_1", "std_1_1"]
    again = distributions.of(several, torch.float64)
    assert all(x.dtype == torch.float64 for x in again.named().values())
    assert all(x.dtype == torch.float32 for x in several.named().values())


@pytest.mark.parametrize(
    "output, words",
    [
        (torch.tensor([1, 2]), r"int64 of shape \(2,\)"),
        (torch.zeros(3), r"float32 of shape \(3,\)"),
        ([], "an empty list"),
        (None, "a NoneType"),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), "a MultivariateNormal"),
        (Independent(Categorical(logits=torch.zeros(2, 3)), 1), "1 axes of Categorical"),
        (Independent(normal(2, 3, 4), 2), "2 axes of Normal"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_what_is_no_distribution_is_refused_by_name(output, words):
    with pytest.raises(UserError, match=f"actions are {words}: expected logits"):
        distributions.of(output)


def test_several_are_joined_in_order(kind):
    several = [of(kind(n, 2, seed=n)) for n in (3, 1, 4)]
    whole = distributions.cat(several)
    torch.testing.assert_close(whole.entropy(), torch.cat([one.entropy().flatten() for one in several]))


def squashed(seed=0):
    low, high = torch.tensor([-1.0, -3.0]).double(), torch.tensor([2.0, 3.0]).double()
    p = normal(5, 2, seed=seed)
    return Squashed(p.loc, p.scale, low, high)


def test_a_squashed_normal_is_a_density_within_its_bounds():
    p = squashed()
    one = Squashed(p.loc[:, :1] / 4, p.scale[:, :1] / 2, p.low[:1], p.high[:1])
    a = torch.linspace(-1, 2, 200_003).double()[1:-1]
    density = one.log_prob(a[:, None, None].expand(-1, 5, 1)).exp()
    torch.testing.assert_close(torch.trapezoid(density, a, dim=0), torch.ones(5).double(), atol=2e-3, rtol=0)
    draws = torch.stack([p.sample(torch.Generator().manual_seed(i)) for i in range(4000)])
    assert (draws >= p.low).all() and (draws <= p.high).all()
    torch.testing.assert_close(p.entropy(), -p.log_prob(draws).mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(p.mode(), p.low + (p.high - p.low) * (torch.tanh(p.loc) + 1) / 2)


def test_squashing_changes_no_divergence_and_is_torchs_own():
    from torch.distributions import AffineTransform, TanhTransform, TransformedDistribution

    p, q = squashed(), squashed(seed=9)
    plain, other = Continuous(p.loc, p.scale), Continuous(q.loc, q.scale)
    torch.testing.assert_close(p.kl(q), plain.kl(other))
    torch.testing.assert_close(p.js(q), plain.js(other))
    half = (p.high - p.low) / 2
    theirs = TransformedDistribution(
        Normal(p.loc, p.scale), [TanhTransform(), AffineTransform(p.low + half, half)]
    )
    a = p.squashed(p.loc + 0.3 * p.scale)
    torch.testing.assert_close(p.log_prob(a), theirs.log_prob(a).sum(-1))
    assert p.to(torch.float32).low.dtype == torch.float32 and isinstance(p.mean(), Squashed)
