"""Intervals and strengths, against values worked out by hand or simulated with known ones."""

import math

import numpy as np
import pytest

from feedback.ratings import Match, davidson, side_balance, wilson_interval, win_rate


def test_wilson_interval_by_hand() -> None:
    # 8 of 10, z = 1.959964: centre (0.8 + 0.19207) / 1.38415, half width
    # 1.959964 * sqrt(0.016 + 0.0096036) / 1.38415, that is 0.71674 -+ 0.22658.
    interval = wilson_interval(8, 10)
    assert interval.estimate == 0.8
    assert interval.low == pytest.approx(0.49016, abs=1e-4)
    assert interval.high == pytest.approx(0.94332, abs=1e-4)


def test_no_trials_say_nothing() -> None:
    interval = wilson_interval(0, 0)
    assert (interval.low, interval.high, interval.n) == (0, 1, 0)


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (1, 1), (0, 100_000)])
def test_intervals_stay_within_bounds_and_hold_their_estimate(successes: int, trials: int) -> None:
    interval = wilson_interval(successes, trials)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and trials"):
        wilson_interval(3, 2)


def test_wilson_interval_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        interval = wilson_interval(int(rng.binomial(40, 0.3)), 40)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.93 < covered / 2000 < 0.97


def test_a_tie_is_half_a_win() -> None:
    assert win_rate(wins=6, losses=2, ties=2).estimate == 0.7
    assert win_rate(wins=0, losses=0, ties=4).estimate == 0.5


def test_side_balance_by_hand() -> None:
    # Of 10 votes 8 on one side: 2 * (45 + 10 + 1) / 1024.
    assert side_balance(8, 2).p_value == pytest.approx(112 / 1024)
    assert side_balance(2, 8).p_value == pytest.approx(112 / 1024)
    assert side_balance(5, 5).p_value == 1
    assert side_balance(0, 0).p_value == 1


def test_side_balance_of_many_votes_is_finite_and_tells_a_real_lean() -> None:
    assert side_balance(50_300, 49_700).p_value > 0.05
    assert 0 < side_balance(52_000, 48_000).p_value < 1e-30


def test_two_versions_have_the_log_ratio_of_their_wins() -> None:
    # Davidson's likelihood equations for two: s = ln(wins / losses), nu = ties / sqrt(w * l).
    ratings = davidson(
        [Match(first="v1", second="base", wins=600, losses=300, ties=100)], anchor="base"
    )
    assert ratings.is_converged
    assert ratings.strengths["base"].estimate == 0
    assert ratings.strengths["v1"].estimate == pytest.approx(math.log(2), abs=0.002)
    assert ratings.tie_log_odds == pytest.approx(math.log(100 / math.sqrt(600 * 300)), abs=0.005)


def test_the_order_of_the_votes_does_not_matter() -> None:
    matches = [
        Match(first="v1", second="base", wins=7, losses=3, ties=2),
        Match(first="v2", second="v1", wins=6, losses=4),
        Match(first="base", second="v2", wins=1, losses=9, ties=1),
    ]
    turned = [
        Match(first=m.second, second=m.first, wins=m.losses, losses=m.wins, ties=m.ties)
        for m in reversed(matches)
    ]
    one, two = davidson(matches, anchor="base"), davidson(turned, anchor="base")
    for name in ("v1", "v2"):
        assert one.strengths[name].estimate == pytest.approx(two.strengths[name].estimate)


def simulated(rng: np.random.Generator, strengths: dict[str, float], log_nu: float) -> list[Match]:
    matches = []
    names = list(strengths)
    for first, second in zip(names, names[1:] + names[:1], strict=True):
        half = (strengths[first] - strengths[second]) / 2
        odds = np.exp([half, -half, log_nu])
        wins, losses, ties = rng.multinomial(80, odds / odds.sum())
        matches.append(
            Match(first=first, second=second, wins=int(wins), losses=int(losses), ties=int(ties))
        )
    return matches


def test_intervals_cover_known_strengths_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    truth = {"base": 0.0, "v1": 0.8, "v2": 1.1, "v3": -0.5}
    covered = total = 0
    for _ in range(150):
        ratings = davidson(simulated(rng, truth, -0.7), anchor="base")
        assert ratings.is_converged
        for name in ("v1", "v2", "v3"):
            interval = ratings.strengths[name]
            covered += interval.low <= truth[name] <= interval.high
            total += 1
    assert 0.92 < covered / total < 0.98


def test_a_version_that_never_lost_gets_a_finite_strength_and_a_wide_interval() -> None:
    ratings = davidson([Match(first="v1", second="base", wins=10, losses=0)], anchor="base")
    strength = ratings.strengths["v1"]
    assert ratings.is_converged
    assert 1 < strength.estimate < 10
    assert strength.high - strength.low > 4


def test_a_version_never_compared_is_known_to_be_unknown() -> None:
    matches = [
        Match(first="v1", second="base", wins=50, losses=50),
        Match(first="v3", second="v2", wins=50, losses=50),
    ]
    strength = davidson(matches, anchor="base").strengths["v2"]
    assert strength.low < -5 and strength.high > 5


def test_no_votes_rate_the_anchor_only() -> None:
    assert set(davidson([], anchor="base").strengths) == {"base"}


def test_a_version_cannot_meet_itself() -> None:
    with pytest.raises(ValueError, match="itself"):
        davidson([Match(first="v1", second="v1", wins=1, losses=0)], anchor="base")
