"""T0, T7, T8: is the world what it should be, do agents learn in it, is that chance."""

from __future__ import annotations

import numpy as np

from pufferlib_kcore.environments.career import REGIMES, CareerEnv, EnvironmentParams
from pufferlib_kcore.failure_lab.agents import HEURISTICS, create_heuristic_agent
from pufferlib_kcore.failure_lab.evaluation import evaluate
from pufferlib_kcore.failure_lab.optimum import optimum, simulate
from pufferlib_kcore.failure_lab.references import known
from pufferlib_kcore.failure_lab.stress.lab import JUDGED, Lab, Outcome, Scores, difference, stress
from pufferlib_kcore.failure_lab.worlds import World

STABLE = World("career", {"regime": "stable"}, "short_term_v1")
PATIENCE = World("career", {"preset": "patience"})


@stress("T0.1", "Determinism", "a seed gives one career, another seed another one", trains=False)
def determinism(lab: Lab) -> Outcome:
    def way(seed: int) -> np.ndarray:
        env = CareerEnv()
        seen = [env.reset(seed=seed)[0]]
        for action in np.random.default_rng(0).integers(0, 2, 100):
            observation, _, ended, _, _ = env.step(action)
            seen.append(env.reset()[0] if ended else observation)
        return np.array(seen)

    same = float(np.abs(way(42) - way(42)).max())
    other = float(np.abs(way(42) - way(43)).max())
    return Outcome(
        same == 0 and other > 1e-3,
        f"largest difference {same:g} with one seed, {other:.3g} with another",
        {"same": same, "other": other},
    )


@stress(
    "T0.2",
    "Optimum",
    "the optimum's policy earns its value within 2%, in each regime, and chance far less",
    trains=False,
)
def baseline(lab: Lab) -> Outcome:
    numbers, good = {}, True
    for regime in REGIMES:
        params = EnvironmentParams.for_regime(regime)
        best = optimum(params)
        paid = simulate(best, params, 2000, 1).mean()
        chance = known(World("career", {"regime": regime})).true_uniform
        numbers[regime] = {"value": best.value, "simulated": float(paid), "chance": chance}
        good &= bool(abs(paid - best.value) < 0.02 * abs(best.value) and chance < 0.5 * paid)
    said = ", ".join(f"{r} {n['simulated']:.4g} of {n['value']:.4g}" for r, n in numbers.items())
    return Outcome(good, said, numbers)


@stress("T7.1", "Rules", "a learner beats the best rule where one must look, and only equals it elsewhere")
def rules(lab: Lab) -> Outcome:
    numbers, gains = {}, {}
    for name, world in (("patience", PATIENCE), ("stable", STABLE)):
        learner = lab.scores("dqn", world)
        ruled = {rule: by_rule(lab, rule, world) for rule in HEURISTICS}
        best = max(ruled, key=lambda rule: ruled[rule].mean())
        gains[name] = difference(learner.true, ruled[best])
        numbers[name] = {"dqn": str(learner), best: float(ruled[best].mean()), "gain": str(gains[name])}
    good = gains["patience"].above and not gains["stable"].above and gains["stable"].low > -10
    return Outcome(good, f"gains over the best rule: {numbers}", numbers)


def by_rule(lab: Lab, rule: str, world: World) -> np.ndarray:
    """Returns that are meant, by seed, on the episodes that learners are judged by.  (seeds,)"""
    agents = [create_heuristic_agent(rule, seed=seed) for seed in lab.seeds]
    played = [evaluate(a, world, lab.episodes, JUDGED + s) for a, s in zip(agents, lab.seeds, strict=True)]
    return np.array([one.true_returns.mean() for one in played])


@stress("T8.1", "Seeds", "five seeds all come to nine tenths of the way from chance to the optimum")
def five_seeds(lab: Lab) -> Outcome:
    found: Scores = lab.scores("dqn", STABLE, seeds=(0, 1, 2, 3, 4))
    reference = known(STABLE)
    shares = [reference.share(x) or 0.0 for x in found.true]
    why = f"return that is meant {found.true.mean():.4g} ± {found.true.std(ddof=1):.2g} over seeds, "
    return Outcome(
        min(shares) > 0.9, why + f"at least {min(shares):.1%} of the way", {"true": found.true.tolist()}
    )
