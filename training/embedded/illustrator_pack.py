"""What the illustrator learns from: pictures on a white square and the captions that ask for them.

Things lie on the grid of the model's patches, a single one large and several at half its size, so
that each thing looks the same to the model wherever it stands.
"""

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from core.errors import UserError
from core.pictogram_diffusion import (
    TextFeatures,
    encode_texts,
    gather_features,
    load_text_tower,
)
from training.embedded.sprites import Kind, SpriteBook
from training.scene_drawing import PAINTS, coloured_sprite
from training.scene_words import COLOUR_WORDS, number_word, tokens, with_article

log = logging.getLogger(__name__)

Family = Literal["one", "colour", "count", "two"]

PACK_VERSION = 1  # raise it when captions or pictures change, so that an old pack is not reused
INDEX = "pack.json"
SIDE_PX = 64
MARGIN_PX = {64: 3, 32: 2}  # white around a thing, on each side
# The art that each of the model's style words stands for.
ART = {"flat": "twemoji", "3d": "fluent3d", "shaded": "noto"}
COLOURS = tuple(PAINTS)
FAMILY_SHARES: Mapping[Family, float] = {"one": 0.4, "colour": 0.17, "count": 0.18, "two": 0.25}
N_PAIRS = 6000  # pairs of kinds among the captions of two things
COUNTS = (2, 3, 4)
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
# Left and top in pixels of each half-size thing, in the order in which they are named.
PLACES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "left": ((0, 16), (32, 16)),
    "right": ((32, 16), (0, 16)),
    "above": ((16, 0), (16, 32)),
    "below": ((16, 32), (16, 0)),
    "2": ((0, 16), (32, 16)),
    "3": ((16, 0), (0, 32), (32, 32)),
    "4": ((0, 0), (32, 0), (0, 32), (32, 32)),
}
ENCODE_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A caption and what its picture holds."""

    caption: str
    family: Family
    things: tuple[str, ...]  # names of kinds, in the order of `places`
    colour: str | None = None  # of every thing; None for its own
    layout: str | None = None  # key of PLACES; None for one large thing


@dataclass(frozen=True, slots=True)
class Batch:
    """N pictures with their captions."""

    pictures: Tensor  # (N, 3, 64, 64), -1 to 1
    text: TextFeatures
    styles: Tensor  # (N,), int64


class Pack:
    """The packed pictures and captions, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.kinds: list[str] = index["kinds"]
        self.styles: list[str] = index["styles"]
        self.colours: list[str | None] = index["colours"]
        self.orders = [
            Order(**{**order, "things": tuple(order["things"])}) for order in index["orders"]
        ]
        # (kinds, styles, colours, side, side, 3), uint8; a thing that is missing is all zeros
        self._large = np.load(folder / "large.npy", mmap_mode="r")
        self._small = np.load(folder / "small.npy", mmap_mode="r")
        self._has = np.load(folder / "has.npy")  # (kinds, styles)
        # (captions, L, 384), float16; the first and the last states of the text tower
        self._embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        self._meanings = np.load(folder / "meanings.npy", mmap_mode="r")
        self._lengths = np.load(folder / "lengths.npy")
        self._row = {kind: row for row, kind in enumerate(self.kinds)}

    def batch(self, n: int, rng: np.random.Generator) -> Batch:
        """A batch that depends on the generator alone."""
        families = rng.choice(len(FAMILY_SHARES), n, p=list(FAMILY_SHARES.values()))
        names = list(FAMILY_SHARES)
        chosen = [int(rng.choice(self._by_family[names[family]])) for family in families]
        styles = [int(rng.choice(self._styles_of(self.orders[row]))) for row in chosen]
        pictures = np.stack(
            [
                self.picture(self.orders[row], style)
                for row, style in zip(chosen, styles, strict=True)
            ]
        )
        scaled = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        return Batch(scaled.contiguous(), self.text(chosen), torch.tensor(styles))

    def picture(self, order: Order, style: int) -> np.ndarray:
        """What an order asks for. Shape (64, 64, 3), uint8."""
        colour = self.colours.index(order.colour)
        rows = [self._row[thing] for thing in order.things]
        if order.layout is None:
            return np.asarray(self._large[rows[0], style, colour])
        picture = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
        for row, (left, top) in zip(rows, PLACES[order.layout], strict=True):
            thing = self._small[row, style, colour]
            picture[top : top + SIDE_PX // 2, left : left + SIDE_PX // 2] = thing
        return picture

    def text(self, rows: Sequence[int]) -> TextFeatures:
        """Features of some captions, padded to the longest of them."""
        lengths = torch.from_numpy(self._lengths[rows].astype(np.int64))
        longest = int(lengths.max())
        embeddings, meanings = (
            torch.from_numpy(np.stack([states[row, :longest] for row in rows])).float()
            for states in (self._embeddings, self._meanings)
        )
        mask = torch.arange(longest) < lengths[:, None]
        return gather_features(embeddings, meanings, mask)

    def _styles_of(self, order: Order) -> np.ndarray:
        rows = [self._row[thing] for thing in order.things]
        return np.flatnonzero(self._has[rows].all(0))

    @cached_property
    def _by_family(self) -> dict[str, np.ndarray]:
        rows: dict[str, list[int]] = {family: [] for family in FAMILY_SHARES}
        for row, order in enumerate(self.orders):
            if len(self._styles_of(order)):
                rows[order.family].append(row)
        return {family: np.array(some) for family, some in rows.items()}


def make_pack(
    folder: Path,
    book: SpriteBook,
    *,
    tower: Path,
    kinds: Sequence[Kind] | None = None,
    n_pairs: int = N_PAIRS,
) -> Pack:
    """The pack in `folder`, made first when it is missing or of an older make.

    Args:
        tower: folder of the text tower.
        kinds: all seen kinds when not given; unseen ones are never packed.

    Raises:
        UserError: it cannot be written.
    """
    kinds = [kind for kind in (kinds or book.kinds) if kind.is_seen]
    orders = make_orders(kinds, n_pairs=n_pairs)
    key = _fingerprint(orders)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):  # another process may be making it
        if _key_of(folder) != key:
            _make_aside(folder, book, orders, kinds=[kind.name for kind in kinds], tower=tower)
    return Pack(folder)


def make_orders(kinds: Sequence[Kind], *, n_pairs: int = N_PAIRS) -> list[Order]:
    """Every caption of the pack, always in the same order."""
    return [
        *itertools.chain.from_iterable(_orders_of_one(kind) for kind in kinds),
        *_orders_of_two(kinds, n_pairs=n_pairs),
    ]


def place_sprite(sprite: Image.Image, side_px: int) -> np.ndarray:
    """The sprite on a white square. Shape (side, side, 3), uint8."""
    inner = side_px - 2 * MARGIN_PX[side_px]
    small = sprite.convert("RGBa").resize((inner, inner), Image.Resampling.BOX, reducing_gap=3.0)
    square = Image.new("RGBA", (side_px, side_px), "white")
    square.alpha_composite(small.convert("RGBA"), (MARGIN_PX[side_px], MARGIN_PX[side_px]))
    return np.asarray(square.convert("RGB"))


def _make_aside(
    folder: Path, book: SpriteBook, orders: Sequence[Order], *, kinds: Sequence[str], tower: Path
) -> None:
    """Write the pack whole or not at all."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        _write_pictures(staging, book, kinds)
        _write_texts(staging, orders, tower=tower)
        index = {
            "key": _fingerprint(orders),
            "kinds": list(kinds),
            "styles": list(ART),
            "colours": [None, *COLOURS],
            "orders": [asdict(order) for order in orders],
        }
        (staging / INDEX).write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging, folder)
    except OSError as error:
        raise UserError(
            f"The training pictures cannot be written to {folder.parent} ({error.strerror}). "
            "Free a gigabyte there, or name another folder with --folder."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _orders_of_one(kind: Kind) -> list[Order]:
    def order(caption: str, family: Family, *, n: int = 1, colour: str | None = None) -> Order:
        layout = str(n) if n > 1 else None
        things = (kind.name,) * n
        return Order(caption=caption, family=family, things=things, colour=colour, layout=layout)

    orders = [
        order(caption, "one")
        for name in (kind.name, *kind.synonyms[:3])
        for caption in (name, with_article(name))
    ]
    orders += [
        order(f"{start} {with_article(kind.name)}", "one")
        for start in ("a picture of", "a drawing of", "draw")
    ]
    if not set(tokens(kind.name)) & set(COLOUR_WORDS):  # no "blue red envelope"
        orders += [
            order(with_article(f"{colour} {kind.name}"), "colour", colour=colour)
            for colour in COLOURS
        ]
    orders += [
        order(f"{number} {kind.plural}", "count", n=n)
        for n in COUNTS
        for number in (number_word(n), str(n))
    ]
    return orders


def _orders_of_two(kinds: Sequence[Kind], *, n_pairs: int) -> list[Order]:
    rng = np.random.default_rng(3)
    orders = []
    for _ in range(n_pairs if len(kinds) > 1 else 0):
        first, second = (kinds[i].name for i in rng.choice(len(kinds), 2, replace=False))
        both = (with_article(first), with_article(second))
        relation = str(rng.choice(list(RELATIONS)))
        words = str(rng.choice(RELATIONS[relation]))
        for caption, layout in (
            (f"{both[0]} {words} {both[1]}", relation),
            (f"{both[0]} and {both[1]}", "left"),
        ):
            things = (first, second)
            orders.append(Order(caption=caption, family="two", things=things, layout=layout))
    return orders


def _write_pictures(folder: Path, book: SpriteBook, kinds: Sequence[str]) -> None:
    log.info("packing pictures of %d kinds in %d styles", len(kinds), len(ART))
    has = np.array([[book.has(kind, art) for art in ART.values()] for kind in kinds])
    np.save(folder / "has.npy", has)
    for name, side in (("large", SIDE_PX), ("small", SIDE_PX // 2)):
        pictures = np.zeros((*has.shape, 1 + len(COLOURS), side, side, 3), np.uint8)
        for (row, column), is_there in np.ndenumerate(has):
            if is_there:
                for n, colour in enumerate((None, *COLOURS)):
                    art = list(ART.values())[column]
                    sprite = coloured_sprite(kinds[row], art, colour, book)
                    pictures[row, column, n] = place_sprite(sprite, side)
        np.save(folder / f"{name}.npy", pictures)


def _write_texts(folder: Path, orders: Sequence[Order], *, tower: Path) -> None:
    log.info("encoding %d captions", len(orders))
    encoder, tokenizer = load_text_tower(tower), AutoTokenizer.from_pretrained(tower)
    captions = [order.caption for order in orders]
    lengths = np.array([len(row) for row in tokenizer(captions).input_ids], np.int16)
    width, longest = encoder.config.hidden_size, int(lengths.max())
    states = np.zeros((2, len(captions), longest, width), np.float16)
    by_length = np.argsort(lengths, kind="stable")  # so that little is padded
    for start in range(0, len(captions), ENCODE_BATCH):
        rows = by_length[start : start + ENCODE_BATCH]
        words = _words(encoder, [captions[row] for row in rows], tokenizer)
        states[0, rows, : words.shape[1]] = words[..., :width]
        states[1, rows, : words.shape[1]] = words[..., width:]
    np.save(folder / "embeddings.npy", states[0])
    np.save(folder / "meanings.npy", states[1])
    np.save(folder / "lengths.npy", lengths)


def _words(encoder: PreTrainedModel, captions: list[str], tokenizer: object) -> np.ndarray:
    return encode_texts(captions, encoder, tokenizer).words.numpy()  # type: ignore[arg-type]


def _fingerprint(orders: Sequence[Order]) -> str:
    drawn = json.dumps([PACK_VERSION, ART, COLOURS, PLACES, [asdict(order) for order in orders]])
    return hashlib.sha256(drawn.encode()).hexdigest()


def _key_of(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / INDEX).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError):
        return None
