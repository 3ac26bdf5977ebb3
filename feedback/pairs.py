"""From votes to training rows: which answer was chosen over which, its weight, its split."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.types import Message, PreferencePair, Split
from feedback.connections import open_for_reading
from feedback.store import messages_from


@dataclass(frozen=True, slots=True, kw_only=True)
class UndecidedPair:
    """Two answers of which neither was preferred: for losses that learn from ties or bad answers.

    DPO has no use for these; KTO takes both answers of "both_bad" as undesirable.
    """

    prompt: tuple[Message, ...]
    first: str
    second: str
    outcome: Literal["tie", "both_bad"]
    picture_id: str | None
    split: Split
    vote_id: str


def preference_pairs(
    snapshot: Path,
    *,
    held_out_share: float,
    since: int | None = None,
    max_per_voter: int | None = None,
) -> list[PreferencePair]:
    """The answers people chose, in the order in which the votes came.

    Only clean votes for left or right in blind battles about answers count, and only where the
    two answers differ and were finished. Votes on the same two answers to the same prompt make
    one pair; where they are split evenly they make none. A pair weighs its agreement (the share
    of its votes that agree) divided by the number of pairs with its question and picture, so
    that nobody owns the loss by asking one thing often.

    Args:
        snapshot: a copy of the database, see `FeedbackStore.snapshot` and `take_snapshot`.
        held_out_share: of the questions, 0 to 1; the same question is always on the same side.
        since: only votes after this watermark; see `vote_watermark`.
        max_per_voter: only so many of each voter's newest votes.

    Raises:
        DataFolderError: the snapshot is missing or damaged.
    """
    decided = _decided(snapshot, since=since, max_per_voter=max_per_voter)
    pairs_of_prompt = Counter(_prompt_key(votes[0]) for votes, _, _ in decided)
    return [
        _pair(
            votes,
            chosen,
            weight=agreement / pairs_of_prompt[_prompt_key(votes[0])],
            held_out_share=held_out_share,
        )
        for votes, chosen, agreement in decided
    ]


def count_pairs(database: Path, *, since: int | None = None) -> int:
    """How many pairs `preference_pairs` would return, without making them."""
    return len(_decided(database, since=since, max_per_voter=None))


def undecided_pairs(
    snapshot: Path, *, held_out_share: float, since: int | None = None
) -> list[UndecidedPair]:
    """The clean, blind votes "same" and "both bad" on answers, one entry per vote."""
    return [
        UndecidedPair(
            prompt=messages_from(row["prompt"]),
            first=row["left_content"],
            second=row["right_content"],
            outcome=row["outcome"],
            picture_id=row["picture_id"],
            split=split_of(row["question"], row["picture_id"], held_out_share=held_out_share),
            vote_id=row["vote_id"],
        )
        for row in _counted_votes(snapshot, outcomes=("tie", "both_bad"), since=since)
    ]


def vote_watermark(snapshot: Path) -> int:
    """Sequence number of the newest vote, 0 when there is none; the next night's `since`."""
    with open_for_reading(snapshot) as db:
        newest: int = db.execute("SELECT coalesce(max(sequence), 0) FROM votes").fetchone()[0]
    return newest


def split_of(question: str, picture_id: str | None, *, held_out_share: float) -> Split:
    """Where a question about a picture belongs, whoever asks it, however spaced or capitalised.

    Never a property of the row: the same question on both sides would let training see the test.
    """
    digest = hashlib.sha256(_normal_prompt(question, picture_id).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    return "held_out" if place < held_out_share else "train"


def _decided(
    database: Path, *, since: int | None, max_per_voter: int | None
) -> list[tuple[list[Mapping[str, Any]], str, float]]:
    """Votes on the same two answers, the answer most of them chose, and their share."""
    rows = _counted_votes(database, outcomes=("left", "right"), since=since)
    votes_by_answers: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in _newest_per_voter(rows, max_per_voter):
        if row["left_content"].strip() != row["right_content"].strip():
            votes_by_answers[_same_answers_key(row)].append(row)
    majorities = [(votes, *_majority(votes)) for votes in votes_by_answers.values()]
    return [majority for majority in majorities if majority[2] > 0.5]


def _counted_votes(
    snapshot: Path, *, outcomes: Sequence[str], since: int | None
) -> list[Mapping[str, Any]]:
    places = ", ".join("?" * len(outcomes))
    with open_for_reading(snapshot) as db:
        return list(
            db.query(
                "SELECT * FROM voted_battles WHERE counts AND task = 'answer' "
                "AND left_finish_reason <> 'cancelled' AND right_finish_reason <> 'cancelled' "
                f"AND sequence > ? AND outcome IN ({places}) ORDER BY sequence",
                [since or 0, *outcomes],
            )
        )


def _newest_per_voter(
    rows: Sequence[Mapping[str, Any]], max_per_voter: int | None
) -> list[Mapping[str, Any]]:
    if max_per_voter is None:
        return list(rows)
    seen: Counter[str] = Counter()
    kept = []
    for row in reversed(rows):
        seen[row["voter_id"]] += 1
        if seen[row["voter_id"]] <= max_per_voter:
            kept.append(row)
    return kept[::-1]


def _normal_prompt(question: str, picture_id: str | None) -> str:
    return f"{' '.join(question.casefold().split())}\n{picture_id or ''}"


def _prompt_key(row: Mapping[str, Any]) -> str:
    return _normal_prompt(row["question"], row["picture_id"])


def _same_answers_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    answers = sorted((row["left_content"].strip(), row["right_content"].strip()))
    return (_prompt_key(row), row["prompt"], *answers)


def _chosen(row: Mapping[str, Any]) -> str:
    content: str = row[f"{row['outcome']}_content"]
    return content.strip()


def _majority(votes: Iterable[Mapping[str, Any]]) -> tuple[str, float]:
    """The answer most of the votes chose, and their share."""
    counts = Counter(_chosen(vote) for vote in votes)
    chosen, n = counts.most_common(1)[0]
    return chosen, n / counts.total()


def _pair(
    votes: Sequence[Mapping[str, Any]], chosen: str, *, weight: float, held_out_share: float
) -> PreferencePair:
    first = votes[0]
    is_left = first["left_content"].strip() == chosen
    preferred, rejected = ("left", "right") if is_left else ("right", "left")
    return PreferencePair(
        prompt=messages_from(first["prompt"]),
        chosen=first[f"{preferred}_content"],
        rejected=first[f"{rejected}_content"],
        chosen_ended=first[f"{preferred}_finish_reason"] == "stop",
        rejected_ended=first[f"{rejected}_finish_reason"] == "stop",
        picture_id=first["picture_id"],
        weight=weight,
        split=split_of(first["question"], first["picture_id"], held_out_share=held_out_share),
        vote_ids=tuple(vote["vote_id"] for vote in votes),
    )
