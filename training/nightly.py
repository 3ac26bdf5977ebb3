"""One night: votes -> pairs -> a trained adapter -> the gate -> live. `python -m training.nightly`.

A process of its own beside the running app. It reads a snapshot of the votes, never the live
file, and makes a version live by moving one pointer at the very end, so that it can be killed at
any moment.
"""

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from core import nights
from core.adapters import AdapterShelf, CheckedAdapter, base_layers, finish, verify
from core.assembly import BaseModel, prepare_base
from core.errors import AdapterRefused, PictureError, UserError
from core.images import PictureFolder
from core.settings import (
    SETTINGS_FILE,
    NightlyPreset,
    Settings,
    cache_dir,
    default_data_dir,
    load_settings,
)
from core.types import NightDecision, NightStage, PreferencePair, RunProgress, RunReport
from feedback.pairs import count_pairs, preference_pairs, vote_watermark
from feedback.store import take_snapshot

if TYPE_CHECKING:
    from PIL import Image

    from training.dpo import TrainingRecord
    from training.gate import Verdict

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")
TRAINING_SHARE = 0.8  # of the night's minutes; the rest is for loading and the gate
LOCK_TIMEOUT_S = 5.0  # the app looks at the lock for a moment to see whether a night is running
NICENESS = 10  # the page goes first on a machine that does both


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """What a night learns from."""

    train: tuple[PreferencePair, ...]
    held_out: tuple[PreferencePair, ...]
    n_new: int  # pairs since the last night that trained
    watermark: int  # sequence number of the newest vote


class Night:
    """One run's folder, progress and outcome."""

    def __init__(self, data_dir: Path, settings: Settings, *, run_id: str, cache: Path) -> None:
        self.data_dir = data_dir
        self.settings = settings
        self.preset: NightlyPreset = settings.nightly
        self.run_id = run_id
        self.folder = nights.runs_folder(data_dir) / run_id
        self.work = self.folder / "work"  # snapshot, checkpoints, the adapter before the gate
        self.shelf = AdapterShelf(data_dir / "adapters" / "answerer")
        self.started_at = _now()
        self._cache = cache
        self._manifest: dict[str, object] = {}

    def run(self) -> RunReport:
        """What came of the night; it lies in the run's folder as well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            report = self._collect_and_train()
        except BaseException as error:
            report = self._report("failed", f"night failed: {_told(error)}")
            raise
        finally:
            nights.write_report(self.folder, report)
            log.info("%s", report.summary)
        shutil.rmtree(self.work, ignore_errors=True)
        return report

    def _collect_and_train(self) -> RunReport:
        self.note("collecting", 0.0, "copying the votes")
        votes = self._collect()
        if votes.n_new < self.preset.min_pairs:
            return self._report(
                "skipped",
                f"night skipped: {votes.n_new} new pairs, {self.preset.min_pairs} needed",
                metrics={"new_pairs": votes.n_new},
            )
        if not votes.train or not votes.held_out:
            return self._report(
                "skipped",
                f"night skipped: {len(votes.train)} pairs to train on and "
                f"{len(votes.held_out)} to test with, both are needed; "
                "votes on more different questions will bring them",
                metrics={"new_pairs": votes.n_new},
            )
        self.note("loading", 0.0, "loading the base model")
        base = prepare_base(
            self.settings.active.answerer, cache=self._cache, progress=self._on_loading
        )
        self._write_manifest(votes, base)
        record = self._train(votes, base)
        verdict = self._test(votes, base)
        metrics = _training_metrics(votes, record) | dict(verdict.metrics)
        if not verdict.is_passed:
            failed = verdict.reasons[0]
            return self._report(
                "refused", f"refused: {failed}", verdict=verdict, record=record, metrics=metrics
            )
        version = self._publish(base, n_pairs=record.n_pairs, verdict=verdict, metrics=metrics)
        return self._report(
            "published",
            f"published {version}: trained on {record.n_pairs} pairs, {verdict.reasons[0]}",
            version=version,
            verdict=verdict,
            record=record,
            metrics=metrics,
        )

    def _collect(self) -> Votes:
        database = self.data_dir / "feedback.db"
        if not database.exists():  # nobody has voted yet
            return Votes(train=(), held_out=(), n_new=0, watermark=0)
        snapshot = take_snapshot(database, self.work / "snapshot.db")
        pairs = preference_pairs(snapshot, held_out_share=self.preset.held_out_share)
        n_new = count_pairs(snapshot, since=self._last_watermark())
        usable = [pair for pair in pairs if self._has_its_picture(pair)]
        if len(usable) < len(pairs):
            log.warning("%d pairs left out: their picture is gone", len(pairs) - len(usable))
        votes = Votes(
            train=tuple(pair for pair in usable if pair.split == "train"),
            held_out=tuple(pair for pair in usable if pair.split == "held_out"),
            n_new=n_new,
            watermark=vote_watermark(snapshot),
        )
        snapshot.unlink()  # votes are kept in one place only
        return votes

    def _last_watermark(self) -> int:
        """The newest vote of the last night that trained, whether or not it was published."""
        for folder in nights.run_folders(self.data_dir):
            report = nights.read_report(folder)
            if report is not None and report.decision in ("published", "refused"):
                watermark = report.manifest.get("watermark", 0)
                return watermark if isinstance(watermark, int) else 0
        return 0

    def _train(self, votes: Votes, base: BaseModel) -> "TrainingRecord":
        from core.answerer import load_base
        from training.dpo import train_adapter

        model, processor = load_base(
            base, device=self.settings.active.device, dtype=self.settings.active.dtype
        )
        self.note("training", 0.0, f"{len(votes.train)} pairs")
        checkpoints = self.work / "checkpoints"
        self._take_over_checkpoints(checkpoints)
        return train_adapter(
            model,
            processor,
            votes.train,
            preset=self.preset,
            open_picture=self._open_picture,
            folder=self._candidate,
            work=checkpoints,
            max_seconds=TRAINING_SHARE * 60 * self.preset.max_minutes,
            on_step=self._on_step,
        )

    def _test(self, votes: Votes, base: BaseModel) -> "Verdict":
        """The gate on a freshly loaded model with the adapter as it was written to disk."""
        from core.answerer import Answerer, load_base
        from training.gate import Verdict, decide, measure
        from training.rewards import checkable_questions

        self.note("testing", 0.0, "checking the adapter's files")
        preset = self.settings.active
        model, processor = load_base(base, device=preset.device, dtype=preset.dtype)
        layers = base_layers(model)
        finish(
            self._candidate,
            base=base,
            parent=self.shelf.current(),
            n_pairs=len(votes.train),
            decision="not decided yet",
        )
        try:
            new = verify(self._candidate, base=base, layers=layers)
        except AdapterRefused as error:
            return Verdict(is_passed=False, reasons=(f"files: {error}",), metrics={})
        live = self._live(base, verify_version=lambda f: verify(f, base=base, layers=layers))
        answerer = Answerer(
            model, processor, base=base, picture_tokens=preset.answerer.picture_tokens
        )
        for adapter in (new, live):
            if adapter is not None:
                answerer.load_adapter(adapter)
        return decide(
            measure(
                answerer,
                new=new.version,
                live=live.version if live else None,
                held_out=votes.held_out,
                chosen=[pair.chosen for pair in (*votes.train, *votes.held_out)],
                questions=checkable_questions(),
                open_picture=self._open_picture,
                on_part=lambda what, fraction: self.note("testing", fraction, what),
                repetition_penalty=self.settings.answering.repetition_penalty,
            )
        )

    def _live(
        self, base: BaseModel, *, verify_version: Callable[[Path], CheckedAdapter]
    ) -> CheckedAdapter | None:
        version = self.shelf.current()
        if version is None:
            return None
        try:
            return verify_version(self.shelf.folder(version))
        except AdapterRefused as error:  # the app serves the base model then
            log.warning("%s", error)
            return None

    def _publish(
        self,
        base: BaseModel,
        *,
        n_pairs: int,
        verdict: "Verdict",
        metrics: Mapping[str, float],
    ) -> str:
        """The new version's name. It counts once its card is written, and is live after that."""
        self.note("publishing", 0.0, "making the adapter live")
        parent = self.shelf.current()
        folder = self.shelf.new_folder()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(self._candidate / name, folder / name)
        finish(
            folder,
            base=base,
            parent=parent,
            n_pairs=n_pairs,
            decision=f"published: {'; '.join(verdict.reasons)}",
            metrics=metrics,
        )
        self.shelf.publish(folder.name)
        return folder.name

    def _write_manifest(self, votes: Votes, base: BaseModel) -> None:
        used = sorted(vote for pair in (*votes.train, *votes.held_out) for vote in pair.vote_ids)
        self._manifest = {
            "watermark": votes.watermark,
            "n_votes": len(used),
            "votes_sha256": hashlib.sha256("\n".join(used).encode()).hexdigest(),
            "base_model_id": base.id,
            "base_revision": base.revision,
            "live_before": self.shelf.current(),
            "preset": self.settings.preset,
            "settings": self.preset.model_dump(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
        }
        file = self.folder / "manifest.json"
        file.write_text(json.dumps(self._manifest, indent=1), encoding="utf-8")

    def _take_over_checkpoints(self, checkpoints: Path) -> None:
        """Continue a night that was interrupted, if it was made of exactly the same things."""
        for folder in nights.run_folders(self.data_dir):
            left = folder / "work" / "checkpoints"
            if folder == self.folder or not left.is_dir():
                continue
            if not checkpoints.exists() and self._is_same(folder / "manifest.json"):
                log.info("going on where %s was interrupted", folder.name)
                checkpoints.parent.mkdir(parents=True, exist_ok=True)
                os.replace(left, checkpoints)
            shutil.rmtree(folder / "work", ignore_errors=True)

    def _is_same(self, manifest: Path) -> bool:
        try:
            return bool(json.loads(manifest.read_text(encoding="utf-8")) == self._manifest)
        except (OSError, ValueError):
            return False

    @property
    def _candidate(self) -> Path:
        return self.work / "candidate"

    def _has_its_picture(self, pair: PreferencePair) -> bool:
        if not any(message.has_picture for message in pair.prompt):
            return True
        try:
            self._open_picture(pair.picture_id or "")
        except PictureError:
            return False
        return True

    def _open_picture(self, picture_id: str) -> "Image.Image":
        pictures = PictureFolder(self.data_dir / "pictures", limits=self.settings.limits)
        return pictures.open(pictures.get(picture_id))

    def _on_loading(self, message: str, fraction: float) -> None:
        self.note("loading", fraction, message)

    def _on_step(self, step: int, n_steps: int, seconds_left: float) -> None:
        self.note("training", step / n_steps, f"step {step} of {n_steps}", eta_s=seconds_left)

    def note(
        self, stage: NightStage, fraction: float, message: str, *, eta_s: float | None = None
    ) -> None:
        """Tell the app, and the log, how far the night is."""
        log.info("%s: %s", stage, message)
        nights.write_progress(
            self.folder,
            RunProgress(
                run_id=self.run_id,
                stage=stage,
                fraction=fraction,
                message=message,
                eta_s=eta_s,
                updated_at=_now(),
                pid=os.getpid(),
            ),
        )

    def _report(
        self,
        decision: NightDecision,
        summary: str,
        *,
        version: str | None = None,
        verdict: "Verdict | None" = None,
        record: "TrainingRecord | None" = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RunReport:
        return RunReport(
            run_id=self.run_id,
            started_at=self.started_at,
            ended_at=_now(),
            decision=decision,
            summary=summary,
            reasons=verdict.reasons if verdict else (),
            version=version,
            metrics=metrics or {},
            curve=record.curve if record else (),
            samples=verdict.samples if verdict else (),
            manifest=self._manifest,
        )


def run_night(
    data_dir: Path, settings: Settings, *, cache: Path, run_id: str | None = None
) -> RunReport:
    """Run one night and return its report.

    Raises:
        UserError: another night is running, or the data folder cannot be used.
    """
    nights.runs_folder(data_dir).mkdir(parents=True, exist_ok=True)
    try:
        with nights.night_lock(data_dir).acquire(timeout=LOCK_TIMEOUT_S):
            night = Night(data_dir, settings, run_id=run_id or nights.name_run(), cache=cache)
            _report_interrupted(data_dir, but_not=night.folder)
            return night.run()
    except Timeout as error:
        raise UserError(
            f"A night is running already for {data_dir}. Wait until it ends and start again."
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when the night published, refused or skipped, 1 when it failed."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _end_at_once)
    try:
        settings = _with_options(load_settings(options.settings, preset=options.preset), options)
        run_id = options.run_id or nights.name_run()
        _log_to(None if options.run_id else nights.runs_folder(options.data_dir) / run_id)
        os.nice(NICENESS)
        run_night(options.data_dir, settings, cache=cache_dir(), run_id=run_id)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.nightly", description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, default=default_data_dir(), help="default: %(default)s"
    )
    parser.add_argument("--preset", help="default: the one in spaces.yaml")
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, help="longest duration of the night")
    parser.add_argument("--min-pairs", type=int, help="new pairs without which it is skipped")
    parser.add_argument("--run-id", help=argparse.SUPPRESS)  # given by the app
    return parser


def _with_options(settings: Settings, options: argparse.Namespace) -> Settings:
    changes = {"max_minutes": options.minutes, "min_pairs": options.min_pairs}
    given = {name: value for name, value in changes.items() if value is not None}
    nightly = NightlyPreset.model_validate(settings.nightly.model_dump() | given)
    return settings.model_copy(update={"nightly": nightly})


def _report_interrupted(data_dir: Path, *, but_not: Path) -> None:
    """Give every night that ended without a report the one it could not write; keep no votes."""
    for folder in nights.run_folders(data_dir):
        if folder == but_not or (folder / nights.REPORT).exists():
            continue
        for copy in (folder / "work").glob("*snapshot*"):
            copy.unlink()
        progress = nights.read_progress(folder)
        where = f"while {progress.stage}" if progress else "before it began"
        moment = progress.updated_at if progress else _now()
        nights.write_report(
            folder,
            RunReport(
                run_id=folder.name,
                started_at=moment,
                ended_at=moment,
                decision="failed",
                summary=f"night failed: it was interrupted {where}; nothing was published",
            ),
        )


def _training_metrics(votes: Votes, record: "TrainingRecord") -> dict[str, float]:
    return {
        "new_pairs": votes.n_new,
        "train_pairs": len(votes.train),
        "held_out_pairs": len(votes.held_out),
        "steps": record.n_steps,
        "planned_steps": record.planned_steps,
        "first_loss": record.first_loss,
        "last_loss": record.last_loss,
        "train_seconds": record.seconds,
        "pairs_per_s": record.pairs_per_s,
    }


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return "it was stopped; nothing was published"
    return f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _end_at_once(*_: object) -> None:
    raise SystemExit(143)  # 128 + SIGTERM, as shells report it


def _log_to(folder: Path | None) -> None:
    """Log to stderr, which the app sends to the run's log.txt; by hand, to both."""
    targets: list[logging.Handler] = [logging.StreamHandler()]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        targets.append(logging.FileHandler(folder / nights.LOG, encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", handlers=targets
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
