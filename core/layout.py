"""Where the parts of a storyboard stand: cards, lines and wrapped text, without colours."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from PIL import ImageFont

from core.settings import ROOT
from core.types import DiagramShape, StoryboardPlan, StoryboardStep

Weight = Literal["regular", "bold"]
Point = tuple[float, float]

FONT_FOLDER = ROOT / "core" / "embedded" / "fonts"
FONT_FILES: dict[Weight, str] = {"regular": "OpenSans-Regular", "bold": "OpenSans-SemiBold"}
WIDE, NARROW = 1200.0, 390.0
LINE_HEIGHT = 1.3
_MEASURED_AT = 100  # points; widths scale from there, hinting plays no part
_TITLE_LINES, _CAPTION_LINES = 3, 6
# Where along a curved arrow its label may stand, and on which side: best first.
_LABEL_PLACES = tuple((at, side) for side in (1.0, -1.0) for at in (0.5, 0.4, 0.6, 0.3, 0.7))


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in the drawing's units."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The x of its right side."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y of its lower side."""
        return self.y + self.height

    @property
    def middle(self) -> Point:
        """Its centre."""
        return self.x + self.width / 2, self.y + self.height / 2

    def overlaps(self, other: "Box", *, gap: float = 0.0) -> bool:
        """Whether two boxes share ground or come nearer than `gap`."""
        return (
            self.x < other.right + gap
            and other.x < self.right + gap
            and self.y < other.bottom + gap
            and other.y < self.bottom + gap
        )

    def holds(self, point: Point, *, margin: float = 0.0) -> bool:
        """Whether a point lies in the box grown by `margin`."""
        return (
            self.x - margin <= point[0] <= self.right + margin
            and self.y - margin <= point[1] <= self.bottom + margin
        )


@dataclass(frozen=True, slots=True)
class TextBlock:
    """One text as lines; `box` is what they take up."""

    box: Box
    lines: tuple[str, ...]
    size: float
    weight: Weight = "regular"
    align: Literal["start", "middle"] = "middle"
    colour: Literal["text", "quiet", "on_accent"] = "text"

    def moved_to(self, x: float, y: float) -> "TextBlock":
        """The same lines with the box's corner at (x, y)."""
        return replace(self, box=replace(self.box, x=x, y=y))


@dataclass(frozen=True, slots=True)
class Card:
    """A step: its ground, its disc with pictogram or number, its caption."""

    box: Box
    number: int  # 0 where order means nothing and no number is shown
    centre: Point  # of the disc
    radius: float
    caption: TextBlock


@dataclass(frozen=True, slots=True)
class Header:
    """The name of the whole or of one side, on accent ground."""

    box: Box
    text: TextBlock


@dataclass(frozen=True, slots=True)
class Line:
    """A line through its points, with or without a head at the end."""

    points: tuple[Point, ...]
    has_head: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A whole drawing."""

    width: float
    height: float
    cards: tuple[Card, ...]
    title: TextBlock | None = None
    headers: tuple[Header, ...] = ()
    lines: tuple[Line, ...] = ()
    labels: tuple[TextBlock, ...] = ()
    footer: TextBlock | None = None


def lay_out(plan: StoryboardPlan, shape: DiagramShape, *, footer: str = "") -> Layout:
    """The plan's cards, lines and texts, none of them overlapping."""
    if shape == "narrow":
        layout = _narrow(plan)
    elif plan.structure == "comparison" and len(plan.columns) == 2:
        layout = _two_columns(plan)
    elif plan.structure in ("cycle", "parts"):
        layout = _ring(plan)
    else:
        layout = _rows(plan)
    return _with_footer(layout, footer, size=14.0 if shape == "wide" else 11.5)


def text_width(text: str, *, size: float, weight: Weight = "regular") -> float:
    """How wide a line is when drawn, in the drawing's units."""
    known = "".join(char for char in text if _has_glyph(char, weight))
    strange = [char for char in text if not _has_glyph(char, weight)]
    # Another font will draw these: an em for an ideograph, less for a letter.
    extra = sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.62 for char in strange)
    return _font(weight).getlength(known) * size / _MEASURED_AT + extra * size


def has_all_glyphs(text: str) -> bool:
    """Whether the shipped font can draw the whole text."""
    return all(_has_glyph(char, "regular") for char in text)


def wrap(
    text: str, *, width: float, size: float, weight: Weight = "regular", max_lines: int
) -> TextBlock:
    """The text in as few lines as fit `width`, evenly long; the last ends in … when cut."""
    lines = _filled(text, width, size, weight)
    if 1 < len(lines) <= max_lines:
        lines = _evened(text, lines, width, size, weight)
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and text_width(lines[-1] + "…", size=size, weight=weight) > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip(" ,;:") + "…"
    box = Box(0, 0, width, len(lines) * size * LINE_HEIGHT)
    return TextBlock(box=box, lines=tuple(lines), size=size, weight=weight)


def _filled(text: str, width: float, size: float, weight: Weight) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in _wrappable(text):
        joined = line + word
        if line.strip() and text_width(joined.rstrip(), size=size, weight=weight) > width:
            lines.append(line.strip())
            line = word.lstrip()
        else:
            line = joined
        while text_width(line.rstrip(), size=size, weight=weight) > width and len(line) > 1:
            fits = next(
                n
                for n in range(len(line) - 1, 0, -1)
                if n == 1 or text_width(line[:n], size=size, weight=weight) <= width
            )
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line.strip()] if line.strip() or not lines else lines


def _wrappable(text: str) -> list[str]:
    """Words with the space before them; every ideograph by itself."""
    return re.findall(
        r"\s*(?:[\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]|[^\s\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]+)",
        text,
    )


def _evened(text: str, lines: list[str], width: float, size: float, weight: Weight) -> list[str]:
    # "of" alone on a last line looks like a mistake: narrow the column while the count holds.
    best = lines
    for share in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6):
        narrower = _filled(text, width * share, size, weight)
        if len(narrower) > len(lines):
            break
        if not any(len(line.split()) == 1 and len(line) > 12 for line in narrower):
            best = narrower
    return best


@cache
def _font(weight: Weight) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(FONT_FOLDER / f"{FONT_FILES[weight]}.ttf"),
        _MEASURED_AT,
        layout_engine=ImageFont.Layout.BASIC,
    )


@cache
def _has_glyph(char: str, weight: Weight) -> bool:
    missing = _font(weight).getmask("\U0010ffff").getbbox()
    return char == " " or _font(weight).getmask(char).getbbox() not in (None, missing)


def _rows(plan: StoryboardPlan) -> Layout:
    """One row of up to four cards, two rows from five on, read from left to right."""
    n = len(plan.steps)
    per_row = n if n <= 4 else math.ceil(n / 2)
    gap, row_gap, margin = (72.0 if per_row == 4 else 84.0), 76.0, 48.0
    width = min(304.0, (WIDE - 2 * margin - (per_row - 1) * gap) / per_row)
    title = _title(plan.title, width=WIDE - 2 * margin, size=36.0, top=40.0)
    top = title.box.bottom + 36
    cards: list[Card] = []
    for start in range(0, n, per_row):
        steps = plan.steps[start : start + per_row]
        left = (WIDE - len(steps) * width - (len(steps) - 1) * gap) / 2
        boxes = [Box(left + i * (width + gap), top, width, 0) for i in range(len(steps))]
        row = [
            _tall_card(s, b, start + i + 1)
            for i, (s, b) in enumerate(zip(steps, boxes, strict=True))
        ]
        height = max(card.box.height for card in row)
        cards += [replace(card, box=replace(card.box, height=height)) for card in row]
        top += height + row_gap
    lines, labels = _row_lines(cards, plan.steps, per_row)
    return Layout(
        width=WIDE,
        height=top - row_gap + 40,
        cards=tuple(cards),
        title=title,
        lines=tuple(lines),
        labels=tuple(labels),
    )


def _row_lines(
    cards: Sequence[Card], steps: Sequence[StoryboardStep], per_row: int
) -> tuple[list[Line], list[TextBlock]]:
    lines: list[Line] = []
    labels: list[TextBlock] = []
    for i in range(1, len(cards)):
        before, after = cards[i - 1].box, cards[i].box
        if i % per_row:
            y = cards[i].centre[1]
            lines.append(Line(((before.right + 10, y), (after.x - 10, y))))
            space = after.x - before.right - 6
            label = _label(steps[i].relation, width=space)
            if label:
                labels.append(label.moved_to(before.right + 3, y - 8 - label.box.height))
        else:
            halfway = (before.bottom + after.y) / 2
            (x0, _), (x1, _) = before.middle, after.middle
            lines.append(
                Line(((x0, before.bottom + 8), (x0, halfway), (x1, halfway), (x1, after.y - 10)))
            )
            label = _label(steps[i].relation, width=90)
            if label:
                labels.append(label.moved_to((x0 + x1) / 2 - 45, halfway - 4 - label.box.height))
    return lines, labels


def _tall_card(step: StoryboardStep, box: Box, number: int, *, size: float = 22.0) -> Card:
    """Disc above caption."""
    radius, padding = 54.0, 18.0
    caption = wrap(
        step.caption, width=box.width - 2 * padding, size=size, max_lines=_CAPTION_LINES
    ).moved_to(box.x + padding, box.y + padding + 2 * radius + 14)
    return Card(
        box=replace(box, height=caption.box.bottom + padding - box.y),
        number=number,
        centre=(box.x + box.width / 2, box.y + padding + radius),
        radius=radius,
        caption=caption,
    )


def _flat_card(step: StoryboardStep, box: Box, number: int, *, size: float, radius: float) -> Card:
    """Disc to the left of the caption."""
    padding = 14.0
    left = box.x + padding + 2 * radius + 16
    caption = wrap(
        step.caption, width=box.right - padding - left, size=size, max_lines=_CAPTION_LINES
    )
    height = max(2 * radius, caption.box.height) + 2 * padding
    caption = replace(caption, align="start")
    return _recentred(
        Card(
            box=replace(box, height=height),
            number=number,
            centre=(box.x + padding + radius, 0),
            radius=radius,
            caption=caption.moved_to(left, 0),
        ),
        height,
    )


def _recentred(card: Card, height: float) -> Card:
    """A flat card of another height, disc and caption in the middle."""
    y = card.box.y + height / 2
    return replace(
        card,
        box=replace(card.box, height=height),
        centre=(card.centre[0], y),
        caption=card.caption.moved_to(card.caption.box.x, y - card.caption.box.height / 2),
    )


def _ring(plan: StoryboardPlan) -> Layout:
    """Cards on an ellipse around the title; arrows along it, or spokes to it."""
    n = len(plan.steps)
    is_cycle = plan.structure == "cycle"
    margin, width = 40.0, 236.0
    turn = math.pi / 4 if n == 4 and not is_cycle else math.pi / 2
    angles = [2 * math.pi * i / n - turn for i in range(n)]
    if n == 4 and not is_cycle:
        angles = [-3 * math.pi / 4, -math.pi / 4, math.pi / 4, 3 * math.pi / 4]
    shapes = [_tall_card(step, Box(0, 0, width, 0), 1, size=20.0) for step in plan.steps]
    hub = wrap(plan.title, width=250.0, size=28.0, weight="bold", max_lines=6)
    radius_x = (WIDE - width) / 2 - margin if n > 4 else 380.0
    radius_y = _ring_height(shapes, angles, radius_x, hub.box)
    tops = [radius_y * math.sin(a) - c.box.height / 2 for a, c in zip(angles, shapes, strict=True)]
    centre = (WIDE / 2, margin - min(tops))
    cards = tuple(
        _tall_card(
            step,
            Box(centre[0] + radius_x * math.cos(angle) - width / 2, centre[1] + top, width, 0),
            i + 1 if is_cycle else 0,
            size=20.0,
        )
        for i, (step, angle, top) in enumerate(zip(plan.steps, angles, tops, strict=True))
    )
    hub = _filled_hub(hub, centre, is_pill=not is_cycle)
    if is_cycle:
        lines = _arcs(cards, angles, centre, (radius_x, radius_y))
        title: TextBlock | None = hub
        headers: tuple[Header, ...] = ()
    else:
        lines = [Line((centre, card.box.middle), has_head=False) for card in cards]
        box = replace(
            hub.box,
            x=hub.box.x - 24,
            y=hub.box.y - 18,
            width=hub.box.width + 48,
            height=hub.box.height + 36,
        )
        title, headers = None, (Header(box, replace(hub, colour="on_accent")),)
    taken = [card.box for card in cards] + ([title.box] if title else [])
    labels = _arc_labels(lines, plan.steps, centre, taken) if is_cycle else []
    return Layout(
        width=WIDE,
        height=max(card.box.bottom for card in cards) + margin,
        cards=cards,
        title=title,
        headers=headers,
        lines=tuple(lines),
        labels=tuple(labels),
    )


def _filled_hub(hub: TextBlock, centre: Point, *, is_pill: bool) -> TextBlock:
    width = max(text_width(line, size=hub.size, weight=hub.weight) for line in hub.lines)
    width = max(width, 120.0) if is_pill else width
    box = Box(centre[0] - width / 2, centre[1] - hub.box.height / 2, width, hub.box.height)
    return replace(hub, box=box)


def _ring_height(
    cards: Sequence[Card], angles: Sequence[float], radius_x: float, hub: Box
) -> float:
    """The smallest vertical radius at which cards and hub stand apart."""
    middle = Box(-hub.width / 2 - 24, -hub.height / 2 - 18, hub.width + 48, hub.height + 36)
    for radius_y in range(150, 1200, 10):
        boxes = [
            Box(
                radius_x * math.cos(a) - c.box.width / 2,
                radius_y * math.sin(a) - c.box.height / 2,
                c.box.width,
                c.box.height,
            )
            for a, c in zip(angles, cards, strict=True)
        ]
        apart = all(
            not box.overlaps(other, gap=44)
            for i, box in enumerate(boxes)
            for other in [*boxes[i + 1 :], middle]
        )
        if apart:
            return float(radius_y)
    return 1200.0


def _arcs(
    cards: Sequence[Card], angles: Sequence[float], centre: Point, radii: Point
) -> list[Line]:
    """The stretches of the ellipse between one card and the next."""
    lines: list[Line] = []
    for i, card in enumerate(cards):
        following = cards[(i + 1) % len(cards)]
        start, end = angles[i], angles[i] + 2 * math.pi / len(cards)
        arc = [
            (
                centre[0] + radii[0] * math.cos(start + (end - start) * step / 120),
                centre[1] + radii[1] * math.sin(start + (end - start) * step / 120),
            )
            for step in range(121)
        ]
        free = [
            point
            for point in arc
            if not card.box.holds(point, margin=9) and not following.box.holds(point, margin=11)
        ]
        lines.append(
            Line(tuple(free) if len(free) > 1 else (card.box.middle, following.box.middle))
        )
    return lines


def _arc_labels(
    lines: Sequence[Line],
    steps: Sequence[StoryboardStep],
    centre: Point,
    taken: Sequence[Box],
) -> list[TextBlock]:
    """How each step follows, beside its arrow; left out where there is no free place."""
    labels: list[TextBlock] = []
    for line, step in zip(lines, steps[1:], strict=False):
        label = _label(step.relation, width=90)
        if not label:
            continue
        width = text_width(step.relation, size=label.size)
        label = replace(label, box=replace(label.box, width=width + 2))
        places = (_beside(line, label.box, centre, at, side) for at, side in _LABEL_PLACES)
        occupied = [*taken, *(other.box for other in labels)]
        free = (
            box
            for box in places
            if not any(box.overlaps(other, gap=3) for other in occupied)
            and not any(box.holds(point, margin=2) for point in line.points)
        )
        if box := next(free, None):
            labels.append(label.moved_to(box.x, box.y))
    return labels


def _beside(line: Line, box: Box, centre: Point, at: float, side: float) -> Box:
    """The box next to a point of the line, inwards (side 1) or outwards (side -1)."""
    x, y = line.points[round(at * (len(line.points) - 1))]
    dx, dy = centre[0] - x, centre[1] - y
    distance = math.hypot(dx, dy) or 1.0
    dx, dy = side * dx / distance, side * dy / distance
    # Far enough that the box clears the point in the direction it is moved to.
    away = 10 + abs(dx) * box.width / 2 + abs(dy) * box.height / 2
    return replace(box, x=x + dx * away - box.width / 2, y=y + dy * away - box.height / 2)


def _two_columns(plan: StoryboardPlan) -> Layout:
    """The two sides next to each other, point by point; what holds for both below."""
    margin, gap = 48.0, 64.0
    width = (WIDE - 2 * margin - gap) / 2
    title = _title(plan.title, width=WIDE - 2 * margin, size=36.0, top=40.0)
    top = title.box.bottom + 30
    lefts = (margin, margin + width + gap)
    headers = [
        _header(name, Box(left, top, width, 0), size=26.0)
        for name, left in zip(plan.columns, lefts, strict=True)
    ]
    top = max(header.box.bottom for header in headers) + 20
    sides = [[s for s in plan.steps if s.column == name] for name in plan.columns]
    placed: dict[int, Card] = {}
    for row in range(max(map(len, sides))):
        cards = {
            id(side[row]): _flat_card(
                side[row], Box(left, top, width, 0), 0, size=22.0, radius=46.0
            )
            for side, left in zip(sides, lefts, strict=True)
            if row < len(side)
        }
        height = max(card.box.height for card in cards.values())
        placed |= {key: _recentred(card, height) for key, card in cards.items()}
        top += height + 18
    both = [step for step in plan.steps if step.column not in plan.columns]
    if both:
        box = Box((WIDE - width) / 2, top + 14, width, 0)
        headers.append(_header("Both", box, size=22.0))
        top = headers[-1].box.bottom + 18
    for step in both:
        card = _flat_card(step, Box((WIDE - width) / 2, top, width, 0), 0, size=22.0, radius=46.0)
        placed[id(step)] = card
        top = card.box.bottom + 18
    versus = wrap("vs", width=gap, size=22.0, weight="bold", max_lines=1)
    y = headers[0].box.middle[1] - versus.box.height / 2
    return Layout(
        width=WIDE,
        height=top + 22,
        cards=tuple(placed[id(step)] for step in plan.steps),
        title=title,
        headers=tuple(headers),
        labels=(replace(versus, colour="quiet").moved_to(margin + width, y),),
    )


def _narrow(plan: StoryboardPlan) -> Layout:
    """One column from top to bottom."""
    margin = 16.0
    is_ordered = plan.structure in ("sequence", "cycle")
    title = _title(plan.title, width=NARROW - 2 * margin, size=24.0, top=20.0)
    headers: list[Header] = []
    left = margin + (22.0 if plan.structure == "parts" else 0.0)
    width = NARROW - margin - left - (26.0 if plan.structure == "cycle" else 0.0)
    top = title.box.bottom + 18
    if plan.structure == "parts":
        headers.append(_header(plan.title, Box(margin, 20.0, NARROW - 2 * margin, 0), size=20.0))
        top = headers[0].box.bottom + 16
    placed: dict[int, Card] = {}
    lines: list[Line] = []
    labels: list[TextBlock] = []
    side: str | None = None
    for number, step in enumerate(_grouped(plan), start=1):
        if plan.columns and step.column != side:
            side = step.column
            headers.append(_header(side or "Both", Box(left, top, width, 0), size=19.0))
            top = headers[-1].box.bottom + 12
        elif is_ordered and number > 1:
            x = left + 14 + 32
            lines.append(Line(((x, top - 30), (x, top - 5))))
            label = _label(step.relation, width=120.0)
            if label:
                labels.append(
                    replace(label, align="start").moved_to(x + 16, top - 19 - label.box.height / 2)
                )
        card = _flat_card(
            step, Box(left, top, width, 0), number if is_ordered else 0, size=17.5, radius=32.0
        )
        placed[id(step)] = card
        top = card.box.bottom + (36 if is_ordered else 12)
    cards = tuple(placed[id(step)] for step in plan.steps)
    if plan.structure == "cycle":
        last, first, x = cards[-1].box, cards[0].box, NARROW - 12
        lines.append(
            Line(
                (
                    (last.right + 4, last.middle[1]),
                    (x, last.middle[1]),
                    (x, first.middle[1]),
                    (first.right + 6, first.middle[1]),
                )
            )
        )
    if plan.structure == "parts":
        x = margin + 8
        lines += [
            Line(
                ((x, headers[0].box.bottom), (x, c.box.middle[1]), (c.box.x, c.box.middle[1])),
                False,
            )
            for c in cards
        ]
    return Layout(
        width=NARROW,
        height=top - (36 if is_ordered else 12) + 20,
        cards=cards,
        title=None if plan.structure == "parts" else title,
        headers=tuple(headers),
        lines=tuple(lines),
        labels=tuple(labels),
    )


def _grouped(plan: StoryboardPlan) -> list[StoryboardStep]:
    """The steps side by side of the comparison, else as they are."""
    order = [*plan.columns, ""] if plan.columns else []
    if not order:
        return list(plan.steps)
    return sorted(
        plan.steps, key=lambda step: order.index(step.column if step.column in order else "")
    )


def _title(text: str, *, width: float, size: float, top: float) -> TextBlock:
    block = wrap(text, width=width, size=size, weight="bold", max_lines=_TITLE_LINES)
    return block.moved_to((WIDE if width > NARROW else NARROW) / 2 - width / 2, top)


def _header(text: str, box: Box, *, size: float) -> Header:
    block = wrap(text, width=box.width - 32, size=size, weight="bold", max_lines=3)
    ground = replace(box, height=block.box.height + 20)
    return Header(ground, replace(block, colour="on_accent").moved_to(box.x + 16, box.y + 10))


def _label(text: str, *, width: float) -> TextBlock | None:
    """A word beside an arrow, smaller where the gap is small."""
    if not text:
        return None
    size = min(16.0, 16.0 * width / max(text_width(text, size=16.0), 1.0))
    return replace(wrap(text, width=width + 1, size=size, max_lines=1), colour="quiet")


def _with_footer(layout: Layout, text: str, *, size: float) -> Layout:
    if not text:
        return layout
    block = wrap(text, width=layout.width - 40, size=size, max_lines=3)
    footer = replace(block, colour="quiet").moved_to(20, layout.height - 8)
    return replace(layout, footer=footer, height=footer.box.bottom + 14)
