"""One pictogram in a picture of its own, varied in ground, size, place, colours and manner.

The manners (flat colours, black outlines, grey) are made from the trained styles alone; they stand
for styles that were never seen.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

SIZE_PX = 224
OUTLINE_SHARE, FLAT_SHARE, GREY_SHARE = 0.35, 0.3, 0.05
WHITE_SHARE = 0.5  # the gallery's pictograms lie on white


@dataclass(frozen=True, slots=True)
class Single:
    """A picture with one thing in it."""

    picture: Image.Image  # RGB, 224 px
    box: tuple[float, float, float, float]  # left, top, right, bottom; fractions of the picture


def draw_single(
    sprite: Image.Image, rng: np.random.Generator, *, may_mirror: bool = True
) -> Single:
    """The sprite somewhere on some ground, drawn in some manner."""
    thing = _varied(sprite, rng)
    if may_mirror and rng.random() < 0.5:
        thing = ImageOps.mirror(thing)
    side = int(SIZE_PX * rng.uniform(0.5, 1.0))
    thing = thing.resize((side, side), Image.Resampling.BILINEAR)
    room = SIZE_PX - side
    left, top = (round(room * rng.beta(2, 2)) for _ in range(2))
    ground = _ground(rng)
    ground.paste(thing, (left, top), thing)
    inner = thing.getchannel("A").point(lambda alpha: 255 if alpha > 40 else 0).getbbox()
    box = inner or (0, 0, side, side)
    edges = (left + box[0], top + box[1], left + box[2], top + box[3])
    return Single(ground, tuple(edge / SIZE_PX for edge in edges))  # type: ignore[arg-type]


def plain_single(sprite: Image.Image) -> Image.Image:
    """The sprite on white as the gallery shows it: 224 px, RGB, nothing varied."""
    ground = Image.new("RGB", (SIZE_PX, SIZE_PX), "white")
    thing = sprite.resize((SIZE_PX - 12, SIZE_PX - 12), Image.Resampling.LANCZOS)
    ground.paste(thing, (6, 6), thing)
    return ground


def _varied(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    alpha = sprite.getchannel("A")
    colours = sprite.convert("RGB")
    if rng.random() < FLAT_SHARE:
        colours = ImageOps.posterize(
            colours.filter(ImageFilter.MedianFilter(5)), int(rng.integers(2, 4))
        )
    colours = _recoloured(colours, rng)
    if rng.random() < OUTLINE_SHARE:
        colours, alpha = _outlined(colours, alpha, rng)
    thing = colours.convert("RGBA")
    thing.putalpha(alpha)
    if rng.random() < 0.4:
        thing = thing.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BILINEAR)
    return thing


def _recoloured(colours: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < GREY_SHARE:
        return ImageOps.grayscale(colours).convert("RGB")
    if rng.random() < 0.3:
        hue, saturation, value = colours.convert("HSV").split()
        shift = int(rng.normal(0, 10))
        hue = hue.point(lambda level: (level + shift) % 256)
        colours = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    colours = ImageEnhance.Color(colours).enhance(float(rng.uniform(0.6, 1.4)))
    return ImageEnhance.Brightness(colours).enhance(float(rng.uniform(0.8, 1.2)))


def _outlined(
    colours: Image.Image, alpha: Image.Image, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """Black lines around the thing and along its inner edges; sometimes little colour is left."""
    width = 1 + 2 * int(rng.integers(1, max(2, alpha.width // 40)))
    grown = alpha.filter(ImageFilter.MaxFilter(width))
    shrunk = alpha.filter(ImageFilter.MinFilter(width))
    rim = np.asarray(grown, dtype=np.int16) - np.asarray(shrunk, dtype=np.int16) > 100
    flat = colours.filter(ImageFilter.MedianFilter(3))
    inner = np.asarray(flat.filter(ImageFilter.FIND_EDGES).convert("L")) > rng.integers(50, 110)
    lines = rim | (inner & (np.asarray(alpha) > 100))
    drawn = np.array(flat)
    paleness = 1.0 if rng.random() < 0.15 else float(rng.choice([0.0, 0.0, 0.3, 0.6]))
    drawn = (drawn + (255 - drawn) * paleness).astype(np.uint8)
    drawn[lines] = 0
    return Image.fromarray(drawn), grown


def _ground(rng: np.random.Generator) -> Image.Image:
    """White, plain, shaded or speckled."""
    if rng.random() < WHITE_SHARE:
        return Image.new("RGB", (SIZE_PX, SIZE_PX), "white")
    first = rng.integers(0, 256, 3)
    if rng.random() < 0.4:
        return Image.new("RGB", (SIZE_PX, SIZE_PX), tuple(int(level) for level in first))
    second = rng.integers(0, 256, 3)
    ramp = np.linspace(0, 1, SIZE_PX)[:, None, None]
    shaded = np.broadcast_to(first * (1 - ramp) + second * ramp, (SIZE_PX, SIZE_PX, 3))
    if rng.random() < 0.5:
        shaded = shaded.swapaxes(0, 1)
    grain = int(rng.integers(4, 32))
    speckles = rng.normal(0, rng.choice([0, 20]), (grain, grain, 3))
    texture = np.asarray(
        Image.fromarray((speckles + 128).clip(0, 255).astype(np.uint8)).resize((SIZE_PX, SIZE_PX))
    )
    return Image.fromarray((shaded + texture - 128.0).clip(0, 255).astype(np.uint8))
