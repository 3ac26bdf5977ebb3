"""A whole night on a tiny model: what people chose is learnt and published, noise is refused."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from core import nights
from core.adapters import AdapterShelf
from core.settings import ROOT, SETTINGS_FILE, Settings, load_settings
from core.types import RunReport
from feedback.store import FeedbackStore
from tests.battles import ballot, make_desk, open_battle
from tests.tiny_models import make_tiny_fastvlm
from training.nightly import run_night

QUICK = {
    "epochs": 2,
    "learning_rate": 3e-3,
    "lora_rank": 4,
    "min_pairs": 20,
    "batch_size": 8,
    "sft_weight": 0.0,
}


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """spaces.yaml with the tiny model as its answerer and settings that learn within seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    content = yaml.safe_load(SETTINGS_FILE.read_text(encoding="utf-8"))
    embedded = content["presets"]["embedded"]
    embedded["answerer"] = {
        "kind": "pretrained",
        "model": {"folder": str(make_tiny_fastvlm(folder / "model"))},
        "picture_tokens": False,
    }
    embedded["dtype"] = "float32"
    content["nightly"] |= QUICK
    file = folder / "spaces.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def settings(settings_file: Path) -> Settings:
    return load_settings(settings_file)


def vote_on(data_dir: Path, n_questions: int, *, share_flipped: float = 0.0) -> None:
    """Votes for the answer that is sure, on so many questions without a picture."""
    flips = random.Random(5)
    data_dir.mkdir(parents=True, exist_ok=True)
    with FeedbackStore(data_dir / "feedback.db") as store:
        desk = make_desk(store)
        for n in range(n_questions):
            more = " and round" * (n % 6)  # 1 to 11 words, as the tiny model babbles
            answers = [f"Red{more}.", f"Blue{more}?"]
            sure = n % 2
            battle = open_battle(
                desk,
                question=f"Which colour has thing {n}?",
                picture_id=None,
                answers=answers if sure == 0 else answers[::-1],
            )
            likes_sure = flips.random() >= share_flipped
            side = "left" if (sure == 0) == likes_sure else "right"
            desk.vote(ballot(battle, side))


def night(data_dir: Path, settings: Settings) -> RunReport:
    return run_night(data_dir, settings, cache=data_dir / "cache")


def shelf(data_dir: Path) -> AdapterShelf:
    return AdapterShelf(data_dir / "adapters" / "answerer")


def test_a_planted_preference_is_published_and_the_next_night_has_nothing_new(
    tmp_path: Path, settings: Settings
) -> None:
    vote_on(tmp_path, 100)
    before = (tmp_path / "feedback.db").read_bytes()

    report = night(tmp_path, settings)

    assert report.decision == "published", report.reasons
    assert report.version == "v0001" == shelf(tmp_path).current()
    assert report.metrics["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert report.metrics["held_out_agreement"] > 0.9
    assert report.metrics["train_pairs"] + report.metrics["held_out_pairs"] == 100
    assert shelf(tmp_path).card("v0001").decision.startswith("published: votes: ")
    assert (tmp_path / "feedback.db").read_bytes() == before
    assert not (tmp_path / "runs" / report.run_id / "work").exists()

    again = night(tmp_path, settings)
    assert again.decision == "skipped"
    assert again.summary == "night skipped: 0 new pairs, 20 needed"
    assert [r.decision for r in nights.NightRunner(tmp_path, settings=settings).reports()] == [
        "skipped",
        "published",
    ]


def test_shuffled_votes_are_refused(tmp_path: Path, settings: Settings) -> None:
    vote_on(tmp_path, 100, share_flipped=0.5)
    report = night(tmp_path, settings)
    assert report.decision == "refused"
    assert "not clearly more than half" in report.summary
    assert shelf(tmp_path).current() is None and shelf(tmp_path).versions() == []


def test_too_few_votes_are_skipped_with_their_number(tmp_path: Path, settings: Settings) -> None:
    vote_on(tmp_path, 7)
    assert night(tmp_path, settings).summary == "night skipped: 7 new pairs, 20 needed"
    assert night(tmp_path / "empty", settings).summary == "night skipped: 0 new pairs, 20 needed"


def test_a_second_night_must_also_improve_on_the_live_version(
    tmp_path: Path, settings: Settings
) -> None:
    vote_on(tmp_path, 60)
    assert night(tmp_path, settings).decision == "published"
    flipped = tmp_path / "feedback.db"
    flipped.unlink()
    vote_on(tmp_path, 200, share_flipped=1.0)  # people changed their minds
    report = night(tmp_path, settings)
    assert report.decision == "published", report.reasons
    assert report.metrics["live_agreement"] > 0.9
    assert shelf(tmp_path).card("v0002").parent == "v0001"


def test_a_night_killed_at_any_moment_leaves_nothing_half_published(
    tmp_path: Path, settings: Settings, settings_file: Path
) -> None:
    vote_on(tmp_path, 60)
    stages = ("collecting", "loading", "training", "testing")
    for stage in stages:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.nightly", "--data-dir", tmp_path]
            + ["--settings", settings_file],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        wait_for_stage(tmp_path, stage, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert shelf(tmp_path).current() is None
    report = night(tmp_path, settings)
    assert report.decision == "published", report.summary
    reports = nights.NightRunner(tmp_path, settings=settings).reports()
    assert [r.decision for r in reports] == ["published"] + ["failed"] * len(stages)
    assert all("interrupted" in r.summary for r in reports[1:])


def test_a_night_that_is_stopped_says_so(tmp_path: Path, settings_file: Path) -> None:
    vote_on(tmp_path, 60)
    process = subprocess.Popen(
        [sys.executable, "-m", "training.nightly", "--data-dir", tmp_path]
        + ["--settings", settings_file],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    wait_for_stage(tmp_path, "training", process)
    process.terminate()
    assert process.wait(timeout=30) == 143
    (report,) = [nights.read_report(run) for run in nights.run_folders(tmp_path)]
    assert report is not None and report.decision == "failed"
    assert report.summary == "night failed: it was stopped; nothing was published"


def wait_for_stage(data_dir: Path, stage: str, process: "subprocess.Popen[bytes]") -> None:
    """Until the night of this process is in the stage, or past it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for folder in nights.run_folders(data_dir)[:1]:
            progress = nights.read_progress(folder)
            if progress and progress.pid == process.pid and progress.stage == stage:
                return
        time.sleep(0.01)
    raise AssertionError(f"the night never came to {stage}")
