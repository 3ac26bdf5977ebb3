"""Sentences that are true of a scene, and captions with one word wrong."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from training.embedded.sprites import SpriteBook
from training.scene_drawing import PAINTS, Box, Scene, centre
from training.scene_questions import DIRECTIONS, OPPOSITE, View, relation_of
from training.scene_words import counted, joined, kinds_by_name, sentence

Change = Literal["count", "kind", "colour", "relation"]
# Colours that a careful reader may call by each other's name: never the one wrong word.
NEAR_COLOURS = (
    {"red", "orange"},
    {"red", "pink"},
    {"orange", "yellow"},
    {"orange", "brown"},
    {"red", "brown"},
    {"pink", "purple"},
    {"blue", "purple"},
    {"white", "grey"},
    {"black", "grey"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some things of one kind."""

    kind: str
    count: int
    colour: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """What a caption says, before it is put into words."""

    parts: tuple[Part, ...]
    relation: str | None = None  # where the first of two parts is from the second
    backdrop: str | None = None
    opening: str = ""

    def text(self) -> str:
        """The phrase in words: "a red dog to the left of two cats"."""
        kinds = kinds_by_name()
        named = [counted(kinds[part.kind], part.count, colour=part.colour) for part in self.parts]
        if self.relation is None:
            words = joined(named)
        else:
            words = f"{named[0]} {DIRECTIONS[self.relation]} {named[1]}"
        behind = f" on {_backdrop_words(self.backdrop)}" if self.backdrop else ""
        return f"{self.opening}{words}{behind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlteredCaption:
    """A true caption and the same with one word wrong."""

    true: str
    false: str
    change: Change


def describe(scene: Scene, book: SpriteBook) -> str:
    """Everything worth saying about a scene, in a few sentences.

    Kinds with counts and colours, the backdrop, and where each thing is that is alone of its kind.
    """
    view = View(scene, book)
    parts = _parts(view)
    listed = Phrase(parts=parts, backdrop=scene.background.colour).text()
    sentences = [f"the picture shows {listed}"]
    single = view.single()
    if 1 < len(single) <= 4 or (single and len(view.counts) > 1):
        places = [f"the {thing.kind} is {place_of(thing.box)}" for thing in single[:4]]
        sentences.append(joined(places))
    elif single:
        sentences.append(f"it is {place_of(single[0].box)}")
    return " ".join(sentence(text) for text in sentences)


def captions(scene: Scene, book: SpriteBook, *, seed: int) -> list[str]:
    """Short true captions, the first of which names everything; the same for the same arguments."""
    rng = random.Random(f"captions {seed} {scene.seed}")
    phrases = _phrases(View(scene, book), rng)
    first, *others = (phrase.text() for phrase in phrases)
    rng.shuffle(others)
    return list(dict.fromkeys([first, *others]))


def altered(scene: Scene, book: SpriteBook, *, seed: int) -> AlteredCaption:
    """A true caption of the scene and the same with exactly one word (or name) wrong."""
    rng = random.Random(f"altered {seed} {scene.seed}")
    view = View(scene, book)
    possible: list[tuple[Phrase, Phrase, Change]] = []
    for phrase in _phrases(view, rng):
        wrong: dict[Change, Phrase | None] = {
            "count": _wrong_count(phrase, rng),
            "kind": _wrong_kind(phrase, view, rng),
            "colour": _wrong_colour(phrase, rng),
            "relation": _wrong_relation(phrase),
        }
        possible += [(phrase, false, name) for name, false in wrong.items() if false is not None]
    # First the change, so that the rarer ones come as often as the scenes allow.
    change = rng.choice(sorted({change for _, _, change in possible}))
    true, false, _ = rng.choice([row for row in possible if row[2] == change])
    return AlteredCaption(true=true.text(), false=false.text(), change=change)


def place_of(box: Box) -> str:
    """Where in the picture a box is, as one would say it: "at the top left"."""
    x, y = centre(box)
    across = "left" if x < 0.38 else "right" if x > 0.62 else ""
    down = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    if across and down:
        return f"at the {down} {across}"
    if across:
        return f"on the {across}"
    return f"at the {down}" if down else "in the middle"


def _backdrop_words(colour: str | None) -> str:
    article = "an" if colour == "orange" else "a"
    return f"{article} {colour} background"


def _parts(view: View) -> tuple[Part, ...]:
    """The kinds with counts, and the colour where all things of a kind have the same clear one."""
    parts = []
    for name, count in view.counts.items():
        colours = view.colours_of(name)
        colour = next(iter(colours)) if len(colours) == 1 else None
        if colour is not None and colour in name:
            colour = None  # no "orange orange"
        parts.append(Part(kind=name, count=count, colour=colour))
    return tuple(parts)


def _without_colours(parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(replace(part, colour=None) for part in parts)


def _phrases(view: View, rng: random.Random) -> list[Phrase]:
    """True phrases, the complete one first."""
    parts = list(_parts(view))
    rng.shuffle(parts)
    plain = _without_colours(parts)
    backdrop = view.scene.background.colour
    phrases = [
        Phrase(parts=tuple(parts)),
        Phrase(parts=plain),
        Phrase(parts=plain, backdrop=backdrop),
        Phrase(parts=plain, opening="a picture of "),
    ]
    phrases += [Phrase(parts=(part,)) for part in parts]
    related = _related_parts(view, parts)
    if related:
        first, second, where = rng.choice(related)
        phrases.append(Phrase(parts=(first, second), relation=where))
        bare = _without_colours((first, second))
        phrases.append(Phrase(parts=bare, relation=where))
    return phrases


def _related_parts(view: View, parts: Sequence[Part]) -> list[tuple[Part, Part, str]]:
    by_kind = {part.kind: part for part in parts}
    single = view.single()
    return [
        (by_kind[first.kind], by_kind[second.kind], where)
        for first in single
        for second in single
        if first is not second and (where := relation_of(first, second))
    ]


def _wrong_count(phrase: Phrase, rng: random.Random) -> Phrase | None:
    """Another number of some things that are several: only the number word changes."""
    several = [i for i, part in enumerate(phrase.parts) if part.count > 1]
    if not several:
        return None
    chosen = rng.choice(several)
    count = phrase.parts[chosen].count
    others = [n for n in range(max(2, count - 2), min(9, count + 2) + 1) if n != count]
    return _with_part(phrase, chosen, count=rng.choice(others))


def _wrong_kind(phrase: Phrase, view: View, rng: random.Random) -> Phrase:
    chosen = rng.randrange(len(phrase.parts))
    return _with_part(phrase, chosen, kind=view.absent(rng).name)


def _wrong_colour(phrase: Phrase, rng: random.Random) -> Phrase | None:
    coloured = [i for i, part in enumerate(phrase.parts) if part.colour is not None]
    if not coloured:
        return None
    chosen = rng.choice(coloured)
    true = phrase.parts[chosen].colour
    far = [paint for paint in PAINTS if paint != true and {paint, true} not in NEAR_COLOURS]
    return _with_part(phrase, chosen, colour=rng.choice(far))


def _wrong_relation(phrase: Phrase) -> Phrase | None:
    if phrase.relation is None:
        return None
    return replace(phrase, relation=OPPOSITE[phrase.relation])


def _with_part(
    phrase: Phrase,
    index: int,
    *,
    kind: str | None = None,
    count: int | None = None,
    colour: str | None = None,
) -> Phrase:
    old = phrase.parts[index]
    part = Part(kind=kind or old.kind, count=count or old.count, colour=colour or old.colour)
    return replace(phrase, parts=(*phrase.parts[:index], part, *phrase.parts[index + 1 :]))
