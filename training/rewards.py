"""Answers that a rule can check: questions with known answers about the shipped pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.pack import PackPicture, pictograms
from core.types import Evidence, Label

SHOWN_CONFIDENCE = 0.9  # the truth is told as a sure label, so a wrong answer is the answerer's

# General knowledge a small model has; any of the words makes the answer right.
KNOWLEDGE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("Paris",)),
    ("How many days are in a week?", ("seven", "7")),
    ("What colour is the sky on a clear day?", ("blue",)),
    ("Which planet do we live on?", ("Earth",)),
    ("What do bees make?", ("honey",)),
    ("What is frozen water called?", ("ice",)),
    ("Which animal barks?", ("dog", "dogs")),
    ("What is two plus two?", ("four", "4")),
    ("Which star warms the Earth?", ("Sun",)),
    ("What colour is grass?", ("green",)),
    ("On which continent is Egypt?", ("Africa",)),
    ("What is the largest ocean?", ("Pacific",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckableQuestion:
    """A question, what the answerer is told, and the words of which a right answer has one."""

    question: str
    evidence: Evidence
    picture: PackPicture | None
    right_words: tuple[str, ...]


def checkable_questions(n_pictures: int = 28) -> list[CheckableQuestion]:
    """The same questions every time: what pictograms show, then general knowledge."""
    named = [picture for picture in pictograms() if picture.name.isalpha()]
    step = max(len(named) // n_pictures, 1)
    return [
        *(_what_is_shown(picture) for picture in named[::step][:n_pictures]),
        *(
            CheckableQuestion(
                question=question, evidence=Evidence(), picture=None, right_words=words
            )
            for question, words in KNOWLEDGE
        ),
    ]


def is_right(answer: str, right_words: Sequence[str]) -> bool:
    """Whether the answer holds one of the words, whole, in singular or plural."""
    words = set(re.findall(r"\w+", answer.casefold()))
    return any(
        form in words
        for word in right_words
        for form in (word.casefold(), f"{word.casefold()}s", f"{word.casefold()}es")
    )


def count_words(answer: str) -> int:
    """Words of an answer."""
    return len(re.findall(r"\w+", answer))


def _what_is_shown(picture: PackPicture) -> CheckableQuestion:
    label = Label(text=picture.name, confidence=SHOWN_CONFIDENCE, kind="object", source="zero_shot")
    return CheckableQuestion(
        question="What is in the picture?",
        evidence=Evidence(labels=(label,)),
        picture=picture,
        right_words=(picture.name,),
    )
