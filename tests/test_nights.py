"""Nights seen from the app: started once, followed, stopped, and on time."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from core import nights
from core.errors import Busy
from core.nights import NightRunner, next_time
from core.settings import Settings, load_settings
from core.types import RunProgress, RunReport

PROGRESS = RunProgress(
    run_id="r",
    stage="training",
    fraction=0.5,
    message="step 1 of 2",
    eta_s=3.0,
    updated_at="2026-11-21T03:00:00+00:00",
    pid=1,
)


def report(run_id: str) -> RunReport:
    return RunReport(
        run_id=run_id,
        started_at="2026-11-21T03:00:00+00:00",
        ended_at="2026-11-21T03:10:00+00:00",
        decision="refused",
        summary="refused: votes",
        reasons=("votes: no",),
        curve=({"step": 1.0, "loss": 0.6931},),
    )


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def runner(tmp_path: Path, settings: Settings) -> Iterator[NightRunner]:
    with closing(NightRunner(tmp_path, settings=settings)) as runner:
        yield runner


def at(settings: Settings, hour: str) -> Settings:
    return settings.model_copy(update={"nightly": settings.nightly.model_copy(update={"at": hour})})


def wait_until_over(runner: NightRunner) -> None:
    deadline = time.monotonic() + 60
    while runner.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_progress_and_reports_come_back_as_they_were_written(tmp_path: Path) -> None:
    nights.write_progress(tmp_path, PROGRESS)
    nights.write_report(tmp_path, report("r"))
    assert nights.read_progress(tmp_path) == PROGRESS
    assert nights.read_report(tmp_path) == report("r")


def test_reports_are_the_newest_first_and_a_damaged_one_is_left_out(
    tmp_path: Path, runner: NightRunner, caplog: pytest.LogCaptureFixture
) -> None:
    for run_id in ("20261101-030000-aaaa", "20261103-030000-aaaa", "20261102-030000-aaaa"):
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        nights.write_report(folder, report(run_id))
    (tmp_path / "runs" / "20261104-030000-aaaa").mkdir()
    (tmp_path / "runs" / "20261104-030000-aaaa" / "report.json").write_text("{")
    assert [r.run_id[:8] for r in runner.reports(limit=2)] == ["20261103", "20261102"]


def test_a_night_runs_as_its_own_process_and_leaves_report_and_log(
    tmp_path: Path, runner: NightRunner
) -> None:
    run_id = runner.start()
    assert runner.is_running()
    with pytest.raises(Busy, match="running already"):
        runner.start()
    wait_until_over(runner)
    (found,) = runner.reports()
    assert (found.run_id, found.decision) == (run_id, "skipped")  # nobody has voted
    assert "night skipped: 0 new pairs" in (tmp_path / "runs" / run_id / "log.txt").read_text()
    assert runner.progress() is None


def test_a_night_started_by_hand_is_seen_and_stopped_through_its_lock(
    tmp_path: Path, runner: NightRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "20261121-030000-abcd"
    folder.mkdir(parents=True)
    nights.write_progress(folder, PROGRESS)
    told: list[int] = []
    monkeypatch.setattr("core.nights.os.kill", lambda pid, _: told.append(pid))
    with nights.night_lock(tmp_path):
        assert runner.is_running() and runner.progress() == PROGRESS
        assert runner.stop()
    assert not runner.is_running() and runner.progress() is None
    assert not runner.stop()
    assert told == [PROGRESS.pid]


@pytest.mark.parametrize(
    ("now", "expected"),
    [("2026-11-21 02:59", "2026-11-21 03:00"), ("2026-11-21 03:00", "2026-11-22 03:00")],
)
def test_the_next_night_is_today_or_tomorrow(now: str, expected: str) -> None:
    assert next_time("03:00", datetime.fromisoformat(now)) == datetime.fromisoformat(expected)


def test_without_an_hour_nothing_is_scheduled(runner: NightRunner) -> None:
    assert runner.next_at() is None
    runner.start_schedule()
    assert runner._schedule is None


def test_the_schedule_starts_one_night_a_day_and_survives_a_busy_one(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "LOOK_EVERY_S", 0.001)
    now = datetime(2026, 11, 21, 2, 0)
    started: list[str] = []
    three_days = threading.Event()

    def clock() -> datetime:
        nonlocal now
        now += timedelta(minutes=10)
        return now

    def start(_: NightRunner) -> str:
        started.append(f"{now:%d %H}")
        if len(started) == 3:
            three_days.set()
        if len(started) == 2:
            raise Busy("A night is running already.")
        return "run"

    monkeypatch.setattr(NightRunner, "start", start)
    with closing(NightRunner(tmp_path, settings=at(settings, "03:00"), clock=clock)) as runner:
        runner.start_schedule()
        assert three_days.wait(20)
    assert started[:3] == ["21 03", "22 03", "23 03"]


def test_names_of_runs_sort_by_time_also_within_a_second() -> None:
    names = [nights.name_run() for _ in range(50)]
    assert names == sorted(names) and len(set(names)) == 50
