"""How well a picture and a text agree, and whether a storyboard is drawn as it should be."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from core.captions import split_sentences, things_named
from core.claims import (
    FEATURES,
    CellReader,
    Checked,
    CheckedClaim,
    Vocabulary,
    check,
    features_of,
)
from core.diagram import DARK, LIGHT, Colours
from core.errors import WeightsError
from core.layout import Box, Layout, TextBlock, lay_out, text_width
from core.pack import pictograms
from core.pictograms import EmbedTexts
from core.settings import ROOT
from core.types import DiagramShape, StoryboardPlan

EmbedImages = Callable[[Sequence[Image.Image]], np.ndarray]  # N pictures -> (N, D), unit rows
# A model's own probability that the text is true of the picture, such as the answerer's "yes".
SecondOpinion = Callable[[Image.Image, str], float]

CALIBRATION = ROOT / "core" / "embedded" / "judge" / "calibration.json"

MIN_TEXT_CONTRAST, MIN_LINE_CONTRAST = 4.5, 3.0  # WCAG 2.2, success criteria 1.4.3 and 1.4.11
_BACKGROUND_TEXTS = 400
_LONGEST_BACKGROUND = 4  # things
# A thing counts as seen when it fits better than this share of the background, and as not found
# below the other; between them the judge does not say.
_SEEN, _NOT_FOUND = 0.95, 0.75
_MAX_NAMED = 3
_TEXT_ON: tuple[tuple[str, str, float], ...] = (
    ("text", "card", MIN_TEXT_CONTRAST),
    ("text", "page", MIN_TEXT_CONTRAST),
    ("quiet", "page", MIN_TEXT_CONTRAST),
    ("on_accent", "accent", MIN_TEXT_CONTRAST),
    ("line", "page", MIN_LINE_CONTRAST),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well a text describes a picture."""

    # 0 to 1: the probability that the text is true of the picture. Where it is not calibrated, the
    # share of other texts that fit the picture less well.
    score: float
    is_calibrated: bool
    percent: int  # 0 to 100: the share of other texts that fit the picture less well
    cosine: float  # of the two vectors, -1 to 1; differs in range from embedder to embedder
    reason: str  # one line
    seen: tuple[str, ...]  # things of the text that the picture seems to show
    not_found: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Logistic regression from what the cells say of a text's claims to the chance that it is true.

    Made by training/embedded/judge.py from scenes with true captions and with one word wrong.
    """

    means: np.ndarray  # (F,) of each feature of core/claims.py
    spreads: np.ndarray  # (F,)
    weights: np.ndarray  # (F,)
    bias: float
    second_weight: float = 0.0  # of a second opinion's log-odds; 0 until it is fitted

    def score(self, features: np.ndarray, *, second: float | None = None) -> float:
        """Probability, 0 to 1, from one text's features, shape (F,)."""
        logit = float((features - self.means) / self.spreads @ self.weights) + self.bias
        if second is not None:
            second = min(max(second, 1e-3), 1 - 1e-3)
            logit += self.second_weight * float(np.log(second / (1 - second)))
        return 1 / (1 + float(np.exp(-logit)))


def load_calibration(file: Path = CALIBRATION) -> Calibration | None:
    """The shipped calibration; None where there is none.

    Raises:
        WeightsError: it is damaged or made for other features.
    """
    if not file.is_file():
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if tuple(kept["features"]) != FEATURES:
            raise ValueError("made for other features")
        return Calibration(
            means=np.array(kept["means"]),
            spreads=np.array(kept["spreads"]),
            weights=np.array(kept["weights"]),
            bias=float(kept["bias"]),
            second_weight=float(kept.get("second_weight", 0.0)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The judge's calibration in {file.name} cannot be used ({error}). "
            "Restore core/embedded from the repository and start again."
        ) from error


class Judge:
    """Compares a picture with a text, claim by claim where the embedder has cells to look in.

    Drawings are checked claim by claim (core/claims.py): things, counts, colours, places. For
    photographs, and with embedders without cells, the picture's vector is compared with the text's
    against a background of other texts: a cosine of 0.3 is much for one embedder and little for
    another, while the share of other texts that fit the same picture less well reads the same for
    all: 50 % is a text chosen blindly.
    """

    def __init__(
        self,
        *,
        embed_images: EmbedImages,
        embed_texts: EmbedTexts,
        cells: CellReader | None = None,
        calibration: Calibration | None = None,
        second: SecondOpinion | None = None,
    ) -> None:
        self._embed_images = embed_images
        self._embed_texts = embed_texts
        self._cells = cells
        self._calibration = calibration
        self._second = second
        self._lock = Lock()
        self._backgrounds: dict[int, np.ndarray] = {}

    def judge(self, image: Image.Image, text: str) -> Agreement:
        """The agreement of one picture with one text.

        Raises:
            ValueError: the text has no words.
        """
        sentences = split_sentences(text)
        if not sentences:
            raise ValueError("there is no text to compare with the picture")
        plain = self._by_vectors(image, sentences)
        return self._by_cells(image, " ".join(sentences), plain) or plain

    def _by_cells(self, image: Image.Image, text: str, plain: Agreement) -> Agreement | None:
        """The agreement claim by claim; None where the cells cannot tell."""
        if self._cells is None or self._calibration is None:
            return None
        claims = self._vocabulary.claims_of(text)
        (cells,) = self._cells.look_at_cells([image])
        if not claims.things or cells.drawing < 0.5:
            return None
        checked = check(claims, cells, self._cells)
        second = self._second(image, text) if self._second else None
        score = self._calibration.score(features_of(checked), second=second)
        seen = tuple(one.claim.name for one in checked.claims if one.exists >= 0.5)
        not_found = tuple(one.claim.name for one in checked.claims if one.exists < 0.5)
        return Agreement(
            score=score,
            is_calibrated=True,
            percent=plain.percent,
            cosine=plain.cosine,
            reason=reason_of(checked, seen=seen),
            seen=seen,
            not_found=not_found,
        )

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self._cells.kinds if self._cells else ())

    def _by_vectors(self, image: Image.Image, sentences: Sequence[str]) -> Agreement:
        things = _things(sentences)
        picture = self._embed_images([image])[0]
        cosines = self._embed_texts([" ".join(sentences), *things]) @ picture
        whole = _share_below(self._background(len(things)) @ picture, cosines[:1])[0]
        named = list(
            zip(things, _share_below(self._background(1) @ picture, cosines[1:]), strict=True)
        )
        seen = tuple(thing for thing, share in named if share >= _SEEN)
        not_found = tuple(thing for thing, share in named if share < _NOT_FOUND)
        percent = round(100 * float(whole))
        return Agreement(
            score=float(whole),
            is_calibrated=False,
            percent=percent,
            cosine=float(cosines[0]),
            reason=_reason(percent, seen, not_found),
            seen=seen,
            not_found=not_found,
        )

    def _background(self, n_things: int) -> np.ndarray:
        """(M, D) vectors of texts that name about as many things: longer texts lie nearer."""
        size = min(max(n_things, 1), _LONGEST_BACKGROUND)
        with self._lock:
            if size not in self._backgrounds:
                self._backgrounds[size] = self._embed_texts(_background_texts(size))
            return self._backgrounds[size]


@cache
def _background_texts(size: int) -> tuple[str, ...]:
    """Texts of `size` everyday things each, spread over the whole pack."""
    names = [picture.name for picture in pictograms()]
    step = len(names) // size  # things of one text are from different groups of the pack
    starts = range(0, len(names), max(1, len(names) // _BACKGROUND_TEXTS))
    return tuple(
        ", ".join(names[(start + i * step) % len(names)] for i in range(size)) for start in starts
    )


def _share_below(background: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(background), cosines) / len(background)


def _things(sentences: Sequence[str]) -> list[str]:
    named = [thing.lower() for sentence in sentences for thing in things_named(sentence)]
    return list(dict.fromkeys(thing for thing in named if len(thing.split()) <= 4))


def _reason(percent: int, seen: Sequence[str], not_found: Sequence[str]) -> str:
    parts = [f"fits this picture better than {percent} of 100 other texts"]
    if seen:
        parts.append(f"seen: {_listed(seen)}")
    if not_found:
        parts.append(f"not found: {_listed(not_found)}")
    return "; ".join(parts)


def reason_of(checked: Checked, *, seen: Sequence[str]) -> str:
    """One line: what is wrong with the text, the worst first, or what was found."""
    doubts = [(chance, words) for one in checked.claims for chance, words in _doubts(one)]
    doubts += [(share, "the places do not fit") for share in checked.relations if share < 0.5]
    if doubts:
        return "; ".join(words for _, words in sorted(doubts)[:_MAX_NAMED])
    return f"found: {_listed(seen)}" if seen else "nothing in it can be checked"


def _doubts(one: CheckedClaim) -> list[tuple[float, str]]:
    name, claim = one.claim.name, one.claim
    if one.exists < 0.5:
        return [(one.exists, f"no {name} found")]
    doubts = []
    if one.counted < 0.5 and one.likeliest_count != claim.count:
        doubts.append((one.counted, f"{name}: {one.likeliest_count} found, not {claim.count}"))
    if one.coloured < 0.5 and one.likeliest_colour != claim.colour:
        doubts.append((one.coloured, f"{name}: {one.likeliest_colour}, not {claim.colour}"))
    return doubts


def _listed(things: Sequence[str]) -> str:
    more = len(things) - _MAX_NAMED
    return ", ".join(things[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def check_storyboard(plan: StoryboardPlan) -> tuple[str, ...]:
    """What is wrong with a plan's drawings, in words; empty when all is well.

    Every step has a card, nothing overlaps or leaves the page, every line of text fits its place,
    and the colours of both themes have contrast.
    """
    shapes: tuple[DiagramShape, ...] = ("wide", "narrow")
    problems = [
        f"{shape}: {problem}"
        for shape in shapes
        for problem in _layout_problems(lay_out(plan, shape, footer="Pictograms"), plan)
    ]
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        problems += [f"{name} theme: {problem}" for problem in contrast_problems(colours)]
    return tuple(problems)


def _layout_problems(layout: Layout, plan: StoryboardPlan) -> list[str]:
    problems: list[str] = []
    if len(layout.cards) != len(plan.steps):
        problems.append(f"{len(layout.cards)} cards for {len(plan.steps)} steps")
    for card, step in zip(layout.cards, plan.steps, strict=False):
        shown = "".join(card.caption.lines).replace(" ", "").rstrip("…")
        if not step.caption.replace(" ", "").startswith(shown):
            problems.append(f"the card of {step.caption!r} says something else")
        if not _contains(card.box, card.caption.box):
            problems.append(f"the caption {step.caption!r} leaves its card")
    page = Box(0, 0, layout.width, layout.height)
    placed = _placed(layout)
    for i, (name, box) in enumerate(placed):
        if not _contains(page, box):
            problems.append(f"{name} leaves the page")
        for other_name, other in placed[i + 1 :]:
            if box.overlaps(other):
                problems.append(f"{name} and {other_name} overlap")
    return problems + [
        f"the line {line!r} is too long"
        for block in _blocks(layout)
        for line in block.lines
        if text_width(line, size=block.size, weight=block.weight) > block.box.width + 1
    ]


def _placed(layout: Layout) -> list[tuple[str, Box]]:
    placed = [(f"card {i}", card.box) for i, card in enumerate(layout.cards, start=1)]
    placed += [(f"header {header.text.lines[0]!r}", header.box) for header in layout.headers]
    placed += [(f"label {label.lines[0]!r}", label.box) for label in layout.labels]
    placed += [("the title", layout.title.box)] if layout.title else []
    return placed + ([("the footer", layout.footer.box)] if layout.footer else [])


def _blocks(layout: Layout) -> list[TextBlock]:
    blocks = [card.caption for card in layout.cards] + [header.text for header in layout.headers]
    return [*blocks, *layout.labels, *(b for b in (layout.title, layout.footer) if b)]


def _contains(outer: Box, inner: Box) -> bool:
    return (
        outer.x <= inner.x + 0.5
        and outer.y <= inner.y + 0.5
        and inner.right <= outer.right + 0.5
        and inner.bottom <= outer.bottom + 0.5
    )


def contrast_problems(colours: Colours) -> list[str]:
    """Which pairs of a theme's colours are too alike, by WCAG's contrast ratio."""
    value = {field.name: getattr(colours, field.name) for field in fields(colours)}
    return [
        f"{front} on {ground} has a contrast of {ratio:.1f}, {needed} is needed"
        for front, ground, needed in _TEXT_ON
        if (ratio := contrast(value[front], value[ground])) < needed
    ]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours such as "#1b2330", 1 to 21; WCAG 2.2's definition."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
