"""Does a night learn what one annotator likes? 200 votes through the real API, then one real night.

`python -m benchmarks.scripted_annotator [collect | train | evaluate | shuffled | all]`

The annotator's rule, applied to the words alone:
  1. An answer is good when it is exactly one finished sentence of at most 12 words. A good answer
     beats one that is not.
  2. Between two good ones, or two that are not, the one with fewer words wins. An answer without
     words loses to any other.
  3. Equal in both: the same.

`collect` starts the app and votes on 200 pairs, two for each of 100 questions. `train` runs one
night. `evaluate` asks 100 questions on other topics and pictures, which nobody voted on and no
setting was chosen by, base model and new adapter in one batch with
the same seed, as served, and a second base answer with another seed as the control. `shuffled`
flips each vote by a coin and runs a night on that: the gate must refuse it. Every step keeps what
it has in the state folder and goes on from there; delete the folder to begin anew.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from gradio_client import Client

from benchmarks.report import write_report
from core import nights
from core.adapters import AdapterShelf
from core.engine import Engine
from core.pack import pictograms
from core.settings import ROOT, cache_dir, load_settings
from core.types import RowSpec, RunReport
from feedback.ratings import win_rate

PORT = 7878
START_LIMIT_S = 300.0
SEED = 20261121
N_VOTED = 100  # questions
ROUNDS = 2  # pairs per question
SHORT_WORDS = 12
BAR = 0.75

ABOUT_PICTURES = (
    "Describe this picture.",
    "What is in the picture?",
    "What can you tell me about what is shown here?",
    "What is the thing in this picture used for?",
    "Where would you find this?",
    "Why might someone take this picture?",
    "Explain to a child what this is.",
    "What do you see, and what is special about it?",
)
ABOUT_TOPICS = ("What is {}?", "Explain {}.", "Tell me about {}.", "Why is {} important?")
TOPICS = (
    "a volcano, gravity, photosynthesis, bread, a bridge, chess, the moon, rain, music, a magnet, "
    "snow, coffee, a bicycle, the heart, a library, the desert, paper, a rainbow, salt, glass, "
    "electricity, an earthquake, a forest, football, the brain, a clock, honey, wind, a castle, "
    "soap, a battery, rice, the ocean, a telescope, jazz, a museum, sleep, a river, copper, fire, "
    "a compass, tea, an island, painting, a train, the sun, milk, a garden, silk, thunder, a lens, "
    "a school, gold, a glacier, dancing, a robot, sugar, the alphabet, an airport, wool, a piano, "
    "oxygen, a market, ice cream, a lighthouse, algebra, a tent, friendship, a comet, cheese, "
    "yoga, a satellite, leather, a waterfall, poetry, a dictionary, cotton, a farm, an atom, ink, "
    "a mirror, patience"
).split(", ")
NEW_TOPICS = (
    "a camel, thunderclouds, a windmill, chocolate, a parachute, a fossil, mathematics, a kite, "
    "the liver, an elephant, a canal, tomatoes, a violin, iron, a calendar, fog, a submarine, "
    "theatre, the north pole, a coral reef, tennis, a key, cinnamon, a pyramid, a spider, "
    "a newspaper, laughter, a harbour, potatoes, a shadow, bamboo, the stomach, a traffic light, "
    "winter, a wheel, an owl, pepper, a cave, a candle, steam, swimming, a crown, the desert wind, "
    "a hospital, perfume, a ladder, an orchestra, plastic, a vaccine, courage"
).split(", ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and about which gallery picture, if any."""

    text: str
    gallery_id: str | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", nargs="?", default="all", choices=["all", *STEPS])
    parser.add_argument("--state", type=Path, default=cache_dir() / "scripted_annotator")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    for name in STEPS if arguments.step == "all" else [arguments.step]:
        started = time.monotonic()
        STEPS[name](arguments.state)
        _add_seconds(arguments.state, name, time.monotonic() - started)
    if arguments.step in ("all", "shuffled"):
        report(arguments.state)


def questions() -> tuple[list[Question], list[Question]]:
    """The questions that are voted on, and 100 others, half of each about gallery pictures."""
    dice = random.Random(SEED)
    pictures = [picture.id for picture in pictograms() if picture.name.isalpha()]
    dice.shuffle(pictures)
    half = N_VOTED // 2
    # An earlier version's pictures, by which settings were chosen, are this list's last 82.
    voted = _asked(pictures[:half], dice.sample(TOPICS, half))
    held_out = _asked(pictures[half : half + len(NEW_TOPICS)], NEW_TOPICS)
    dice.shuffle(voted)
    return voted, held_out


def _asked(pictures: Sequence[str], topics: Sequence[str]) -> list[Question]:
    return [
        *(
            Question(text=ABOUT_PICTURES[i % len(ABOUT_PICTURES)], gallery_id=picture)
            for i, picture in enumerate(pictures)
        ),
        *(
            Question(text=ABOUT_TOPICS[i % len(ABOUT_TOPICS)].format(topic), gallery_id=None)
            for i, topic in enumerate(topics)
        ),
    ]


def n_sentences(answer: str) -> int:
    """Finished sentences; words after the last end mark count as one more that is not finished."""
    return len([part for part in re.split(r"(?<=[.!?])\s+", answer.strip()) if part])


def rank(answer: str) -> tuple[bool, float]:
    """The annotator's rule as a sort key; the smaller is preferred."""
    words = len(re.findall(r"\w+", answer))
    is_finished = answer.strip().endswith((".", "!", "?"))
    is_good = 0 < words <= SHORT_WORDS and n_sentences(answer) == 1 and is_finished
    return not is_good, words or float("inf")


def verdict(left: str, right: str) -> str:
    """The annotator's vote."""
    if rank(left) == rank(right):
        return "tie"
    return "left" if rank(left) < rank(right) else "right"


def collect(state: Path) -> None:
    """Vote on every question's pairs through the running app's API."""
    voted, _ = questions()
    asked = [question for _ in range(ROUNDS) for question in voted]
    done_file = state / "votes.jsonl"
    done = done_file.read_text(encoding="utf-8").splitlines() if done_file.exists() else []
    if len(done) >= len(asked):
        return
    app = subprocess.Popen(
        [sys.executable, "app.py", "--data-dir", state / "data", "--port", str(PORT)],
        cwd=ROOT,
        stdout=(state / "app.log").open("ab"),
        stderr=subprocess.STDOUT,
    )
    try:
        client = _client(app)
        with done_file.open("a", encoding="utf-8") as file:
            for n, question in enumerate(asked[len(done) :], start=len(done) + 1):
                vote = _vote_on(client, question)
                file.write(json.dumps(vote, ensure_ascii=False) + "\n")
                file.flush()
                if n % 20 == 0:
                    print(f"{n} of {len(asked)} votes", flush=True)
    finally:
        app.terminate()
        app.wait(timeout=60)


def train(state: Path) -> None:
    """One night on the votes."""
    if _last_report(state / "data") is None:
        _run_night(state / "data")


def evaluate(state: Path) -> None:
    """Held-out questions answered by the base model, the new adapter and the base model again."""
    version = AdapterShelf(state / "data" / "adapters" / "answerer").current()
    if version is None:
        raise SystemExit("The night published nothing, so there is nothing to evaluate.")
    file = state / "answers.jsonl"
    done = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    _, held_out = questions()
    with (
        closing(Engine(load_settings(), data_dir=state / "data", cache=cache_dir())) as engine,
        file.open("a", encoding="utf-8") as out,
    ):
        for n, question in enumerate(held_out[len(done) :], start=len(done)):
            rows = (
                RowSpec(adapter=None, seed=SEED + n),
                RowSpec(adapter=version, seed=SEED + n),
                RowSpec(adapter=None, seed=SEED + 10_000 + n),
            )
            picture = question.gallery_id and engine.picture_from_gallery(question.gallery_id)
            *_, step = engine.answer(question.text, picture=picture or None, rows=rows)
            names = ("base", "new", "base_again")
            line = asdict(question) | dict(zip(names, step.texts, strict=True))
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()


def shuffled(state: Path) -> None:
    """One night on the same pairs with each vote flipped by a coin."""
    data_dir = state / "shuffled"
    if _last_report(data_dir) is not None:
        return
    data_dir.mkdir(exist_ok=True)
    (data_dir / "feedback.db").unlink(missing_ok=True)
    _flip_by_coin(state / "data" / "feedback.db", data_dir / "feedback.db")
    _run_night(data_dir)


def report(state: Path) -> None:
    """The table, and results/scripted_annotator.json with both nights' reports."""
    answers = [json.loads(line) for line in (state / "answers.jsonl").open(encoding="utf-8")]
    votes = [json.loads(line) for line in (state / "votes.jsonl").open(encoding="utf-8")]
    night, control = _last_report(state / "data"), _last_report(state / "shuffled")
    assert night is not None and control is not None
    rows = [
        _comparison("new adapter over base", answers, "new", "base"),
        _comparison("base over base (control)", answers, "base_again", "base"),
        *(
            _comparison(
                f"new over base, {kind}",
                [a for a in answers if (a["gallery_id"] is not None) == (kind == "pictures")],
                "new",
                "base",
            )
            for kind in ("pictures", "topics")
        ),
    ]
    seconds = json.loads((state / "seconds.json").read_text(encoding="utf-8"))
    n_ties = sum(vote["outcome"] == "tie" for vote in votes)
    notes = (
        f"{len(votes)} votes, {n_ties} of them ties; bar: at least {BAR:.0%} of "
        f"{len(answers)} held-out questions, ties half.\n"
        f"The night: {night.summary}\nShuffled votes: {control.summary}\n"
        f"Seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}"
    )
    file = write_report("scripted_annotator", rows, notes=notes)
    content = json.loads(file.read_text(encoding="utf-8"))
    content |= {"seed": SEED, "seconds": seconds, "answers": answers}
    content |= {"night": asdict(night), "night_on_shuffled_votes": asdict(control)}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _vote_on(client: Client, question: Question) -> dict[str, object]:
    voter = "scripted-annotator"
    picture = f"gallery:{question.gallery_id}" if question.gallery_id else None
    pair = client.predict(question.text, voter, picture, None, api_name="/ask_pair")
    outcome = verdict(pair["left"], pair["right"])
    client.predict(pair["ticket"], outcome, voter, uuid.uuid4().hex, api_name="/vote")
    return asdict(question) | {"left": pair["left"], "right": pair["right"], "outcome": outcome}


def _client(app: "subprocess.Popen[bytes]") -> Client:
    """A client of the app once its gallery is there."""
    address = f"http://127.0.0.1:{PORT}"
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and app.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/config", timeout=2):
                break
        except OSError:
            time.sleep(0.2)
    if app.poll() is not None:
        raise SystemExit("The app stopped by itself; see app.log in the state folder.")
    client = Client(address, verbose=False)
    while time.monotonic() < deadline:
        status = client.predict(api_name="/gallery_status")
        if not status["indexing"] and status["pictures"]:
            return client
        time.sleep(0.5)
    raise SystemExit(
        "The app or its gallery was not ready in time; see app.log in the state folder."
    )


def _run_night(data_dir: Path) -> None:
    night = subprocess.run(
        [sys.executable, "-m", "training.nightly", "--data-dir", data_dir], cwd=ROOT, check=False
    )
    if night.returncode:
        raise SystemExit(f"The night ended with exit code {night.returncode}.")


def _flip_by_coin(source: Path, to: Path) -> None:
    import sqlite3

    from feedback.store import take_snapshot

    coin = random.Random(SEED)
    take_snapshot(source, to)
    with closing(sqlite3.connect(to)) as db:
        db.execute("DROP TRIGGER votes_are_never_changed")  # this copy is nobody's record
        decided = db.execute(
            "SELECT id, outcome FROM votes WHERE outcome IN ('left', 'right') ORDER BY id"
        ).fetchall()
        other = {"left": "right", "right": "left"}
        flips = [(other[outcome], vote) for vote, outcome in decided if coin.random() < 0.5]
        db.executemany("UPDATE votes SET outcome = ? WHERE id = ?", flips)
        db.commit()


def _last_report(data_dir: Path) -> RunReport | None:
    for folder in nights.run_folders(data_dir):
        found = nights.read_report(folder)
        if found is not None and found.decision != "failed":
            return found
    return None


def _comparison(
    name: str, answers: Sequence[dict[str, str]], one: str, other: str
) -> dict[str, object]:
    votes = [verdict(answer[one], answer[other]) for answer in answers]
    wins, losses = votes.count("left"), votes.count("right")
    interval = win_rate(wins=wins, losses=losses, ties=votes.count("tie"))
    return {
        "comparison": name,
        "n": len(votes),
        "wins": wins,
        "ties": votes.count("tie"),
        "losses": losses,
        "win rate": round(interval.estimate, 3),
        "95 % low": round(interval.low, 3),
        "95 % high": round(interval.high, 3),
        "mean words": round(_mean_words(answers, one), 1),
        "mean words of the other": round(_mean_words(answers, other), 1),
    }


def _mean_words(answers: Sequence[dict[str, str]], name: str) -> float:
    return sum(len(re.findall(r"\w+", answer[name])) for answer in answers) / max(len(answers), 1)


def _add_seconds(state: Path, step: str, seconds: float) -> None:
    file = state / "seconds.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known[step] = round(known.get(step, 0.0) + seconds, 1)
    file.write_text(json.dumps(known), encoding="utf-8")


STEPS: dict[str, Callable[[Path], None]] = {
    "collect": collect,
    "train": train,
    "evaluate": evaluate,
    "shuffled": shuffled,
}

if __name__ == "__main__":
    main()
