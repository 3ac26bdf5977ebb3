"""The numbers on the Insights page say what was voted."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from core.types import Outcome
from feedback.insights import Insights
from feedback.pairs import vote_watermark
from feedback.store import FeedbackStore
from tests.battles import ballot, make_desk, open_battle


class Clock:
    now = datetime(2026, 11, 21, 12).timestamp()  # noon, local time

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "feedback.db", clock=clock) as store:
        yield store


@pytest.fixture
def insights(store: FeedbackStore) -> Insights:
    return Insights(store.path)


def cast(store: FeedbackStore, *outcomes: Outcome, **battle: object) -> list[str]:
    desk = make_desk(store)
    return [
        desk.vote(ballot(open_battle(desk, **battle), outcome)).vote_id  # type: ignore[arg-type]
        for outcome in outcomes
    ]


def test_an_empty_store_has_zeros_and_no_plots(insights: Insights) -> None:
    assert insights.votes_per_day() == ()
    assert insights.votes_today() == 0
    assert set(insights.outcomes().values()) == {0}
    assert insights.version_results() == ()
    assert insights.reason_counts() == ()
    assert insights.clean_share() is None
    assert insights.pairs_missing(min_pairs=50) == 50


def test_votes_are_counted_by_local_day_without_skips(
    store: FeedbackStore, insights: Insights, clock: Clock
) -> None:
    cast(store, "left", "tie", "skip")
    clock.now += 24 * 3600
    cast(store, "both_bad")
    days = [(day.day, day.n) for day in insights.votes_per_day()]
    assert days == [("2026-11-21", 2), ("2026-11-22", 1)]
    assert [day.day for day in insights.votes_per_day(days=1)] == ["2026-11-22"]


def test_today_starts_at_midnight(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        cast(store, "left", "right", "skip")
        assert Insights(store.path).votes_today() == 2


def test_outcomes_and_sides(store: FeedbackStore, insights: Insights) -> None:
    cast(store, "left", "left", "left", "right", "tie", "both_bad", "skip")
    assert insights.outcomes() == {"left": 3, "right": 1, "tie": 1, "both_bad": 1, "skip": 1}
    balance = insights.side_balance()
    assert (balance.left, balance.right, balance.share_left.estimate) == (3, 1, 0.75)


def test_a_version_wins_wherever_it_stood(store: FeedbackStore, insights: Insights) -> None:
    cast(store, "left", "tie", adapters=("v0002", "v0001"), strategy="two_versions")
    cast(store, "right", "left", adapters=("v0001", "v0002"), strategy="two_versions")
    cast(store, "left", adapters=("v0001", None), strategy="two_versions")
    cast(store, "left", "skip", adapters=("v0002", "v0002"))  # two seeds say nothing of versions
    first, second = insights.version_results()
    assert (first.version, first.opponent, first.wins, first.losses) == ("v0001", None, 1, 0)
    assert (second.version, second.opponent) == ("v0002", "v0001")
    assert (second.wins, second.losses, second.ties) == (2, 1, 1)
    assert second.win_rate.estimate == 2.5 / 4


def test_marked_votes_do_not_move_the_win_rate(store: FeedbackStore, insights: Insights) -> None:
    desk = make_desk(store)
    shown = open_battle(desk, adapters=("v0001", None), strategy="two_versions")
    desk.vote(ballot(shown, dwell_ms=5))
    assert insights.version_results() == ()
    assert insights.clean_share() == 0


def test_a_reason_counts_once_per_vote(store: FeedbackStore, insights: Insights) -> None:
    desk = make_desk(store)
    one = desk.vote(ballot(open_battle(desk), reasons=("shorter",)))
    two = desk.vote(ballot(open_battle(desk)))
    desk.explain(vote_id=one.vote_id, voter="ann", reasons=("shorter", "clearer"))
    desk.explain(vote_id=two.vote_id, voter="ann", reasons=("shorter",))
    counts = [(count.reason, count.n) for count in insights.reason_counts()]
    assert counts == [("shorter", 2), ("clearer", 1)]


def test_pairs_until_the_next_night(store: FeedbackStore, insights: Insights) -> None:
    cast(store, "left", question="one")
    watermark = vote_watermark(store.path)
    assert insights.pairs_missing(min_pairs=3) == 2
    cast(store, "left", "tie", question="two")
    assert insights.pairs_missing(min_pairs=3) == 1
    assert insights.pairs_missing(min_pairs=3, since=watermark) == 2
    assert insights.new_pairs(since=watermark) == 1
    assert insights.pairs_missing(min_pairs=1) == 0
