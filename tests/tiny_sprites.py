"""A book of plain shapes: every kind a disc or a box of one colour, computable by eye."""

from pathlib import Path

from PIL import Image, ImageDraw

from training.embedded.sprites import SpriteBook, all_kinds, pack_sprites

SIDE_PX = 64
COLOURS = ((214, 32, 38), (38, 96, 220), (42, 158, 66))  # red, blue, green
STYLES = ("noto", "openmoji")
ALWAYS = ("dog", "poodle", "hammer")


def make_tiny_sprites(folder: Path, *, every: int = 6) -> SpriteBook:
    """Every sixth kind and ALWAYS in two styles: discs, and boxes twice as wide as high."""
    sixth = [kind.name for kind in all_kinds()[::every]]
    kinds = list(dict.fromkeys([*sixth, *ALWAYS]))
    return pack_sprites(
        folder,
        {
            "noto": [(name, disc(COLOURS[row % 3])) for row, name in enumerate(kinds)],
            "openmoji": [(name, wide_box(COLOURS[row % 3])) for row, name in enumerate(kinds)],
        },
    )


def disc(colour: tuple[int, int, int]) -> Image.Image:
    """A filled circle that touches all four edges."""
    sprite = Image.new("RGBA", (SIDE_PX, SIDE_PX), (0, 0, 0, 0))
    ImageDraw.Draw(sprite).ellipse((0, 0, SIDE_PX - 1, SIDE_PX - 1), fill=(*colour, 255))
    return sprite


def wide_box(colour: tuple[int, int, int]) -> Image.Image:
    """A filled rectangle over the middle half of the height."""
    sprite = Image.new("RGBA", (SIDE_PX, SIDE_PX), (0, 0, 0, 0))
    box = (0, SIDE_PX // 4, SIDE_PX - 1, 3 * SIDE_PX // 4 - 1)
    ImageDraw.Draw(sprite).rectangle(box, fill=(*colour, 255))
    return sprite
