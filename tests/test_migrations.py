"""Old databases become new ones, wholly or not at all; the schema itself refuses nonsense."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from core.errors import DataFolderError
from feedback.connections import open_for_writing
from feedback.migrations import migrate, schema
from feedback.store import FeedbackStore
from tests.battles import ballot, make_desk, open_battle

ROOT = Path(__file__).resolve().parent.parent
STEPS = [step.name for step in schema.pending(Database(memory=True))]


def schema_of(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name")
        return [(name, sql) for name, sql in rows]


@pytest.fixture
def newest(tmp_path: Path) -> list[tuple[str, str]]:
    FeedbackStore(tmp_path / "newest.db").close()
    return schema_of(tmp_path / "newest.db")


@pytest.mark.parametrize("step", STEPS)
def test_every_earlier_schema_becomes_the_newest(
    step: str, tmp_path: Path, newest: list[tuple[str, str]]
) -> None:
    path = tmp_path / "old.db"
    db = open_for_writing(path)
    schema.apply(db, stop_before=step)
    db.close()
    FeedbackStore(path).close()
    assert schema_of(path) == newest


def test_opening_again_keeps_the_votes_and_the_salt(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        desk = make_desk(store)
        reveal = desk.vote(ballot(open_battle(desk)))
        voter_id = store.voter_id("ann")
    with FeedbackStore(tmp_path / "feedback.db") as store:
        assert store.has_vote(reveal.vote_id)
        assert store.voter_id("ann") == voter_id


def test_a_step_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(db: Database) -> None:
        raise OSError("the power went")

    last = schema.pending(Database(memory=True))[-1]
    monkeypatch.setattr(last, "fn", fail)
    db = open_for_writing(tmp_path / "feedback.db")
    with pytest.raises(OSError, match="power"):
        migrate(db)
    db.close()
    assert schema_of(tmp_path / "feedback.db") == []


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    FeedbackStore(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('feedback', '999_from_the_future', '2030-01-01')"
        )
    with pytest.raises(DataFolderError, match="newer Sightloop .*999_from_the_future"):
        FeedbackStore(path)


OPEN_AT_ONCE = """
import sys
from pathlib import Path
from feedback.store import FeedbackStore

print("ready", flush=True)
sys.stdin.readline()
FeedbackStore(Path(sys.argv[1])).close()
"""


def test_eight_processes_starting_together_all_succeed(
    tmp_path: Path, newest: list[tuple[str, str]]
) -> None:
    path = tmp_path / "feedback.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert results == [("", "", 0)] * 8
    assert schema_of(path) == newest


def test_every_table_of_ours_is_strict(newest: list[tuple[str, str]]) -> None:
    tables = [
        sql for name, sql in newest if sql.startswith("CREATE TABLE") and "sqlite" not in name
    ]
    assert len(tables) == 8
    assert all(sql.rstrip().endswith("STRICT") for sql in tables)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("votes", "outcome", "best"),
        ("votes", "input_device", "telepathy"),
        ("votes", "status", "gone"),
        ("votes", "reasons", "not json"),
        ("votes", "dwell_ms", -1),
        ("votes", "dwell_ms", "long"),
        ("votes", "battle_id", "unknown"),
        ("votes", "voter_id", "unknown"),
        ("votes", "ticket_hash", None),
        ("battles", "strategy", "guess"),
        ("battles", "is_blind", 2),
        ("battles", "left_id", "unknown"),
        ("generations", "finish_reason", "bored"),
        ("generations", "prompt", "{"),
        ("generations", "seed", "x"),
    ],
)
def test_the_schema_refuses_nonsense(
    table: str, column: str, value: object, tmp_path: Path
) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        desk = make_desk(store)
        desk.vote(ballot(open_battle(desk)))
    with closing(sqlite3.connect(tmp_path / "feedback.db")) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys=ON")
        row = dict(db.execute(f"SELECT * FROM {table}").fetchone())
        row.pop("sequence", None)
        if table == "votes":  # a second vote on the battle is legal only as a replacement
            row |= {"supersedes": row["id"], "ticket_hash": "another"}
            if column == "ticket_hash":
                row["supersedes"] = None
        row |= {"id": "another", column: value}
        names, places = ", ".join(row), ", ".join("?" * len(row))
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", list(row.values()))


def test_a_vote_can_be_replaced_once_and_the_battle_keeps_one_latest(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        desk = make_desk(store)
        reveal = desk.vote(ballot(open_battle(desk), "left"))
    with closing(sqlite3.connect(tmp_path / "feedback.db")) as db, db:
        replace = (
            "INSERT INTO votes (id, created_ms, battle_id, voter_id, outcome, input_device, "
            "status, supersedes) SELECT ?, created_ms, battle_id, voter_id, 'right', 'key', "
            "'clean', id FROM votes WHERE id = ?"
        )
        db.execute(replace, ["second", reveal.vote_id])
        with pytest.raises(sqlite3.IntegrityError, match="supersedes"):
            db.execute(replace, ["third", reveal.vote_id])
        latest = db.execute("SELECT vote_id, outcome FROM voted_battles WHERE is_latest").fetchall()
    assert latest == [("second", "right")]
