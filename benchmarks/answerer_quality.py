"""Does the embedded answerer see? `python -m benchmarks.answerer_quality [--n 1000] [--only NAME]`.

Questions about scenes that were never trained on, asked as the app asks them and answered
greedily, scored by the scenes' own checker: in the styles of training, in a style that was never
trained on, and with kinds that were never trained on. Two controls show whether it looks: the
same questions with a grey picture, and with another scene's picture. Then easy-vqa's test
split, the sample photographs, and the perplexity of plain English beside the untaught model's.
"""

import argparse
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.report import Row, write_report
from core.assembly import TAUGHT, prepare_base
from core.colours import main_colours
from core.embedder import load_embedder
from core.pack import read_pack
from core.prompts import build_prompt, chat_text
from core.questions import asked_labels
from core.recognizer import Recognizer
from core.settings import ROOT, cache_dir, load_settings
from core.types import Evidence
from training.embedded.answerer_features import easy_vqa
from training.embedded.sprites import SEEN_STYLES, UNSEEN_STYLE, SpriteBook, load_sprites
from training.scenes import Scene, SceneQuestion, ask_about, draw_scene, is_right, plan_scene

FIRST_SEED = 1_000_000  # scenes from here on are never trained on
PER_SCENE = 4
BATCH = 48
MAX_NEW_TOKENS = 32
PERPLEXITY_TOKENS = 256
Z95 = 1.959964
EASY_VQA_ANSWERS = (
    *("circle", "rectangle", "triangle", "yes", "no"),
    *("red", "green", "blue", "black", "gray", "teal", "brown", "yellow"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question of the benchmark, and how its answer is judged."""

    picture: Image.Image
    question: str
    form: str
    is_right: Callable[[str], bool]
    evidence: Evidence = Evidence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where scenes come from."""

    name: str
    styles: tuple[str, ...]
    seen: bool


SPLITS = (
    Split(name="same style", styles=SEEN_STYLES, seen=True),
    Split(name="unseen style", styles=(UNSEEN_STYLE,), seen=True),
    Split(name="unseen kinds", styles=SEEN_STYLES, seen=False),
)
PARTS = (*(split.name for split in SPLITS), "told", "controls", "easy-vqa", "photographs", "words")


class Reader:
    """The answerer as it is served, asked many questions at once."""

    def __init__(self, *, taught: bool = True) -> None:
        preset = load_settings(preset="embedded").active
        self.base = prepare_base(
            preset.answerer, cache=cache_dir(), taught=TAUGHT if taught else None
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModelForImageTextToText.from_pretrained(
            self.base.folder, dtype=torch.bfloat16
        )
        self.model = model.to(device).eval()
        self.processor: Any = AutoProcessor.from_pretrained(self.base.folder)

    def answers(self, asked: Sequence[Asked]) -> list[str]:
        """One greedy answer each, in the order of the questions."""
        texts = [self._text(entry) for entry in asked]
        order = sorted(range(len(asked)), key=lambda number: len(texts[number]))
        found = [""] * len(asked)
        started = time.monotonic()
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            said = self._generate(
                [texts[number] for number in numbers],
                [asked[number].picture for number in numbers],
            )
            for number, answer in zip(numbers, said, strict=True):
                found[number] = answer
            rate = (start + len(numbers)) / (time.monotonic() - started)
            print(f"  {start + len(numbers)} of {len(asked)}, {rate:.1f}/s", end="\r", flush=True)
        return found

    def perplexity(self, texts: Sequence[str]) -> tuple[float, int]:
        """(perplexity, tokens) of texts, each read from its own beginning."""
        total, count = 0.0, 0
        for text in texts:
            ids = self.processor.tokenizer(text, return_tensors="pt").input_ids
            ids = ids[:, :PERPLEXITY_TOKENS].to(self.model.device)
            with torch.inference_mode():
                logits = self.model(input_ids=ids).logits[0, :-1].float()
            total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
        return math.exp(total / count), count

    def _text(self, asked: Asked) -> str:
        messages = build_prompt(asked.question, evidence=asked.evidence, has_picture=True)
        return chat_text(messages, self.processor)

    @torch.inference_mode()
    def _generate(self, texts: list[str], pictures: list[Image.Image]) -> list[str]:
        inputs = self.processor(
            text=texts,
            images=[[picture] for picture in pictures],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(self.model.device, torch.bfloat16)
        said = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        rows = said[:, inputs["input_ids"].shape[1] :]
        return [
            text.strip() for text in self.processor.batch_decode(rows, skip_special_tokens=True)
        ]


def scene_questions(split: Split, book: SpriteBook, n: int) -> list[Asked]:
    """At least `n` questions about held-out scenes of 1 to 9 things, four a scene."""
    found: list[Asked] = []
    seed = FIRST_SEED
    while len(found) < n:
        scene = plan_scene(seed, book=book, styles=split.styles, seen=split.seen)
        picture = draw_scene(scene, book)
        found += [
            Asked(
                picture=picture,
                question=question.text,
                form=_form(question, scene),
                is_right=_checker(question),
            )
            for question in ask_about(scene, book, seed=seed, n=PER_SCENE)
        ]
        seed += 1
    return found[:n]


def told(asked: Sequence[Asked]) -> list[Asked]:
    """The same questions with the evidence that the app would put beside them."""
    preset = load_settings(preset="embedded").active
    embedder = load_embedder(preset.embedder, device="cpu", dtype="float32", cache=cache_dir())
    recognizer = Recognizer(embedder)
    pictures = {id(entry.picture): entry.picture for entry in asked}
    sight = embedder.look(list(pictures.values()))
    seen = recognizer.describe(sight, [str(key) for key in pictures])
    known = dict(zip(pictures, range(len(pictures)), strict=True))
    found = []
    for entry in asked:
        row = known[id(entry.picture)]
        shares = sight.class_probabilities
        evidence = Evidence(
            labels=(*seen[row].objects, *seen[row].scenes, *seen[row].tags),
            colours=main_colours(entry.picture),
            asked=asked_labels(entry.question, shares[row]) if shares is not None else (),
        )
        found.append(replace(entry, evidence=evidence))
    return found


def blanked(asked: Sequence[Asked]) -> list[Asked]:
    """The same questions, every picture grey."""
    grey = Image.new("RGB", (224, 224), (128, 128, 128))
    return [replace(entry, picture=grey) for entry in asked]


def swapped(asked: Sequence[Asked]) -> list[Asked]:
    """The same questions, each with the picture of a question half the list away."""
    half = len(asked) // 2
    return [
        replace(entry, picture=asked[(number + half) % len(asked)].picture)
        for number, entry in enumerate(asked)
    ]


def easy_vqa_questions(n: int) -> list[Asked]:
    """Up to `n` of easy-vqa's test questions, chosen by a fixed seed."""
    pairs = [
        (picture, question, answer)
        for picture in easy_vqa("test", cache=cache_dir())
        for question, answer in picture.questions
    ]
    chosen = random.Random(1).sample(pairs, min(n, len(pairs)))
    return [
        Asked(
            picture=picture.image(),
            question=question[:1].upper() + question[1:],
            form="yes/no" if answer in ("yes", "no") else "one word",
            is_right=lambda said, truth=answer: _one_word(said) == truth,  # type: ignore[misc]
        )
        for picture, question, answer in chosen
    ]


def photographs(folder: Path | None) -> list[Asked]:
    """ "What is in this picture?" about the sample photographs, or those of a folder.

    In a folder, a file's name without its digits says what it shows: "eggplant_2.jpg".
    """
    if folder is None:
        shown = [(p.image(), {p.name, *p.keywords}) for p in read_pack("photographs")]
    else:
        files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in PHOTO_TYPES]
        shown = [(Image.open(file).convert("RGB"), {_words_of(file.stem)}) for file in files]
    return [
        Asked(
            picture=picture,
            question="What is in this picture?",
            form="photograph",
            is_right=lambda said, names=names: _names_one(said, names),  # type: ignore[misc]
        )
        for picture, names in shown
    ]


PHOTO_TYPES = (".jpg", ".jpeg", ".png", ".webp")


def plain_english() -> list[str]:
    """The project's own reference notes as running text; no model was trained on them."""
    notes = yaml.safe_load((ROOT / "core/embedded/notes.yaml").read_text(encoding="utf-8"))
    return [" ".join(step["sentence"] for step in note["steps"]) for note in notes]


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share; Wilson 1927."""
    if not total:
        return 0.0, 1.0
    share, z = right / total, Z95
    middle = share + z * z / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (middle - reach) / scale, (middle + reach) / scale


def score(part: str, asked: Sequence[Asked], said: Sequence[str]) -> list[Row]:
    """A row for all questions and one for each form."""
    marks = [entry.is_right(answer) for entry, answer in zip(asked, said, strict=True)]
    forms = sorted({entry.form for entry in asked})
    rows = [_row(part, "all", marks)]
    for form in forms if len(forms) > 1 else []:
        rows.append(
            _row(part, form, [m for m, e in zip(marks, asked, strict=True) if e.form == form])
        )
    counting = [mark for mark, entry in zip(marks, asked, strict=True) if entry.form in COUNTING]
    if counting:
        rows.append(_row(part, "counting 1 to 6", counting))
    return rows


COUNTING = ("how_many", "how_many_in_all")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answerer_quality")
    parser.add_argument("--n", type=int, default=1000, help="questions of each part")
    parser.add_argument("--only", choices=PARTS, action="append", help="default: all parts")
    parser.add_argument("--photographs", type=Path, help="a folder of your own to ask about")
    parser.add_argument("--untaught", action="store_true", help="ask the untaught base instead")
    parser.add_argument("--show", type=int, default=0, help="print so many answers of each part")
    arguments = parser.parse_args()
    started = time.monotonic()
    reader = Reader(taught=not arguments.untaught)
    rows: list[Row] = []
    for part, asked in _parts(arguments.only or PARTS, arguments.n, arguments.photographs):
        said = reader.answers(asked)
        rows += score(part, asked, said)
        for entry, answer in list(zip(asked, said, strict=True))[: arguments.show]:
            mark = "right" if entry.is_right(answer) else "WRONG"
            print(f"  {mark} {entry.question} -> {answer}")
    notes = f"base {reader.base.revision}, greedy, {time.monotonic() - started:.0f} s"
    if "words" in (arguments.only or PARTS):
        notes += f"; {_compare_words(reader)}"
    if arguments.untaught or arguments.only or arguments.photographs:
        print(notes)
        for row in rows:
            print(*row.values(), sep="\t")
        return
    write_report("answerer_quality", rows, notes=notes)


def _parts(chosen: Sequence[str], n: int, folder: Path | None) -> Iterator[tuple[str, list[Asked]]]:
    book = load_sprites()
    for split in SPLITS:
        if split.name in chosen:
            yield split.name, scene_questions(split, book, n)
    if "told" in chosen:
        yield "same style, with evidence", told(scene_questions(SPLITS[0], book, n))
    if "controls" in chosen:
        asked = scene_questions(SPLITS[0], book, n)
        yield "control: grey picture", blanked(asked)
        yield "control: another picture", swapped(asked)
    if "easy-vqa" in chosen:
        yield "easy-vqa test", easy_vqa_questions(n)
    if "photographs" in chosen:
        yield "photographs, picture alone", photographs(folder)
        yield "photographs, with evidence", told(photographs(folder))


def _compare_words(reader: Reader) -> str:
    texts = plain_english()
    taught, count = reader.perplexity(texts)
    plain, _ = Reader(taught=False).perplexity(texts)
    change = 100 * (taught / plain - 1)
    return (
        f"perplexity of {count} tokens of plain English {taught:.2f}, untaught {plain:.2f}, "
        f"{change:+.1f} %"
    )


def _form(question: SceneQuestion, scene: Scene) -> str:
    """The question's form; counts beyond six stand apart, as the bar is on one to six."""
    if question.form in COUNTING and question.accepted[0] not in SMALL_NUMBERS:
        return f"{question.form}, none or over six"
    return question.form


SMALL_NUMBERS = ("one", "two", "three", "four", "five", "six")


def _checker(question: SceneQuestion) -> Callable[[str], bool]:
    return lambda said: is_right(question, said)


def _row(part: str, form: str, marks: Sequence[bool]) -> Row:
    low, high = wilson(sum(marks), len(marks))
    return {
        "part": part,
        "form": form,
        "n": len(marks),
        "right": round(sum(marks) / max(1, len(marks)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def _one_word(said: str) -> str | None:
    """The one answer of easy-vqa that is named; None for none or several."""
    named = {word for word in re.findall(r"[a-z]+", said.lower()) if word in EASY_VQA_ANSWERS}
    return named.pop() if len(named) == 1 else None


def _names_one(said: str, names: set[str]) -> bool:
    folded = said.lower()
    return any(re.search(rf"\b{re.escape(name.lower())}s?\b", folded) for name in names)


def _words_of(stem: str) -> str:
    return re.sub(r"[\W\d_]+", " ", stem).strip()


if __name__ == "__main__":
    main()
