"""The default gallery: pictograms and photographs that ship with the app, read from their zips."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image

from core.errors import WeightsError
from core.settings import ROOT

Album = Literal["pictograms", "photographs"]
ALBUMS: tuple[Album, ...] = ("pictograms", "photographs")
PACK_FOLDER = ROOT / "core" / "embedded"
INDEX = "index.json"  # in each zip: a list of the pictures' fields, in the order of the pack


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPicture:
    """One shipped picture with its words and its file."""

    id: str  # such as "pictogram-red-apple" or "photograph-coffee"; never changes
    name: str  # what it is, in a few words: "red apple"
    caption: str  # the name of a pictogram, a sentence for a photograph
    keywords: tuple[str, ...]  # other words a person may look for it by
    album: Album
    group: str  # "food and drink", "animals and nature" ...
    credit: str  # author, licence and source, in one line
    webp: bytes = field(repr=False)  # the WebP file; pictograms have a transparent background

    def image(self) -> Image.Image:
        """The picture as RGB, on white."""
        picture = self.transparent_image()
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")

    def transparent_image(self) -> Image.Image:
        """The picture as RGBA."""
        with Image.open(io.BytesIO(self.webp)) as picture:
            return picture.convert("RGBA")


def read_pack(album: Album | None = None, *, folder: Path = PACK_FOLDER) -> Iterator[PackPicture]:
    """All shipped pictures, or those of one album, always in the same order.

    Raises:
        WeightsError: a file of the pack is missing or damaged.
    """
    for name in ALBUMS if album is None else (album,):
        yield from _read_album(folder / f"{name}.zip", name)


def pictograms() -> tuple[PackPicture, ...]:
    """All pictograms, read once and then kept: 8 MB."""
    return tuple(_pictograms_by_id().values())


def pictogram(picture_id: str) -> Image.Image:
    """One pictogram as RGBA, transparent around the thing.

    Raises:
        KeyError: no pictogram has this id.
    """
    return _pictograms_by_id()[picture_id].transparent_image()


@cache
def _pictograms_by_id() -> dict[str, PackPicture]:
    return {picture.id: picture for picture in read_pack("pictograms")}


def _read_album(file: Path, album: Album) -> Iterator[PackPicture]:
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in json.loads(archive.read(INDEX)):
                webp = archive.read(entry.pop("file"))
                keywords = tuple(entry.pop("keywords"))
                yield PackPicture(**entry, keywords=keywords, album=album, webp=webp)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise WeightsError(
            f"The shipped pictures in {file.name} cannot be read ({error}). "
            "Restore core/embedded from the repository and start again."
        ) from error
