"""Votes, battles and behaviour in one SQLite file: append-only, one writer, saved once said so."""

import hashlib
import json
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, Self, TypeVar

from filelock import FileLock, Timeout
from sqlite_utils import Database

from core.errors import Busy, DataFolderError, VoteError
from core.types import Ballot, Battle, BehaviourKind, Candidate, Message, Outcome
from feedback.connections import not_saved, open_for_reading, open_for_writing, problem_with
from feedback.migrations import migrate

logger = logging.getLogger(__name__)

MAX_BATCH = 256  # writes that share one commit; bounds how long the first of them waits
START_TIMEOUT_S = 60
RATE_WINDOW_MS = 60_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVote:
    """A vote as it stands in the store, and whether this call put it there."""

    id: str
    battle: Battle
    outcome: Outcome
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[Database], Any]
    done: Future[Any]


class FeedbackStore:
    """The file `path`; open it once per process and close it at the end.

    Every write returns when its transaction is on the disk, not before. Writes that arrive while
    a commit is under way share the next one, so that many voters cost little more than one.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file, check that it is sound and bring it to the newest schema.

        Raises:
            DataFolderError: read-only, full, damaged, locked or made by a newer version.
        """
        self.path = path
        self._clock = clock
        self._db = _open(path)
        self._inode = path.stat().st_ino
        salt = self._db.execute("SELECT salt FROM salts WHERE name = 'voters'").fetchone()
        self._salt: bytes = salt[0]
        self._waiting: SimpleQueue[_Write | None] = SimpleQueue()
        self._gate = Lock()  # so that nothing is queued behind the end mark
        self._is_closed = False
        self._writer = Thread(target=self._write_until_closed, name="feedback-writer", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the writes that wait, then let go of the file."""
        with self._gate:
            if self._is_closed:
                return
            self._is_closed = True
            self._waiting.put(None)
        self._writer.join()

    def voter_id(self, voter: str) -> str:
        """The pseudonym under which a voter's token is stored, 32 hex digits."""
        salted = self._salt + voter.encode("utf-8", "surrogatepass")
        return hashlib.sha256(salted).hexdigest()[:32]

    def record_battle(
        self,
        battle: Battle,
        *,
        voter: str,
        expires_ms: int,
        consent_version: str,
        leaks: Sequence[str] = (),
    ) -> None:
        """Store a battle and both candidates, before it is shown.

        Args:
            leaks: why the voter may tell the sides apart all the same; then it does not count.
        """

        def work(db: Database) -> None:
            now = self._now_ms()
            voter_id = self._know_voter(db, voter, now)
            left_id, right_id = (
                _insert_generation(db, battle, candidate, now)
                for candidate in (battle.left, battle.right)
            )
            _insert(
                db,
                "battles",
                id=battle.id,
                created_ms=now,
                expires_ms=expires_ms,
                task=battle.task,
                question=storable(battle.question),
                picture_id=battle.picture_id,
                left_id=left_id,
                right_id=right_id,
                strategy=battle.strategy,
                evidence=_json(dict(battle.evidence)),
                is_blind=1,
                leaks=_json(list(leaks)),
                voter_id=voter_id,
                consent_version=consent_version,
            )

        self._write(work)

    def record_vote(
        self,
        ballot: Ballot,
        *,
        battle_id: str,
        flags: Sequence[str] = (),
        max_per_minute: int | None = None,
    ) -> StoredVote:
        """The vote as it is stored. The same ballot again changes nothing and returns the same.

        Args:
            flags: reasons not to count this vote; it is kept and marked with them.
            max_per_minute: a voter's votes beyond so many within a minute are marked as well.

        Raises:
            VoteError: the battle is not known, is another voter's or has its vote already.
        """

        def work(db: Database) -> StoredVote:
            battle = _shown_battle(db, battle_id, voter_id=self.voter_id(ballot.voter))
            earlier = _earlier_vote(db, ballot, battle_id)
            if earlier is None:
                self._insert_vote(db, ballot, battle_id, flags, max_per_minute)
            elif (earlier["id"], earlier["battle_id"]) != (ballot.id, battle_id):
                raise _already_voted()
            elif earlier["outcome"] != ballot.outcome:
                raise _already_voted()
            return StoredVote(
                id=ballot.id, battle=battle, outcome=ballot.outcome, is_new=earlier is None
            )

        return self._write(work)

    def has_vote(self, vote_id: str) -> bool:
        """Whether a vote with this id is stored."""
        with open_for_reading(self.path) as db:
            found = db.execute("SELECT 1 FROM votes WHERE id = ?", [vote_id]).fetchone()
        return found is not None

    def record_note(
        self, vote_id: str, *, voter: str, reasons: Sequence[str], comment: str
    ) -> None:
        """Keep what a voter says about an own vote afterwards; saying it twice stores it once.

        Raises:
            VoteError: there is no such vote of this voter.
        """

        def work(db: Database) -> None:
            owner = db.execute("SELECT voter_id FROM votes WHERE id = ?", [vote_id]).fetchone()
            if owner is None or owner[0] != self.voter_id(voter):
                raise VoteError(
                    "This note names a vote that was not made here, so it was not saved. "
                    "Vote first, then say why."
                )
            note = {
                "vote_id": vote_id,
                "reasons": _json([storable(reason) for reason in reasons]),
                "comment": storable(comment),
            }
            if not _is_stored(db, "vote_notes", **note):
                _insert(db, "vote_notes", created_ms=self._now_ms(), **note)

        self._write(work)

    def record_consent(self, voter: str, *, version: str, is_given: bool) -> None:
        """Keep whether this voter lets searches and clicks be used, and under which terms."""

        def work(db: Database) -> None:
            now = self._now_ms()
            _insert(
                db,
                "consents",
                voter_id=self._know_voter(db, voter, now),
                version=version,
                is_given=int(is_given),
                created_ms=now,
            )

        self._write(work)

    def record_behaviour(
        self,
        voter: str,
        kind: BehaviourKind,
        *,
        search_id: str | None = None,
        query: str | None = None,
        picture_id: str | None = None,
        position: int | None = None,
        shown: Sequence[str] = (),
    ) -> bool:
        """Keep what was shown or done in a search, if the voter agreed to it. Whether it was kept.

        Args:
            search_id: the same for an impression and everything done on it.
            position: place of the picture among the results, from 0.
            shown: ids of the results in their order; for impressions.
        """

        def work(db: Database) -> bool:
            consent = db.execute(
                "SELECT version, is_given FROM consents WHERE voter_id = ? ORDER BY id DESC",
                [self.voter_id(voter)],
            ).fetchone()
            if consent is None or not consent[1]:
                return False
            _insert(
                db,
                "behaviour",
                created_ms=self._now_ms(),
                voter_id=self.voter_id(voter),
                kind=kind,
                search_id=search_id,
                query=None if query is None else storable(query),
                picture_id=picture_id,
                position=position,
                shown=_json(list(shown)),
                consent_version=consent[0],
            )
            return True

        return self._write(work)

    def battle(self, battle_id: str) -> Battle | None:
        """A stored battle with both sides named; never show it before the vote."""
        with open_for_reading(self.path) as db:
            return _battle(db, battle_id)

    def snapshot(self, to: Path) -> Path:
        """`to`, a sound copy of everything committed so far; writing goes on meanwhile."""
        return take_snapshot(self.path, to)

    def export_votes(self, to: Path) -> int:
        """Write every vote with its battle, answers and notes as JSON lines; how many there are."""
        with open_for_reading(self.path) as db:
            notes = _notes_by_vote(db)
            rows = db.query("SELECT * FROM voted_battles ORDER BY sequence")
            lines = [json.dumps(_exported(row, notes), ensure_ascii=False) for row in rows]
        pending = to.with_name(f".{to.name}.{uuid.uuid4().hex}")
        pending.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(pending, to)
        return len(lines)

    def _write(self, work: Callable[[Database], T]) -> T:
        done: Future[T] = Future()
        with self._gate:
            if self._is_closed:
                raise Busy(
                    "Your input was not saved, because the app is shutting down. "
                    "Wait for it to start again and send it once more."
                )
            self._waiting.put(_Write(work, done))
        return done.result()

    def _write_until_closed(self) -> None:
        is_open = True
        while is_open:
            batch = [self._waiting.get()]
            while len(batch) < MAX_BATCH and batch[-1] is not None:
                try:
                    batch.append(self._waiting.get_nowait())
                except Empty:
                    break
            is_open = batch[-1] is not None
            self._commit([write for write in batch if write is not None])
        self._db.close()

    def _commit(self, batch: Sequence[_Write]) -> None:
        """Run the batch in one transaction and answer everybody after its COMMIT."""
        if not batch:
            return
        try:
            self._refuse_removed_file()
            self._db.execute("BEGIN IMMEDIATE")
            answers = [self._attempt(write) for write in batch]
            self._db.conn.execute("COMMIT")
        except BaseException as error:  # belongs to those who wait, not to this thread
            self._fail(batch, error)
            return
        for answer in answers:
            answer()

    def _attempt(self, write: _Write) -> Callable[[], None]:
        """Run one write inside the batch's transaction; the answer to give once that is saved."""
        try:
            with self._db.atomic():
                value = write.work(self._db)
        except BaseException as error:
            # A full disk ends the whole transaction, and then nobody's write is in it.
            if isinstance(error, sqlite3.OperationalError) or not self._db.conn.in_transaction:
                raise
            refusal = error
            return lambda: write.done.set_exception(refusal)
        return lambda: write.done.set_result(value)

    def _fail(self, batch: Sequence[_Write], error: BaseException) -> None:
        try:
            self._db.rollback()
            if isinstance(error, sqlite3.Error):
                logger.error("%d writes to %s were not saved: %s", len(batch), self.path, error)
                raise not_saved(error) from error
        except BaseException as problem:
            error = problem
        for write in batch:
            write.done.set_exception(error)

    def _refuse_removed_file(self) -> None:
        """Writes to a removed file succeed and are lost, so look before each batch."""
        try:
            is_same = self.path.stat().st_ino == self._inode
        except OSError:
            is_same = False
        if not is_same:
            raise DataFolderError(
                f"This was not saved: {self.path.name} was removed or replaced while the app was "
                "running. Put it back and start the app again."
            )

    def _insert_vote(
        self,
        db: Database,
        ballot: Ballot,
        battle_id: str,
        flags: Sequence[str],
        max_per_minute: int | None,
    ) -> None:
        now = self._now_ms()
        voter_id = self._know_voter(db, ballot.voter, now)
        status_reasons = list(flags)
        if (
            max_per_minute is not None
            and _votes_since(db, voter_id, now - RATE_WINDOW_MS) >= max_per_minute
        ):
            status_reasons.append("too_many_per_minute")
        _insert(
            db,
            "votes",
            id=ballot.id,
            created_ms=now,
            battle_id=battle_id,
            voter_id=voter_id,
            ticket_hash=hashlib.sha256(ballot.ticket.encode()).hexdigest(),
            outcome=ballot.outcome,
            reasons=_json([storable(reason) for reason in ballot.reasons]),
            comment=storable(ballot.comment),
            dwell_ms=ballot.dwell_ms,
            input_device=ballot.input_device,
            status="flagged" if status_reasons else "clean",
            status_reasons=_json(status_reasons),
        )

    def _know_voter(self, db: Database, voter: str, now: int) -> str:
        voter_id = self.voter_id(voter)
        db.execute(
            "INSERT OR IGNORE INTO voters (id, first_seen_ms) VALUES (?, ?)", [voter_id, now]
        )
        return voter_id

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def take_snapshot(database: Path, to: Path) -> Path:
    """`to`, a sound copy of `database` as last committed, also while another process writes it.

    Raises:
        DataFolderError: the database is missing or damaged, or `to` cannot be written.
    """
    pending = to.with_name(f".{to.name}.{uuid.uuid4().hex}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with open_for_reading(database) as db:
            db.execute("VACUUM INTO ?", [str(pending)])
        os.replace(pending, to)
    except OSError as error:
        raise DataFolderError(
            f"The snapshot {to} cannot be written ({error.strerror}). "
            "Make the folder writable or free some space."
        ) from error
    finally:
        pending.unlink(missing_ok=True)
    return to


def storable(text: str) -> str:
    """The text as SQLite can keep it: lone surrogates, which JSON may carry, become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _open(path: Path) -> Database:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.starting"), timeout=START_TIMEOUT_S):
            return _sound_and_current(path)
    except Timeout as error:
        raise DataFolderError(
            f"{path} is being opened by another process for over {START_TIMEOUT_S} s. "
            "Close that one and start again."
        ) from error
    except sqlite3.Error as error:
        raise problem_with(path, error) from error
    except OSError as error:
        raise DataFolderError(
            f"{path.parent} cannot be used for your data ({error.strerror}). "
            "Make it a writable folder, or choose another with --data-dir."
        ) from error


def _sound_and_current(path: Path) -> Database:
    db = open_for_writing(path)
    try:
        logger.info("SQLite %s opens %s", sqlite3.sqlite_version, path)
        findings = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
        if findings != ["ok"]:
            raise DataFolderError(
                f"{path} is damaged ({'; '.join(findings)}). Move it away and put a snapshot in "
                "its place; nothing was changed."
            )
        migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _insert(db: Database, table: str, **row: object) -> None:
    columns, places = ", ".join(row), ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(row.values()))


def _is_stored(db: Database, table: str, **row: object) -> bool:
    same = " AND ".join(f"{column} = ?" for column in row)
    found = db.execute(f"SELECT 1 FROM {table} WHERE {same}", list(row.values())).fetchone()
    return found is not None


def _insert_generation(db: Database, battle: Battle, candidate: Candidate, now: int) -> str:
    generation_id = uuid.uuid4().hex
    _insert(
        db,
        "generations",
        id=generation_id,
        created_ms=now,
        task=battle.task,
        content=storable(candidate.content),
        prompt=_json([asdict(message) for message in battle.prompt]),
        picture_id=battle.picture_id,
        model_id=candidate.model_id,
        revision=candidate.revision,
        adapter=candidate.adapter,
        seed=candidate.seed,
        parameters=_json(dict(candidate.parameters)),
        n_tokens=candidate.n_tokens,
        finish_reason=candidate.finish_reason,
        latency_ms=candidate.latency_ms,
    )
    return generation_id


def _earlier_vote(db: Database, ballot: Ballot, battle_id: str) -> Mapping[str, Any] | None:
    rows = db.query(
        "SELECT id, battle_id, outcome FROM votes WHERE id = ? "
        "OR (battle_id = ? AND supersedes IS NULL)",
        [ballot.id, battle_id],
    )
    return next(iter(rows), None)


def _votes_since(db: Database, voter_id: str, since_ms: int) -> int:
    count: int = db.execute(
        "SELECT count(*) FROM votes WHERE voter_id = ? AND created_ms > ?", [voter_id, since_ms]
    ).fetchone()[0]
    return count


def _already_voted() -> VoteError:
    return VoteError(
        "You have already voted on this pair, and the first vote stands. Go on to the next pair."
    )


def _shown_battle(db: Database, battle_id: str, *, voter_id: str) -> Battle:
    owner = db.execute("SELECT voter_id FROM battles WHERE id = ?", [battle_id]).fetchone()
    battle = _battle(db, battle_id)
    if owner is None or battle is None:
        raise VoteError(
            "This pair is not known here, so the vote was not counted. "
            "Ask for a new pair and vote on that."
        )
    if owner[0] != voter_id:
        raise VoteError(
            "This pair was shown to somebody else, so the vote was not counted. "
            "Ask for a pair of your own and vote on that."
        )
    return battle


def _battle(db: Database, battle_id: str) -> Battle | None:
    battle = next(iter(db.query("SELECT * FROM battles WHERE id = ?", [battle_id])), None)
    if battle is None:
        return None
    left, right = (
        next(iter(db.query("SELECT * FROM generations WHERE id = ?", [battle[side]])))
        for side in ("left_id", "right_id")
    )
    return Battle(
        id=battle_id,
        task=battle["task"],
        question=battle["question"],
        prompt=messages_from(left["prompt"]),
        picture_id=battle["picture_id"],
        left=_candidate(left),
        right=_candidate(right),
        strategy=battle["strategy"],
        evidence=json.loads(battle["evidence"]),
    )


def messages_from(prompt: str) -> tuple[Message, ...]:
    """The messages of a stored prompt."""
    return tuple(Message(**message) for message in json.loads(prompt))


def _candidate(row: Mapping[str, Any]) -> Candidate:
    return Candidate(
        content=row["content"],
        model_id=row["model_id"],
        revision=row["revision"],
        adapter=row["adapter"],
        seed=row["seed"],
        parameters=json.loads(row["parameters"]),
        finish_reason=row["finish_reason"],
        n_tokens=row["n_tokens"],
        latency_ms=row["latency_ms"],
    )


def _json(value: object) -> str:
    return json.dumps(value)  # ASCII only, so that lone surrogates survive as escapes


def _notes_by_vote(db: Database) -> dict[str, list[dict[str, object]]]:
    notes: dict[str, list[dict[str, object]]] = {}
    for row in db.query("SELECT * FROM vote_notes ORDER BY id"):
        note = {"reasons": json.loads(row["reasons"]), "comment": row["comment"]}
        notes.setdefault(row["vote_id"], []).append(note | {"created_ms": row["created_ms"]})
    return notes


_JSON_COLUMNS = (
    "reasons", "status_reasons", "leaks", "prompt", "left_parameters", "right_parameters"
)  # fmt: skip


def _exported(
    row: Mapping[str, Any], notes: Mapping[str, list[dict[str, object]]]
) -> dict[str, object]:
    decoded = {column: json.loads(row[column]) for column in _JSON_COLUMNS}
    return {**row, **decoded, "notes": notes.get(row["vote_id"], [])}
