"""Prompts for drawing, with what the picture should hold, and the checker of what it does hold.

The tasks and the rule for positions follow GenEval (Ghosh et al. 2023, arXiv:2310.11513, section
3): one thing, two things, counting, colours, positions, and colours of two things.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from training.embedded.sprites import SpriteBook
from training.scene_captions import NEAR_COLOURS
from training.scene_drawing import PAINTS, Box, centre
from training.scene_questions import DIRECTIONS
from training.scene_words import COLOUR_WORDS, counted, joined, kinds_by_name, tokens

PromptTask = Literal["single", "two", "count", "colour", "position", "two_colours"]
TASKS: tuple[PromptTask, ...] = get_args(PromptTask)
POSITION_SLACK = 0.1  # of the two things' sizes, as GenEval has it


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptThing:
    """Some things that the picture should hold."""

    kind: str
    count: int = 1
    colour: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to draw, with what a right picture of it holds."""

    text: str
    task: PromptTask
    things: tuple[PromptThing, ...]
    relation: str | None = None  # where the first thing is from the second


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundThing:
    """One thing that a detector found in a picture."""

    kind: str
    box: Box
    colour: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScore:
    """Which parts of a prompt a picture keeps; None for parts the prompt does not name."""

    kinds: bool  # every kind is there
    counts: bool | None
    colours: bool | None
    relation: bool | None

    @property
    def is_right(self) -> bool:
        """Whether everything is as the prompt says: GenEval's score."""
        return all(part for part in self._named())

    @property
    def share(self) -> float:
        """The share of the prompt's parts that hold, 0 to 1: a gentler score, for rewards."""
        named = self._named()
        return sum(named) / len(named)

    def _named(self) -> list[bool]:
        parts = (self.kinds, self.counts, self.colours, self.relation)
        return [part for part in parts if part is not None]


def make_prompt(
    seed: int, *, book: SpriteBook, task: PromptTask, seen: bool | None = True, most: int = 4
) -> Prompt:
    """A prompt of one task, the same for the same arguments.

    Args:
        seen: True for kinds of the training split, False for the others, None for any.
        most: largest number of things in the counting task, from 2 on.
    """
    rng = random.Random(f"prompt {task} {seed}")
    kinds = [kind.name for kind in book.kinds if seen is None or kind.is_seen == seen]
    if task in ("colour", "two_colours"):
        kinds = [name for name in kinds if not set(tokens(name)) & set(COLOUR_WORDS)]
    first, second = rng.sample(kinds, 2)
    things: tuple[PromptThing, ...]
    match task:
        case "single":
            things = (PromptThing(kind=first),)
        case "two" | "position":
            things = (PromptThing(kind=first), PromptThing(kind=second))
        case "count":
            things = (PromptThing(kind=first, count=rng.randint(2, most)),)
        case "colour":
            things = (PromptThing(kind=first, colour=rng.choice(tuple(PAINTS))),)
        case "two_colours":
            paint, other = _two_paints(rng)
            things = (
                PromptThing(kind=first, colour=paint),
                PromptThing(kind=second, colour=other),
            )
    relation = rng.choice(tuple(DIRECTIONS)) if task == "position" else None
    return Prompt(text=_in_words(things, relation), task=task, things=things, relation=relation)


def score_picture(prompt: Prompt, found: Sequence[FoundThing]) -> PictureScore:
    """Which parts of the prompt hold in a picture, given what a detector found in it."""
    of_kind = {
        thing.kind: [other for other in found if other.kind == thing.kind]
        for thing in prompt.things
    }
    counted_task = prompt.task == "count"
    coloured = [thing for thing in prompt.things if thing.colour is not None]
    return PictureScore(
        kinds=all(of_kind.values()),
        counts=all(len(of_kind[thing.kind]) == thing.count for thing in prompt.things)
        if counted_task
        else None,
        colours=all(
            any(other.colour == thing.colour for other in of_kind[thing.kind]) for thing in coloured
        )
        if coloured
        else None,
        relation=_holds(prompt, found) if prompt.relation is not None else None,
    )


def is_placed(first: Box, second: Box, relation: str) -> bool:
    """Whether the first box is on this side of the second, by GenEval's rule."""
    (x, y), (other_x, other_y) = centre(first), centre(second)
    across = _beyond_slack(x - other_x, first[2] - first[0] + second[2] - second[0])
    down = _beyond_slack(y - other_y, first[3] - first[1] + second[3] - second[1])
    length = math.hypot(across, down)
    if length == 0:
        return False
    towards = {"left": -across, "right": across, "above": -down, "below": down}
    return towards[relation] / length > 0.5


def _beyond_slack(step: float, sizes: float) -> float:
    return math.copysign(max(0.0, abs(step) - POSITION_SLACK * sizes), step)


def _holds(prompt: Prompt, found: Sequence[FoundThing]) -> bool:
    """Whether some pair of the two kinds stands as the prompt says."""
    first, second = (thing.kind for thing in prompt.things[:2])
    return any(
        is_placed(one.box, other.box, prompt.relation or "")
        for one in found
        for other in found
        if one.kind == first and other.kind == second
    )


def _two_paints(rng: random.Random) -> tuple[str, str]:
    while True:
        first, second = rng.sample(tuple(PAINTS), 2)
        if {first, second} not in NEAR_COLOURS:
            return first, second


def _in_words(things: Sequence[PromptThing], relation: str | None) -> str:
    kinds = kinds_by_name()
    named = [counted(kinds[thing.kind], thing.count, colour=thing.colour) for thing in things]
    return f"{named[0]} {DIRECTIONS[relation]} {named[1]}" if relation else joined(named)
