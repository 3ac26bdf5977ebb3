"""What a question asks about a picture: the things it names, and how sure the recogniser is."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from core.embedder import class_names
from core.recognizer import everyday_words
from core.types import Label

MOST_ASKED = 3


def asked_labels(
    question: str, probabilities: np.ndarray, *, caption: str = ""
) -> tuple[Label, ...]:
    """The things a question names that the recogniser knows, each with its confidence.

    Args:
        question: as the person typed it; only English words are known.
        probabilities: of the picture over ImageNet's classes. Shape (1000,), sums to 1.
        caption: what the gallery says is in the picture; a thing it names is there for sure.
    """
    classes = _classes()
    there = set(_named(caption, tuple(classes)))
    return tuple(
        Label(
            text=word,
            confidence=(
                1.0 if word in there else min(1.0, float(probabilities[list(classes[word])].sum()))
            ),
            kind="object",
            source="imagenet",
        )
        for word in _named(question, tuple(classes))[:MOST_ASKED]
    )


def _named(question: str, known: Sequence[str]) -> list[str]:
    """Known words in the order in which the question has them; the longest fit counts."""
    words = re.findall(r"[a-z][a-z'-]*", question.lower())
    found: list[str] = []
    place = 0
    while place < len(words):
        for length in (3, 2, 1):
            phrase = " ".join(words[place : place + length])
            match = next((form for form in _singulars(phrase) if form in known), None)
            if match and match not in found:
                found.append(match)
            if match:
                place += length - 1
                break
        place += 1
    return found


def _singulars(phrase: str) -> tuple[str, ...]:
    return (phrase, phrase.removesuffix("s"), phrase.removesuffix("es"))


@lru_cache(maxsize=1)
def _classes() -> dict[str, tuple[int, ...]]:
    """Class numbers by word; a class's own name counts where no everyday word has it."""
    numbers: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(class_names()):
        numbers[name.lower()] = (*numbers.get(name.lower(), ()), number)
    return numbers | {word.text.lower(): word.classes for word in everyday_words()}
