"""Seeds: what differs in run, time, use or environment shares no stream, and the same is always the same."""

from itertools import product

import numpy as np
import torch

from pufferlib_kcore.environments.seeds import MADE_UP, RECORDING, env_seed, env_seeds, generator


def test_no_two_environments_of_any_runs_starts_or_uses_share_a_seed():
    runs = range(5), (0, 1, 2, 64, 2**32, 2**32 + 1, 2**40), range(16)
    trained = [env_seed((run, steps), env) for run, steps, env in product(*runs)]
    played = [env_seed(run, env) for run, env in product(range(5), range(16))]
    uses = (RECORDING, MADE_UP)
    beside = [
        env_seed((run, use, i), env) for run, use, i, env in product(range(5), uses, range(3), range(16))
    ]
    every = trained + played + beside
    assert len(set(every)) == len(every)


def test_zeros_and_the_places_of_numbers_count():
    """np.random.SeedSequence itself takes [5], [5, 0] and [5, 0, 0] for one."""
    entropies = [5, (5, 0), (5, 0, 0), (0, 5), (5 << 32, 0), (5 << 32,), (5, 5 << 32), (0, 5, 0)]
    assert len({env_seed(entropy, 0) for entropy in entropies}) == len(entropies)
    drawn = {generator(entropy).initial_seed() for entropy in entropies}
    assert len(drawn) == len(entropies)


def test_a_number_alone_is_a_sequence_of_one_and_a_part_of_more_goes_on_where_it_starts():
    assert env_seed(7, 3) == env_seed((7,), 3) == env_seed(np.int64(7), 3) == env_seed([7], np.int64(3))
    assert env_seeds((7, 2), 0, 8) == env_seeds((7, 2), 0, 5) + env_seeds((7, 2), 5, 3)


def test_any_whole_numbers_give_seeds_that_gymnasium_and_ale_take():
    for entropy in (0, -7, 2**31 + 5, 2**63, (2**31 - 1, 10**15)):
        assert all(0 <= seed < 2**31 and type(seed) is int for seed in env_seeds(entropy, 0, 64))


def test_a_generator_draws_the_same_again_and_other_numbers_of_other_entropy():
    one, again, other = (torch.rand(8, generator=generator(entropy)) for entropy in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_streams_of_neighbouring_runs_are_not_correlated():
    """What 256 environments each of runs 1 and 2 draw first is as independent as chance makes it."""
    drawn = np.array([[np.random.default_rng(s).random() for s in env_seeds(run, 0, 256)] for run in (1, 2)])
    assert abs(np.corrcoef(drawn)[0, 1]) < 4 / 256**0.5
