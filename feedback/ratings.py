"""What votes say about versions, with intervals that admit how few they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from core.types import Interval, SideBalance

Z_95 = NormalDist().inv_cdf(0.975)
PRIOR_SD = (
    5.0  # log-odds; keeps a version that never lost at a finite strength, hardly moves others
)
MAX_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How often `first` won, lost and tied against `second`."""

    first: str
    second: str
    wins: float
    losses: float
    ties: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """Strengths in log-odds against the anchor, whose strength is 0."""

    strengths: dict[str, Interval]
    tie_log_odds: float  # logarithm of Davidson's nu: log-odds of a tie against a win among equals
    is_converged: bool


def wilson_interval(successes: float, trials: int) -> Interval:
    """The share of successes and its 95 % score interval; (0, 1) when nothing was tried.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209. Fractional successes (half a win for a tie)
    vary less than whole ones, so that the interval is then a little too wide, never too narrow.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and trials, got {successes} of {trials}")
    if trials == 0:
        return Interval(estimate=0.5, low=0.0, high=1.0, n=0)
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    half = Z_95 * spread / (1 + z2 / trials)
    # Rounding may push a bound past the share at 0 and 1.
    low, high = min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
    return Interval(estimate=share, low=low, high=high, n=trials)


def win_rate(*, wins: int, losses: int, ties: int = 0) -> Interval:
    """How often one beats the other, a tie counting as half a win, with its 95 % interval."""
    return wilson_interval(wins + ties / 2, wins + losses + ties)


def side_balance(left: int, right: int) -> SideBalance:
    """Whether left wins more or less often than chance allows; sides are drawn at random."""
    n = left + right
    # Two-sided binomial test with p = 1/2: twice the tail beyond the fuller side, summed in logs
    # because 2**-n underflows from n = 1075 on.
    k = np.arange(max(left, right), n + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_terms = log_factorials[n] - log_factorials[k] - log_factorials[n - k] - n * math.log(2)
    return SideBalance(
        left=left,
        right=right,
        share_left=wilson_interval(left, n),
        p_value=min(1.0, 2 * float(np.exp(log_terms).sum())),
    )


def davidson(matches: Sequence[Match], *, anchor: str) -> Ratings:
    """Strengths of all versions, and how readily people call a tie, by maximum posterior.

    P(i beats j) is proportional to exp((s_i - s_j) / 2), P(tie) to nu; without ties in the data
    this is Bradley and Terry's model. The log-likelihood is concave, so Newton's method with
    halved steps finds its top. Intervals are Wald's, 95 %.

    Args:
        anchor: the version whose strength is 0; usually the base model.

    Raises:
        ValueError: a version is matched with itself, or a count is negative.

    Source: Davidson 1970, J. Am. Stat. Assoc. 65, 317, eq. 2.5.
    """
    _check(matches)
    names = sorted({name for match in matches for name in (match.first, match.second)} - {anchor})
    design = _design(matches, names)  # (M, 3, P): win, loss, tie; P = versions and log nu
    counts = np.array([[match.wins, match.losses, match.ties] for match in matches])
    counts = counts.reshape(-1, 3)
    values = np.zeros(len(names) + 1)
    is_converged = False
    for _ in range(MAX_STEPS):
        gradient, curvature = _slopes(values, design, counts)
        step = np.linalg.solve(curvature, gradient)
        values = _uphill(values, step, design, counts)
        if np.abs(step).max() < 1e-9:
            is_converged = True
            break
    _, curvature = _slopes(values, design, counts)
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    played = {
        name: int(sum(c.sum() for m, c in zip(matches, counts, strict=True) if name in _sides(m)))
        for name in [anchor, *names]
    }
    strengths = {anchor: Interval(estimate=0.0, low=0.0, high=0.0, n=played[anchor])}
    for name, value, error in zip(names, values[:-1], errors[:-1], strict=True):
        half = Z_95 * float(error)
        strengths[name] = Interval(
            estimate=float(value), low=float(value) - half, high=float(value) + half, n=played[name]
        )
    return Ratings(strengths=strengths, tie_log_odds=float(values[-1]), is_converged=is_converged)


def _check(matches: Sequence[Match]) -> None:
    for match in matches:
        if match.first == match.second:
            raise ValueError(f"{match.first!r} is matched with itself")
        if min(match.wins, match.losses, match.ties) < 0:
            raise ValueError(f"counts must not be negative, got {match}")


def _sides(match: Match) -> tuple[str, str]:
    return match.first, match.second


def _design(matches: Sequence[Match], names: Sequence[str]) -> np.ndarray:
    design = np.zeros((len(matches), 3, len(names) + 1))
    for row, match in zip(design, matches, strict=True):
        for name, sign in ((match.first, 0.5), (match.second, -0.5)):
            if name in names:
                row[0, names.index(name)] = sign
                row[1, names.index(name)] = -sign
        row[2, -1] = 1.0
    return design


def _log_probabilities(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    utilities = design @ values
    return utilities - np.logaddexp.reduce(utilities, axis=1, keepdims=True)


def _log_posterior(values: np.ndarray, design: np.ndarray, counts: np.ndarray) -> float:
    likelihood = (counts * _log_probabilities(values, design)).sum()
    return float(likelihood - (values**2).sum() / (2 * PRIOR_SD**2))


def _slopes(
    values: np.ndarray, design: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and negative Hessian of the log-posterior. Shapes (P,) and (P, P)."""
    p = np.exp(_log_probabilities(values, design))
    n = counts.sum(axis=1)
    mean = np.einsum("mc,mcp->mp", p, design)
    gradient = np.einsum("mc,mcp->p", counts, design) - n @ mean - values / PRIOR_SD**2
    second = np.einsum("m,mc,mcp,mcq->pq", n, p, design, design)
    curvature = second - np.einsum("m,mp,mq->pq", n, mean, mean)
    return gradient, curvature + np.eye(len(values)) / PRIOR_SD**2


def _uphill(
    values: np.ndarray, step: np.ndarray, design: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    # Near the top a good step changes the posterior by less than its rounding error.
    before = _log_posterior(values, design, counts)
    before -= 1e-12 * abs(before)
    while np.abs(step).max() > 1e-12:
        if _log_posterior(values + step, design, counts) >= before:
            return values + step
        step = step / 2
    return values
