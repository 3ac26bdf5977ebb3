"""A storyboard plan drawn: SVG that stands alone, and the same as PNG with its origin inside."""

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import resvg_py
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.drawings import storyboard_picture
from core.layout import (
    FONT_FILES,
    FONT_FOLDER,
    LINE_HEIGHT,
    Card,
    Header,
    Layout,
    Line,
    TextBlock,
    Weight,
    lay_out,
)
from core.pack import PackPicture
from core.types import DiagramTheme, Storyboard, StoryboardPlan, StoryboardStep

PNG_WIDTH = 1600
_PICTOGRAM_PX = 160  # of the copy inside the SVG: sharp on screens with two pixels a point
_EAST_ASIAN_FONT = "DroidSansFallback"
_FAMILIES: dict[Weight, str] = {"regular": "Open Sans", "bold": "Open Sans Semibold"}
_OTHER_FONTS = "system-ui, 'Segoe UI', 'Noto Sans', 'Noto Sans CJK SC', sans-serif"
_STRUCTURE_WORDS = {
    "sequence": "steps in order",
    "cycle": "steps of a cycle",
    "parts": "parts of a whole",
    "comparison": "points of a comparison",
}
# XML 1.0 allows no control characters, lone surrogates or the two non-characters.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Colours:
    """One theme: text at least 4.5:1 on its ground, lines at least 3:1."""

    page: str
    card: str
    border: str
    text: str
    quiet: str
    accent: str
    on_accent: str
    line: str
    disc: str


LIGHT = Colours(
    page="#f6f7f9", card="#ffffff", border="#d5dae2", text="#1b2330", quiet="#566072",
    accent="#4338ca", on_accent="#ffffff", line="#6b7688", disc="#eef1f7",
)  # fmt: skip
DARK = Colours(
    page="#12161d", card="#1c232e", border="#384252", text="#edf1f7", quiet="#aab4c4",
    accent="#a5b4fc", on_accent="#151a38", line="#8d99ac", disc="#dfe5ef",
)  # fmt: skip


def draw_storyboard(plan: StoryboardPlan, *, theme: DiagramTheme = "auto") -> Storyboard:
    """The plan as SVG for wide and narrow pages, as PNG, and in words.

    With theme "auto" the SVG follows the reader's light or dark setting; the PNG is light.
    """
    credit = _credit(plan)
    alt_text = describe(plan)
    wide, narrow = lay_out(plan, "wide", footer=credit), lay_out(plan, "narrow", footer=credit)
    fixed: DiagramTheme = "dark" if theme == "dark" else "light"
    raster = _svg(plan, wide, theme=fixed, alt_text=alt_text, has_fonts=False)
    return Storyboard(
        plan=plan,
        svg=_svg(plan, wide, theme=theme, alt_text=alt_text),
        svg_narrow=_svg(plan, narrow, theme=theme, alt_text=alt_text),
        png=_png(raster, plan),
        alt_text=alt_text,
    )


def describe(plan: StoryboardPlan) -> str:
    """The drawing in words, for those who cannot see it."""
    steps = " ".join(
        f"{number}. {f'{step.column}: ' if step.column else ''}{_clean(step.caption)}."
        for number, step in enumerate(plan.steps, start=1)
    )
    title = _clean(plan.title).rstrip(".")
    return f"{title}. {len(plan.steps)} {_STRUCTURE_WORDS[plan.structure]}: {steps}"


def _credit(plan: StoryboardPlan) -> str:
    pictures = [_picture(step) for step in plan.steps]
    credits = sorted({picture.credit for picture in pictures if picture})
    named = f"Pictograms: {'; '.join(credits)}" if credits else ""
    return " · ".join(part for part in (plan.credit, named) if part)


def _picture(step: StoryboardStep) -> PackPicture | None:
    if step.pictogram_id is None:
        return None
    try:
        return storyboard_picture(step.pictogram_id)
    except KeyError:
        return None  # an edited plan may name one that is gone


def _svg(
    plan: StoryboardPlan,
    layout: Layout,
    *,
    theme: DiagramTheme,
    alt_text: str,
    has_fonts: bool = True,
) -> str:
    painter = _Painter(DARK if theme == "dark" else LIGHT)
    key = hashlib.sha256(f"{layout}{plan}{theme}".encode("utf-8", "replace")).hexdigest()[:10]
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_n(layout.width)} {_n(layout.height)}",
            "role": "img",
            "aria-labelledby": f"sb-{key}-t sb-{key}-d",
            "font-family": f"'{_FAMILIES['regular']}', {_OTHER_FONTS}",
        },
    )
    SubElement(root, "title", {"id": f"sb-{key}-t"}).text = _clean(plan.title)
    SubElement(root, "desc", {"id": f"sb-{key}-d"}).text = alt_text
    style = (_font_faces(alt_text + layout_text(layout)) if has_fonts else "") + (
        _dark_rules() if theme == "auto" else ""
    )
    if style:
        SubElement(root, "style").text = style
    painter.paint(root, layout, plan.steps)
    return ElementTree.tostring(root, encoding="unicode")


def layout_text(layout: Layout) -> str:
    """All words of a drawing."""
    blocks = [layout.title, layout.footer, *layout.labels]
    blocks += [header.text for header in layout.headers]
    blocks += [card.caption for card in layout.cards]
    return " ".join(line for block in blocks if block for line in block.lines)


class _Painter:
    """Adds shapes to an SVG element; every colour is an attribute and a class.

    The attribute holds where no style sheet is read; the class lets the dark rules change it.
    """

    def __init__(self, colours: Colours) -> None:
        self._colours = colours

    def paint(self, root: Element, layout: Layout, steps: Sequence[StoryboardStep]) -> None:
        """The whole drawing, from the ground up."""
        ground = {"width": _n(layout.width), "height": _n(layout.height), "rx": "18"}
        SubElement(root, "rect", ground | self._fill("page"))
        for line in layout.lines:
            self._line(root, line)
        for header in layout.headers:
            self._header(root, header)
        for place, (card, step) in enumerate(zip(layout.cards, steps, strict=True), start=1):
            self._card(root, card, step, place=place)
        for block in (layout.title, *layout.labels, layout.footer):
            if block:
                self._text(root, block)

    def _line(self, root: Element, line: Line) -> None:
        path = "M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in line.points)
        stroke = {"stroke-width": "2.5", "stroke-linecap": "round", "stroke-linejoin": "round"}
        shape = {"d": path, "fill": "none"} | stroke | self._stroke("line")
        SubElement(root, "path", shape)
        if line.has_head:
            SubElement(root, "path", {"d": _head(line)} | self._fill("line"))

    def _header(self, root: Element, header: Header) -> None:
        box = header.box
        SubElement(
            root,
            "rect",
            {"x": _n(box.x), "y": _n(box.y), "width": _n(box.width), "height": _n(box.height)}
            | {"rx": "14"}
            | self._fill("accent"),
        )
        self._text(root, header.text)

    def _card(self, root: Element, card: Card, step: StoryboardStep, *, place: int) -> None:
        group, box = SubElement(root, "g"), card.box
        shape = {"x": _n(box.x), "y": _n(box.y), "width": _n(box.width), "height": _n(box.height)}
        rounded = {"rx": "16", "stroke-width": "1.5"}
        SubElement(group, "rect", shape | rounded | self._fill("card") | self._stroke("border"))
        picture = _picture(step)
        self._circle(group, card.centre, card.radius, "disc")
        if picture:
            side = card.radius * 1.5
            x, y = card.centre[0] - side / 2, card.centre[1] - side / 2
            corner = {"x": _n(x), "y": _n(y), "width": _n(side), "height": _n(side)}
            image = SubElement(group, "image", corner | {"href": _data_uri(picture)})
            SubElement(image, "title").text = _clean(step.pictogram_name)
        if picture and card.number:
            radius = max(12.0, card.radius * 0.3)
            x, y = card.centre[0] - card.radius * 0.82, card.centre[1] - card.radius * 0.74
            self._circle(group, (x, y), radius, "accent")
            self._number(group, str(card.number), (x, y), size=radius * 1.15, colour="on_accent")
        elif not picture:
            # Nothing in the pack is near: a quiet mark says so better than a wrong picture.
            self._number(
                group, str(place), card.centre, size=card.radius * 0.95, colour="disc_mark"
            )
        self._text(group, card.caption)

    def _circle(self, root: Element, centre: tuple[float, float], radius: float, name: str) -> None:
        place = {"cx": _n(centre[0]), "cy": _n(centre[1]), "r": _n(radius)}
        SubElement(root, "circle", place | self._fill(name))

    def _number(
        self, root: Element, text: str, centre: tuple[float, float], *, size: float, colour: str
    ) -> None:
        # The disc stays light in both themes, so its mark keeps one colour.
        fill = {"fill": LIGHT.accent} if colour == "disc_mark" else self._fill(colour)
        place = {"x": _n(centre[0]), "y": _n(centre[1] + size * 0.36), "font-size": _n(size)}
        place |= {"text-anchor": "middle"} | _family("bold")
        SubElement(root, "text", place | fill).text = _clean(text)

    def _text(self, root: Element, block: TextBlock) -> None:
        box = block.box
        x = box.x + box.width / 2 if block.align == "middle" else box.x
        look = {"font-size": _n(block.size), "text-anchor": block.align} | self._fill(block.colour)
        look |= _family("bold") if block.weight == "bold" else {}
        for i, line in enumerate(block.lines):
            y = box.y + block.size * (LINE_HEIGHT * i + 1.0)
            SubElement(root, "text", {"x": _n(x), "y": _n(y)} | look).text = _clean(line)

    def _fill(self, name: str) -> dict[str, str]:
        return {"fill": getattr(self._colours, name), "class": f"sb-fill-{name}"}

    def _stroke(self, name: str) -> dict[str, str]:
        # A card has both a fill and a stroke class; ElementTree keeps one attribute of each name.
        return {"stroke": getattr(self._colours, name), "data-stroke": name}


def _family(weight: Weight) -> dict[str, str]:
    return {"font-family": f"'{_FAMILIES[weight]}', {_OTHER_FONTS}", "font-weight": "600"}


def _head(line: Line) -> str:
    """A filled arrow head at the end of a line, 13 units long."""
    (x0, y0), (x1, y1) = _before_end(line.points, 10.0), line.points[-1]
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 or 1.0
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    tip = (x1 + 5 * dx, y1 + 5 * dy)
    left = (x1 - 8 * dx - 6.5 * dy, y1 - 8 * dy + 6.5 * dx)
    right = (x1 - 8 * dx + 6.5 * dy, y1 - 8 * dy - 6.5 * dx)
    return "M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in (tip, left, right)) + " Z"


def _before_end(points: Sequence[tuple[float, float]], distance: float) -> tuple[float, float]:
    """The last point at least `distance` before the end: gives a curve's head its direction."""
    x1, y1 = points[-1]
    for x, y in reversed(points[:-1]):
        if (x1 - x) ** 2 + (y1 - y) ** 2 >= distance**2:
            return x, y
    return points[0]


def _dark_rules() -> str:
    fills = "".join(
        f".sb-fill-{field.name}{{fill:{getattr(DARK, field.name)}}}" for field in fields(Colours)
    )
    strokes = "".join(
        f"[data-stroke={name}]{{stroke:{getattr(DARK, name)}}}" for name in ("line", "border")
    )
    return f"@media (prefers-color-scheme:dark){{{fills}{strokes}}}"


def _font_faces(text: str) -> str:
    """The shipped fonts as CSS; Latin letters alone, 16 KB instead of 53, when they suffice."""
    is_basic = all(ord(char) < 0x100 or char in "–—‘’“”…→×−" for char in text)
    return "".join(
        "@font-face{{font-family:'{family}';src:url(data:font/woff2;base64,{file})"
        " format('woff2')}}".format(
            family=_FAMILIES[weight],
            file=base64.b64encode(
                (FONT_FOLDER / f"{name}{'.basic' if is_basic else ''}.woff2").read_bytes()
            ).decode(),
        )
        for weight, name in FONT_FILES.items()
    )


def _data_uri(picture: PackPicture) -> str:
    # PNG, not the pack's WebP: drawing programs and slides open it.
    side, file = (_PICTOGRAM_PX, _PICTOGRAM_PX), io.BytesIO()
    picture.transparent_image().resize(side, Image.Resampling.LANCZOS).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _png(svg: str, plan: StoryboardPlan) -> bytes:
    rendered = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=PNG_WIDTH,
        # Chinese, Japanese and Korean come from the second font; other scripts from the system's.
        font_files=[
            str(FONT_FOLDER / f"{name}.ttf") for name in (*FONT_FILES.values(), _EAST_ASIAN_FONT)
        ],
        font_family=_FAMILIES["regular"],
        sans_serif_family=_FAMILIES["regular"],
    )
    origin = PngInfo()
    origin.add_text("Software", "Sightloop")
    origin.add_text("Sightloop-Text-SHA256", plan.text_sha256)
    origin.add_text("Sightloop-Plan-Version", str(plan.version))
    file = io.BytesIO()
    with Image.open(io.BytesIO(rendered)) as picture:
        picture.save(file, "PNG", pnginfo=origin)
    return file.getvalue()


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
