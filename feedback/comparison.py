"""Blind comparisons: which two answers to show, the ticket to vote with, what a vote reveals."""

import base64
import hashlib
import hmac
import math
import os
import re
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from core.errors import DataFolderError, VoteError
from core.types import (
    OUTCOMES,
    Ballot,
    Battle,
    BlindBattle,
    Candidate,
    Evidence,
    Message,
    Reveal,
    RowSpec,
    Strategy,
    Task,
)
from feedback.store import FeedbackStore

INPUT_DEVICES = ("key", "mouse", "touch", "api")
MIN_DWELL_MS = 700  # nobody reads two answers in less; such votes are kept and marked
MAX_DWELL_MS = 24 * 3600 * 1000  # a page left open overnight says nothing more than this
MAX_VOTER_CHARS = 200
MAX_REASONS = 12
MAX_REASON_CHARS = 80
MAX_COMMENT_CHARS = 2000
SECRET_BYTES = 32

_BALLOT_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
# Ways in which an answer says who it is, whatever the model.
_SELF_NAMING = re.compile(
    r"\b(?:I am|I'm|my name is|as) an? (?:AI|large language|language|vision)[- ](?:language )?model"
    r"|\b(?:chatgpt|gpt-\d|openai|anthropic|hugging ?face|smollm|qwen|deepseek|alibaba cloud)"
    r"|\bLoRA adapter",
    re.IGNORECASE,
)
# Parts of a model id that say nothing about which model it is.
_COMMON_PARTS = {
    "base", "chat", "fast", "instruct", "large", "medium", "mini", "model", "models", "nano",
    "picture", "pictures", "preview", "small", "test", "text", "tiny", "turbo", "vision",
}  # fmt: skip


class ComparisonRules(Protocol):
    """The `comparison` section of the settings."""

    @property
    def two_versions_share(self) -> float: ...
    @property
    def ticket_minutes(self) -> int: ...
    @property
    def consent_version(self) -> str: ...
    @property
    def max_votes_per_minute(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Ticket:
    """The right of one voter to one vote on one battle until a moment. It names no side."""

    battle_id: str
    expires_s: int
    voter_tag: str

    @property
    def text(self) -> str:
        return f"{self.battle_id}.{self.expires_s}.{self.voter_tag}"


class ComparisonDesk:
    """Opens battles and takes the votes on them."""

    def __init__(
        self,
        store: FeedbackStore,
        *,
        secret: bytes,
        preset: ComparisonRules,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A desk whose tickets hold as long as `secret` does; see `load_or_make_secret`."""
        self._store = store
        self._secret = secret
        self._preset = preset
        self._clock = clock
        self._random = secrets.SystemRandom()

    def choose_rows(
        self, live: str | None, previous: str | None
    ) -> tuple[RowSpec, RowSpec, Strategy]:
        """What to put left and right: two seeds of the live adapter, or it against the previous.

        Args:
            live: version of the adapter that answers now; None for the base model.
            previous: the one before it; None for the base model.
        """
        first_seed, second_seed = self._random.sample(range(2**31), 2)
        versions = [live, live]
        strategy: Strategy = "two_seeds"
        if live != previous and self._random.random() < self._preset.two_versions_share:
            versions, strategy = [live, previous], "two_versions"
        self._random.shuffle(versions)
        left, right = versions
        return (
            RowSpec(adapter=left, seed=first_seed),
            RowSpec(adapter=right, seed=second_seed),
            strategy,
        )

    def open_battle(
        self,
        *,
        voter: str,
        task: Task,
        question: str,
        prompt: Sequence[Message],
        picture_id: str | None,
        candidates: Sequence[Candidate],
        strategy: Strategy,
        evidence: Evidence | None = None,
    ) -> BlindBattle:
        """Store the battle and return what the voter may see of it, with the ticket to vote.

        Args:
            voter: opaque token of the voter's browser or program; only it can vote.
            candidates: left and right, in the order `choose_rows` gave.
        """
        left, right = candidates
        battle = Battle(
            id=uuid.uuid4().hex,
            task=task,
            question=question,
            prompt=tuple(prompt),
            picture_id=picture_id,
            left=left,
            right=right,
            strategy=strategy,
            evidence=_evidence_values(evidence),
        )
        ticket = _Ticket(
            battle.id,
            int(self._clock()) + self._preset.ticket_minutes * 60,
            self._voter_tag(voter),
        )
        self._store.record_battle(
            battle,
            voter=voter,
            expires_ms=ticket.expires_s * 1000,
            consent_version=self._preset.consent_version,
            leaks=find_leaks(battle),
        )
        return BlindBattle(
            battle_id=battle.id,
            ticket=f"{ticket.text}.{self._sign(ticket)}",
            question=question,
            left=left.content,
            right=right.content,
        )

    def vote(self, ballot: Ballot) -> Reveal:
        """Store the vote; what it stored and which side was which.

        The same ballot again is harmless: it returns the same, with `is_new` False.

        Raises:
            VoteError: the ticket is forged, expired or another voter's, the battle has a
                different vote already, or the ballot is not filled in properly.
        """
        ballot = _checked(ballot)
        ticket = self._checked_ticket(ballot)
        is_too_fast = ballot.dwell_ms is not None and ballot.dwell_ms < MIN_DWELL_MS
        stored = self._store.record_vote(
            ballot,
            battle_id=ticket.battle_id,
            flags=("too_fast",) if is_too_fast else (),
            max_per_minute=self._preset.max_votes_per_minute,
        )
        return Reveal(
            vote_id=stored.id,
            battle_id=stored.battle.id,
            outcome=stored.outcome,
            left=_revealed(stored.battle.left),
            right=_revealed(stored.battle.right),
            is_new=stored.is_new,
        )

    def explain(
        self, *, vote_id: str, voter: str, reasons: Sequence[str] = (), comment: str = ""
    ) -> None:
        """Keep why the voter voted so, said after the vote.

        Raises:
            VoteError: there is no such vote of this voter, or the text is too long.
        """
        _check_note(reasons, comment)
        self._store.record_note(vote_id, voter=voter, reasons=reasons, comment=comment)

    def _checked_ticket(self, ballot: Ballot) -> _Ticket:
        ticket, signature = _parse_ticket(ballot.ticket)
        if not hmac.compare_digest(signature, self._sign(ticket)):
            raise _unusable_ticket()
        if not hmac.compare_digest(ticket.voter_tag, self._voter_tag(ballot.voter)):
            raise VoteError(
                "This pair was shown in another browser, so the vote was not counted. "
                "Ask for a pair of your own here and vote on that."
            )
        # A repeated ballot is answered like the first time, however late it comes.
        if self._clock() > ticket.expires_s and not self._store.has_vote(ballot.id):
            raise VoteError(
                f"This pair was open for more than {self._preset.ticket_minutes} minutes, so the "
                "vote was not counted. Ask for a new pair and vote on that."
            )
        return ticket

    def _sign(self, ticket: _Ticket) -> str:
        digest = hmac.digest(self._secret, f"ticket:{ticket.text}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _voter_tag(self, voter: str) -> str:
        text = b"voter:" + voter.encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:16]


def find_leaks(battle: Battle) -> tuple[str, ...]:
    """Where an answer gives away who wrote it: "left: smollm", "right: v0003"; usually empty."""
    leaks = []
    for side, candidate in (("left", battle.left), ("right", battle.right)):
        if battle.task == "answer":
            leaks += [f"{side}: {name}" for name in _names_given_away(candidate)]
    return tuple(leaks)


def load_or_make_secret(path: Path) -> bytes:
    """The secret that signs tickets, made at the first start and readable by its owner only.

    Raises:
        DataFolderError: the file cannot be read or made, or is damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.starting"), timeout=60):
            if not path.exists():
                _write_secret(path)
            secret = path.read_bytes()
    except OSError as error:
        raise DataFolderError(
            f"{path} cannot be read or made ({error.strerror}). "
            "Make the folder writable, or choose another with --data-dir."
        ) from error
    if len(secret) != SECRET_BYTES:
        raise DataFolderError(
            f"{path} is damaged: {len(secret)} bytes instead of {SECRET_BYTES}. Delete it and "
            "start again; pairs that are open in a browser must then be asked for anew."
        )
    return secret


def _write_secret(path: Path) -> None:
    pending = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    os.replace(pending, path)


def _parse_ticket(text: str) -> tuple[_Ticket, str]:
    match = re.fullmatch(r"([0-9a-f]{32})\.([0-9]{1,12})\.([0-9a-f]{16})\.([\w-]{43})", text, re.A)
    if match is None:
        raise _unusable_ticket()
    battle_id, expires_s, voter_tag, signature = match.groups()
    return _Ticket(battle_id, int(expires_s), voter_tag), signature


def _unusable_ticket() -> VoteError:
    return VoteError(
        "The vote's ticket was not issued here, so the vote was not counted. "
        "Ask for a new pair and send its ticket unchanged."
    )


def _checked(ballot: Ballot) -> Ballot:
    """The ballot if it is filled in properly; pages check too, but programs may send anything."""
    texts = (ballot.id, ballot.ticket, ballot.voter, ballot.comment)
    if not all(isinstance(text, str) for text in texts) or not _BALLOT_ID.fullmatch(ballot.id):
        raise VoteError(
            "The vote's id, ticket, voter and comment must be texts, and the id 8 to 64 letters "
            "and digits. Send a fresh UUID, and the same one when you retry."
        )
    if ballot.outcome not in OUTCOMES:
        raise VoteError(f"{ballot.outcome!r} is not an outcome. Send one of {', '.join(OUTCOMES)}.")
    if ballot.input_device not in INPUT_DEVICES:
        raise VoteError(
            f"{ballot.input_device!r} is not an input device. "
            f"Send one of {', '.join(INPUT_DEVICES)}."
        )
    if not 1 <= len(ballot.voter) <= MAX_VOTER_CHARS:
        raise VoteError(
            f"The vote's voter must have 1 to {MAX_VOTER_CHARS} characters. "
            "Send the token that you sent when asking for the pair."
        )
    _check_note(ballot.reasons, ballot.comment)
    return replace(ballot, dwell_ms=_usable_dwell(ballot.dwell_ms))


def _usable_dwell(dwell_ms: object) -> int | None:
    if not isinstance(dwell_ms, int | float) or not math.isfinite(dwell_ms):
        return None
    return int(min(max(dwell_ms, 0), MAX_DWELL_MS))


def _check_note(reasons: Sequence[str], comment: str) -> None:
    if len(reasons) > MAX_REASONS or any(
        not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS for reason in reasons
    ):
        raise VoteError(
            f"The reasons are too many or too long, so nothing was saved. Send at most "
            f"{MAX_REASONS} of up to {MAX_REASON_CHARS} characters."
        )
    if len(comment) > MAX_COMMENT_CHARS:
        raise VoteError(
            f"The comment has {len(comment):,} characters and the limit is {MAX_COMMENT_CHARS:,}, "
            "so nothing was saved. Make it shorter."
        )


def _names_given_away(candidate: Candidate) -> list[str]:
    name = candidate.model_id.replace("\\", "/").rsplit("/", 1)[-1]
    parts = {part.lower() for part in re.findall(r"[A-Za-z]{4,}", name)} - _COMMON_PARTS
    if candidate.adapter is not None:
        parts.add(candidate.adapter.lower())
    text = candidate.content.lower()
    found = sorted(part for part in parts if re.search(rf"(?<![a-z]){re.escape(part)}", text))
    itself = _SELF_NAMING.search(candidate.content)
    if itself is not None and itself.group().lower() not in found:
        found.append(itself.group().lower())
    return found


def _revealed(candidate: Candidate) -> str:
    who = "base model" if candidate.adapter is None else f"adapter {candidate.adapter}"
    return f"{who}, seed {candidate.seed}"


def _evidence_values(evidence: Evidence | None) -> dict[str, object]:
    if evidence is None:
        return {}
    return {
        "labels": [[label.text, label.kind, label.confidence] for label in evidence.labels],
        "neighbours": [
            [hit.picture.id, hit.picture.caption, hit.score] for hit in evidence.neighbours
        ],
    }
