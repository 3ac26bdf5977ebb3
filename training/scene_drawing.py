"""Scenes of pictograms: planned from a seed with exact truth, and drawn from the plan."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageOps

from training.embedded.sprites import SOLID, Box, Kind, SpriteBook

Rgb = tuple[int, int, int]

# Colours a thing can be recoloured to; each is told apart from the others at 30 px.
PAINTS: dict[str, Rgb] = {
    "red": (214, 32, 38),
    "orange": (247, 138, 22),
    "yellow": (250, 212, 36),
    "green": (42, 158, 66),
    "blue": (38, 96, 220),
    "purple": (134, 58, 190),
    "pink": (246, 122, 182),
    "brown": (128, 78, 40),
}
# Backdrops by the name a person would give them.
BACKDROPS: dict[str, tuple[Rgb, ...]] = {
    "white": ((255, 255, 255), (250, 250, 247)),
    "grey": ((206, 208, 211), (160, 164, 170), (226, 227, 229)),
    "black": ((24, 25, 28), (38, 38, 44)),
    "red": ((242, 150, 145), (178, 42, 46)),
    "orange": ((252, 196, 132), (240, 150, 60)),
    "yellow": ((253, 239, 160), (250, 224, 100)),
    "green": ((184, 226, 184), (90, 160, 96), (40, 92, 60)),
    "blue": ((176, 212, 246), (84, 138, 214), (32, 56, 110)),
    "purple": ((216, 192, 238), (120, 78, 168)),
    "pink": ((252, 208, 226), (240, 160, 196)),
    "brown": ((150, 110, 78), (110, 76, 50)),
    "beige": ((240, 226, 204), (224, 204, 174)),
}
TEXTURES = ("noise", "clouds", "stripes", "dots", "checks", "paper")
LEAST_SIDE = 0.15  # 34 px of 224: one patch of the tower, and still told apart by eye
LEAST_CONTRAST = 90.0  # distance in RGB between a thing's mean and its backdrop
MOST_TRIES = 40
WIDE_GROUPS: dict[str, tuple[str, ...]] = {
    "animals": ("animal", "bird", "sea animal", "insect"),
    "plants": ("flower", "plant"),
    "things to eat": ("fruit", "vegetable", "food", "sweet"),
    "vehicles": ("vehicle", "boat", "aircraft"),
    "buildings": ("building",),
    "clothes": ("clothing",),
    "musical instruments": ("instrument",),
    "tools": ("tool",),
    "body parts": ("body part",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneThing:
    """One thing in a scene."""

    kind: str
    colour: str | None  # what it was recoloured to, None: its own colours
    box: Box  # of what is seen of it when nothing covers it
    mirrored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What is behind the things."""

    kind: Literal["plain", "gradient", "textured"]
    colour: str  # its name
    colours: tuple[Rgb, Rgb]  # from and to; the same twice for a plain one
    texture: str = ""  # one of TEXTURES for a textured one
    angle: float = 0.0  # direction of a gradient or of stripes, radians


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A planned picture: everything that can be asked about it is known."""

    seed: int
    style: str
    things: tuple[SceneThing, ...]  # painted in this order
    background: Background
    overlap: float  # largest share of a thing's box that another one's box covers


def plan_scene(
    seed: int,
    *,
    book: SpriteBook,
    styles: Sequence[str],
    seen: bool | None = True,
    n_things: tuple[int, int] = (1, 9),
) -> Scene:
    """A scene, the same for the same arguments.

    Args:
        styles: art styles to choose from.
        seen: True for kinds of the training split, False for the others, None for any.
        n_things: fewest and most things, both included.
    """
    rng = random.Random(f"scene {seed}")
    style = styles[rng.randrange(len(styles))]
    count = rng.randint(*n_things)
    names = _choose_kinds(rng, count, book.drawable(style, seen=seen))
    boxes, overlap = _place(rng, [book.look(name, style).box for name in names])
    colours = _choose_colours(rng, names)
    background = _choose_background(rng, names, colours, style=style, book=book)
    things = tuple(
        SceneThing(kind=name, colour=colour, box=box, mirrored=rng.random() < 0.3)
        for name, colour, box in zip(names, colours, boxes, strict=True)
    )
    return Scene(seed=seed, style=style, things=things, background=background, overlap=overlap)


def draw_scene(scene: Scene, book: SpriteBook, *, size: int = 224) -> Image.Image:
    """The picture of a scene, RGB, `size` pixels square."""
    canvas = draw_background(scene.background, seed=scene.seed, size=size)
    for thing in scene.things:
        cut, corner = _cut_thing(thing, scene.style, book, size=size)
        canvas.paste(cut, corner, cut)
    return canvas


def coloured_sprite(
    kind: str, style: str, colour: str | None, book: SpriteBook, *, mirrored: bool = False
) -> Image.Image:
    """A sprite, RGBA, in its own colours or painted over in one colour with its shading kept."""
    sprite = book.sprite(kind, style)
    if mirrored:
        sprite = ImageOps.mirror(sprite)
    return sprite if colour is None else _paint(sprite, PAINTS[colour])


def true_colour(thing: SceneThing, style: str, book: SpriteBook) -> str | None:
    """The one colour a person would name for a thing; None where no single one stands out."""
    return thing.colour or book.look(thing.kind, style).colour


def centre(box: Box) -> tuple[float, float]:
    """Middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def covered_share(box: Box, other: Box) -> float:
    """Share of `box` that `other` covers, 0 to 1."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def measured_overlap(boxes: Sequence[Box]) -> float:
    """Largest share of any box that another one covers."""
    pairs = [
        covered_share(box, other)
        for row, box in enumerate(boxes)
        for column, other in enumerate(boxes)
        if row != column
    ]
    return round(max(pairs, default=0.0), 4)


def draw_background(background: Background, *, seed: int, size: int) -> Image.Image:
    """The backdrop alone, RGB, `size` pixels square."""
    first, second = background.colours
    if background.kind == "plain":
        return Image.new("RGB", (size, size), first)
    if background.kind == "gradient":
        return _blend(_ramp(size, background.angle), first, second)
    return _blend(_texture(background.texture, size, background.angle, seed), first, second)


def _choose_kinds(rng: random.Random, count: int, kinds: Sequence[Kind]) -> list[str]:
    """Names of the things, repeats included, in random order."""
    draw = rng.random()
    if count >= 4 and draw < 0.16:
        names = _odd_one_out(rng, count, kinds)
    elif draw < 0.30:
        names = [rng.choice(kinds).name] * count
    elif draw < 0.48 and count <= len(kinds):
        names = [kind.name for kind in rng.sample(kinds, count)]
    else:
        names = _several_kinds(rng, count, kinds)
    rng.shuffle(names)
    return names


def _odd_one_out(rng: random.Random, count: int, kinds: Sequence[Kind]) -> list[str]:
    groups = rng.choice(tuple(WIDE_GROUPS.values()))
    inside = [kind.name for kind in kinds if kind.group in groups]
    wide = [group for many in WIDE_GROUPS.values() for group in many]
    outside = [kind.name for kind in kinds if kind.group in wide and kind.group not in groups]
    if not inside or not outside:
        return _several_kinds(rng, count, kinds)
    pool = rng.sample(inside, min(len(inside), count - 1))
    return [rng.choice(outside), *(pool[i % len(pool)] for i in range(count - 1))]


def _several_kinds(rng: random.Random, count: int, kinds: Sequence[Kind]) -> list[str]:
    n_kinds = rng.randint(1, min(count, 5, len(kinds)))
    names = [kind.name for kind in rng.sample(kinds, n_kinds)]
    cuts = sorted(rng.sample(range(1, count), n_kinds - 1))
    sizes = [end - start for start, end in zip([0, *cuts], [*cuts, count], strict=True)]
    return [name for name, repeats in zip(names, sizes, strict=True) for _ in range(repeats)]


def _choose_colours(rng: random.Random, names: Sequence[str]) -> list[str | None]:
    """None for most things; some scenes have some kinds painted, few have each thing its own."""
    draw = rng.random()
    if draw < 0.55:
        return [None] * len(names)
    if draw < 0.85:
        of_kind = {
            name: rng.choice(tuple(PAINTS)) if rng.random() < 0.6 else None
            for name in sorted(set(names))
        }
        return [of_kind[name] for name in names]
    return [rng.choice((*PAINTS, None)) for _ in names]


def _place(rng: random.Random, shapes: Sequence[Box]) -> tuple[list[Box], float]:
    """Boxes for things of these shapes, and how far they cover each other.

    Three scenes of four keep things apart; in the others a box may be covered by a quarter.
    """
    allowed = 0.25 if rng.random() < 0.25 else 0.0
    scale = rng.uniform(0.62, 1.0)
    while True:
        boxes = _try_places(rng, shapes, scale=scale, allowed=allowed)
        if boxes is not None:
            return boxes, measured_overlap(boxes)
        scale *= 0.9


def _try_places(
    rng: random.Random, shapes: Sequence[Box], *, scale: float, allowed: float
) -> list[Box] | None:
    usual = min(0.85, 0.88 / math.sqrt(len(shapes))) * scale
    boxes: list[Box] = []
    for shape in shapes:
        side = max(LEAST_SIDE, min(0.9, usual * rng.uniform(0.8, 1.25)))
        longest = max(shape[2] - shape[0], shape[3] - shape[1])
        width = side * (shape[2] - shape[0]) / longest
        height = side * (shape[3] - shape[1]) / longest
        for _ in range(MOST_TRIES):
            left = rng.uniform(0.01, 0.99 - width)
            top = rng.uniform(0.01, 0.99 - height)
            box = (round(left, 4), round(top, 4), round(left + width, 4), round(top + height, 4))
            if all(_covers_little(box, other, allowed) for other in boxes):
                boxes.append(box)
                break
        else:
            return None
    return boxes


def _covers_little(box: Box, other: Box, allowed: float) -> bool:
    return max(covered_share(box, other), covered_share(other, box)) <= allowed


def _choose_background(
    rng: random.Random,
    names: Sequence[str],
    colours: Sequence[str | None],
    *,
    style: str,
    book: SpriteBook,
) -> Background:
    """A backdrop that every thing stands out from, or the best of a dozen."""
    means = [
        PAINTS[colour] if colour else book.look(name, style).mean
        for name, colour in zip(names, colours, strict=True)
    ]
    best, best_contrast = _random_background(rng), -1.0
    for _ in range(12):
        background = _random_background(rng)
        contrast = min(math.dist(mean, colour) for mean in means for colour in background.colours)
        if contrast > best_contrast:
            best, best_contrast = background, contrast
        if contrast >= LEAST_CONTRAST:
            break
    return best


def _random_background(rng: random.Random) -> Background:
    # White is what most pictures that people bring have behind a single thing.
    name = "white" if rng.random() < 0.25 else rng.choice(tuple(BACKDROPS))
    first = rng.choice(BACKDROPS[name])
    kind = rng.choices(("plain", "gradient", "textured"), weights=(40, 25, 35))[0]
    if kind == "plain":
        return Background(kind="plain", colour=name, colours=(first, first))
    amount = rng.choice((-1, 1)) * rng.uniform(14, 34)
    second = tuple(int(max(0, min(255, channel + amount))) for channel in first)
    if kind == "gradient":
        return Background(
            kind="gradient",
            colour=name,
            colours=(first, second),  # type: ignore[arg-type]
            angle=round(rng.uniform(0, 2 * math.pi), 3),
        )
    return Background(
        kind="textured",
        colour=name,
        colours=(first, second),  # type: ignore[arg-type]
        texture=rng.choice(TEXTURES),
        angle=round(rng.uniform(0, math.pi), 3),
    )


def _cut_thing(
    thing: SceneThing, style: str, book: SpriteBook, *, size: int
) -> tuple[Image.Image, tuple[int, int]]:
    """The thing at its size in pixels, and where its left top corner goes."""
    sprite = coloured_sprite(thing.kind, style, thing.colour, book, mirrored=thing.mirrored)
    left, top, right, bottom = book.look(thing.kind, style).box
    if thing.mirrored:
        left, right = 1 - right, 1 - left
    side = sprite.width
    inner = (left * side, top * side, right * side, bottom * side)
    box = thing.box
    pixels = (max(1, round((box[2] - box[0]) * size)), max(1, round((box[3] - box[1]) * size)))
    cut = sprite.resize(pixels, Image.Resampling.BICUBIC, box=inner, reducing_gap=2.0)
    return cut, (round(box[0] * size), round(box[1] * size))


def _paint(sprite: Image.Image, paint: Rgb) -> Image.Image:
    """The sprite in shades of one paint: its middle lightness becomes the paint itself."""
    light = np.asarray(sprite.convert("L"))
    alpha = sprite.getchannel("A")
    inside = light[np.asarray(alpha) > SOLID]
    lit = inside[inside > 50]  # outlines stay dark and do not move the middle
    middle = float(np.median(lit)) if len(lit) > 0.2 * len(inside) else float(np.median(inside))
    middle = min(max(middle, 1.0), 250.0)
    steps = np.arange(256, dtype=np.float32)
    dark = (steps / middle).clip(0, 1)[:, None]
    bright = ((steps - middle) / (255 - middle)).clip(0, 1)[:, None]
    ramp = np.array(paint, dtype=np.float32) * (0.25 + 0.75 * dark)
    # Where the middle is nearly white there is nothing left to shine: an outlined ambulance.
    shine = 0.45 * min(1.0, (255 - middle) / 60)
    ramp += (255 - np.array(paint, dtype=np.float32)) * (shine * bright)
    table = ramp.round().clip(0, 255).astype(np.uint8)
    channels = [sprite.convert("L").point(list(table[:, channel])) for channel in range(3)]
    return Image.merge("RGBA", (*channels, alpha))


def _blend(mask: Image.Image, first: Rgb, second: Rgb) -> Image.Image:
    """First where the mask is black, second where it is white."""
    tables = [
        [round(a + (b - a) * step / 255) for step in range(256)]
        for a, b in zip(first, second, strict=True)
    ]
    return Image.merge("RGB", [mask.point(table) for table in tables])


def _ramp(size: int, angle: float) -> Image.Image:
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    across = steps[None] * math.cos(angle) + steps[:, None] * math.sin(angle)
    reach = abs(math.cos(angle)) + abs(math.sin(angle))
    return Image.fromarray(((across / reach + 1) * 127.5).astype(np.uint8))


def _texture(texture: str, size: int, angle: float, seed: int) -> Image.Image:
    """A grey mask of the texture, `size` pixels square."""
    rng = np.random.default_rng([seed % 2**32, 7])
    match texture:
        case "noise":
            return Image.fromarray(rng.integers(60, 196, (size, size), dtype=np.uint8))
        case "clouds":
            return _soft_noise(rng, size, cells=6)
        case "paper":
            coarse = _soft_noise(rng, size, cells=40)
            return ImageChops.blend(coarse, _soft_noise(rng, size, cells=6), 0.4)
        case "stripes":
            steps = np.linspace(0, 1, size, dtype=np.float32)
            across = steps[None] * math.cos(angle) + steps[:, None] * math.sin(angle)
            wave = np.sin(across * 2 * math.pi * rng.integers(5, 14))
            return Image.fromarray(((wave.clip(-0.4, 0.4) / 0.4 + 1) * 127.5).astype(np.uint8))
        case "checks":
            parity = (np.arange(size) * int(rng.integers(4, 10)) // size) % 2
            return Image.fromarray(((parity[None] ^ parity[:, None]) * 255).astype(np.uint8))
        case "dots":
            phase = np.linspace(0, 2 * math.pi * int(rng.integers(6, 14)), size)
            wave = np.sin(phase)[None] * np.sin(phase)[:, None]
            return Image.fromarray((((wave - 0.45) * 8).clip(0, 1) * 255).astype(np.uint8))
    raise ValueError(f"Unknown texture {texture!r}, expected one of {TEXTURES}")


def _soft_noise(rng: np.random.Generator, size: int, *, cells: int) -> Image.Image:
    grid = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    return Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
