"""Values that travel between rooms. Frozen, small, free of tensors, models and SQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["left", "right", "tie", "both_bad", "skip"]
OUTCOMES: tuple[Outcome, ...] = ("left", "right", "tie", "both_bad", "skip")
Task = Literal["answer", "illustration"]
Role = Literal["system", "user", "assistant"]
LabelKind = Literal["object", "scene", "tag"]
Strategy = Literal["two_seeds", "two_versions"]  # how a pair to compare was chosen
Split = Literal["train", "held_out"]
BehaviourKind = Literal[
    "impression", "click", "thumb_up", "thumb_down", "ask_about", "find_similar", "illustrate"
]
FinishReason = Literal["stop", "length", "cancelled"]
StoryStructure = Literal["sequence", "cycle", "parts", "comparison"]
DiagramTheme = Literal["auto", "light", "dark"]  # auto follows prefers-color-scheme
DiagramShape = Literal["wide", "narrow"]  # narrow is one column, for phones


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was opened, checked and written anew: RGB, upright, without metadata."""

    id: str  # sha256 of the cleaned file's bytes, hex
    path: Path  # the cleaned file, under the data directory
    width: int  # pixels, after turning upright and scaling down
    height: int
    note: str = ""  # what to tell its owner, such as that only the first frame is used


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A word for what a picture shows, and how sure the recogniser is."""

    text: str
    confidence: float  # 0 to 1, a probability within its kind
    kind: LabelKind
    source: Literal["imagenet", "zero_shot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What is in one picture; each tuple is sorted by confidence, highest first."""

    picture_id: str
    objects: tuple[Label, ...]
    scenes: tuple[Label, ...]
    tags: tuple[Label, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryPicture:
    """One indexed picture."""

    id: str  # stable within a gallery
    path: Path  # a cleaned copy or thumbnail that may be served
    caption: str
    labels: tuple[str, ...]
    album: str  # "pictograms", "photographs", or the name of the person's own folder
    credit: str = ""  # author and licence, shown with the picture; empty for a person's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A gallery picture and how well it fits the query."""

    picture: GalleryPicture
    score: float  # cosine similarity, -1 to 1
    matched: Literal["picture", "caption"]  # which of the two vectors was nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHit:
    """A caption or label near a picture."""

    text: str
    kind: Literal["caption", "label"]
    score: float  # cosine similarity, -1 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the answerer was told about the picture; shown under the answer."""

    labels: tuple[Label, ...] = ()
    neighbours: tuple[SearchHit, ...] = ()
    caption: str = ""  # what the gallery calls this very picture, when it comes from there
    colours: tuple[str, ...] = ()  # main colours by name, counted from the pixels
    asked: tuple[Label, ...] = ()  # what the question names, and how sure it is that it is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One earlier question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the prompt exactly as the model was given it."""

    role: Role
    content: str
    has_picture: bool = False  # the picture's tokens stand before the content


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 0.7  # 0 means greedy
    top_p: float = 0.9
    repetition_penalty: float = 1.0  # above 1: what was said already becomes less likely
    max_new_tokens: int = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One generated answer or illustration, with everything needed to make it again."""

    content: str  # answer text, or file name of the picture under the data directory
    model_id: str
    revision: str
    adapter: str | None  # adapter version such as "v0003"; None for the base model
    seed: int
    parameters: Mapping[str, float | int | str] = field(default_factory=dict)
    finish_reason: FinishReason = "stop"
    n_tokens: int = 0
    latency_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPicture:
    """A picture that a diffusion pipeline drew."""

    png: bytes  # says in its text chunks how it was made
    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingStep:
    """One moment of a picture being drawn; the last one, and only that one, carries it."""

    done: int
    total: int
    picture: DrawnPicture | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpec:
    """Which adapter answers one row of a batch, and with which seed."""

    adapter: str | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStep:
    """One moment of a streamed answer; one text per row of the batch.

    The last step, and only that one, carries the candidates.
    """

    texts: tuple[str, ...]
    prompt: tuple[Message, ...]
    evidence: Evidence
    candidates: tuple[Candidate, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Battle:
    """Two candidates for one prompt, as stored: it knows which is which."""

    id: str
    task: Task
    question: str
    prompt: tuple[Message, ...]
    picture_id: str | None
    left: Candidate
    right: Candidate
    strategy: Strategy
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindBattle:
    """What a voter may see before voting."""

    battle_id: str
    ticket: str
    question: str
    left: str
    right: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """A vote as it arrives from a page or a program."""

    id: str  # made by the client, so that a retry is harmless; UUID hex
    ticket: str
    outcome: Outcome
    voter: str  # opaque token of the voter's browser or program
    reasons: tuple[str, ...] = ()
    comment: str = ""
    dwell_ms: int | None = None  # time between seeing both answers and voting
    input_device: Literal["key", "mouse", "touch", "api"] = "api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reveal:
    """What a voter learns after voting."""

    vote_id: str
    battle_id: str
    outcome: Outcome
    left: str  # "base model" or "adapter v0003", with the seed
    right: str
    is_new: bool  # False when this very vote had been stored before


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """One training row, derived from votes."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    picture_id: str | None
    weight: float  # agreement / number of pairs of this prompt, > 0
    split: Split  # by hash of question and picture, never of the row
    vote_ids: tuple[str, ...]
    # False where the answer was cut off at its length limit: it must not teach to end there.
    chosen_ended: bool = True
    rejected_ended: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexProgress:
    """How far an indexing run is."""

    done: int
    total: int
    current: str  # file or picture name being worked on


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What one indexing run did."""

    added: int
    unchanged: int
    removed: int
    unreadable: tuple[tuple[str, str], ...]  # (file name, why)
    was_cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryboardStep:
    """One step, part or point of a storyboard."""

    caption: str  # at most 60 characters, made of the sentence's own words
    sentence: str  # what the caption was cut from
    pictogram_id: str | None = None  # None: nothing was near enough, a numbered disc is drawn
    pictogram_name: str = ""
    relation: str = ""  # how the text ties it to the step before: "then", "so", "but", ... or ""
    column: str = ""  # which of the two sides it belongs to, in a comparison; "" is both


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryboardPlan:
    """What a storyboard will show: three to seven steps, in the order of the text."""

    title: str
    structure: StoryStructure
    steps: tuple[StoryboardStep, ...]
    text_sha256: str  # of the text it was planned from, hex
    columns: tuple[str, ...] = ()  # the two sides of a comparison
    credit: str = ""  # where the words are from, when not from the person: shown under the drawing
    version: int = 1  # of the planner; goes into the PNG


@dataclass(frozen=True, slots=True, kw_only=True)
class Storyboard:
    """A drawn plan."""

    plan: StoryboardPlan
    svg: str  # stands alone: fonts and pictograms inside, no scripts, no links
    svg_narrow: str  # the same in one column, legible on a phone 360 px wide
    png: bytes  # of the wide drawing
    alt_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteStep:
    """One step of a reference note."""

    caption: str
    sentence: str
    picture: str  # words to find its pictogram by
    relation: str = ""
    column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A short explanation, written and checked by hand, of something often asked for."""

    id: str
    title: str
    questions: tuple[str, ...]  # ways people ask for it
    structure: StoryStructure
    steps: tuple[NoteStep, ...]
    columns: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The explanation as one paragraph."""
        return " ".join(step.sentence for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate, its 95 % interval, and what it rests on."""

    estimate: float
    low: float
    high: float
    n: int  # observations


@dataclass(frozen=True, slots=True, kw_only=True)
class DayVotes:
    """How many votes one day brought; skips are not counted."""

    day: str  # ISO date, local time
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonCount:
    """How often one reason was given, once per vote at most."""

    reason: str
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBalance:
    """Whether voters favour a side, whatever stands there."""

    left: int  # votes for the left answer
    right: int
    share_left: Interval
    p_value: float  # exact two-sided binomial test of "both sides win equally often"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionResult:
    """How one adapter version did in blind battles against another."""

    version: str  # such as "v0003"
    opponent: str | None  # an older version; None for the base model
    wins: int
    losses: int
    ties: int  # "same" and "both bad"
    win_rate: Interval  # a tie counts as half a win


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """What is known about one adapter version; written last, so its presence means complete."""

    version: str  # "v0001", also the folder's name
    created_at: str  # ISO 8601, UTC
    parent: str | None  # the version that was live when training began; None for the base model
    base_model_id: str
    base_revision: str
    n_pairs: int  # preference pairs it was trained on
    decision: str  # the gate's verdict in words
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # file name -> sha256, hex


NightStage = Literal["collecting", "loading", "training", "testing", "publishing"]
NightDecision = Literal["published", "refused", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a night is."""

    run_id: str  # "20261121-030000-1f3a", also the folder's name under runs/
    stage: NightStage
    fraction: float  # of the stage, 0 to 1
    message: str  # what is being done, in words: "step 12 of 80"
    eta_s: float | None  # until the end of the stage; None while not known
    updated_at: str  # ISO 8601, UTC
    pid: int  # process that runs the night


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What came of a night."""

    run_id: str
    started_at: str  # ISO 8601, UTC
    ended_at: str
    decision: NightDecision
    summary: str  # one line: "night skipped: 31 new pairs, 50 needed"
    reasons: tuple[str, ...] = ()  # of the gate's decision, in plain words, one for each test
    version: str | None = None  # the adapter it published
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()  # per training step: step, loss, margin, accuracy
    samples: tuple[Mapping[str, str], ...] = ()  # question, before, after
    manifest: Mapping[str, object] = field(default_factory=dict)  # what it was made of
