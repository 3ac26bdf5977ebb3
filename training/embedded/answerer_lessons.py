"""What is asked about each training picture, and the plain questions that keep the language."""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.prompts import build_prompt, chat_text
from core.questions import asked_labels
from core.recognizer import everyday_words
from core.types import Evidence
from training.embedded.answerer_features import ShapePicture, Taught
from training.embedded.answerer_rows import Branch, Lesson
from training.embedded.answerer_sight import (
    Cell,
    cell_of_shape,
    cells_of_photograph,
    cells_of_scene,
)
from training.scene_words import counted, joined, sentence, with_article
from training.scenes import Scene, ask_about

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from training.embedded.sprites import SpriteBook

TOLD_SHARE = 0.12  # of the questions come with evidence, which is long and often wrong here
TOLD_SHARE_PHOTO = 0.6
# How often each form is asked: first what things are and whether they are there, then the rest.
EARLY_SHARES: Mapping[str, float] = {
    **{"what": 3.0, "is_there": 3.0, "describe": 1.5, "how_many": 1.5, "colour": 1.0},
    **{"yes_no": 0.5, "multiple_choice": 0.5, "how_many_in_all": 0.5, "relation": 0.5},
    **{"more_or_fewer": 0.3, "odd_one_out": 0.3, "shapes": 2.0, "photo": 1.0},
}
LATE_SHARES: Mapping[str, float] = {
    **{"what": 2.5, "is_there": 2.0, "describe": 0.7, "how_many": 3.0, "colour": 1.5},
    **{"yes_no": 1.5, "multiple_choice": 0.7, "how_many_in_all": 1.5, "relation": 1.5},
    **{"more_or_fewer": 1.0, "odd_one_out": 1.0, "shapes": 2.0, "photo": 1.0},
}
DESCRIBE = (
    "What is in this picture?",
    "What do you see?",
    "Describe the picture.",
    "What does the picture show?",
    "Which things are in the picture?",
)
WHAT_IS_IT = ("What is in this picture?", "What is this?", "What do you see?", "What is shown?")
SHAPES = ("circle", "rectangle", "triangle")
DENIED = re.compile(r"\b(no|not)\b")

TOPICS = (
    "water rain snow wind fire ice gold iron glass paper bread rice sugar salt honey milk "
    "coffee tea the-sun the-moon the-Earth Mars a-star a-galaxy gravity light sound heat "
    "electricity magnetism a-volcano an-earthquake a-river a-desert a-forest the-ocean "
    "a-glacier an-island a-mountain a-cat a-dog a-horse a-bird a-fish a-whale a-bee a-spider "
    "a-snake a-frog a-tree a-flower a-seed the-heart the-brain the-lungs the-eye blood a-bone "
    "sleep a-dream hunger memory music painting poetry a-novel history mathematics geometry "
    "a-number algebra chemistry biology physics medicine a-vaccine a-virus a-computer the- "
    "internet software a-robot a-camera a-clock a-bicycle a-train an-airplane a-ship a-bridge "
    "a-house a-school a-city a-village a-library a-museum money trade farming cooking "
    "swimming football chess friendship courage democracy law a-language"
).split()
QUESTIONS = (
    "What is {}?",
    "Explain {} in one sentence.",
    "Why is {} important?",
    "Tell me something interesting about {}.",
    "How would you describe {} to a child?",
)
FACTS = (
    *("What is the capital of France?", "What is the capital of Japan?", "What is 2 plus 3?"),
    *("How many days are in a week?", "How many legs does a spider have?", "Who wrote Hamlet?"),
    *("What is the largest planet?", "What colour is the sky?", "What do bees make?"),
    *("At what temperature does water boil?", "What is the opposite of hot?", "Hello!"),
    *("What is the past tense of go?", "Name three fruits.", "Name a large animal."),
    *("Where do penguins live?", "What is the first month of the year?", "Thank you."),
    *("Write a short poem about the sea.", "Who are you?", "How do I make a cup of tea?"),
    *("Give me a tip for sleeping well.", "Translate good morning into French.", "Say hello."),
)
OPENINGS = (
    *(
        "The",
        "In the",
        "A",
        "When",
        "One day",
        "It was",
        "There are",
        "Many people",
        "For example,",
    ),
    *("According to", "The city of", "During the", "She", "He", "They", "We", "If you", "To make"),
    *(
        "In 1998,",
        "The history of",
        "Scientists",
        "After the",
        "Most",
        "This",
        "On the",
        "At first,",
    ),
    *("The most important", "Although", "Because", "Some", "Children", "Water", "The following"),
)


class Teacher:
    """Makes the lessons about a picture; the same for the same picture and generator."""

    def __init__(
        self, book: "SpriteBook", shapes: Sequence[ShapePicture], *, words: Sequence[str]
    ) -> None:
        self._book = book
        self._shapes = shapes
        self._words = words  # things a photograph may be asked about

    def lessons(
        self, taught: Taught, probabilities: np.ndarray, generator: random.Random
    ) -> list[tuple[str, Lesson]]:
        """(form, lesson) for all that is asked; evidence goes with some of them."""
        match taught.origin:
            case "scene":
                found = self._about_scene(taught.scene, generator)
            case "shapes":
                found = [
                    ("shapes", Lesson(question=_asked(question), answer=sentence(answer)))
                    for question, answer in self._shapes[taught.number].questions
                ]
            case "photo":
                found = self._about_photograph(taught, generator)
        share = TOLD_SHARE_PHOTO if taught.origin == "photo" else TOLD_SHARE
        return [
            (form, _told(lesson, taught.evidence, probabilities))
            if generator.random() < share
            else (form, lesson)
            for form, lesson in found
        ]

    def cells(self, taught: Taught) -> tuple[list[Cell], str | None, bool]:
        """Named cells, the ground's colour, and whether the other cells are known to be empty."""
        if taught.scene is not None:
            ground = taught.scene.background.colour
            return cells_of_scene(taught.scene, self._book), ground, True
        if taught.origin == "photo":
            return cells_of_photograph(taught), None, False
        shape = self._shapes[taught.number]
        name, colour = shape_of(shape)
        if name is None:
            return [], None, False
        return cell_of_shape(np.asarray(shape.image()), name, colour), None, True

    def _about_scene(
        self, scene: Scene | None, generator: random.Random
    ) -> list[tuple[str, Lesson]]:
        if scene is None:
            raise ValueError("A scene's truth is missing")
        found: dict[str, tuple[str, Lesson]] = {}
        for _ in range(2):
            for asked in ask_about(scene, self._book, seed=generator.randrange(1 << 30)):
                lesson = Lesson(question=asked.text, answer=asked.answer)
                found.setdefault(asked.text, (asked.form, lesson))
        listed = list_things(scene, self._book)
        opening = generator.choice(("there {0} {1}", "I see {1}", "{1}"))
        verb = "is" if listed.startswith(("a ", "an ")) else "are"
        question = generator.choice(DESCRIBE)
        answer = sentence(opening.format(verb, listed))
        found.setdefault(question, ("describe", Lesson(question=question, answer=answer)))
        return list(found.values())

    def _about_photograph(
        self, taught: Taught, generator: random.Random
    ) -> list[tuple[str, Lesson]]:
        shown = {label.text for label in taught.evidence.labels}
        absent = [word for word in generator.sample(self._words, 8) if word not in shown][:3]
        found = [
            (f"Is there {with_article(word)}?", f"no, I do not see {with_article(word)}")
            for word in absent
        ]
        if taught.word is not None:
            what = with_article(taught.word)
            found += [(question, what) for question in generator.sample(WHAT_IS_IT, 3)]
            found += [(f"Is there {what} in the picture?", f"yes, there is {what}")]
        return [
            ("photo", Lesson(question=question, answer=sentence(answer)))
            for question, answer in found
        ]


def shape_of(picture: ShapePicture) -> tuple[str | None, str | None]:
    """What easy-vqa's own questions tell about its shape: (name, colour)."""
    name = colour = None
    for question, answer in picture.questions:
        if answer in SHAPES:
            name = answer
        elif answer not in ("yes", "no"):
            colour = answer
        elif answer == "yes" and not DENIED.search(question):
            words = question.lower().rstrip("?").split()
            name = name or next((word for word in words if word in SHAPES), None)
    return name, colour


def list_things(scene: Scene, book: "SpriteBook") -> str:
    """All kinds with their counts, in reading order: "two dogs, a cat and an apple"."""
    rows = sorted(
        scene.things, key=lambda thing: (int((thing.box[1] + thing.box[3]) * 3.5), thing.box[0])
    )
    counts = Counter(thing.kind for thing in rows)
    return joined([counted(book.kind_by_name[kind], n) for kind, n in counts.items()])


def photo_words() -> list[str]:
    """Everyday words for things that the ImageNet head knows."""
    return sorted({word.text for word in everyday_words()})


def shares_at(progress: float) -> dict[str, float]:
    """How often each form is asked; moves from the early to the late mixture by half-time."""
    late = min(1.0, 2 * progress)
    return {
        form: (1 - late) * share + late * LATE_SHARES[form] for form, share in EARLY_SHARES.items()
    }


def plain_questions() -> list[str]:
    """Several hundred questions that need no picture."""
    topics = [topic.replace("-", " ") for topic in TOPICS]
    return [*FACTS, *(form.format(topic) for form in QUESTIONS for topic in topics)]


@torch.inference_mode()
def sample_texts(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    *,
    start: int,
    count: int,
    max_new_tokens: int = 64,
) -> list[dict[str, Any]]:
    """What the model itself says: answers to plain questions, and texts it goes on with.

    Trained on again, its own words keep the language as it was. Numbers `start` to
    `start + count` of an endless list; four questions for one opening.
    """
    tokenizer = processor.tokenizer
    questions = plain_questions()
    prompts = []
    for number in range(start, start + count):
        if number % 5 == 4:
            prompts.append(OPENINGS[number // 5 % len(OPENINGS)])
        else:
            question = questions[(number * 7) % len(questions)]
            messages = build_prompt(question, evidence=Evidence(), has_picture=False)
            prompts.append(chat_text(messages, processor))
    encoded = tokenizer(
        prompts,
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    ).to(model.device)
    torch.manual_seed(start)
    generate: Any = model.generate
    said = generate(
        **encoded, do_sample=True, temperature=0.8, top_k=0, max_new_tokens=max_new_tokens
    )
    end = tokenizer.eos_token_id
    samples = []
    for row, prompt in enumerate(prompts):
        tokens = said[row, encoded.input_ids.shape[1] :].tolist()
        kept = tokens[: tokens.index(end) + 1] if end in tokens else tokens
        asked = tokenizer(prompt, add_special_tokens=False).input_ids
        samples.append({"prompt": asked, "answer": kept})
    return samples


def read_texts(file: Path) -> list[Branch]:
    """The samples kept by `write_texts`."""
    samples = json.loads(file.read_text(encoding="utf-8"))
    return [Branch(prompt=tuple(s["prompt"]), answer=tuple(s["answer"])) for s in samples]


def write_texts(file: Path, samples: Sequence[dict[str, Any]]) -> None:
    """Keep samples, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pending = file.with_name(f".{file.name}.{os.getpid()}")
    pending.write_text(json.dumps(list(samples)), encoding="utf-8")
    os.replace(pending, file)


def _asked(question: str) -> str:
    return question[:1].upper() + question[1:]


def _told(lesson: Lesson, evidence: Evidence, probabilities: np.ndarray) -> Lesson:
    asked = asked_labels(lesson.question, probabilities)
    return replace(lesson, evidence=replace(evidence, asked=asked))
