"""Detectors by the guide's names: rewards that are hacked, policies that collapse, values that explode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.failure_detection.detector import FailureDetector, Said
from pufferlib_kcore.failure_lab.failure_detection.updates import LIMITS, Limits, Returns, Update

UNKNOWN = "no reference return is given, so whether a better policy exists is not known"


class RewardHackingDetector(FailureDetector):
    """High rewards with high burnout; rewards that are against what they stand for.

    high      in more than 0.3 of the window's updates reward > 0.5 and burnout > 0.6
    critical  the correlation of reward and outcome is below -0.3; the outcome is a true return where one is
              told, else 1 where burnout < 0.5 and reward > 0

    from 50 updates on. Rewards of another size than 0 to 1 need other limits.
    """

    failure_type = "reward_hacking"

    def reset(self) -> None:
        super().reset()
        self._pairs = self._last()  # reward, burnout
        self._outcomes = self._last()  # reward, true return

    def keep(self, update: Update) -> None:
        told = update.numbers
        reward = told.get("reward", told.get("return"))
        if reward is not None and "burnout" in told:
            self._pairs.append((reward, told["burnout"]))
        if reward is not None and "true" in told:
            self._outcomes.append((reward, told["true"]))

    def rules(self) -> Iterator[Said]:
        t = self.limits
        pairs, outcomes = np.array(self._pairs), np.array(self._outcomes)
        if len(pairs) >= t.fewest:
            reward, burnout = pairs.T
            share = np.mean((reward > t.reward) & (burnout > t.burnout))
            if share > t.hacked:
                values = {"share": share, "mean_reward": reward.mean(), "mean_burnout": burnout.mean()}
                said = (
                    f"rewards above {t.reward:g} with burnout above {t.burnout:g} in {share:.0%} of updates"
                )
                yield Said(
                    "high", values, said, "a reward that pays less for what burns out, or a bound on it"
                )
            if not len(outcomes):
                outcomes = np.stack([reward, (burnout < t.fine) & (reward > 0)], 1)
        if len(outcomes) >= t.fewest and (outcomes.std(0) > 0).all():
            correlation = np.corrcoef(outcomes.T)[0, 1]
            if correlation < t.against:
                values = {"correlation": correlation, "mean_outcome": outcomes[:, 1].mean()}
                said = f"reward and outcome are against each other, with a correlation of {correlation:.2f}"
                yield Said("critical", values, said, "another reward: it pays for what it should not")


class PolicyCollapseDetector(FailureDetector):
    """A policy that is decided, or does one thing alone, and is no good.

    high    the mean of the last 20 entropies is below entropy_threshold [nats], from 10 on
    medium  one action is more than 0.95 of the window's, from 100 on; high: more than 0.99

    reference: the mean return of an episode by a better policy. With it neither counts unless the returns of
    the last 20 episodes are on average 10% of |reference| below it: what is sure and good has not collapsed.
    Without it, or without returns, dominance is low, and the description says what is missing.
    """

    failure_type = "policy_collapse"

    def __init__(
        self,
        entropy_threshold: float = LIMITS.entropy,
        reference: float | None = None,
        limits: Limits = LIMITS,
    ):
        self.entropy_threshold, self.reference = entropy_threshold, reference
        super().__init__(limits)

    def reset(self) -> None:
        super().reset()
        self._entropies, self._actions = self._last(self.limits.recent), self._last()
        self._returns = Returns(self.limits.window)

    def keep(self, update: Update) -> None:
        if "entropy" in update.numbers:
            self._entropies.append(update.numbers["entropy"])
        if update.action is not None:
            self._actions.append(update.action)
        self._returns.add(update)

    def rules(self) -> Iterator[Said]:
        t, own = self.limits, self._returns.recent(self.limits.recent)
        values: dict[str, float] = {} if own is None else {"episode_return": own}
        if self.reference is None:
            why = UNKNOWN
        elif own is None:
            why = "no episode return is told, so whether it is good is not known"
        elif own >= self.reference - t.short * abs(self.reference):
            return
        else:
            why = f"episodes return {own:.4g}, and {self.reference:.4g} is possible"
        if self.reference is not None:
            values["reference"] = self.reference
        known = self.reference is not None and own is not None
        more = "a larger entropy coefficient, or slower decay of exploration; the last checkpoint before it"
        if (
            len(self._entropies) >= t.few
            and (mean := float(np.mean(self._entropies))) < self.entropy_threshold
        ):
            said = f"the entropy is {mean:.3g}, below {self.entropy_threshold:g}; {why}"
            yield Said("high", {"entropy": mean, **values}, said, more)
        if len(self._actions) >= t.actions:
            action, count = Counter(self._actions).most_common(1)[0]
            if (share := count / len(self._actions)) > t.dominant:
                severity = "low" if not known else "high" if share > t.alone else "medium"
                said = f"action {action} is {share:.1%} of all; {why}"
                fix = more if known else "give reference=..: the return of a better policy, or of the optimum"
                yield Said(severity, {"action": action, "share": share, **values}, said, fix)


class NonstationarityDetector(FailureDetector):
    """Rewards that vary much, and turn again and again.

    low     the variance of the window's rewards is above 2, from 50 on; of rewards of about 0 to 1
    medium  that, and their trend turns at least 3 times: parts of 10 updates rise and fall in turn, by more
            than 2 standard errors each time
    """

    failure_type = "nonstationarity"

    def reset(self) -> None:
        super().reset()
        self._rewards = self._last()

    def keep(self, update: Update) -> None:
        reward = update.numbers.get("reward", update.numbers.get("return"))
        if reward is not None:
            self._rewards.append(reward)

    def rules(self) -> Iterator[Said]:
        t, rewards = self.limits, np.array(self._rewards)
        if len(rewards) < t.fewest or (variance := rewards.var()) <= t.variance:
            return
        turns = self._turns(rewards)
        values = {"variance": variance, "mean_reward": rewards.mean(), "turns": turns}
        said = f"the variance of rewards is {variance:.3g}, above {t.variance:g}"
        if turns < t.turns:
            yield Said("low", values, said, "look whether it turns; rewards brought to one scale")
        else:
            fix = "a smaller learning rate, and what changes in the world as an observation"
            yield Said("medium", values, f"{said}, and their trend turns {turns} times", fix)

    def _turns(self, rewards: np.ndarray) -> int:
        """How often a clear rise is followed by a clear fall, or a fall by a rise."""
        parts = rewards[len(rewards) % self.limits.few :].reshape(-1, self.limits.few)
        error = (parts.var(1, ddof=1).mean() * 2 / self.limits.few) ** 0.5
        change = np.diff(parts.mean(1))
        signs = np.sign(change[np.abs(change) > self.limits.clear * error])
        return int((signs[1:] != signs[:-1]).sum())


class ValueExplosionDetector(FailureDetector):
    """Values and losses that are not finite, or out of scale. Values: `q_values`, else `max_q` or `mean_q`.

    critical  any known metric was NaN or infinite
    high      |Q| above q_value_threshold in the window, from 20 values on; the mean of 10 losses above 1000
    medium    the window's last 10 |Q| are on average more than its first 10 and twice as much again

    value_scale: the size of true values, such as the best return times the rewards' scale. With it |Q| is too
    large above 10 times that, a loss above its square (and 1000), and growth counts beyond it alone: large
    values of large rewards explode not.
    """

    failure_type = "value_explosion"

    def __init__(
        self,
        q_value_threshold: float = LIMITS.q,
        value_scale: float | None = None,
        limits: Limits = LIMITS,
    ):
        if value_scale is not None and not value_scale > 0:
            raise UserError(f"value_scale={value_scale}: expected the size of true values, above 0")
        self.q_value_threshold, self.value_scale = q_value_threshold, value_scale
        super().__init__(limits)

    def reset(self) -> None:
        super().reset()
        self._q, self._losses = self._last(), self._last(self.limits.few)
        self._odd: dict[str, int] = {}  # metric: step at which it was first not finite

    def keep(self, update: Update) -> None:
        for name in update.odd:
            self._odd.setdefault(name, self.step)
        if "q" in update.numbers:
            self._q.append(abs(update.numbers["q"]))
        if "loss" in update.numbers:
            self._losses.append(update.numbers["loss"])

    def rules(self) -> Iterator[Said]:
        t, scale = self.limits, self.value_scale
        limit = self.q_value_threshold if scale is None else t.scale * scale
        against = (
            "the true scale of values is not given" if scale is None else f"true values are about {scale:g}"
        )
        calm = "a smaller learning rate, a bound on the gradient's norm, rewards scaled to about 1"
        for name, step in self._odd.items():
            said = f"{name} is NaN or infinite since step {step}"
            yield Said("critical", {"step": step}, said, f"the last checkpoint that is finite, and {calm}")
        if len(self._q) >= t.values:
            q = np.array(self._q)
            half = t.values // 2
            early, late = q[:half].mean(), q[-half:].mean()
            if q.max() > limit:
                said = f"|Q| is {q.max():.4g}, above {limit:g}; {against}"
                values = {"max_q": q.max(), "limit": limit}
                yield Said("high", values, said, f"a slower target network, {calm}")
            elif late - early > t.growth * max(early, 1e-8) and late > (scale or 0):
                said = f"|Q| grew from {early:.4g} to {late:.4g}; {against}"
                yield Said("medium", {"early": early, "late": late}, said, f"look on; {calm}")
        most = max(t.loss, (scale or 0) ** 2)
        if len(self._losses) >= t.few and (loss := float(np.mean(self._losses))) > most:
            yield Said("high", {"loss": loss}, f"the loss is {loss:.4g}, above {most:g}; {against}", calm)
