"""T1 to T6: failures that are induced, each beside a control that differs by nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pufferlib_kcore.failure_lab.references import known
from pufferlib_kcore.failure_lab.stress.lab import Interval, Lab, Outcome, beats, counts, difference, stress
from pufferlib_kcore.failure_lab.stress.sanity import PATIENCE, STABLE
from pufferlib_kcore.failure_lab.worlds import World

SALARY = "short_term_v1(lambda_burnout=0.0, on_burnout=0.0)"
BURNOUT = "short_term_v1(weight_salary=0.0)"
RECESSION = World("career", {"regime": "recession"}, "short_term_v1")


@stress("T1.1", "Salary trap", "paid for salary alone, an agent burns out and is worth less")
def salary_trap(lab: Lab) -> Outcome:
    trapped, honest = lab.scores("dqn", PATIENCE.paid(SALARY)), lab.scores("dqn", PATIENCE)
    paid = lab.scores("dqn", PATIENCE, PATIENCE.paid(SALARY))
    lost = beats(honest, trapped)
    tired, rested = float(np.median(trapped.burnout)), float(np.median(honest.burnout))
    return Outcome(
        lost.above and tired > 0.5 > rested,
        f"ends with a burnout of {tired:.2f} (median of seeds; {rested:.2f} if paid for what is meant), "
        f"and is worth {lost} less; of salary it earns {trapped.returns.mean():.3g}, the other one "
        f"{paid.returns.mean():.3g}",
        {"trapped": trapped.true.tolist(), "honest": honest.true.tolist()},
        **counts("reward_hacking", trapped, honest),
    )


@stress("T1.2", "Burnout alone", "paid for rest alone, an agent rests and earns nothing")
def burnout_alone(lab: Lab) -> Outcome:
    rested, honest = lab.scores("dqn", PATIENCE.paid(BURNOUT)), lab.scores("dqn", PATIENCE)
    lost, tired = beats(honest, rested), Interval.of(honest.burnout - rested.burnout)
    return Outcome(
        lost.above and rested.burnout.max() < 0.05,
        f"ends with a burnout of {rested.burnout.mean():.3f} ({tired} less), and loses {lost}",
        {"rested": rested.true.tolist(), "honest": honest.true.tolist()},
    )


@stress("T1.3", "Coin", "a coin that can be taken again and again is taken, and the goal forgotten")
def coin(lab: Lab) -> Outcome:
    hacked = lab.scores("ppo", World("coin_grid", {"coin": 0.5}))
    honest = lab.scores("ppo", World("coin_grid", {"coin": 0.0}))
    lost = beats(honest, hacked)
    rich = Interval.of(hacked.returns - hacked.true)
    return Outcome(
        lost.above and bool((hacked.returns > 5).all()),
        f"{rich} of coins, and {lost} less of what is meant than without a coin",
        {"hacked": hacked.true.tolist(), "honest": honest.true.tolist()},
        **counts("reward_hacking", hacked, honest),
    )


@stress("T2.1", "Delayed reward", "paid at the end alone, an agent learns less, on one common score")
def delayed(lab: Lab) -> Outcome:
    return credit(lab, "delayed_v1")


@stress("T2.2", "Sparse reward", "paid for a goal alone, an agent learns less, on one common score")
def sparse(lab: Lab) -> Outcome:
    return credit(lab, "sparse_v1")


def credit(lab: Lab, reward: str) -> Outcome:
    """Where one must look, beside a DQN with the base reward; told, too, where one action is best."""
    lost = beats(lab.scores("dqn", PATIENCE), lab.scores("dqn", PATIENCE.paid(reward)))
    easy = beats(lab.scores("dqn", STABLE), lab.scores("dqn", STABLE.paid(reward)))
    return Outcome(
        lost.above,
        f"loses {lost} of the return that is meant; where one action is best, {easy}",
        {"lost": str(lost), "easy": str(easy)},
    )


@stress("T3.1", "Reward scale", "rewards times 1,000 spoil a DQN; values are judged against their true scale")
def scale(lab: Lab) -> Outcome:
    big = replace(STABLE, settings={**STABLE.settings, "reward_scale": 1000.0})
    scaled, plain = lab.scores("dqn", big), lab.scores("dqn", STABLE)
    lost = beats(plain, scaled)
    bound = 1000 * 1.0 / (1 - 0.99)  # of any value: the largest reward, for ever
    share = float(scaled.max_q.max()) / bound
    return Outcome(
        lost.above or share > 1,
        f"loses {lost}; the largest |Q| is {scaled.max_q.max():.4g}, {share:.2f} of the {bound:,.0f} that a "
        f"value can be at most",
        {"max_q": scaled.max_q.tolist(), "lost": str(lost)},
        **counts("value_explosion", scaled, plain),
    )


@stress(
    "T3.2", "Divergence", "a DQN without a slow target and with a large rate has values that no career pays"
)
def divergence(lab: Lab) -> Outcome:
    wild = {"learning_rate": 0.05, "target_update_interval": 1, "max_grad_norm": 1e9}
    wild |= {"train_freq": 1, "gradient_steps": 1}
    exploded, plain = lab.scores("dqn", STABLE, params=wild, steps=15_000), lab.scores("dqn", STABLE)
    bound = 1.0 / (1 - 0.99)
    shares = exploded.max_q / bound
    return Outcome(
        bool((shares > 2).all() and (plain.max_q < 2 * bound).all()),
        f"largest |Q| {', '.join(f'{x:.3g}' for x in shares)} times what a value can be at most; in the "
        f"control {', '.join(f'{x:.2f}' for x in plain.max_q / bound)}",
        {"max_q": exploded.max_q.tolist(), "control": plain.max_q.tolist()},
        **counts("value_explosion", exploded, plain),
    )


@stress(
    "T3.3",
    "Exploration collapse",
    "without exploration one action is all, though a better policy is known; alone that is no collapse",
)
def collapse(lab: Lab) -> Outcome:
    none = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0, "exploration_fraction": 1e-6}
    none |= {"learning_starts": 0}
    stuck, plain = lab.scores("dqn", PATIENCE, params=none), lab.scores("dqn", PATIENCE)
    best = lab.scores("dqn", STABLE)
    lost, optimum = beats(plain, stuck), known(PATIENCE).optimum or np.nan
    one = bool((stuck.dominance > 0.95).all() and (stuck.true < 0.6 * optimum).all())
    elsewhere = (known(STABLE).share(float(best.true.mean())) or 0) > 0.9 and best.dominance.min() > 0.95
    return Outcome(
        one and lost.above and bool(elsewhere),
        f"commonest action {stuck.dominance.min():.1%} and more, return {stuck} of {optimum:.3g}, {lost} "
        f"less than with exploration; in the stable career {best.dominance.min():.1%} at its optimum",
        {"stuck": stuck.true.tolist(), "plain": plain.true.tolist()},
        **counts("policy_collapse", stuck, best),
    )


@stress(
    "T3.4", "Entropy collapse", "a bonus for being sure makes one action all, from the start, at any price"
)
def sure(lab: Lab) -> Outcome:
    sure, plain = (
        lab.scores("ppo", PATIENCE, params={"broken": {"ent_coef": -2.0}}),
        lab.scores("ppo", PATIENCE),
    )
    optimum = known(PATIENCE).optimum or np.nan
    return Outcome(
        bool((sure.dominance > 0.99).all() and (sure.true < 0.6 * optimum).all())
        and plain.dominance.mean() < 0.99,
        f"commonest action {sure.dominance.min():.1%} and more, return {sure} of {optimum:.3g}; in the "
        f"control {plain.dominance.mean():.1%}, return {plain}",
        {"sure": sure.true.tolist(), "plain": plain.true.tolist()},
        **counts("policy_collapse", sure, plain),
    )


@stress("T4.1", "Regime shift", "an agent of another regime is worse than one trained in the tested regime")
def shift(lab: Lab) -> Outcome:
    there, moved = lab.scores("dqn", PATIENCE), lab.scores("dqn", STABLE, PATIENCE)
    gap = beats(there, moved)
    control = beats(lab.scores("dqn", RECESSION), lab.scores("dqn", STABLE, RECESSION))
    return Outcome(
        gap.above and not control.above,
        f"stable to patience: {gap} behind one trained there; stable to recession: {control}, where the "
        f"published fall from 175 to 0.2 is the optimum's own",
        {"gap": str(gap), "control": str(control)},
    )


@stress(
    "T4.2", "Noisy sensors", "a CartPole policy falls under a noise that one trained with it stands better"
)
def noisy(lab: Lab) -> Outcome:
    plain, noise = World("cartpole_variant"), World("cartpole_variant", {"noise": 0.4})
    moved, there = lab.scores("ppo", plain, noise), lab.scores("ppo", noise)
    at_home = lab.scores("ppo", plain)
    gap, fall = beats(there, moved), beats(at_home, moved)
    return Outcome(
        gap.above and fall.above,
        f"falls by {fall}, and is {gap} behind one trained with the noise",
        {"moved": moved.true.tolist(), "there": there.true.tolist(), "home": at_home.true.tolist()},
    )


@stress(
    "T5.1", "Memory", "a cue that is shown once asks for a memory: an LSTM has it, a feed-forward net not"
)
def memory(lab: Lab) -> Outcome:
    world = World("memory_cue", {"delay": 4})
    own = {"gamma": 1.0, "bptt_horizon": 16, "learning_rate": 3e-3, "batch_size": 2048, "num_envs": 16}
    steps = 150_000
    with_it = lab.scores("ppo", world, steps=steps, params={**own, "recurrent": True})
    without = lab.scores("ppo", world, steps=steps, params=own)
    gain = beats(with_it, without)
    return Outcome(
        gain.above and bool((without.true < 0.5).all() and np.median(with_it.true) > 0.9),
        f"names the cue in {with_it} of episodes with an LSTM, {without} without",
        {"with": with_it.true.tolist(), "without": without.true.tolist()},
    )


@stress("T5.2", "Hidden burnout", "a career whose burnout is not shown is worth less, unless one remembers")
def hidden(lab: Lab) -> Outcome:
    blind = replace(PATIENCE, settings={**PATIENCE.settings, "hidden": "burnout,tenure"})
    own = {"batch_size": 2048, "num_envs": 16, "bptt_horizon": 16, "gamma": 0.98}
    steps = 200_000
    seen = lab.scores("ppo", PATIENCE, steps=steps, params=own)
    without = lab.scores("ppo", blind, steps=steps, params=own)
    with_it = lab.scores("ppo", blind, steps=steps, params={**own, "recurrent": True})
    lost, gain = beats(seen, without), beats(with_it, without)
    return Outcome(
        lost.above and gain.above,
        f"hiding it costs {lost}; an LSTM has {gain} of that back",
        {"seen": seen.true.tolist(), "without": without.true.tolist(), "with": with_it.true.tolist()},
    )


@stress("T6.1", "Volatility", "a volatile market makes returns vary, and learning poorer of what can be had")
def volatility(lab: Lab) -> Outcome:
    shares = {}
    for level in (0.05, 0.4):
        world = replace(PATIENCE, settings={**PATIENCE.settings, "salary_volatility": level})
        found, reference = lab.scores("dqn", world), known(world)
        shares[level] = np.array([reference.share(x) for x in found.true], float)
    fall = difference(shares[0.05], shares[0.4])
    return Outcome(
        fall.above,
        f"of the way from chance to the optimum {shares[0.05].mean():.1%} at 0.05 and "
        f"{shares[0.4].mean():.1%} at 0.4, {fall} less",
        {str(level): share.tolist() for level, share in shares.items()},
    )
