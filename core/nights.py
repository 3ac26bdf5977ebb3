"""Nights seen from the app: start one, follow it, read what came of it. Imports no model."""

import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.errors import Busy, DataFolderError
from core.settings import ROOT, SETTINGS_FILE, Settings
from core.types import RunProgress, RunReport

log = logging.getLogger(__name__)

PROGRESS = "progress.json"
REPORT = "report.json"
LOG = "log.txt"
# A schedule that sleeps until the hour in one go would miss it after the machine slept or the
# clock was set; looking once a minute does not.
LOOK_EVERY_S = 30.0


class NightRunner:
    """Starts nights as processes of their own, now or daily, and reads what they leave behind.

    A night outlives the app: closing the app ends the schedule, not a night that is running.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Settings,
        settings_file: Path = SETTINGS_FILE,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._data_dir = data_dir
        self._settings = settings
        self._settings_file = settings_file
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self._schedule: threading.Thread | None = None

    def start(self) -> str:
        """Start a night now; its run id.

        Raises:
            Busy: one is running.
            DataFolderError: the data folder cannot be written.
        """
        with self._starting:
            if self.is_running():
                raise Busy("A night is running already. Wait for its report, or stop it first.")
            run_id = name_run()
            folder = runs_folder(self._data_dir) / run_id
            try:
                folder.mkdir(parents=True)
                with (folder / LOG).open("ab") as output:
                    self._child = subprocess.Popen(
                        self._command(run_id),
                        cwd=ROOT,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
            except OSError as error:
                raise DataFolderError(
                    f"The night could not be started: {folder} cannot be written "
                    f"({error.strerror}). Free some space or correct its permissions."
                ) from error
        return run_id

    def is_running(self) -> bool:
        """Whether a night is under way, whoever started it."""
        if self._child is not None and self._child.poll() is None:
            return True
        return is_locked(self._data_dir)

    def progress(self) -> RunProgress | None:
        """How far the night is; None when none is running."""
        if not self.is_running():
            return None
        for folder in run_folders(self._data_dir)[:1]:
            return read_progress(folder)
        return None

    def reports(self, *, limit: int = 30) -> list[RunReport]:
        """What came of the last nights, newest first; a night without a report is left out."""
        found: list[RunReport] = []
        for folder in run_folders(self._data_dir):
            report = read_report(folder)
            if report is not None:
                found.append(report)
            if len(found) == limit:
                break
        return found

    def stop(self) -> bool:
        """End the night that is running; nothing of it is published. Whether there was one."""
        progress = self.progress()
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            return True
        if progress is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(progress.pid, signal.SIGTERM)
        return True

    def next_at(self) -> datetime | None:
        """When the next scheduled night begins, local time; None without a schedule."""
        at = self._settings.nightly.at
        return None if at is None else next_time(at, self._clock())

    def start_schedule(self) -> None:
        """Begin to start a night every day at the hour of the settings; without one, do nothing."""
        if self._settings.nightly.at is None or self._schedule is not None:
            return
        self._schedule = threading.Thread(
            target=self._start_daily, name="night-schedule", daemon=True
        )
        self._schedule.start()

    def close(self) -> None:
        """End the schedule; a night that is running goes on."""
        self._closed.set()
        if self._schedule is not None:
            self._schedule.join()

    def _start_daily(self) -> None:
        due = self.next_at()
        while due is not None:
            wait_s = min(LOOK_EVERY_S, max(0.0, (due - self._clock()).total_seconds()))
            if self._closed.wait(wait_s):
                return
            if self._clock() >= due:
                try:
                    log.info("night %s started by the schedule", self.start())
                except (Busy, DataFolderError) as error:
                    log.warning("the scheduled night did not start: %s", error)
                due = self.next_at()

    def _command(self, run_id: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "training.nightly",
            "--data-dir",
            str(self._data_dir.resolve()),
            "--settings",
            str(self._settings_file.resolve()),
            "--preset",
            self._settings.preset,
            "--run-id",
            run_id,
        ]


def next_time(at: str, now: datetime) -> datetime:
    """The next moment after `now` when the clock shows `at` ("03:00")."""
    hour, minute = (int(part) for part in at.split(":"))
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def name_run() -> str:
    """A name for a run that is new and sorts by time, also among those of one second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"


def runs_folder(data_dir: Path) -> Path:
    """Where every night has its folder."""
    return data_dir / "runs"


def run_folders(data_dir: Path) -> list[Path]:
    """The nights' folders, newest first."""
    folder = runs_folder(data_dir)
    if not folder.is_dir():
        return []
    return sorted((run for run in folder.iterdir() if run.is_dir()), reverse=True)


def night_lock(data_dir: Path) -> FileLock:
    """The lock that a night holds while it runs; it is let go when the process ends, however."""
    return FileLock(runs_folder(data_dir) / "night.lock")


def is_locked(data_dir: Path) -> bool:
    """Whether some process is in a night."""
    if not runs_folder(data_dir).is_dir():
        return False
    try:
        with night_lock(data_dir).acquire(timeout=0):
            return False
    except Timeout:
        return True


def write_progress(folder: Path, progress: RunProgress) -> None:
    """Put the progress in its place; readers see the old or the new one."""
    _write_json(folder / PROGRESS, asdict(progress))


def write_report(folder: Path, report: RunReport) -> None:
    """Put the report in its place; readers see none or the whole."""
    _write_json(folder / REPORT, asdict(report))


def read_progress(folder: Path) -> RunProgress | None:
    """The progress in a run's folder; None when there is none yet."""
    content = _read_json(folder / PROGRESS)
    return None if content is None else RunProgress(**content)


def read_report(folder: Path) -> RunReport | None:
    """The report in a run's folder; None when the run has not ended, or ended without one."""
    content = _read_json(folder / REPORT)
    if content is None:
        return None
    lists = {name: tuple(content.get(name, ())) for name in ("reasons", "curve", "samples")}
    return RunReport(**(content | lists))


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", file, error)
        return None
    return content if isinstance(content, dict) else None


def _write_json(file: Path, content: Mapping[str, object]) -> None:
    pending = file.with_name(f".{file.name}.{os.getpid()}")
    with pending.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(pending, file)
