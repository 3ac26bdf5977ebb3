"""A room of sight that can be computed by eye, for tests of the pages."""

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from core.diagram import draw_storyboard
from core.errors import PictureError, UserError
from core.images import PictureFolder
from core.settings import Limits
from core.types import (
    AdapterCard,
    AnswerStep,
    Candidate,
    DrawingStep,
    DrawnPicture,
    Evidence,
    GalleryPicture,
    IndexProgress,
    IndexReport,
    Label,
    Message,
    Note,
    NoteStep,
    Picture,
    Recognition,
    RowSpec,
    SearchHit,
    Storyboard,
    StoryboardPlan,
    StoryboardStep,
    TextHit,
    Turn,
)

COLOURS = {
    "red": (214, 69, 65),
    "green": (38, 140, 90),
    "blue": (50, 90, 190),
    "gold": (230, 180, 60),
}
RAIN = ("The sun warms the sea", "Vapour rises", "Clouds form", "Rain falls")
SHAPES = ("square", "disc", "ring")


class SmallSight:
    """Twelve coloured shapes. Words find pictures whose caption has them; answers repeat the
    question, word by word, and end with the seed."""

    sees_picture = False
    draws = False  # whether there is a pipeline that draws pictures

    def __init__(self, root: Path, *, limits: Limits, pause_s: float = 0.0) -> None:
        self._pictures = PictureFolder(root / "pictures", limits=limits)
        self._pause_s = pause_s
        self._version: str | None = "v0002"
        self.gallery = {picture.id: picture for picture in _draw_gallery(root / "gallery")}

    def loading_message(self) -> str | None:
        return None

    def add_picture(self, source: Path | bytes) -> Picture:
        return self._pictures.add(source)

    def picture(self, picture_id: str) -> Picture:
        return self._pictures.get(picture_id)

    def picture_from_gallery(self, gallery_id: str) -> Picture:
        return self.add_picture(self.gallery_picture(gallery_id).path)

    def recognize(self, picture: Picture, *, words: Sequence[str] | None = None) -> Recognition:
        with Image.open(picture.path) as image:
            at_centre = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
        nearest = min(COLOURS, key=lambda name: _distance(COLOURS[name], at_centre))
        return Recognition(
            picture_id=picture.id,
            objects=(_label("shape", 0.82, "object"), _label("button", 0.11, "object")),
            scenes=(_label("a plain background", 0.64, "scene"),),
            tags=tuple(
                _label(word, 0.4, "tag", "zero_shot") for word in words or (nearest, "flat")
            ),
        )

    def search_text(
        self, words: str, *, limit: int = 24, album: str | None = None
    ) -> list[SearchHit]:
        if not words.strip():
            raise UserError("The search is empty. Type what you look for.")
        asked = set(words.lower().split())
        return self._ranked(lambda picture: len(asked & set(picture.caption.split())), limit)

    def search_picture(self, picture: Picture, *, limit: int = 24) -> list[SearchHit]:
        tag = self.recognize(picture).tags[0].text
        return self._ranked(lambda shown: 2 * (tag in shown.caption), limit)

    def nearest_texts(self, picture: Picture, *, limit: int = 12) -> list[TextHit]:
        tag = self.recognize(picture).tags[0].text
        return [
            TextHit(text=tag, kind="label", score=0.9),
            TextHit(text=f"a {tag} square", kind="caption", score=0.8),
        ]

    def gallery_picture(self, gallery_id: str) -> GalleryPicture:
        if gallery_id not in self.gallery:
            raise PictureError("There is no such picture in the gallery. Search again.")
        return self.gallery[gallery_id]

    def gallery_size(self) -> int:
        return len(self.gallery)

    def index_state(self) -> IndexProgress | None:
        return None

    def add_folder(
        self,
        folder: Path,
        *,
        progress: Callable[[IndexProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> IndexReport:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. Give the path of one.")
        files = sorted(folder.iterdir())
        for done, file in enumerate(files):
            if progress:
                progress(IndexProgress(done=done, total=len(files), current=file.name))
        unreadable = tuple((file.name, "not a picture") for file in files if file.suffix != ".png")
        return IndexReport(
            added=len(files) - len(unreadable), unchanged=0, removed=0, unreadable=unreadable
        )

    def answer(
        self,
        question: str,
        *,
        picture: Picture | None,
        history: Sequence[Turn] = (),
        rows: Sequence[RowSpec],
        words: Sequence[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[AnswerStep]:
        evidence = Evidence()
        if picture is not None:
            recognition = self.recognize(picture, words=words)
            evidence = Evidence(
                labels=(*recognition.objects, *recognition.tags),
                neighbours=tuple(self.search_picture(picture, limit=3)),
            )
        prompt = (Message(role="user", content=question),)
        told = f"You asked: {question} After {len(history)} earlier turns I say it again.".split()
        texts = ["" for _ in rows]
        reason = "stop"
        for n in range(len(told)):
            if cancel is not None and cancel.is_set():
                reason = "cancelled"
                break
            texts = [" ".join([*told[: n + 1]]) for _ in rows]
            yield AnswerStep(texts=tuple(texts), prompt=prompt, evidence=evidence)
            time.sleep(self._pause_s)
        candidates = tuple(
            Candidate(
                content=f"{text} ({row.seed % 100})",
                model_id="small-sight",
                revision="1",
                adapter=row.adapter,
                seed=row.seed,
                finish_reason=reason,  # type: ignore[arg-type]
                n_tokens=len(told),
            )
            for text, row in zip(texts, rows, strict=True)
        )
        yield AnswerStep(
            texts=tuple(candidate.content for candidate in candidates),
            prompt=prompt,
            evidence=evidence,
            candidates=candidates,
        )

    def is_request(self, text: str) -> bool:
        return text.lower().startswith("explain")

    def note_for(self, request: str) -> Note | None:
        if "rain" not in request:
            return None
        steps = [NoteStep(caption=words, sentence=f"{words}.", picture=words) for words in RAIN]
        return Note(
            id="rain", title="How rain forms", questions=(), structure="cycle", steps=tuple(steps)
        )

    def plan_storyboard(self, text: str, *, request: str = "") -> StoryboardPlan:
        parts = [part.strip() for part in text.split(".") if part.strip()]
        if len(parts) < 3:
            raise UserError("The text has fewer than three things to draw. Write more.")
        return _plan(request or parts[0], parts)

    def replan_storyboard(self, plan: StoryboardPlan, captions: Sequence[str]) -> StoryboardPlan:
        return _plan(plan.title, captions)

    def draw_storyboard(self, plan: StoryboardPlan) -> Storyboard:
        return draw_storyboard(plan)

    def live_adapter(self) -> str | None:
        return self._version

    def previous_adapter(self) -> str | None:
        return "v0001" if self._version == "v0002" else None

    def adapters(self) -> list[AdapterCard]:
        return [
            AdapterCard(
                version=f"v000{n}",
                created_at=f"2026-11-{18 + n}T03:12:00+00:00",
                parent=None if n == 1 else "v0001",
                base_model_id="small-sight",
                base_revision="1",
                n_pairs=60 * n,
                decision="published: the held-out voters prefer it",
                metrics={"held_out_agreement": 0.7 + n / 100, "held_out_n": 40.0},
            )
            for n in (1, 2)
        ]

    @property
    def can_draw_pictures(self) -> bool:
        return self.draws

    def draw_picture(self, prompt: str, *, seed: int, cancel=None) -> Iterator[DrawingStep]:
        if not prompt.strip():
            raise UserError("The text is empty. Describe the picture.")
        made = Candidate(content="", model_id="one-colour", revision="1", adapter=None, seed=seed)
        file = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(file, "PNG")
        yield DrawingStep(done=1, total=1)
        yield DrawingStep(
            done=1, total=1, picture=DrawnPicture(png=file.getvalue(), candidate=made)
        )

    def adapter_problems(self) -> dict[str, str]:
        return {}

    def roll_back(self) -> str | None:
        if self._version is None:
            raise UserError("The base model is live already. There is nothing to roll back to.")
        self._version = self.previous_adapter()
        return self._version

    def _ranked(self, score: Callable[[GalleryPicture], float], limit: int) -> list[SearchHit]:
        ranked = sorted(self.gallery.values(), key=score, reverse=True)
        return [
            SearchHit(picture=picture, score=score(picture) / 2, matched="caption")
            for picture in ranked[:limit]
        ]


def _plan(title: str, captions: Sequence[str]) -> StoryboardPlan:
    steps = tuple(StoryboardStep(caption=words[:60], sentence=words) for words in captions)
    digest = hashlib.sha256("".join(captions).encode()).hexdigest()
    return StoryboardPlan(title=title, structure="sequence", steps=steps, text_sha256=digest)


def _draw_gallery(folder: Path) -> Iterator[GalleryPicture]:
    folder.mkdir(parents=True, exist_ok=True)
    for colour, rgb in COLOURS.items():
        for shape in SHAPES:
            image = Image.new("RGB", (240, 240), (240, 238, 232))
            pen = ImageDraw.Draw(image)
            if shape == "square":
                pen.rectangle((40, 40, 200, 200), fill=rgb)
            else:
                pen.ellipse(
                    (30, 30, 210, 210), fill=rgb if shape == "disc" else None, outline=rgb, width=34
                )
            path = folder / f"{colour}-{shape}.webp"
            image.save(path, lossless=True)
            yield GalleryPicture(
                id=f"{colour}-{shape}",
                path=path,
                caption=f"a {colour} {shape}",
                labels=(colour, shape),
                album="photographs",
                credit="Drawn for this test, CC0",
            )


def _label(text: str, confidence: float, kind: str, source: str = "imagenet") -> Label:
    return Label(text=text, confidence=confidence, kind=kind, source=source)  # type: ignore[arg-type]


def _distance(first: Sequence[int], second: object) -> int:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))  # type: ignore[call-overload]
