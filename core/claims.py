"""What a text claims about a picture, and how far the picture's cells bear it out.

"two red apples to the left of a dog" claims apples, two of them, red, a dog, and where they are.
The cells of the grid (core/cells.py) give each claim a probability.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from core.captions import split_sentences, things_named
from core.cells import COLOURS, CellSight, centre, name_shares

Side = Literal["left", "right", "above", "below"]
NUMBERS = {
    word: number
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
COLOUR_WORDS = {colour: colour for colour in COLOURS} | {
    "gray": "grey",
    "silver": "grey",
    "violet": "purple",
    "magenta": "pink",
    "cyan": "turquoise",
    "teal": "turquoise",
    "gold": "yellow",
    "golden": "yellow",
    "navy": "blue",
}
SIDES: dict[str, Side] = {
    "left": "left",
    "right": "right",
    "above": "above",
    "over": "above",
    "below": "below",
    "under": "below",
    "beneath": "below",
    "underneath": "below",
}
ONE = frozenset(("a", "an", "one", "the"))
MOST_COUNTED = 12
LOOK_BACK = 3  # words before a name that may count or colour it
LEAST = 1e-3  # probabilities below this tell no more


@dataclass(frozen=True, slots=True, kw_only=True)
class KindWords:
    """What a kind of thing may be called."""

    name: str
    plural: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Some things that a text says are there."""

    name: str
    count: int | None = None  # None where the text does not count
    is_several: bool = False  # a plural without a number
    colour: str | None = None  # one of COLOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Everything a text claims that the cells can tell."""

    things: tuple[Claim, ...]
    # (first, side, second): the first thing is on that side of the second; places in `things`
    relations: tuple[tuple[int, Side, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedClaim:
    """How far one claim holds; probabilities, 1 where the text says nothing of the sort."""

    claim: Claim
    exists: float
    counted: float
    likeliest_count: int
    coloured: float
    likeliest_colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How far all of them hold."""

    claims: tuple[CheckedClaim, ...]
    relations: tuple[float, ...]


class CellReader(Protocol):
    """An embedder whose cells can be read."""

    kinds: tuple[KindWords, ...]
    kind_vectors: np.ndarray  # (K, D), unit rows
    name_scale: float

    def look_at_cells(self, pictures: Sequence[Image.Image]) -> list[CellSight]:
        """The cells of each picture."""

    def name_vectors(self, names: Sequence[str]) -> np.ndarray:
        """(N, D) unit rows in the space of the cells' names."""


@dataclass(frozen=True)
class Vocabulary:
    """Names of kinds, found in texts."""

    kinds: tuple[KindWords, ...]

    def claims_of(self, text: str) -> Claims:
        """What the text claims; things outside the vocabulary are claimed by their own words."""
        words = _words(text)
        mentions = self._mentions(words)
        if not mentions:
            named = [thing.lower() for s in split_sentences(text) for thing in things_named(s)]
            return Claims(things=tuple(Claim(name=name) for name in dict.fromkeys(named)))
        things = tuple(
            _claim(words, start, name, is_plural=is_plural)
            for name, start, _, is_plural in mentions
        )
        relations = [
            (first, side, first + 1)
            for first in range(len(mentions) - 1)
            if (side := _side(words[mentions[first][2] : mentions[first + 1][1]])) is not None
        ]
        return Claims(things=things, relations=tuple(relations))

    def _mentions(self, words: Sequence[str]) -> list[tuple[str, int, int, bool]]:
        """(name, first word, one past the last, is plural) of every kind that is named."""
        found, place = [], 0
        while place < len(words):
            for length in range(min(self._longest, len(words) - place), 0, -1):
                hit = self._by_words.get(tuple(words[place : place + length]))
                if hit is not None:
                    found.append((hit[0], place, place + length, hit[1]))
                    place += length
                    break
            else:
                place += 1
        starts = {start for _, start, _, _ in found}
        # "an orange cat": a colour when another name follows at once.
        return [one for one in found if not (one[0] in COLOUR_WORDS and one[2] in starts)]

    @cached_property
    def _by_words(self) -> Mapping[tuple[str, ...], tuple[str, bool]]:
        names: dict[tuple[str, ...], tuple[str, bool]] = {}
        for kind in self.kinds:
            for synonym in kind.synonyms:
                names[tuple(_words(synonym))] = (kind.name, False)
                names[(*_words(synonym)[:-1], _words(synonym)[-1] + "s")] = (kind.name, True)
        for kind in self.kinds:  # own names last: they win over another kind's other name
            if kind.plural:
                names[tuple(_words(kind.plural))] = (kind.name, kind.plural != kind.name)
            names[tuple(_words(kind.name))] = (kind.name, False)
        return names

    @cached_property
    def _longest(self) -> int:
        return max((len(words) for words in self._by_words), default=1)


def _words(text: str) -> list[str]:
    folded = text.lower().replace("’", "'").replace("-", " ").replace("ñ", "n")
    return re.findall(r"[a-z0-9']+", folded)


def _claim(words: Sequence[str], start: int, name: str, *, is_plural: bool) -> Claim:
    """The claim of a name with the number and colour that stand before it."""
    count, colour = None, None
    for word in reversed(words[max(0, start - LOOK_BACK) : start]):
        if word in COLOUR_WORDS and colour is None:
            colour = COLOUR_WORDS[word]
        elif word in ONE:
            count = 1
            break
        elif word in NUMBERS or word.isdigit():
            count = NUMBERS[word] if word in NUMBERS else int(word)
            break
        elif word in ("and", "of", "with", "background"):
            break
    return Claim(
        name=name,
        count=count,
        is_several=is_plural and count is None,
        colour=None if colour is None or colour in name else colour,
    )


def _side(between: Sequence[str]) -> Side | None:
    return next((SIDES[word] for word in between if word in SIDES), None)


def check(claims: Claims, cells: CellSight, reader: CellReader) -> Checked:
    """How far the cells of one picture bear the claims out."""
    chances = _chances(claims, cells, reader)
    checked = tuple(
        _check_one(claim, row, cells) for claim, row in zip(claims.things, chances, strict=True)
    )
    relations = tuple(
        _relation(chances[first], chances[second], side, cells)
        for first, side, second in claims.relations
    )
    return Checked(claims=checked, relations=relations)


def _chances(claims: Claims, cells: CellSight, reader: CellReader) -> np.ndarray:
    """(n, 49) probabilities that the thing of each claim is centred in each cell."""
    names = [kind.name for kind in reader.kinds]
    others = [claim.name for claim in claims.things if claim.name not in names]
    vectors = reader.kind_vectors
    if others:
        vectors = np.concatenate([vectors, reader.name_vectors(others)])
    columns = [(names + others).index(claim.name) for claim in claims.things]
    shares = name_shares(cells, vectors, scale=reader.name_scale)
    return (shares[:, columns] * cells.presence[:, None]).T


def _check_one(claim: Claim, chances: np.ndarray, cells: CellSight) -> CheckedClaim:
    counts = count_probabilities(chances)
    wanted = claim.count if claim.count is not None and claim.count > 1 else None
    counted = 1.0
    if wanted is not None:
        counted = float(counts[min(wanted, MOST_COUNTED)])
    elif claim.is_several:
        counted = float(counts[2:].sum())
    colours = (chances[:, None] * cells.colours).sum(axis=0) / max(float(chances.sum()), 1e-9)
    return CheckedClaim(
        claim=claim,
        exists=float(1 - counts[0]),
        counted=counted,
        likeliest_count=int(counts.argmax()),
        coloured=1.0 if claim.colour is None else float(colours[COLOURS.index(claim.colour)]),
        likeliest_colour=COLOURS[int(colours.argmax())],
    )


def count_probabilities(chances: np.ndarray) -> np.ndarray:
    """(13,) probabilities of 0 to 12 things, 12 standing for more too: a Poisson binomial.

    Args:
        chances: of a thing in each cell, independent of the others. Shape (C,).
    """
    counts = np.zeros(MOST_COUNTED + 1)
    counts[0] = 1.0
    for chance in chances:
        more = counts[:-1] * chance
        most = counts[-1]
        counts *= 1 - chance
        counts[1:] += more
        counts[-1] += most * chance
    return counts


def _relation(first: np.ndarray, second: np.ndarray, side: Side, cells: CellSight) -> float:
    """Probability that the first thing lies on that side of the second."""
    middles = np.array([centre(tuple(box)) for box in cells.boxes])
    axis = 0 if side in ("left", "right") else 1
    apart = middles[:, axis][:, None] - middles[:, axis][None, :]
    if side in ("left", "above"):
        apart = -apart
    both = first[:, None] * second[None, :]
    soft = 1 / (1 + np.exp(-apart / 0.03))  # 0.03: how far off the centres are, on average
    return float((both * soft).sum() / max(float(both.sum()), 1e-12))


FEATURES = (
    "worst existence",
    "mean existence",
    "worst count",
    "worst colour",
    "worst relation",
    "things",
    "coloured things",
    "counted things",
)


def features_of(checked: Checked) -> np.ndarray:
    """What the calibration weighs, in the order of FEATURES; logarithms of probabilities."""
    exists = [_log(one.exists) for one in checked.claims]
    counts = [_log(one.counted) for one in checked.claims]
    colours = [_log(one.coloured) for one in checked.claims]
    relations = [_log(share) for share in checked.relations]
    return np.array(
        [
            min(exists, default=0.0),
            float(np.mean(exists)) if exists else 0.0,
            min(counts, default=0.0),
            min(colours, default=0.0),
            min(relations, default=0.0),
            float(np.log1p(len(exists))),
            float(sum(one.claim.colour is not None for one in checked.claims) > 0),
            float(sum((one.claim.count or 1) > 1 for one in checked.claims) > 0),
        ]
    )


def _log(probability: float) -> float:
    return float(np.log(max(probability, LEAST)))
