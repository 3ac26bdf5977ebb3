"""The pictures a storyboard may use: the pack's pictograms, and ours for what they do not show."""

import io
from functools import cache
from xml.etree import ElementTree

import resvg_py
from PIL import Image

from core.pack import PackPicture, pictograms
from core.settings import ROOT

DRAWINGS_FOLDER = ROOT / "core" / "embedded" / "drawings"
_CREDIT = "Sightloop, Apache-2.0 licence"
_SIDE_PX = 192  # as the pack's pictograms
_SVG = "{http://www.w3.org/2000/svg}"


def storyboard_pictures() -> tuple[PackPicture, ...]:
    """All pictures to choose from, ours first, always in the same order."""
    return (*_drawings_by_id().values(), *pictograms())


def storyboard_picture(picture_id: str) -> PackPicture:
    """One picture by its id.

    Raises:
        KeyError: there is none of this id.
    """
    return _pictures_by_id()[picture_id]


@cache
def _pictures_by_id() -> dict[str, PackPicture]:
    return {picture.id: picture for picture in storyboard_pictures()}


@cache
def _drawings_by_id() -> dict[str, PackPicture]:
    found: dict[str, PackPicture] = {}
    for file in sorted(DRAWINGS_FOLDER.glob("*.svg")):
        svg = file.read_text(encoding="utf-8")
        root = ElementTree.fromstring(svg)
        name = root.findtext(f"{_SVG}title", default=file.stem)
        keywords = root.findtext(f"{_SVG}desc", default="")
        rendered = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_SIDE_PX, height=_SIDE_PX))
        webp = io.BytesIO()
        with Image.open(io.BytesIO(rendered)) as picture:
            picture.convert("RGBA").save(webp, "WEBP", lossless=True)
        found[f"drawing-{file.stem}"] = PackPicture(
            id=f"drawing-{file.stem}",
            name=name,
            caption=name,
            keywords=tuple(word.strip() for word in keywords.split(",")),
            album="pictograms",
            group="drawings",
            credit=_CREDIT,
            webp=webp.getvalue(),
        )
    return found
