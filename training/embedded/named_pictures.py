"""Every pictogram with a name, in every style: the world's kinds, and the gallery's other ones.

The scenes' kinds (training/embedded/kinds.py) are chosen to be counted; the gallery shows more
(faces, people, signs). An embedder has to find those too, so it learns and is measured on both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from training.embedded import sprites
from training.embedded.lexicon import read_annotations
from training.embedded.pack import clean_keywords, clean_name, is_wanted
from training.embedded.sources import package_folder
from training.embedded.sprites import STYLE_PACKAGES, Kind, SpriteBook, is_seen_codepoint

SIDE_PX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKind:
    """A kind of pictogram and what it may be called."""

    name: str
    plural: str  # empty for the gallery's further pictograms, which are not counted
    codepoint: str
    synonyms: tuple[str, ...]  # other names of the very same thing
    keywords: tuple[str, ...]  # words that it may be looked for by, shared with others
    is_seen: bool  # whether weights may be trained on it
    is_counted: bool  # whether it is one of the kinds of the scenes


class NamedPictures:
    """The pictures of all named kinds; those that are no sprites are drawn from their package."""

    def __init__(self, book: SpriteBook, *, cache: Path) -> None:
        self._book = book
        self._cache = cache
        self._draw = lru_cache(maxsize=6000)(self._open)  # 64 kB each

    @cached_property
    def kinds(self) -> tuple[NamedKind, ...]:
        """The scenes' kinds first, then the gallery's others in Unicode's order."""
        counted = [self._counted(kind) for kind in self._book.kinds]
        known = {kind.codepoint for kind in counted} | {kind.name for kind in counted}
        package = package_folder(STYLE_PACKAGES["noto"], cache=self._cache)
        records = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
        others: dict[str, NamedKind] = {}
        for record in sorted(records, key=lambda record: record["sort_order"]):
            code = record["unified"].replace("-FE0F", "")
            name = self._names.get(code, "")
            if code in known or not name or not is_wanted(record, name=name):
                continue
            kind = self._other(code, clean_name(name))
            if kind.name not in known:
                others.setdefault(kind.name, kind)
        return (*counted, *others.values())

    def has(self, kind: NamedKind, style: str) -> bool:
        """Whether the style draws this kind."""
        return self._book.has(kind.name, style) or self._file(kind, style) is not None

    def picture(self, kind: NamedKind, style: str) -> Image.Image:
        """The pictogram as RGBA, square, whole, transparent around.

        Raises:
            KeyError: the style does not draw this kind.
        """
        if self._book.has(kind.name, style):
            return self._book.sprite(kind.name, style)
        file = self._file(kind, style)
        if file is None:
            raise KeyError(f"{style} draws no {kind.name}")
        return self._draw(file)

    def _open(self, file: Path) -> Image.Image:
        return sprites._fill_square(sprites._open(file, side_px=2 * SIDE_PX), side_px=SIDE_PX)

    def _file(self, kind: NamedKind, style: str) -> Path | None:
        if kind.is_counted:
            return None
        drawn = Kind(
            name=kind.name,
            plural="",
            codepoint=kind.codepoint,
            group="",
            synonyms=(),
            is_seen=kind.is_seen,
        )
        return sprites._file_of(drawn, style, files=self._files[style], names=self._names)

    def _counted(self, kind: Kind) -> NamedKind:
        return NamedKind(
            name=kind.name,
            plural=kind.plural,
            codepoint=kind.codepoint,
            synonyms=kind.synonyms,
            keywords=self._keywords(kind.codepoint, kind.name),
            is_seen=kind.is_seen,
            is_counted=True,
        )

    def _other(self, code: str, name: str) -> NamedKind:
        return NamedKind(
            name=name,
            plural="",
            codepoint=code,
            synonyms=(),
            keywords=self._keywords(code, name),
            is_seen=is_seen_codepoint(code),
            is_counted=False,
        )

    def _keywords(self, code: str, name: str) -> tuple[str, ...]:
        return tuple(clean_keywords(self._words.get(code, ()), name=name))

    @cached_property
    def _words(self) -> Mapping[str, list[str]]:
        annotations = read_annotations("en", cache=self._cache)
        return {
            "-".join(f"{ord(sign):X}" for sign in signs.replace("\ufe0f", "")): entry["default"]
            for signs, entry in annotations.items()
        }

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return sprites._unicode_names(package_folder("cldr-annotations", cache=self._cache))

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        return {
            style: sprites._files_by_key(style, package_folder(package, cache=self._cache))
            for style, package in STYLE_PACKAGES.items()
        }
