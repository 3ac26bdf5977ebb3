"""The store keeps what it said it kept, under load, kills, full disks and damage."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from core.errors import Busy, DataFolderError, VoteError
from feedback.connections import open_for_reading
from feedback.store import FeedbackStore, take_snapshot
from tests.battles import ballot, count, make_desk, open_battle

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        yield store


def is_sound(path: Path) -> bool:
    with open_for_reading(path) as db:
        return [row[0] for row in db.execute("PRAGMA integrity_check")] == ["ok"]


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_acknowledged_means_on_the_disk(store: FeedbackStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert store._db.execute("PRAGMA foreign_keys").fetchone()[0] == 1


VOTE_UNTIL_KILLED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from feedback.store import FeedbackStore
from tests.battles import ballot, make_desk, open_battle

desk = make_desk(FeedbackStore(Path(sys.argv[1])))

def vote_for_ever(_):
    while True:
        vote = ballot(open_battle(desk))
        desk.vote(vote)
        sys.stdout.write(vote.id + "\\n")
        sys.stdout.flush()

with ThreadPoolExecutor(4) as pool:
    list(pool.map(vote_for_ever, range(4)))
"""


def test_a_killed_process_loses_no_acknowledged_vote(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    acknowledged: list[str] = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", VOTE_UNTIL_KILLED, str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")[:-1]  # the last line may be cut
        acknowledged += [line for line in rest if len(line) == 32]
        process.wait()
    assert len(acknowledged) >= 200
    with FeedbackStore(path):
        assert is_sound(path)
    with open_for_reading(path) as db:
        stored = [row[0] for row in db.execute("SELECT id FROM votes")]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)


def test_sixteen_voters_and_a_reader_do_not_lock_each_other_out(store: FeedbackStore) -> None:
    desk = make_desk(store)

    def vote_25_times(number: int) -> None:
        for _ in range(25):
            desk.vote(ballot(open_battle(desk, voter=f"v{number}"), voter=f"v{number}"))

    with ThreadPoolExecutor(17) as pool:
        voters = [pool.submit(vote_25_times, number) for number in range(16)]
        seen = []
        while not all(voter.done() for voter in voters):
            seen.append(count(store))
        for voter in voters:
            voter.result()
    assert count(store) == 400
    assert seen == sorted(seen)


def test_a_refused_vote_does_not_take_those_beside_it_along(store: FeedbackStore) -> None:
    desk = make_desk(store)
    votes = [ballot(open_battle(desk)) for _ in range(40)]
    start = Barrier(8)

    def vote(number: int) -> None:
        start.wait()
        for vote in votes[number::8]:
            if number % 2:
                with pytest.raises(VoteError):
                    store.record_vote(vote, battle_id="never shown")
            else:
                desk.vote(vote)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vote, range(8)))
    assert count(store) == 20


def test_the_same_ballot_a_hundred_times_is_one_vote(store: FeedbackStore) -> None:
    desk = make_desk(store)
    vote = ballot(open_battle(desk))
    with ThreadPoolExecutor(16) as pool:
        reveals = list(pool.map(lambda _: desk.vote(vote), range(100)))
    assert count(store) == 1
    assert sum(reveal.is_new for reveal in reveals) == 1
    assert len({(reveal.vote_id, reveal.outcome, reveal.left) for reveal in reveals}) == 1


def test_of_two_contradicting_votes_at_once_exactly_one_counts(store: FeedbackStore) -> None:
    desk = make_desk(store)
    battles = [open_battle(desk) for _ in range(100)]
    together = Barrier(2)

    def vote_on_all(outcome: str) -> list[str]:
        answers = []
        for battle in battles:
            together.wait()
            try:
                desk.vote(ballot(battle, outcome))  # type: ignore[arg-type]
                answers.append("saved")
            except VoteError as error:
                answers.append(str(error))
        return answers

    with ThreadPoolExecutor(2) as pool:
        lefts, rights = pool.map(vote_on_all, ("left", "right"))
    assert count(store) == 100
    for answers in zip(lefts, rights, strict=True):
        assert sorted(answer == "saved" for answer in answers) == [False, True]
        assert any("already voted" in answer for answer in answers)


def test_snapshots_under_load_are_sound_and_only_grow(store: FeedbackStore, tmp_path: Path) -> None:
    desk = make_desk(store)

    def vote(_: int) -> None:
        desk.vote(ballot(open_battle(desk)))

    sizes = []
    with ThreadPoolExecutor(4) as pool:
        votes = [pool.submit(vote, number) for number in range(300)]
        while not all(vote.done() for vote in votes):
            snapshot = store.snapshot(tmp_path / "snapshot.db")
            assert is_sound(snapshot)
            with closing(sqlite3.connect(snapshot)) as db:
                sizes.append(db.execute("SELECT count(*) FROM votes").fetchone()[0])
    assert len(sizes) >= 3
    assert sizes == sorted(sizes)
    assert [path.name for path in tmp_path.glob(".*")] == []  # nothing half-made is left


def test_another_process_can_take_a_snapshot_of_a_closed_store(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        desk = make_desk(store)
        desk.vote(ballot(open_battle(desk)))
    snapshot = take_snapshot(tmp_path / "feedback.db", tmp_path / "night" / "snapshot.db")
    with open_for_reading(snapshot) as db:
        assert db.execute("SELECT count(*) FROM votes").fetchone()[0] == 1


def test_a_snapshot_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="cannot be opened"):
        take_snapshot(tmp_path / "feedback.db", tmp_path / "snapshot.db")


# A file-size limit makes the operating system refuse writes as a full disk does.
FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from core.errors import DataFolderError
from feedback.store import FeedbackStore
from tests.battles import ballot, count, make_desk, open_battle

store = FeedbackStore(Path(sys.argv[1]))
desk = make_desk(store)
battles = [open_battle(desk) for _ in range(20)]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
saved = refused = 0
for battle in battles[:10]:
    try:
        desk.vote(ballot(battle))
        saved += 1
    except DataFolderError as error:
        refused += "not saved" in str(error) and sys.argv[1] not in str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
for battle in battles[10:]:
    desk.vote(ballot(battle))
print(saved, refused, count(store))
store.close()
"""


def test_a_full_disk_acknowledges_nothing_and_heals_when_space_is_freed(tmp_path: Path) -> None:
    run = run_python(FILL_THE_DISK, tmp_path / "feedback.db")
    saved, refused, stored = map(int, run.stdout.split())
    assert (saved, refused) == (0, 10), run.stderr
    assert stored == 10  # those after space was freed
    assert is_sound(tmp_path / "feedback.db")


OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from core.errors import DataFolderError
from feedback.store import FeedbackStore

if os.geteuid() == 0:
    os.setuid(65534)
try:
    FeedbackStore(Path(sys.argv[1]))
except DataFolderError as error:
    print(error)
"""


def test_a_read_only_folder_says_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        run = run_python(OPEN_AS_NOBODY, Path(folder) / "feedback.db")
        os.chmod(folder, 0o755)
    assert "writable folder, or choose another with --data-dir" in run.stdout, run.stderr


def test_a_file_in_place_of_the_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(DataFolderError, match="choose another with --data-dir"):
        FeedbackStore(tmp_path / "data" / "feedback.db")


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    path.write_bytes(b"letters to a friend" * 500)
    with pytest.raises(DataFolderError, match="not a database"):
        FeedbackStore(path)
    assert path.read_bytes() == b"letters to a friend" * 500


def test_a_damaged_database_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        desk = make_desk(store)
        for _ in range(50):
            desk.vote(ballot(open_battle(desk)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(DataFolderError, match="damaged"):
        FeedbackStore(path)


def test_a_removed_file_is_noticed_instead_of_written_to(
    store: FeedbackStore, tmp_path: Path
) -> None:
    desk = make_desk(store)
    battle = open_battle(desk)
    store.path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(DataFolderError, match="was removed"):
        store.record_vote(ballot(battle), battle_id=battle.battle_id)


def test_a_closed_store_says_the_vote_was_not_saved(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.db")
    desk = make_desk(store)
    battle = open_battle(desk)
    store.close()
    store.close()
    with pytest.raises(Busy, match="not saved"):
        desk.vote(ballot(battle))


def test_votes_cannot_be_changed_or_deleted(store: FeedbackStore) -> None:
    desk = make_desk(store)
    desk.vote(ballot(open_battle(desk)))
    with closing(sqlite3.connect(store.path)) as db:
        for statement in ("UPDATE votes SET outcome = 'right'", "DELETE FROM votes"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


def test_a_voters_token_is_in_no_file(store: FeedbackStore, tmp_path: Path) -> None:
    token = "token-of-one-browser"
    desk = make_desk(store)
    reveal = desk.vote(ballot(open_battle(desk, voter=token), voter=token))
    desk.explain(vote_id=reveal.vote_id, voter=token, reasons=("shorter",))
    store.record_consent(token, version="1", is_given=True)
    store.record_behaviour(token, "thumb_up", picture_id="p1")
    store.export_votes(tmp_path / "votes.jsonl")
    store.close()
    for file in tmp_path.iterdir():
        assert token.encode() not in file.read_bytes(), file.name


def test_behaviour_is_kept_only_while_the_voter_agrees(store: FeedbackStore) -> None:
    kept = [store.record_behaviour("ann", "impression", query="cat", shown=("p1", "p2"))]
    for is_given in (True, False):
        store.record_consent("ann", version="1", is_given=is_given)
        kept.append(store.record_behaviour("ann", "click", picture_id="p2", position=1))
    assert kept == [False, True, False]
    assert count(store, "SELECT count(*) FROM behaviour") == 1


def test_the_export_holds_every_vote_with_answers_and_notes(
    store: FeedbackStore, tmp_path: Path
) -> None:
    desk = make_desk(store)
    first = desk.vote(ballot(open_battle(desk, adapters=("v0001", None)), "right"))
    desk.vote(ballot(open_battle(desk), "both_bad", comment="neither\ud800"))
    for _ in range(2):  # saying it twice stores it once
        desk.explain(vote_id=first.vote_id, voter="ann", reasons=("clearer",), comment="übrigens")
    assert store.export_votes(tmp_path / "votes.jsonl") == 2
    lines = (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    one, two = map(json.loads, lines)
    assert (one["outcome"], one["left_adapter"], one["right_adapter"]) == ("right", "v0001", None)
    assert one["prompt"] == [{"role": "user", "content": "What is this?", "has_picture": True}]
    assert [note["comment"] for note in one["notes"]] == ["übrigens"]
    assert (two["outcome"], two["comment"]) == ("both_bad", "neither?")


def test_a_stored_battle_comes_back_as_it_was(store: FeedbackStore) -> None:
    desk = make_desk(store)
    shown = open_battle(desk, adapters=("v0002", "v0001"), strategy="two_versions")
    battle = store.battle(shown.battle_id)
    assert battle is not None
    assert (battle.left.content, battle.right.content) == (shown.left, shown.right)
    assert (battle.left.adapter, battle.right.adapter) == ("v0002", "v0001")
    assert battle.left.parameters == {"temperature": 0.7}
    assert store.battle("0" * 32) is None


def test_ten_thousand_votes_open_within_two_seconds(store: FeedbackStore) -> None:
    # Votes are copied by SQL: the claim is about opening and counting, not about voting.
    desk = make_desk(store)
    desk.vote(ballot(open_battle(desk)))
    store.close()
    with closing(sqlite3.connect(store.path)) as db, db:
        db.executescript(
            """
            CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS
              (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) SELECT i FROM n;
            INSERT INTO battles SELECT 'b' || i, created_ms, expires_ms, task, question || i,
              picture_id, left_id, right_id, strategy, evidence, is_blind, leaks, voter_id,
              consent_version FROM battles, n;
            INSERT INTO votes SELECT NULL, 'v' || i, created_ms, 'b' || i, voter_id, 't' || i,
              outcome, reasons, comment, dwell_ms, input_device, status, status_reasons, NULL
              FROM votes, n;
            """
        )
    started = time.perf_counter()
    FeedbackStore(store.path).close()
    assert time.perf_counter() - started < 2
