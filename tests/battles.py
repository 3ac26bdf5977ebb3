"""Battles and ballots for the tests of the feedback room."""

import uuid
from collections.abc import Sequence

from core.settings import ComparisonPreset
from core.types import Ballot, BlindBattle, Candidate, Message, Outcome, Strategy
from feedback.comparison import ComparisonDesk
from feedback.connections import open_for_reading
from feedback.store import FeedbackStore

SECRET = b"s" * 32


def make_desk(store: FeedbackStore, **settings: float) -> ComparisonDesk:
    """A desk that marks nobody for voting quickly, unless `settings` say otherwise."""
    preset = ComparisonPreset(**{"max_votes_per_minute": 1_000_000, **settings})
    return ComparisonDesk(store, secret=SECRET, preset=preset, clock=store._clock)


def candidate(content: str, *, adapter: str | None = None, seed: int = 1) -> Candidate:
    return Candidate(
        content=content,
        model_id="lab/Heron-2B-Instruct",
        revision="abc123",
        adapter=adapter,
        seed=seed,
        parameters={"temperature": 0.7},
        n_tokens=3,
        latency_ms=40,
    )


def open_battle(
    desk: ComparisonDesk,
    *,
    voter: str = "ann",
    question: str = "What is this?",
    picture_id: str | None = "p1",
    answers: Sequence[str] = ("a cat", "a dog"),
    adapters: Sequence[str | None] = (None, None),
    strategy: Strategy = "two_seeds",
) -> BlindBattle:
    left, right = (
        candidate(answer, adapter=adapter, seed=seed)
        for seed, (answer, adapter) in enumerate(zip(answers, adapters, strict=True), start=11)
    )
    return desk.open_battle(
        voter=voter,
        task="answer",
        question=question,
        prompt=(Message(role="user", content=question, has_picture=picture_id is not None),),
        picture_id=picture_id,
        candidates=(left, right),
        strategy=strategy,
    )


def ballot(
    battle: BlindBattle, outcome: Outcome = "left", *, voter: str = "ann", **fields: object
) -> Ballot:
    values = {"id": uuid.uuid4().hex, "dwell_ms": 3000, **fields}
    return Ballot(ticket=battle.ticket, outcome=outcome, voter=voter, **values)  # type: ignore[arg-type]


def count(store: FeedbackStore, sql: str = "SELECT count(*) FROM votes") -> int:
    with open_for_reading(store.path) as db:
        return int(db.execute(sql).fetchone()[0])
