"""The models of the active preset, each loaded once, on the model worker, when first needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.settings import Settings

if TYPE_CHECKING:
    from core.answerer import Answerer
    from core.embedder import Embedder
    from core.illustrator import Illustrator
    from core.recognizer import Recognizer


class Models:
    """Embedder, recogniser, answerer and illustrator; only the worker's thread may ask for them."""

    def __init__(self, settings: Settings, *, cache: Path) -> None:
        self._preset = settings.active
        self._cache = cache
        self._embedder: Embedder | None = None
        self._recognizer: Recognizer | None = None
        self._answerer: Answerer | None = None
        self._illustrator: Illustrator | None = None
        self._message: str | None = None

    @property
    def message(self) -> str | None:
        """What is being loaded right now, in words; None when nothing is. From any thread."""
        return self._message

    @property
    def loaded_answerer(self) -> "Answerer | None":
        """The answerer, if something has needed it. From any thread."""
        return self._answerer

    def embedder(self) -> "Embedder":
        """The model that turns pictures and words into vectors."""
        if self._embedder is None:
            with self._telling("Loading the models that see and search, about 5 s"):
                from core.embedder import load_embedder

                self._embedder = load_embedder(
                    self._preset.embedder,
                    device=self._preset.device,
                    dtype=self._preset.dtype,
                    cache=self._cache,
                    progress=self._note,
                )
        return self._embedder

    def recognizer(self) -> "Recognizer":
        """The embedder's words for what it sees."""
        if self._recognizer is None:
            from core.recognizer import Recognizer

            self._recognizer = Recognizer(self.embedder())
        return self._recognizer

    def answerer(self) -> "Answerer":
        """The vision-language model."""
        if self._answerer is None:
            with self._telling("Loading the language model, about 10 s"):
                from core.answerer import load_answerer

                self._answerer = load_answerer(self._preset, cache=self._cache, progress=self._note)
        return self._answerer

    def illustrator(self) -> "Illustrator":
        """The pipeline that draws pictures.

        Raises:
            UserError: the preset names none.
        """
        if self._preset.illustrator is None:
            raise UserError(
                f"The preset '{self._preset.title}' draws storyboards and no pictures. "
                "Start the app with --preset gpu for pictures."
            )
        if self._illustrator is None:
            with self._telling("Loading the model that draws, a minute or two the first time"):
                from core.illustrator import load_illustrator

                self._illustrator = load_illustrator(
                    self._preset.illustrator,
                    device=self._preset.device,
                    dtype=self._preset.dtype,
                    cache=self._cache,
                    progress=self._note,
                )
        return self._illustrator

    @contextmanager
    def _telling(self, message: str) -> Iterator[None]:
        self._message = message
        try:
            yield
        finally:
            self._message = None

    def _note(self, what: str, fraction: float) -> None:
        share = f", {fraction:.0%}" if 0 < fraction < 1 else ""
        self._message = f"{what[:1].upper()}{what[1:]}{share}"
