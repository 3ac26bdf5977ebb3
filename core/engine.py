"""The only door for pages and training: see, find, answer and draw."""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from core.adapters import AdapterShelf
from core.datafolder import DataFolder
from core.errors import UserError
from core.images import PictureFolder
from core.indexing import BackgroundIndexing
from core.live import LiveAdapter
from core.loading import Models
from core.settings import Settings
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
    Picture,
    Recognition,
    RowSpec,
    Sampling,
    SearchHit,
    Storyboard,
    StoryboardPlan,
    TextHit,
    Turn,
)
from core.worker import ModelWorker

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from core.embedder import Embedder
    from core.gallery import Gallery
    from core.notes import NoteShelf
    from core.pictograms import PictogramFinder

log = logging.getLogger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")
Step = TypeVar("Step")
Result = TypeVar("Result")

REMEMBERED = 256  # pictures whose vector, labels and caption are kept at hand, a few KB each
CANCEL_POLL_S = 0.2
TEXTS_AT_ONCE = 32  # a fifth of a second on two cores


@dataclass(frozen=True, slots=True)
class _Sight:
    """One picture as the recogniser saw it with one list of words."""

    recognition: Recognition
    vector: "np.ndarray"  # (D,), unit length
    class_probabilities: "np.ndarray | None"  # (1000,), where the model has ImageNet's head


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A question with everything that belongs to it."""

    question: str
    picture: Picture | None
    history: tuple[Turn, ...]
    rows: tuple[RowSpec, ...]
    words: Sequence[str] | None
    cancel: threading.Event
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class _Begun:
    """The prompt is made; sent ahead of the first token."""

    prompt: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class _Said:
    texts: tuple[str, ...]


class Engine:
    """Everything the app can do with pictures and words. Its methods may be called from any thread.

    Nothing heavy is loaded until it is needed; then once, on the model worker.
    """

    def __init__(self, settings: Settings, *, data_dir: Path, cache: Path) -> None:
        """Take the data folder and start the worker; returns at once.

        Raises:
            DataFolderError: the folder cannot be written or another process has it.
        """
        self._settings = settings
        self._cache = cache
        self._folder = DataFolder(data_dir)
        self._worker = ModelWorker(max_waiting=settings.limits.max_waiting)
        self._shelf = AdapterShelf(self._folder.adapters)
        self._models = Models(settings, cache=cache)
        self._pictures = PictureFolder(self._folder.pictures, limits=settings.limits)
        self._gallery: Gallery | None = None
        self._pictograms: PictogramFinder | None = None
        self._notes: NoteShelf | None = None
        self._opening = threading.Lock()
        self._is_closing = threading.Event()
        self._sights: OrderedDict[tuple[str, tuple[str, ...] | None], _Sight] = OrderedDict()
        self._from_gallery: OrderedDict[str, GalleryPicture] = OrderedDict()
        self._indexing = BackgroundIndexing()
        self._live = LiveAdapter(
            self._shelf, self._worker, loaded_answerer=lambda: self._models.loaded_answerer
        )

    # Pictures

    def add_picture(self, source: Path | bytes) -> Picture:
        """A cleaned copy of a stranger's picture.

        Raises:
            PictureError: it cannot be opened safely.
        """
        return self._pictures.add(source)

    def picture(self, picture_id: str) -> Picture:
        """A picture that was added before.

        Raises:
            PictureError: it is not there.
        """
        return self._pictures.get(picture_id)

    def picture_from_gallery(self, gallery_id: str) -> Picture:
        """A gallery picture, ready to be asked about; its caption will be part of the evidence."""
        shown = self.gallery_picture(gallery_id)
        picture = self.add_picture(shown.path)
        _remember(self._from_gallery, picture.id, shown)
        return picture

    def recognize(self, picture: Picture, *, words: Sequence[str] | None = None) -> Recognition:
        """What the picture shows; `words` are the person's own labels in place of the tags."""
        return self._see(picture, words).recognition

    # The gallery

    def search_text(
        self, words: str, *, limit: int = 24, album: str | None = None
    ) -> list[SearchHit]:
        """Gallery pictures that fit the words, best first.

        Raises:
            UserError: there are no words, or too many.
        """
        limit_chars = self._settings.limits.max_question_chars
        words = _checked(words, limit_chars, "search", "Type what you look for, or drop a picture.")
        return self._open_gallery().nearest(self._embed_words(words), limit=limit, album=album)

    def search_picture(self, picture: Picture, *, limit: int = 24) -> list[SearchHit]:
        """Gallery pictures like this one, best first."""
        vector = self._see(picture, None).vector
        return self._open_gallery().nearest(vector, limit=limit, query="picture")

    def nearest_texts(self, picture: Picture, *, limit: int = 12) -> list[TextHit]:
        """Captions and labels nearest to the picture, best first."""
        return self._open_gallery().nearest_texts(self._see(picture, None).vector, limit=limit)

    def gallery_picture(self, gallery_id: str) -> GalleryPicture:
        """One picture of the gallery.

        Raises:
            UserError: there is none with this id.
        """
        return self._open_gallery().get(gallery_id)

    def gallery_size(self) -> int:
        """How many pictures can be found; 0 until the gallery has been opened."""
        return len(self._gallery) if self._gallery is not None else 0

    def index_state(self) -> IndexProgress | None:
        """How far the background indexing is; None when none is running."""
        return self._indexing.state

    def start_indexing(self) -> None:
        """Index the pictures that ship with the app, in the background, where they are missing."""

        def index() -> None:
            from core.filling import index_pack

            report = index_pack(
                self._open_gallery(),
                self._embed_for_index,
                self._indexing.note,
                self._indexing.cancel,
            )
            log.info("default gallery: %d added, %d there", report.added, report.unchanged)

        self._indexing.start(index, then=self._warm_up)

    def add_folder(
        self,
        folder: Path,
        *,
        progress: Callable[[IndexProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> IndexReport:
        """Index a person's own folder: what is new is added, what is gone is removed."""
        from core.filling import index_folder

        return index_folder(
            self._open_gallery(),
            folder,
            self._embed_for_index,
            progress or (lambda _: None),
            cancel,
            limits=self._settings.limits,
        )

    # Answers

    def answer(
        self,
        question: str,
        *,
        picture: Picture | None,
        history: Sequence[Turn] = (),
        rows: Sequence[RowSpec],
        words: Sequence[str] | None = None,
        cancel: threading.Event | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[AnswerStep]:
        """The answer as it grows, one text per row; two rows are a pair and run as one batch.

        Args:
            question: what the person asked.
            picture: what it is about; None for a question without a picture.
            history: earlier turns about the same picture, oldest first.
            rows: adapter and seed of each row.
            words: the person's own labels in place of the recogniser's tags.
            cancel: when set, the answer ends at the next token.
            sampling: how tokens are drawn; the settings' choice when left out.

        Raises:
            UserError: the question is empty or too long.
            Busy: too much is waiting.
        """
        limit = self._settings.limits.max_question_chars
        question = _checked(question, limit, "question", "Write what you want to know.")
        if not rows:
            raise ValueError("An answer needs at least one row")
        return self._answer(
            _Request(
                question=question,
                picture=picture,
                history=tuple(history),
                rows=tuple(rows),
                words=words,
                cancel=cancel or threading.Event(),
                sampling=sampling or self.default_sampling(n_rows=len(rows)),
            )
        )

    def default_sampling(self, *, n_rows: int = 1) -> Sampling:
        """How tokens are drawn unless a caller says otherwise; a pair is drawn more freely."""
        chosen = self._settings.answering
        return Sampling(
            temperature=chosen.temperature if n_rows == 1 else chosen.pair_temperature,
            top_p=chosen.top_p,
            repetition_penalty=chosen.repetition_penalty,
            max_new_tokens=chosen.max_new_tokens,
        )

    @property
    def sees_picture(self) -> bool:
        """Whether answers rest on the picture itself, or only on what was recognised in it."""
        return self._settings.active.answerer.picture_tokens

    def loading_message(self) -> str | None:
        """What is being loaded right now, in words for the page; None when nothing is."""
        return self._models.message

    # Drawings

    def is_request(self, text: str) -> bool:
        """Whether a text asks for an explanation rather than being one."""
        from core.storyboard import is_request

        return is_request(text)

    def note_for(self, request: str) -> Note | None:
        """The reference note that answers a request, where there is one."""
        return self._note_shelf().find(request)

    def plan_storyboard(self, text: str, *, request: str = "") -> StoryboardPlan:
        """Three to seven steps that the text names itself, each with a pictogram.

        Args:
            text: an answer, an explanation or a description.
            request: the question the text answers, where there was one.

        Raises:
            UserError: there is too little to draw, or too much text.
        """
        from core.storyboard import plan_storyboard

        limit = self._settings.limits.max_text_chars
        text = _checked(text, limit, "text", "Write or paste a few sentences.")
        return plan_storyboard(text, pictograms=self._pictogram_finder(), request=request)

    def replan_storyboard(self, plan: StoryboardPlan, captions: Sequence[str]) -> StoryboardPlan:
        """The plan with the captions a person wrote, and pictograms for those that changed.

        Raises:
            UserError: too few, too many or too long captions.
        """
        from core.storyboard import replan_storyboard

        return replan_storyboard(plan, captions, pictograms=self._pictogram_finder())

    def draw_storyboard(self, plan: StoryboardPlan) -> Storyboard:
        """The plan as SVG, PNG and words."""
        from core.diagram import draw_storyboard

        return draw_storyboard(plan)

    @property
    def can_draw_pictures(self) -> bool:
        """Whether the active preset names a pipeline that draws pictures."""
        return self._settings.active.illustrator is not None

    def draw_picture(
        self, prompt: str, *, seed: int, cancel: threading.Event | None = None
    ) -> Iterator[DrawingStep]:
        """A picture of the prompt by the preset's pipeline, step by step; none when cancelled.

        Raises:
            UserError: the prompt is empty or too long, or the preset draws no pictures.
            Busy: too much is waiting.
        """
        limit = self._settings.limits.max_text_chars
        prompt = _checked(prompt, limit, "text", "Describe the picture.")
        return self._drawing_steps(prompt, seed=seed, cancel=cancel or threading.Event())

    # Adapters

    def live_adapter(self) -> str | None:
        """The version that answers now; None for the base model."""
        return self._live.version

    def previous_adapter(self) -> str | None:
        """The version that answered before it; None for the base model."""
        history = self._shelf.history()
        if self._live.version in history:
            history = history[history.index(self._live.version) + 1 :]
        return history[0] if history else None

    def adapters(self) -> list[AdapterCard]:
        """Every version's card, oldest first."""
        return self._shelf.cards()

    def adapter_problems(self) -> dict[str, str]:
        """Why versions were refused since the start, by version."""
        return self._live.problems()

    def roll_back(self) -> str | None:
        """Answer with the version before the live one again; None means the base model.

        Raises:
            UserError: the base model is live already.
        """
        while self._shelf.current() in self._live.problems():
            self._shelf.roll_back()  # it never answered, so leaving it changes nothing
        self._shelf.roll_back()
        self._live.follow()
        return self._live.version

    def follow_shelf(self) -> None:
        """Serve what the shelf points to now, without waiting for the next look at it."""
        self._live.follow()

    def close(self) -> None:
        """End running answers at their next token, stop every thread, and free the data folder."""
        self._is_closing.set()  # a model still at work while Python ends would abort the process
        self._indexing.stop()
        self._live.close()
        self._worker.close()
        if self._gallery is not None:
            self._gallery.close()
        self._folder.close()

    # Answering, step by step

    def _answer(self, request: _Request) -> Iterator[AnswerStep]:
        with self._live.pinned(row.adapter for row in request.rows):
            evidence, image = Evidence(), None
            if request.picture is not None:
                image = self._pictures.open(request.picture)
                evidence = self._evidence(request, request.picture, image)
            yield from self._stream(request, evidence, image)

    def _stream(
        self, request: _Request, evidence: Evidence, image: "Image.Image | None"
    ) -> Iterator[AnswerStep]:
        heard: queue.SimpleQueue[_Begun | _Said | None] = queue.SimpleQueue()
        is_over = threading.Event()  # not `request.cancel`, which is the caller's to set
        future = self._worker.submit(
            lambda: self._speak(request, evidence, image, tell=heard.put, is_over=is_over)
        )
        future.add_done_callback(lambda _: heard.put(None))
        prompt: tuple[Message, ...] = ()
        texts = ("",) * len(request.rows)
        try:
            steps: Iterator[_Begun | _Said] = _until_done(heard, future, request.cancel)
            for step in steps:
                if isinstance(step, _Begun):
                    prompt = step.prompt
                else:
                    texts = step.texts
                yield AnswerStep(texts=texts, prompt=prompt, evidence=evidence)
        finally:  # reached early when nobody listens any more
            is_over.set()
            future.cancel()
        if future.cancelled():
            candidates = tuple(_unspoken(row) for row in request.rows)
        else:
            candidates = future.result()
        yield AnswerStep(
            texts=tuple(candidate.content for candidate in candidates),
            prompt=prompt,
            evidence=evidence,
            candidates=candidates,
        )

    def _speak(
        self,
        request: _Request,
        evidence: Evidence,
        image: "Image.Image | None",
        *,
        tell: Callable[[_Begun | _Said], None],
        is_over: threading.Event,
    ) -> tuple[Candidate, ...]:
        """Give the answer, on the worker's thread; `tell` hears the prompt and every step."""
        answerer = self._models.answerer()
        prompt = answerer.fit_prompt(
            request.question,
            evidence=evidence,
            history=request.history,
            picture=image,
            max_new_tokens=request.sampling.max_new_tokens,
        )
        rows = [
            RowSpec(adapter=self._live.make_ready(answerer, row.adapter), seed=row.seed)
            for row in request.rows
        ]
        tell(_Begun(prompt))

        def on_texts(texts: tuple[str, ...]) -> None:
            tell(_Said(texts))
            if request.cancel.is_set() or self._is_closing.is_set():
                is_over.set()
            self._worker.run_quick()

        return answerer.generate(
            prompt,
            picture=image,
            rows=rows,
            sampling=request.sampling,
            cancel=is_over,
            on_texts=on_texts,
        )

    def _drawing_steps(
        self, prompt: str, *, seed: int, cancel: threading.Event
    ) -> Iterator[DrawingStep]:
        heard: queue.SimpleQueue[DrawingStep | None] = queue.SimpleQueue()
        is_over = threading.Event()  # not `cancel`, which is the caller's to set

        def on_step(done: int, total: int) -> None:
            heard.put(DrawingStep(done=done, total=total))
            if cancel.is_set() or self._is_closing.is_set():
                is_over.set()
            self._worker.run_quick()

        def draw() -> DrawnPicture | None:
            from core.illustrator import png_with_origin

            drawings = self._models.illustrator().draw(
                prompt, seed=seed, on_step=on_step, cancel=is_over
            )
            if not drawings:
                return None
            return DrawnPicture(png=png_with_origin(drawings[0]), candidate=drawings[0].candidate)

        future = self._worker.submit(draw)
        future.add_done_callback(lambda _: heard.put(None))
        last = DrawingStep(done=0, total=1)
        try:
            for last in _until_done(heard, future, cancel):
                yield last
        finally:  # reached early when nobody listens any more
            is_over.set()
            future.cancel()
        picture = None if future.cancelled() else future.result()
        if picture is not None:
            yield DrawingStep(done=last.total, total=last.total, picture=picture)

    def _evidence(self, request: _Request, picture: Picture, image: "Image.Image") -> Evidence:
        from core.colours import main_colours
        from core.questions import asked_labels

        sight = self._see(picture, request.words)
        known = self._from_gallery.get(picture.id)
        seen, caption = sight.recognition, known.caption if known is not None else ""
        asked: tuple[Label, ...] = ()
        if sight.class_probabilities is not None:
            asked = asked_labels(request.question, sight.class_probabilities, caption=caption)
        return Evidence(
            labels=(*seen.objects, *seen.scenes, *seen.tags),
            neighbours=self._neighbours(sight.vector, without=known),
            caption=caption,
            colours=main_colours(image),
            asked=asked,
        )

    def _neighbours(
        self, vector: "np.ndarray", *, without: GalleryPicture | None
    ) -> tuple[SearchHit, ...]:
        limit = self._settings.answering.neighbours
        if not limit:
            return ()
        hits = self._open_gallery().nearest(vector, limit=limit + 1, query="picture")
        return tuple(hit for hit in hits if without is None or hit.picture.id != without.id)[:limit]

    def _see(self, picture: Picture, words: Sequence[str] | None) -> _Sight:
        """Vector and labels of a picture, remembered for follow-up questions."""
        chosen = tuple(words) if words is not None else None
        key = (picture.id, chosen)
        if key in self._sights:
            return self._sights[key]
        image = self._pictures.open(picture)
        sight = self._worker.submit_batched(
            ("see", chosen),
            (picture.id, image),
            lambda batch: self._look(batch, chosen),
            is_quick=True,
        ).result()
        _remember(self._sights, key, sight)
        return sight

    def _look(
        self, batch: "list[tuple[str, Image.Image]]", words: tuple[str, ...] | None
    ) -> list[_Sight]:
        seen = self._models.embedder().look([image for _, image in batch])
        names = [name for name, _ in batch]
        found = self._models.recognizer().describe(seen, names, words=words)
        shares = seen.class_probabilities
        return [
            _Sight(recognition, seen.vectors[row], shares[row] if shares is not None else None)
            for row, recognition in enumerate(found)
        ]

    def _embed_words(self, words: str) -> "np.ndarray":
        return self._worker.submit_batched(
            "embed words",
            words,
            lambda batch: list(self._models.embedder().embed_texts(batch)),
            is_quick=True,
        ).result()

    def _embed_for_index(
        self, images: "list[Image.Image]", texts: list[str]
    ) -> "tuple[np.ndarray, np.ndarray]":
        def embed() -> "tuple[np.ndarray, np.ndarray]":
            embedder = self._models.embedder()
            return embedder.embed_images(images), embedder.embed_texts(texts)

        return self._worker.submit(embed, is_request=False).result()

    def _warm_up(self) -> None:
        """Have at hand what the first drawing would wait for.

        Not the answerer: the worker can do nothing else for the seconds it takes to load, and
        people search before they ask.
        """
        try:
            self._pictogram_finder().prepare()
        except (UserError, CancelledError) as error:
            log.info("warming up ended early: %s", error or "the app is being closed")

    def _embed_texts(self, texts: Sequence[str]) -> "np.ndarray":
        import numpy as np

        def embed(part: Sequence[str]) -> "np.ndarray":
            return self._models.embedder().embed_texts(part)

        vectors = [  # in parts, since between two tokens somebody's answer waits for each
            self._worker.submit(
                partial(embed, texts[start : start + TEXTS_AT_ONCE]), is_quick=True
            ).result()
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        return np.concatenate(vectors)

    def _pictogram_finder(self) -> "PictogramFinder":
        model_id = self._loaded_embedder().model_id
        with self._opening:
            if self._pictograms is None:
                from core.drawings import storyboard_pictures
                from core.pictograms import PictogramFinder

                self._pictograms = PictogramFinder(
                    storyboard_pictures(),
                    embed_texts=self._embed_texts,
                    model_id=model_id,
                    cache=self._cache,
                )
            return self._pictograms

    def _note_shelf(self) -> "NoteShelf":
        with self._opening:
            if self._notes is None:
                from core.notes import NoteShelf

                self._notes = NoteShelf(self._embed_texts)
            return self._notes

    def _loaded_embedder(self) -> "Embedder":
        return self._worker.submit(self._models.embedder, is_quick=True, is_request=False).result()

    def _open_gallery(self) -> "Gallery":
        if self._gallery is not None:
            return self._gallery
        # The vectors are the embedder's own, so the gallery must know which one made them.
        embedder = self._loaded_embedder()
        with self._opening:
            if self._gallery is None:
                from core.gallery import Gallery

                self._gallery = Gallery(
                    self._folder.gallery,
                    model_id=embedder.model_id,
                    dimension=embedder.dimension,
                )
            return self._gallery


def _remember(memory: "OrderedDict[Key, Value]", key: Key, value: Value) -> None:
    """Put the value in, and the oldest ones out."""
    memory[key] = value
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _checked(text: str, limit: int, what: str, advice: str) -> str:
    """The text without surrounding blanks.

    Raises:
        UserError: nothing is left of it, or it is longer than `limit` characters.
    """
    text = text.strip()
    if not text:
        raise UserError(f"The {what} is empty. {advice}")
    if len(text) > limit:
        raise UserError(
            f"The {what} is {len(text):,} characters long and the limit is {limit:,}. "
            "Shorten it and try again."
        )
    return text


def _until_done(
    heard: "queue.SimpleQueue[Step | None]",
    future: "Future[Result]",
    cancel: threading.Event,
) -> Iterator[Step]:
    """What the worker says, until it is done or the request is taken back before its turn."""
    while True:
        try:
            step = heard.get(timeout=CANCEL_POLL_S)
        except queue.Empty:
            if cancel.is_set():
                future.cancel()  # only works while it waits; a running answer ends by itself
            continue
        if step is None:
            return
        yield step


def _unspoken(row: RowSpec) -> Candidate:
    """What a row leaves behind whose request was taken back before its turn."""
    return Candidate(
        content="",
        model_id="",
        revision="",
        adapter=row.adapter,
        seed=row.seed,
        finish_reason="cancelled",
    )
