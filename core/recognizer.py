"""What a picture shows: objects by the ImageNet head, scenes and tags by zero-shot words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from core.embedder import Embedder, Sight, class_names
from core.types import Label, LabelKind, Recognition

LABELS = Path(__file__).resolve().parent / "embedded" / "labels"

OBJECTS_SHOWN = 5
WORDS_SHOWN = 5
OBJECT_FLOOR = 0.03  # less is noise: 30 of 1,000 classes could claim it at once
WORD_FLOOR = 0.05
BREED_SHARE = 0.25  # a class is named beside its everyday word from this share of the word's sum


@dataclass(frozen=True, slots=True)
class EverydayWord:
    """A word and the ImageNet classes that a person would call so."""

    text: str
    classes: tuple[int, ...]


class Recognizer:
    """Objects, scenes and tags of pictures, from one pass of the embedder's image tower."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._word_vectors: dict[tuple[str, ...], np.ndarray] = {}

    def recognize(
        self,
        pictures: Sequence[Image.Image],
        ids: Sequence[str],
        *,
        words: Sequence[str] | None = None,
    ) -> list[Recognition]:
        """One recognition per picture; `words` take the place of the default tags when given."""
        return self.describe(self._embedder.look(pictures), ids, words=words)

    def describe(
        self, sight: Sight, ids: Sequence[str], *, words: Sequence[str] | None = None
    ) -> list[Recognition]:
        """Recognitions from a pass of the tower that was made already."""
        if len(ids) != len(sight.vectors):
            raise ValueError(f"{len(ids)} ids for {len(sight.vectors)} pictures")
        tags = cleaned_words(words) if words is not None else default_tags()
        scene_rows = self._words(sight.vectors, default_scenes(), kind="scene")
        tag_rows = self._words(sight.vectors, tags, kind="tag")
        if sight.class_probabilities is None:
            # No class head: the class names themselves are the zero-shot words for objects.
            object_rows = self._words(sight.vectors, object_words(), kind="object")
        else:
            object_rows = [objects_from(row) for row in sight.class_probabilities]
        return [
            Recognition(picture_id=name, objects=objects, scenes=scenes, tags=found)
            for name, objects, scenes, found in zip(
                ids, object_rows, scene_rows, tag_rows, strict=True
            )
        ]

    def _words(
        self, vectors: np.ndarray, words: tuple[str, ...], *, kind: LabelKind
    ) -> list[tuple[Label, ...]]:
        if not words:
            return [()] * len(vectors)
        cosines = vectors @ self._vectors_of(words).T
        shares = _softmax(cosines / self._embedder.word_temperature)
        return [_labels(words, row, kind) for row in shares]

    def _vectors_of(self, words: tuple[str, ...]) -> np.ndarray:
        if words not in self._word_vectors:
            if len(self._word_vectors) > 32:  # people's own lists: keep the memory bounded
                self._word_vectors.clear()
            self._word_vectors[words] = self._embedder.embed_texts(words)
        return self._word_vectors[words]


def objects_from(probabilities: np.ndarray) -> tuple[Label, ...]:
    """Everyday words and class names for one picture, most probable first.

    Args:
        probabilities: over ImageNet's classes. Shape (1000,), sums to 1.
    """
    confidence: dict[str, float] = {}
    hidden: set[str] = set()
    for word in everyday_words():
        total = float(probabilities[list(word.classes)].sum())
        confidence[word.text] = max(confidence.get(word.text, 0.0), total)
        for number in word.classes:
            if probabilities[number] < BREED_SHARE * total:
                hidden.add(class_names()[number])
    for name, numbers in _classes_by_name().items():
        total = float(probabilities[list(numbers)].sum())
        if name not in confidence and name not in hidden:
            confidence[name] = total
    # Of a word and its only class ("penguin", "king penguin") the everyday one comes first.
    ranked = sorted(confidence.items(), key=lambda entry: -round(entry[1], 3))
    return tuple(
        Label(text=text, confidence=min(1.0, value), kind="object", source="imagenet")
        for text, value in ranked[:OBJECTS_SHOWN]
        if value >= OBJECT_FLOOR or text == ranked[0][0]
    )


def cleaned_words(words: Iterable[str]) -> tuple[str, ...]:
    """Words as a person typed them: trimmed, without blanks and repetitions, at most 200."""
    trimmed = (" ".join(word.split())[:80] for word in words)
    return tuple(dict.fromkeys(word for word in trimmed if word))[:200]


def default_scenes() -> tuple[str, ...]:
    """The scene words that are shipped."""
    return _lines("scenes.txt")


def default_tags() -> tuple[str, ...]:
    """The tag words that are shipped; a person may put their own in their place."""
    return _lines("tags.txt")


@lru_cache(maxsize=1)
def object_words() -> tuple[str, ...]:
    """Every word that an object can be called: everyday words first, then class names."""
    return tuple(dict.fromkeys([word.text for word in everyday_words()] + list(class_names())))


@lru_cache(maxsize=1)
def everyday_words() -> tuple[EverydayWord, ...]:
    """The shipped words with their class numbers."""
    lines = yaml.safe_load((LABELS / "everyday_words.yaml").read_text(encoding="utf-8"))
    return tuple(EverydayWord(text, _numbers(str(spans))) for text, spans in lines.items())


def _numbers(spans: str) -> tuple[int, ...]:
    """(2, 3, 4, 9) from "2-4, 9"."""
    found: list[int] = []
    for span in spans.split(","):
        first, _, last = span.strip().partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


@lru_cache(maxsize=1)
def _classes_by_name() -> dict[str, list[int]]:
    """Class numbers by shown name; ImageNet has two classes of missiles and of sunglasses."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(class_names()):
        numbers.setdefault(name, []).append(number)
    return numbers


@lru_cache(maxsize=4)
def _lines(name: str) -> tuple[str, ...]:
    text = (LABELS / name).read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _labels(words: tuple[str, ...], shares: np.ndarray, kind: LabelKind) -> tuple[Label, ...]:
    order = np.argsort(-shares)[:WORDS_SHOWN]
    return tuple(
        Label(text=words[n], confidence=float(shares[n]), kind=kind, source="zero_shot")
        for rank, n in enumerate(order)
        if shares[n] >= WORD_FLOOR or rank == 0
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
