"""Reference notes: explanations written by hand, found by what a person asks."""

import re
from collections.abc import Sequence
from functools import cache
from threading import Lock

import numpy as np
import yaml

from core.captions import content_words, stem
from core.pictograms import EmbedTexts
from core.settings import ROOT
from core.types import Note, NoteStep

NOTES_FILE = ROOT / "core" / "embedded" / "notes.yaml"
NEAR_ENOUGH = 0.62  # cosine of request and question; see tests/test_notes.py for what it lets in
SURELY_NEAR = 0.85
# Words that many requests share and that say nothing about their subject.
_ASKING_WORDS = frozenset(
    stem(word)
    for word in (
        "explain describe illustrate draw show tell please happens happen happening work "
        "works working form forms formed forming formation made make makes making process "
        "steps step stages diagram picture storyboard simple simply easy kids child children "
        "short way ways cause causes caused difference different between compare versus parts "
        "part structure life cycle actually exactly know want understand learn teach teacher "
        "class school lesson help give need start come comes get gets goes thing things kinds "
        "main important called mean means can there exist exists overview introduction "
        "summary basics example world real really ever always turn turns turned become "
        "becomes develop develops developed arise arises occur occurs created creation "
        "produced place time "
    ).split()
)


class NoteShelf:
    """The reference notes and the vectors of their questions, made on first use."""

    def __init__(self, embed_texts: EmbedTexts) -> None:
        self._embed_texts = embed_texts
        self._lock = Lock()
        self._vectors: np.ndarray | None = None

    def find(self, request: str) -> Note | None:
        """The note that answers a request, or None when none is about the same thing.

        Nearness alone takes "How is glass made?" for "How is paper made?", so the words that tell
        the request's subject must be among the note's own, unless the two are nearly the same.
        """
        request = request.strip()
        if not request:
            return None
        owners = [note for note in read_notes() for _ in _phrasings(note)]
        nearness = self._question_vectors() @ self._embed_texts([request[:400]])[0]
        for i in np.argsort(-nearness)[:8]:
            score, note = float(nearness[i]), owners[int(i)]
            if score < NEAR_ENOUGH:
                return None
            if score >= SURELY_NEAR or _is_about(request, note):
                return note
        return None

    def _question_vectors(self) -> np.ndarray:
        with self._lock:
            if self._vectors is None:
                self._vectors = self._embed_texts(
                    [phrasing for note in read_notes() for phrasing in _phrasings(note)]
                )
            return self._vectors


@cache
def read_notes() -> tuple[Note, ...]:
    """All reference notes."""
    entries = yaml.safe_load(NOTES_FILE.read_text(encoding="utf-8"))
    return tuple(
        Note(
            id=entry["id"],
            title=entry["title"],
            questions=tuple(entry["questions"]),
            structure=entry["structure"],
            steps=tuple(NoteStep(**step) for step in entry["steps"]),
            columns=tuple(entry.get("columns", ())),
        )
        for entry in entries
    )


def note_with_text(text: str) -> Note | None:
    """The note whose text this is word for word, as when a note's answer is illustrated."""
    wanted = _squeezed(text)
    return next((note for note in read_notes() if _squeezed(note.text) == wanted), None)


def _phrasings(note: Note) -> Sequence[str]:
    return (note.title, *note.questions)


def _is_about(request: str, note: Note) -> bool:
    subject = {stem(word) for word in content_words(request)} - _ASKING_WORDS
    known = {stem(word) for phrasing in _phrasings(note) for word in content_words(phrasing)}
    unknown = len(subject - known)
    return bool(subject) and (unknown == 0 or (unknown == 1 and len(subject) > 2))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
