"""Votes over HTTP: how fast, and whether one that was acknowledged is ever lost.

Browsers and gradio_client name a session in each call, and so do these clients. For calls without
one, such as curl's, Gradio describes every component of the page anew each time, which costs more
than the vote; they are measured as well.

`python -m benchmarks.votes [--kills 20] [--clients 8]`. Pairs are put into a new data folder before
the app starts, so no model is needed. Then clients vote through the app's `/vote` endpoint as fast
as it answers: first undisturbed, for the times; then while the app is killed (SIGKILL) and started
again and again. A client that got no answer sends the same ballot again after the restart.
"""

import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np

from benchmarks.report import Row, write_report
from core.settings import ComparisonPreset
from core.types import Candidate, Message
from feedback.comparison import ComparisonDesk, load_or_make_secret
from feedback.connections import open_for_reading
from feedback.store import FeedbackStore

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_LIMIT_S = 180.0
ANSWER_LIMIT_S = 10.0
VOTES_PER_ROUND = (20, 400)  # acknowledged votes before a kill, drawn anew for each
UNSAID = (None, None, None)  # reasons, comment, dwell_ms
OUTCOMES = ("left", "right", "tie", "both_bad")


@dataclass(slots=True)
class Voter:
    """One client: its open pairs, what it was told, and the ballot it is still unsure of."""

    name: str
    tickets: Iterator[str]
    session: str | None
    acknowledged: list[str] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    repeated: int = 0  # ballots sent again after a kill
    were_stored: int = 0  # of those, stored before the kill though never acknowledged
    unsure: dict[str, str] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--votes", type=int, default=2000, help="for the times, without kills")
    arguments = parser.parse_args()
    needed = 2 * arguments.votes + arguments.kills * (VOTES_PER_ROUND[1] + 2 * arguments.clients)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        voters = seed_battles(folder, clients=arguments.clients, battles=needed)
        timed = measure_times(folder, voters, votes=arguments.votes)
        seconds = vote_through_kills(folder, voters, kills=arguments.kills)
        checked = check(folder, voters)
    write_report(
        "votes",
        [
            {"measure": name, "value": value}
            for name, value in [*timed.items(), ("kills", arguments.kills), *checked.items()]
        ],
        notes=f"{arguments.clients} clients in a closed loop on the same cores; kills took "
        f"{seconds:.0f} s with restarts. Bars: 0 lost, 0 twice, sound; p99 under 100 ms.",
    )
    if checked["lost"] or checked["stored twice"] or not checked["sound"]:
        sys.exit("An acknowledged vote was lost or stored twice, or the database is damaged.")


def seed_battles(folder: Path, *, clients: int, battles: int) -> list[Voter]:
    """Open `battles` pairs, shared out among the voters, in a data folder without an app."""
    names = [uuid.uuid4().hex for _ in range(clients)]
    secret = load_or_make_secret(folder / "secret.key")
    with FeedbackStore(folder / "feedback.db") as store, ThreadPoolExecutor(16) as pool:
        desk = ComparisonDesk(store, secret=secret, preset=ComparisonPreset())
        tickets = pool.map(lambda n: open_one(desk, names[n % clients], n), range(battles))
        opened = list(tickets)
    return [
        Voter(name, iter(opened[number::clients]), session=name[:11])
        for number, name in enumerate(names)
    ]


def open_one(desk: ComparisonDesk, voter: str, number: int) -> str:
    """The ticket of a pair about nothing."""
    question = f"What is in picture {number}?"
    left, right = (
        Candidate(
            content=f"{thing} {number}.", model_id="none", revision="", adapter=None, seed=seed
        )
        for seed, thing in enumerate(("A cat", "A dog"))
    )
    return desk.open_battle(
        voter=voter,
        task="answer",
        question=question,
        prompt=(Message(role="user", content=question),),
        picture_id=None,
        candidates=(left, right),
        strategy="two_seeds",
    ).ticket


def server_command(folder: Path, port: int) -> list[str]:
    """What starts the app under test."""
    return [sys.executable, "app.py", "--data-dir", str(folder), "--port", str(port)]


def measure_times(folder: Path, voters: Sequence[Voter], *, votes: int) -> dict[str, object]:
    """Vote times at an app that is up and has nothing else to do."""
    process, port = start(folder)
    try:
        wait_until_idle(process)
        with_session = _timed(port, voters, votes=votes)
        sessions = [voter.session for voter in voters]
        for voter in voters:
            voter.session = None
        without = _timed(port, voters, votes=votes // 4)
        for voter, session in zip(voters, sessions, strict=True):
            voter.session = session
    finally:
        process.kill()
        process.wait()
    return with_session | {f"{name}, no session": value for name, value in without.items()}


def _timed(port: int, voters: Sequence[Voter], *, votes: int) -> dict[str, object]:
    vote_in_parallel(port, voters, each=5)  # so that connections and sessions exist
    for voter in voters:
        voter.times_ms.clear()
    began = time.perf_counter()
    vote_in_parallel(port, voters, each=votes // len(voters))
    seconds = time.perf_counter() - began
    times = np.concatenate([voter.times_ms for voter in voters])
    return {
        "votes without kills": len(times),
        "p50 ms": round(float(np.percentile(times, 50)), 1),
        "p99 ms": round(float(np.percentile(times, 99)), 1),
        "slowest ms": round(float(times.max()), 1),
        "votes/s": round(len(times) / seconds),
    }


def vote_through_kills(folder: Path, voters: Sequence[Voter], *, kills: int) -> float:
    """Kill and restart the app while everybody votes; seconds it took in all."""
    began = time.perf_counter()
    for kill in range(kills):
        process, port = start(folder)
        target = sum(len(v.acknowledged) for v in voters) + random.randint(*VOTES_PER_ROUND)
        stop = Event()
        with ThreadPoolExecutor(len(voters)) as pool:
            rounds = [pool.submit(vote_until, stop, port, voter) for voter in voters]
            while sum(len(v.acknowledged) for v in voters) < target:
                if process.poll() is not None or all(each.done() for each in rounds):
                    break
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
            stop.set()
            for each in rounds:
                each.result()
        print(f"kill {kill + 1}: {sum(len(v.acknowledged) for v in voters)} acknowledged")
    process, port = start(folder)  # what was under way at the last kill is sent again
    try:
        vote_in_parallel(port, [voter for voter in voters if voter.unsure], each=1)
    finally:
        process.kill()
        process.wait()
    return time.perf_counter() - began


def check(folder: Path, voters: Sequence[Voter]) -> Row:
    """Compare what the clients were told with what a restarted store holds."""
    with FeedbackStore(folder / "feedback.db"):
        pass  # opening applies the log that the kill left and checks the file
    with open_for_reading(folder / "feedback.db") as db:
        rows = db.execute("SELECT id, battle_id FROM votes").fetchall()
        is_sound = db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    stored = Counter(vote_id for vote_id, _ in rows)
    per_battle = Counter(battle_id for _, battle_id in rows)
    acknowledged = [vote_id for voter in voters for vote_id in voter.acknowledged]
    return {
        "acknowledged in all": len(acknowledged),
        "lost": len(set(acknowledged) - set(stored)),
        "stored twice": sum(n > 1 for n in (*stored.values(), *per_battle.values())),
        "acknowledged twice": len(acknowledged) - len(set(acknowledged)),
        "sent again": sum(voter.repeated for voter in voters),
        "of those stored before": sum(voter.were_stored for voter in voters),
        "in the store": len(rows),
        "sound": is_sound,
    }


def start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The app's process once its page answers, and its port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        server_command(folder, port),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"The app stopped with exit code {process.returncode} while starting.")
        connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("GET", "/config")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    process.kill()
    sys.exit(f"No page after {START_LIMIT_S:.0f} s.")


def wait_until_idle(process: subprocess.Popen[bytes]) -> None:
    """Return when the app has used under a tenth of a core for two seconds (first-start work)."""
    stat = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        before = _cpu_ticks(stat)
        time.sleep(2)
        if _cpu_ticks(stat) - before < 20:  # of 200 ticks
            return
    sys.exit(f"The app was still busy with its first start after {START_LIMIT_S:.0f} s.")


def _cpu_ticks(stat: Path) -> int:
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def vote_in_parallel(port: int, voters: Sequence[Voter], *, each: int) -> None:
    """Everybody votes `each` times at once; every vote must be acknowledged."""

    def vote_some(voter: Voter) -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_LIMIT_S)
        for _ in range(each):
            cast(connection, voter)
        connection.close()

    with ThreadPoolExecutor(len(voters) or 1) as pool:
        list(pool.map(vote_some, voters))


def vote_until(stop: Event, port: int, voter: Voter) -> None:
    """Vote until the server is gone."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_LIMIT_S)
    while not stop.is_set():
        try:
            cast(connection, voter)
        except (OSError, http.client.HTTPException):
            break
    connection.close()


def cast(connection: http.client.HTTPConnection, voter: Voter) -> None:
    """Send a ballot, the one without an answer first; it is acknowledged when this returns."""
    is_repeated = voter.unsure is not None
    if voter.unsure is None:
        voter.unsure = {
            "ticket": next(voter.tickets),
            "outcome": random.choice(OUTCOMES),
            "voter": voter.name,
            "ballot_id": uuid.uuid4().hex,
        }
    began = time.perf_counter()
    connection.request(
        "POST",
        "/gradio_api/run/vote",
        body=json.dumps({"data": [*voter.unsure.values(), *UNSAID], "session_hash": voter.session}),
        headers={"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    content = json.loads(response.read())
    voter.times_ms.append((time.perf_counter() - began) * 1000)
    if response.status != 200 or content["data"][0]["vote_id"] != voter.unsure["ballot_id"]:
        sys.exit(f"A vote was refused: {response.status} {content}")
    voter.acknowledged.append(voter.unsure["ballot_id"])
    voter.unsure = None
    if is_repeated:
        voter.repeated += 1
        voter.were_stored += not content["data"][0]["is_new"]


if __name__ == "__main__":
    main()
