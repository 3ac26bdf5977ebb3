"""What the frozen towers see in pictures and read in texts, on disk for the embedder's training.

Shards of 256 pictures: single pictograms, scenes, and photographs in turn. A shard depends on its
number alone, so any number of them may be made now and the others later.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from core.cells import CELLS, COLOURS, POOLED_WIDTH, TOKEN_WIDTH, TowerSight
from core.embedder import ConseModel
from core.pack import PackPicture, read_pack
from training.embedded.drawn_singles import SIZE_PX, draw_single
from training.embedded.named_pictures import NamedKind, NamedPictures
from training.embedded.sprites import SEEN_STYLES, SpriteBook
from training.scene_captions import altered
from training.scene_drawing import SceneThing, draw_scene, plan_scene, true_colour

log = logging.getLogger(__name__)

SHARD = 256  # pictures
# In every ten shards: pictograms teach names, scenes teach places and counts.
TURNS: tuple[Literal["single", "scene", "photograph"], ...] = (
    "single",
    "scene",
    "single",
    "scene",
    "single",
    "photograph",
    "single",
    "scene",
    "single",
    "scene",
)
HELD_OUT_PHOTOGRAPHS = 4  # every fourth photograph is kept from training
SCENE_CAPTIONS = 2
NONE = -1


@dataclass(frozen=True, slots=True)
class TrueThing:
    """A thing that is really there."""

    kind: int  # its place in the list of named kinds
    colour: int  # its place in COLOURS, NONE where no single colour stands out
    box: tuple[float, float, float, float]  # left, top, right, bottom; fractions of the picture


@dataclass(frozen=True, slots=True)
class TruePicture:
    """What is known of a picture without looking at it: names, places, colours, captions."""

    source: Literal["single", "scene", "photograph"]
    things: tuple[TrueThing, ...]
    captions: tuple[str, ...] = ()  # of scenes
    altered: tuple[str, ...] = ()  # each caption with one word wrong


@dataclass(frozen=True, slots=True)
class Shard:
    """Features and truth of one shard; tokens stay on disk until they are read."""

    tokens: np.ndarray  # (N, 49, 768) float16
    pooled: np.ndarray  # (N, 1280) float16
    texts: np.ndarray  # (T, 384) float16, of captions and altered captions in order
    truth: tuple[TruePicture, ...]


class World:
    """All pictures that features are made from."""

    def __init__(self, book: SpriteBook, pictures: NamedPictures) -> None:
        self.book = book
        self.pictures = pictures

    @cached_property
    def kinds(self) -> tuple[NamedKind, ...]:
        """Every named kind; truth refers to them by their place."""
        return self.pictures.kinds

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each kind by its name."""
        return {kind.name: place for place, kind in enumerate(self.kinds)}

    @cached_property
    def drawn(self) -> list[tuple[int, str]]:
        """Every seen kind in every seen style that draws it."""
        return [
            (place, style)
            for place, kind in enumerate(self.kinds)
            for style in SEEN_STYLES
            if kind.is_seen and self.pictures.has(kind, style)
        ]

    @cached_property
    def photographs(self) -> list[PackPicture]:
        """The sample photographs that training may use."""
        everything = read_pack("photographs")
        return [one for n, one in enumerate(everything) if n % HELD_OUT_PHOTOGRAPHS]

    def make(self, number: int, *, size: int = SHARD) -> Iterator[tuple[Image.Image, TruePicture]]:
        """The pictures of a shard with their truth."""
        turn, round_ = TURNS[number % len(TURNS)], number // len(TURNS)
        nth = round_ * TURNS.count(turn) + TURNS[: number % len(TURNS)].count(turn)
        make: Callable[[int], tuple[Image.Image, TruePicture]] = {
            "single": self._single,
            "scene": self._scene,
            "photograph": self._photograph,
        }[turn]
        return (make(nth * size + n) for n in range(size))

    def _single(self, n: int) -> tuple[Image.Image, TruePicture]:
        rng = np.random.default_rng([11, n])
        # Every picture comes once before any comes again, in a new order each time.
        order = np.random.default_rng([12, n // len(self.drawn)]).permutation(len(self.drawn))
        place, style = self.drawn[order[n % len(self.drawn)]]
        kind = self.kinds[place]
        is_sided = any(word in kind.name for word in ("left", "right", "back"))
        single = draw_single(self.pictures.picture(kind, style), rng, may_mirror=not is_sided)
        # Its colour is not told: the manner of drawing may have changed it.
        return single.picture, TruePicture("single", (TrueThing(place, NONE, single.box),))

    def _scene(self, n: int) -> tuple[Image.Image, TruePicture]:
        scene = plan_scene(n, book=self.book, styles=SEEN_STYLES, seen=True)
        pairs = [altered(scene, self.book, seed=i) for i in range(SCENE_CAPTIONS)]
        things = tuple(
            TrueThing(self.places[thing.kind], self._colour(thing, scene.style), thing.box)
            for thing in scene.things
        )
        picture = draw_scene(scene, self.book, size=SIZE_PX)
        return picture, TruePicture(
            "scene",
            things,
            captions=tuple(pair.true for pair in pairs),
            altered=tuple(pair.false for pair in pairs),
        )

    def _colour(self, thing: SceneThing, style: str) -> int:
        colour = true_colour(thing, style, self.book)
        return COLOURS.index(colour) if colour in COLOURS else NONE

    def _photograph(self, n: int) -> tuple[Image.Image, TruePicture]:
        rng = np.random.default_rng([13, n])
        photograph = self.photographs[n % len(self.photographs)].image()
        return vary_photograph(photograph, rng), TruePicture("photograph", ())


def vary_photograph(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of it in other light, sometimes on a plain ground as in a catalogue; 224 px, RGB."""
    width, height = photograph.size
    side = int(min(width, height) * rng.uniform(0.45, 1.0))
    left, top = (int(rng.integers(0, room + 1)) for room in (width - side, height - side))
    part = photograph.crop((left, top, left + side, top + side))
    part = ImageEnhance.Brightness(part).enhance(float(rng.uniform(0.7, 1.3)))
    part = ImageEnhance.Color(part).enhance(float(rng.uniform(0.5, 1.4)))
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.7:
        return part.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    level = 255 if rng.random() < 0.6 else int(rng.integers(0, 256))
    ground = Image.new("RGB", (SIZE_PX, SIZE_PX), (level, level, level))
    inner = int(SIZE_PX * rng.uniform(0.5, 0.9))
    place = tuple(int(rng.integers(0, SIZE_PX - inner)) for _ in range(2))
    ground.paste(part.resize((inner, inner), Image.Resampling.BICUBIC), place)  # type: ignore[arg-type]
    return ground


class Towers:
    """The frozen towers, for features of pictures and texts."""

    def __init__(self, model: ConseModel) -> None:
        self._model = model

    def see(self, pictures: Sequence[Image.Image]) -> TowerSight:
        """Tokens (N, 49, 768) and pooled (N, 1280), float16 on the CPU."""
        sights = list(self._model.see(pictures))
        return TowerSight(
            torch.cat([sight.tokens.half().cpu() for sight in sights]),
            torch.cat([sight.pooled.half().cpu() for sight in sights]),
        )

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 384) unit rows of the text tower alone."""
        return self._model.read_plainly(texts)

    def conse(self, pooled: Tensor) -> Tensor:
        """(N, 384) unit rows: the training-free vectors of pictures with these features."""
        with torch.inference_mode():
            head = self._model.conse_head
            joined = head(pooled.float().to(self._model.device))
        return torch.nn.functional.normalize(joined, dim=-1).cpu()


def make_features(
    folder: Path,
    world: World,
    towers: Towers,
    *,
    deadline: float,
    n_shards: int,
    size: int = SHARD,
) -> int:
    """Make missing shards until the deadline; how many there are now.

    Args:
        deadline: on time.monotonic()'s clock, seconds.

    Raises:
        OSError: the disk is full; finished shards stay, the unfinished one leaves nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started, made = time.monotonic(), 0
    for number in range(n_shards):
        if _is_whole(folder, number):
            continue
        if time.monotonic() >= deadline:
            break
        pictures, truth = zip(*world.make(number, size=size), strict=True)
        _write_shard(folder, number, pictures, truth, towers)
        made += 1
        a_shard_s = (time.monotonic() - started) / made
        left_s = min((n_shards - number - 1) * a_shard_s, deadline - time.monotonic())
        log.info(
            "shard %d of %d (%s): %.1f pictures/s, about %.0f s left",
            number + 1,
            n_shards,
            truth[0].source,
            size / a_shard_s,
            max(0.0, left_s),
        )
    return len(shard_numbers(folder))


def shard_numbers(folder: Path) -> list[int]:
    """The finished shards."""
    return sorted(int(file.stem) for file in folder.glob("*.json") if file.stem.isdigit())


def read_shard(folder: Path, number: int) -> Shard:
    """One finished shard."""
    content = json.loads((folder / f"{number:05d}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{number:05d}.npz") as kept:
        pooled, texts = kept["pooled"], kept["texts"]
    tokens = np.load(folder / f"{number:05d}.tokens.npy", mmap_mode="r")
    return Shard(tokens, pooled, texts, tuple(_true_picture(one) for one in content))


def kind_texts(kinds: Sequence[NamedKind]) -> list[list[str]]:
    """For each kind the ways in which it may be asked for; the plain name comes first."""
    return [_ways_to_name(kind) for kind in kinds]


def _ways_to_name(kind: NamedKind) -> list[str]:
    names = [kind.name, *kind.synonyms]
    ways = [*names, *(f"{_article(name)} {name}" for name in names)]
    ways += [f"a picture of {_article(name)} {name}" for name in names[:2]]
    ways += [f"{kind.name} icon", f"a drawing of {_article(kind.name)} {kind.name}"]
    if kind.plural:
        ways += [kind.plural, f"two {kind.plural}", f"many {kind.plural}"]
    if kind.keywords:
        ways.append(f"{kind.name}: {', '.join(kind.keywords)}")
        ways.append(f"{kind.keywords[0]} {kind.name}")
        ways += [f"{kind.name}, {word}" for word in kind.keywords[1:4]]
    return list(dict.fromkeys(ways))


def _article(name: str) -> str:
    return "an" if name[:1].lower() in "aeiou" else "a"


def _is_whole(folder: Path, number: int) -> bool:
    return (folder / f"{number:05d}.json").is_file()


def _write_shard(
    folder: Path,
    number: int,
    pictures: Sequence[Image.Image],
    truth: Sequence[TruePicture],
    towers: Towers,
) -> None:
    sight = towers.see(pictures)
    texts = [text for one in truth for text in (*one.captions, *one.altered)]
    vectors = towers.read(texts).astype(np.float16)
    stem = f"{number:05d}"
    pending = [folder / f"{stem}{end}.new" for end in (".tokens.npy", ".npz", ".json")]
    try:
        with open(pending[0], "wb") as file:
            np.save(file, sight.tokens.numpy())
        with open(pending[1], "wb") as file:
            np.savez(file, pooled=sight.pooled.numpy(), texts=vectors)
        content = json.dumps([asdict(one) for one in truth])
        pending[2].write_text(content, encoding="utf-8")
        for part in pending:  # the truth comes last: a shard that has it is whole
            os.replace(part, part.with_suffix(""))
    finally:
        for part in pending:
            part.unlink(missing_ok=True)


def _true_picture(content: dict) -> TruePicture:
    things = tuple(
        TrueThing(thing["kind"], thing["colour"], tuple(thing["box"]))
        for thing in content["things"]
    )
    return TruePicture(
        content["source"], things, tuple(content["captions"]), tuple(content["altered"])
    )


SHARD_SHAPES = {"tokens": (CELLS, TOKEN_WIDTH), "pooled": (POOLED_WIDTH,)}
