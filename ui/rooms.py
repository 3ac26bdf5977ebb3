"""What the pages ask of the other rooms. core.engine, feedback and core.nights fit these shapes."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from core.types import (
    AdapterCard,
    AnswerStep,
    Ballot,
    BehaviourKind,
    BlindBattle,
    Candidate,
    DayVotes,
    DrawingStep,
    Evidence,
    GalleryPicture,
    IndexProgress,
    IndexReport,
    Message,
    Note,
    Outcome,
    Picture,
    ReasonCount,
    Recognition,
    Reveal,
    RowSpec,
    RunProgress,
    RunReport,
    SearchHit,
    SideBalance,
    Storyboard,
    StoryboardPlan,
    Strategy,
    Task,
    TextHit,
    Turn,
    VersionResult,
)


class Sight(Protocol):
    """Pictures, search, answers and drawings: core.engine.Engine."""

    @property
    def sees_picture(self) -> bool: ...
    def loading_message(self) -> str | None: ...

    def add_picture(self, source: Path | bytes) -> Picture: ...
    def picture(self, picture_id: str) -> Picture: ...
    def picture_from_gallery(self, gallery_id: str) -> Picture: ...
    def recognize(self, picture: Picture, *, words: Sequence[str] | None = None) -> Recognition: ...

    def search_text(
        self, words: str, *, limit: int = 24, album: str | None = None
    ) -> list[SearchHit]: ...
    def search_picture(self, picture: Picture, *, limit: int = 24) -> list[SearchHit]: ...
    def nearest_texts(self, picture: Picture, *, limit: int = 12) -> list[TextHit]: ...
    def gallery_picture(self, gallery_id: str) -> GalleryPicture: ...
    def gallery_size(self) -> int: ...
    def index_state(self) -> IndexProgress | None: ...
    def add_folder(
        self,
        folder: Path,
        *,
        progress: Callable[[IndexProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> IndexReport: ...

    def answer(
        self,
        question: str,
        *,
        picture: Picture | None,
        history: Sequence[Turn] = (),
        rows: Sequence[RowSpec],
        words: Sequence[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[AnswerStep]: ...

    def is_request(self, text: str) -> bool: ...
    def note_for(self, request: str) -> Note | None: ...
    def plan_storyboard(self, text: str, *, request: str = "") -> StoryboardPlan: ...
    def replan_storyboard(
        self, plan: StoryboardPlan, captions: Sequence[str]
    ) -> StoryboardPlan: ...
    def draw_storyboard(self, plan: StoryboardPlan) -> Storyboard: ...

    @property
    def can_draw_pictures(self) -> bool: ...
    def draw_picture(
        self, prompt: str, *, seed: int, cancel: threading.Event | None = None
    ) -> Iterator[DrawingStep]: ...

    def live_adapter(self) -> str | None: ...
    def previous_adapter(self) -> str | None: ...
    def adapters(self) -> list[AdapterCard]: ...
    def adapter_problems(self) -> dict[str, str]: ...
    def roll_back(self) -> str | None: ...


class Votes(Protocol):
    """Blind battles: feedback.comparison.ComparisonDesk."""

    def choose_rows(
        self, live: str | None, previous: str | None
    ) -> tuple[RowSpec, RowSpec, Strategy]: ...
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
    ) -> BlindBattle: ...
    def vote(self, ballot: Ballot) -> Reveal: ...
    def explain(
        self, *, vote_id: str, voter: str, reasons: Sequence[str] = (), comment: str = ""
    ) -> None: ...


class Behaviour(Protocol):
    """What people do with search results, kept if they agreed: feedback.store.FeedbackStore."""

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
    ) -> bool: ...
    def record_consent(self, voter: str, *, version: str, is_given: bool) -> None: ...


class Numbers(Protocol):
    """What the votes say: feedback.insights.Insights."""

    def votes_per_day(self, *, days: int = 30) -> tuple[DayVotes, ...]: ...
    def votes_today(self) -> int: ...
    def outcomes(self) -> dict[Outcome, int]: ...
    def side_balance(self) -> SideBalance: ...
    def version_results(self) -> tuple[VersionResult, ...]: ...
    def reason_counts(self) -> tuple[ReasonCount, ...]: ...
    def pairs_missing(self, *, min_pairs: int, since: int | None = None) -> int: ...


class Nights(Protocol):
    """Training runs: core.nights.NightRunner."""

    def start(self) -> str: ...
    def stop(self) -> bool: ...
    def is_running(self) -> bool: ...
    def progress(self) -> RunProgress | None: ...
    def reports(self, *, limit: int = 30) -> list[RunReport]: ...
    def next_at(self) -> datetime | None: ...


class PresetFacts(Protocol):
    """The preset's section of the settings."""

    @property
    def title(self) -> str: ...
    @property
    def about(self) -> str: ...


class LimitFacts(Protocol):
    """The limits' section of the settings."""

    @property
    def max_upload_mb(self) -> int: ...
    @property
    def max_megapixels(self) -> int: ...
    @property
    def max_question_chars(self) -> int: ...
    @property
    def max_text_chars(self) -> int: ...


class ComparisonFacts(Protocol):
    """The comparison's section of the settings."""

    @property
    def consent_version(self) -> str: ...


class SettingsFacts(Protocol):
    """The settings: core.settings.Settings."""

    @property
    def active(self) -> PresetFacts: ...
    @property
    def limits(self) -> LimitFacts: ...
    @property
    def comparison(self) -> ComparisonFacts: ...
    @property
    def nightly(self) -> "NightlyFacts": ...


class NightlyFacts(Protocol):
    """The night's section of the settings."""

    @property
    def at(self) -> str | None: ...
    @property
    def min_pairs(self) -> int: ...
