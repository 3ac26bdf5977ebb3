"""Blind until the vote, one vote per battle, and every refusal says what to do."""

import base64
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from core.errors import DataFolderError, VoteError
from core.settings import ComparisonPreset
from core.types import (
    Evidence,
    GalleryPicture,
    Label,
    Message,
    SearchHit,
)
from feedback.comparison import ComparisonDesk, find_leaks, load_or_make_secret
from feedback.connections import open_for_reading
from feedback.store import FeedbackStore
from tests.battles import SECRET, ballot, candidate, count, make_desk, open_battle


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

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
def desk(store: FeedbackStore) -> ComparisonDesk:
    return make_desk(store)


def statuses(store: FeedbackStore) -> list[tuple[str, list[str]]]:
    with open_for_reading(store.path) as db:
        rows = db.execute("SELECT status, status_reasons FROM votes ORDER BY sequence").fetchall()
    return [(status, json.loads(reasons)) for status, reasons in rows]


# Choosing the rows


def test_sides_are_fair_over_ten_thousand_pairs(store: FeedbackStore) -> None:
    desk = make_desk(store, two_versions_share=1)
    lefts = [desk.choose_rows("v0002", "v0001")[0].adapter for _ in range(10_000)]
    # 5000 expected, standard deviation 50: beyond 4.5 of them once in 150,000 runs.
    assert 4775 < lefts.count("v0002") < 5225
    changes = sum(one != two for one, two in zip(lefts, lefts[1:], strict=False))
    assert 4775 < changes < 5225  # a side says nothing about the next one


def test_versions_and_seeds_are_compared_in_the_share_asked_for(store: FeedbackStore) -> None:
    desk = make_desk(store, two_versions_share=0.25)
    strategies = Counter(desk.choose_rows("v0002", "v0001")[2] for _ in range(4000))
    # 1000 expected, standard deviation 27.
    assert 875 < strategies["two_versions"] < 1125
    assert strategies.total() == 4000


@pytest.mark.parametrize(
    ("live", "previous", "adapters"),
    [
        (None, None, {None}),
        ("v0001", "v0001", {"v0001"}),
        ("v0001", None, {"v0001", None}),
        ("v0002", "v0001", {"v0002", "v0001"}),
    ],
)
def test_rows_hold_the_live_adapter_and_its_opponent(
    store: FeedbackStore, live: str | None, previous: str | None, adapters: set[str | None]
) -> None:
    left, right, strategy = make_desk(store, two_versions_share=1).choose_rows(live, previous)
    assert {left.adapter, right.adapter} == adapters
    assert strategy == ("two_seeds" if len(adapters) == 1 else "two_versions")
    assert left.seed != right.seed


def test_two_seeds_come_from_the_live_adapter(store: FeedbackStore) -> None:
    left, right, strategy = make_desk(store, two_versions_share=0).choose_rows("v2", "v1")
    assert (left.adapter, right.adapter, strategy) == ("v2", "v2", "two_seeds")


# Blindness


def test_nothing_before_the_vote_names_a_side(desk: ComparisonDesk) -> None:
    shown = open_battle(desk, adapters=("v0007", None), strategy="two_versions")
    visible = json.dumps(asdict(shown))
    for secret in ("v0007", "base", "Heron", "abc123", "two_versions", "adapter", "seed"):
        assert secret not in visible
    battle_id, expires, _, signature = shown.ticket.split(".")
    assert battle_id == shown.battle_id
    assert re.fullmatch(r"[0-9a-f]{32}\.\d+\.[0-9a-f]{16}\.[\w-]{43}", shown.ticket)
    assert len(base64.urlsafe_b64decode(signature + "=")) == 32


def test_swapped_sides_look_the_same_but_for_the_answers(desk: ComparisonDesk) -> None:
    one = open_battle(desk, adapters=("v0001", None))
    two = open_battle(desk, adapters=(None, "v0001"))
    assert (one.question, one.left, one.right) == (two.question, two.left, two.right)
    assert one.ticket.split(".")[1:3] == two.ticket.split(".")[1:3]


def test_the_vote_reveals_both_sides(desk: ComparisonDesk) -> None:
    shown = open_battle(desk, adapters=("v0003", None), strategy="two_versions")
    reveal = desk.vote(ballot(shown, "right"))
    assert (reveal.left, reveal.right) == ("adapter v0003, seed 11", "base model, seed 12")
    assert (reveal.outcome, reveal.battle_id, reveal.is_new) == ("right", shown.battle_id, True)


@pytest.mark.parametrize(
    ("answer", "adapter", "leaks"),
    [
        ("A grey heron stands in the water.", None, ["left: heron"]),
        ("I was tuned as v0004 last night.", "v0004", ["left: v0004"]),
        ("As an AI language model I cannot see.", None, ["left: as an ai language model"]),
        ("I am SmolLM, trained by Hugging Face.", None, ["left: smollm"]),
        ("A cat, based on its ears. It is a visionary.", "v0004", []),
    ],
)
def test_answers_that_say_who_they_are_are_found(
    store: FeedbackStore, answer: str, adapter: str | None, leaks: list[str]
) -> None:
    desk = make_desk(store)
    shown = open_battle(desk, answers=(answer, "a dog"), adapters=(adapter, None))
    battle = store.battle(shown.battle_id)
    assert battle is not None
    assert list(find_leaks(battle)) == leaks
    with open_for_reading(store.path) as db:
        assert json.loads(db.execute("SELECT leaks FROM battles").fetchone()[0]) == leaks


# Tickets


def test_a_vote_survives_a_restart_between_pair_and_vote(tmp_path: Path) -> None:
    path, key = tmp_path / "feedback.db", tmp_path / "secret.key"
    preset = ComparisonPreset()
    with FeedbackStore(path) as store:
        desk = ComparisonDesk(store, secret=load_or_make_secret(key), preset=preset)
        vote = ballot(open_battle(desk))
    with FeedbackStore(path) as store:
        desk = ComparisonDesk(store, secret=load_or_make_secret(key), preset=preset)
        assert desk.vote(vote).is_new
    with FeedbackStore(path) as store:
        desk = ComparisonDesk(store, secret=load_or_make_secret(key), preset=preset)
        assert not desk.vote(vote).is_new


def test_no_changed_ticket_is_accepted(desk: ComparisonDesk, store: FeedbackStore) -> None:
    vote = ballot(open_battle(desk))
    for place, letter in enumerate(vote.ticket):
        other = "0" if letter != "0" else "1"
        changed = vote.ticket[:place] + other + vote.ticket[place + 1 :]
        # The last letter of the signature carries two bits that mean nothing; still refused.
        with pytest.raises(VoteError, match="not issued here.*Ask for a new pair"):
            desk.vote(replace(vote, ticket=changed))
    assert count(store) == 0


@pytest.mark.parametrize("ticket", ["", "x", "a.b.c.d", "\ud800", "٣" * 90, "0" * 100_000])
def test_rubbish_instead_of_a_ticket_is_refused(desk: ComparisonDesk, ticket: str) -> None:
    vote = ballot(open_battle(desk))
    with pytest.raises(VoteError, match="not issued here"):
        desk.vote(replace(vote, ticket=ticket))


def test_a_ticket_of_another_installation_is_refused(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    elsewhere = ComparisonDesk(store, secret=b"t" * 32, preset=desk._preset)
    with pytest.raises(VoteError, match="not issued here"):
        desk.vote(ballot(open_battle(elsewhere)))


def test_a_ticket_for_a_battle_that_is_gone_is_refused(
    desk: ComparisonDesk, tmp_path: Path, clock: Clock
) -> None:
    vote = ballot(open_battle(desk))
    with FeedbackStore(tmp_path / "fresh.db", clock=clock) as fresh:
        with pytest.raises(VoteError, match="not known here.*Ask for a new pair"):
            make_desk(fresh).vote(vote)


def test_another_voters_ticket_is_refused(desk: ComparisonDesk, store: FeedbackStore) -> None:
    vote = ballot(open_battle(desk, voter="ann"), voter="bob")
    with pytest.raises(VoteError, match="another browser.*Ask for a pair of your own"):
        desk.vote(vote)
    assert count(store) == 0


def test_an_expired_ticket_is_refused(desk: ComparisonDesk, clock: Clock) -> None:
    in_time, late = open_battle(desk), open_battle(desk)
    clock.now += 120 * 60
    desk.vote(ballot(in_time))
    clock.now += 1
    with pytest.raises(VoteError, match="more than 120 minutes.*Ask for a new pair"):
        desk.vote(ballot(late))


def test_a_repeated_ballot_is_answered_even_after_the_ticket_expired(
    desk: ComparisonDesk, clock: Clock
) -> None:
    vote = ballot(open_battle(desk))
    first = desk.vote(vote)
    clock.now += 7 * 24 * 3600
    assert desk.vote(vote) == replace(first, is_new=False)


def test_a_used_ticket_takes_no_second_vote(desk: ComparisonDesk, store: FeedbackStore) -> None:
    shown = open_battle(desk)
    desk.vote(ballot(shown, "left"))
    for outcome in ("left", "right", "skip"):
        with pytest.raises(VoteError, match="already voted.*Go on to the next pair"):
            desk.vote(ballot(shown, outcome))  # type: ignore[arg-type]
    assert count(store) == 1


def test_a_repeated_id_with_another_outcome_is_a_second_vote(desk: ComparisonDesk) -> None:
    vote = ballot(open_battle(desk), "left")
    desk.vote(vote)
    with pytest.raises(VoteError, match="already voted"):
        desk.vote(replace(vote, outcome="right"))


def test_a_used_id_cannot_vote_on_another_battle(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    vote = ballot(open_battle(desk))
    desk.vote(vote)
    with pytest.raises(VoteError):
        desk.vote(replace(vote, ticket=open_battle(desk).ticket))
    assert count(store) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", "", "fresh UUID"),
        ("id", "a'; DROP TABLE votes", "fresh UUID"),
        ("id", 7, "fresh UUID"),
        ("outcome", "best", "Send one of left, right"),
        ("outcome", None, "Send one of left, right"),
        ("input_device", "telepathy", "Send one of key, mouse"),
        ("voter", "", "1 to 200 characters"),
        ("reasons", ("x",) * 13, "at most 12"),
        ("reasons", ("x" * 81,), "up to 80 characters"),
        ("reasons", (3,), "at most 12"),
        ("comment", "x" * 2001, "2,001 characters and the limit is 2,000"),
    ],
)
def test_a_ballot_filled_in_wrongly_says_what_to_send(
    desk: ComparisonDesk, store: FeedbackStore, field: str, value: object, message: str
) -> None:
    vote = replace(ballot(open_battle(desk)), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(VoteError, match=message):
        desk.vote(vote)
    assert count(store) == 0


# Marks


@pytest.mark.parametrize(
    ("dwell_ms", "status"),
    [
        (699, ("flagged", ["too_fast"])),
        (700, ("clean", [])),
        (None, ("clean", [])),
        (-5, ("flagged", ["too_fast"])),
        (float("nan"), ("clean", [])),
        (10**30, ("clean", [])),
    ],
)
def test_votes_faster_than_reading_are_kept_and_marked(
    desk: ComparisonDesk, store: FeedbackStore, dwell_ms: int | None, status: tuple[str, list[str]]
) -> None:
    assert desk.vote(ballot(open_battle(desk), dwell_ms=dwell_ms)).is_new
    assert statuses(store) == [status]


def test_votes_beyond_the_rate_are_marked_until_the_minute_is_over(
    store: FeedbackStore, clock: Clock
) -> None:
    desk = make_desk(store, max_votes_per_minute=3)
    for seconds in (0, 10, 10, 10, 60):
        clock.now += seconds
        desk.vote(ballot(open_battle(desk)))
    desk.vote(ballot(open_battle(desk, voter="bob"), voter="bob"))
    marked = [status == "flagged" for status, _ in statuses(store)]
    assert marked == [False, False, False, True, False, False]


# Reasons afterwards


def test_reasons_come_after_the_vote_and_from_its_voter_only(
    desk: ComparisonDesk, store: FeedbackStore
) -> None:
    reveal = desk.vote(ballot(open_battle(desk)))
    desk.explain(vote_id=reveal.vote_id, voter="ann", reasons=("shorter", "clearer"))
    for vote_id, voter in ((reveal.vote_id, "bob"), ("never-cast", "ann")):
        with pytest.raises(VoteError, match="Vote first, then say why"):
            desk.explain(vote_id=vote_id, voter=voter, reasons=("shorter",))
    with pytest.raises(VoteError, match="Make it shorter"):
        desk.explain(vote_id=reveal.vote_id, voter="ann", comment="x" * 3000)
    assert count(store, "SELECT count(*) FROM vote_notes") == 1


def test_evidence_is_kept_with_the_battle(desk: ComparisonDesk, store: FeedbackStore) -> None:
    label = Label(text="cat", confidence=0.9, kind="object", source="imagenet")
    picture = GalleryPicture(
        id="g1", path=Path("g1.webp"), caption="a cat", labels=("cat",), album="photographs"
    )
    shown = desk.open_battle(
        voter="ann",
        task="answer",
        question="What?",
        prompt=(Message(role="user", content="What?"),),
        picture_id=None,
        candidates=(candidate("a"), candidate("b")),
        strategy="two_seeds",
        evidence=Evidence(
            labels=(label,), neighbours=(SearchHit(picture=picture, score=0.5, matched="picture"),)
        ),
    )
    battle = store.battle(shown.battle_id)
    assert battle is not None
    assert battle.evidence == {
        "labels": [["cat", "object", 0.9]],
        "neighbours": [["g1", "a cat", 0.5]],
    }


# The secret


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret.key"
    secret = load_or_make_secret(path)
    assert len(secret) == len(SECRET)
    assert load_or_make_secret(path) == secret
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_damaged_secret_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(DataFolderError, match="Delete it and start again"):
        load_or_make_secret(tmp_path / "secret.key")
