"""Votes become training pairs: which count, what they weigh, and on which side of the split."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.types import Message, Outcome, PreferencePair
from feedback.comparison import ComparisonDesk
from feedback.pairs import (
    count_pairs,
    preference_pairs,
    split_of,
    undecided_pairs,
    vote_watermark,
)
from feedback.store import FeedbackStore
from tests.battles import ballot, candidate, make_desk, open_battle


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        yield store


@pytest.fixture
def desk(store: FeedbackStore) -> ComparisonDesk:
    return make_desk(store)


def cast(
    desk: ComparisonDesk,
    outcome: Outcome = "left",
    *,
    voter: str = "ann",
    answers: tuple[str, str] = ("a cat", "a dog"),
    question: str = "What is this?",
    picture_id: str | None = "p1",
    dwell_ms: int = 3000,
) -> str:
    """Cast one vote; its id."""
    shown = open_battle(
        desk, voter=voter, answers=answers, question=question, picture_id=picture_id
    )
    return desk.vote(ballot(shown, outcome, voter=voter, dwell_ms=dwell_ms)).vote_id


def pairs_of(store: FeedbackStore, **options: int) -> list[PreferencePair]:
    snapshot = store.snapshot(store.path.with_name("snapshot.db"))
    pairs = preference_pairs(snapshot, held_out_share=0.2, **options)  # type: ignore[arg-type]
    if "max_per_voter" not in options:
        assert count_pairs(snapshot, since=options.get("since")) == len(pairs)
    return pairs


def test_a_vote_becomes_the_pair_it_chose(desk: ComparisonDesk, store: FeedbackStore) -> None:
    left = cast(desk, "left", question="one")
    right = cast(desk, "right", question="two", picture_id=None)
    first, second = pairs_of(store)
    assert (first.chosen, first.rejected, first.vote_ids) == ("a cat", "a dog", (left,))
    assert (second.chosen, second.rejected, second.vote_ids) == ("a dog", "a cat", (right,))
    assert first.prompt == (Message(role="user", content="one", has_picture=True),)
    assert (first.picture_id, second.picture_id) == ("p1", None)


@pytest.mark.parametrize("outcome", ["tie", "both_bad", "skip"])
def test_undecided_votes_train_no_preference(
    desk: ComparisonDesk, store: FeedbackStore, outcome: Outcome
) -> None:
    cast(desk, outcome)
    assert pairs_of(store) == []


def test_ties_and_bad_pairs_are_kept_for_losses_that_can_use_them(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    cast(desk, "left")
    tie, bad = cast(desk, "tie"), cast(desk, "both_bad")
    kept = undecided_pairs(store.snapshot(store.path.with_name("s.db")), held_out_share=0.2)
    assert [(pair.outcome, pair.vote_id) for pair in kept] == [("tie", tie), ("both_bad", bad)]
    assert (kept[0].first, kept[0].second) == ("a cat", "a dog")


def test_hasty_votes_train_nothing(desk: ComparisonDesk, store: FeedbackStore) -> None:
    cast(desk, dwell_ms=100)
    assert pairs_of(store) == []


def test_battles_in_which_an_answer_names_its_model_train_nothing(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    cast(desk, answers=("I am Heron, and this is a cat", "a dog"))
    assert pairs_of(store) == []


def test_answers_that_differ_in_spaces_only_train_nothing(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    cast(desk, answers=("a cat", " a cat\n"))
    assert pairs_of(store) == []


def test_illustrations_are_not_answers(desk: ComparisonDesk, store: FeedbackStore) -> None:
    shown = desk.open_battle(
        voter="ann",
        task="illustration",
        question="Draw a cat",
        prompt=(Message(role="user", content="Draw a cat"),),
        picture_id=None,
        candidates=(candidate("a.png"), candidate("b.png")),
        strategy="two_seeds",
    )
    desk.vote(ballot(shown))
    assert pairs_of(store) == []


def test_votes_on_the_same_answers_make_one_pair_that_weighs_their_agreement(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    votes = (
        cast(desk, "left", voter="ann"),
        cast(desk, "right", voter="bob", answers=("a dog", "a cat")),  # the cat again, right
        cast(desk, "right", voter="cy"),
    )
    (pair,) = pairs_of(store)
    assert (pair.chosen, pair.vote_ids) == ("a cat", votes)
    assert pair.weight == pytest.approx(2 / 3)  # two of three agree; one pair of this prompt


def test_an_even_split_makes_no_pair(desk: ComparisonDesk, store: FeedbackStore) -> None:
    cast(desk, "left", voter="ann")
    cast(desk, "right", voter="bob")
    assert pairs_of(store) == []


def test_pairs_of_one_prompt_share_its_weight(desk: ComparisonDesk, store: FeedbackStore) -> None:
    for answer in ("a cat", "a kitten", "a tabby", "a feline"):
        cast(desk, answers=(answer, "a dog"), question="What is this?")
    cast(desk, question="Another one?")
    weights = [pair.weight for pair in pairs_of(store)]
    assert weights == [0.25, 0.25, 0.25, 0.25, 1.0]


def test_only_votes_after_the_watermark_are_new(desk: ComparisonDesk, store: FeedbackStore) -> None:
    cast(desk, question="old")
    watermark = vote_watermark(store.path)
    new = cast(desk, question="new")
    assert [pair.vote_ids for pair in pairs_of(store, since=watermark)] == [(new,)]
    assert vote_watermark(store.path) == watermark + 1


def test_one_voter_gives_the_newest_votes_up_to_the_cap(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    votes = [cast(desk, question=f"q{n}") for n in range(5)]
    other = cast(desk, question="q", voter="bob")
    ids = [pair.vote_ids[0] for pair in pairs_of(store, max_per_voter=2)]
    assert ids == [votes[3], votes[4], other]


def test_the_split_follows_question_and_picture_not_the_row(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    for n in range(60):
        cast(desk, answers=(f"a cat {n}", "a dog"), question=f"Question {n % 12}?")
    splits: dict[tuple[str, str | None], set[str]] = {}
    for pair in pairs_of(store):
        splits.setdefault((pair.prompt[0].content, pair.picture_id), set()).add(pair.split)
    assert len(splits) == 12
    assert all(len(sides) == 1 for sides in splits.values())


def test_spaces_and_capitals_do_not_move_a_question_to_the_other_side() -> None:
    for n in range(50):
        plain = split_of(f"what is no {n}", "p", held_out_share=0.5)
        assert plain == split_of(f"  What is\tNO {n} ", "p", held_out_share=0.5)


def test_the_same_question_about_other_pictures_may_be_held_out_or_not() -> None:
    sides = {split_of("What is this?", f"p{n}", held_out_share=0.5) for n in range(50)}
    assert sides == {"train", "held_out"}


def test_the_held_out_share_is_what_was_asked_for() -> None:
    sides = [split_of(f"question {n}", None, held_out_share=0.2) for n in range(5000)]
    # 1000 expected, standard deviation 28; the hash is fixed, so this never varies.
    assert 900 < sides.count("held_out") < 1100
    assert split_of("q", None, held_out_share=0) == "train"
    assert split_of("q", None, held_out_share=1) == "held_out"


def test_a_larger_held_out_share_keeps_what_was_held_out() -> None:
    questions = [f"question {n}" for n in range(300)]
    small = {q for q in questions if split_of(q, None, held_out_share=0.1) == "held_out"}
    large = {q for q in questions if split_of(q, None, held_out_share=0.3) == "held_out"}
    assert small < large
