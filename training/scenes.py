"""The world with known truth: pictogram scenes, questions about them, and the checkers.

`python -m training.scenes show --n 24 --out contact.png` draws scenes with their questions.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from core.errors import UserError
from training.embedded.sprites import STYLES, SpriteBook, load_sprites
from training.scene_captions import AlteredCaption, altered, captions, describe, place_of
from training.scene_clips import Clip, ask_about_clip, draw_clip, plan_clip, scene_at
from training.scene_drawing import (
    PAINTS,
    Background,
    Scene,
    SceneThing,
    coloured_sprite,
    draw_background,
    draw_scene,
    plan_scene,
    true_colour,
)
from training.scene_prompts import (
    TASKS,
    FoundThing,
    PictureScore,
    Prompt,
    PromptThing,
    make_prompt,
    score_picture,
)
from training.scene_questions import FORMS, SceneQuestion, ask_about, is_right

__all__ = [
    "FORMS",
    "PAINTS",
    "TASKS",
    "AlteredCaption",
    "Background",
    "Clip",
    "FoundThing",
    "PictureScore",
    "Prompt",
    "PromptThing",
    "Scene",
    "SceneQuestion",
    "SceneThing",
    "altered",
    "ask_about",
    "ask_about_clip",
    "captions",
    "coloured_sprite",
    "contact_sheet",
    "describe",
    "draw_background",
    "draw_clip",
    "draw_scene",
    "is_right",
    "make_prompt",
    "place_of",
    "plan_clip",
    "plan_scene",
    "scene_at",
    "score_picture",
    "true_colour",
]


def contact_sheet(scenes: Sequence[Scene], book: SpriteBook, *, columns: int = 4) -> Image.Image:
    """The scenes with some of their questions and answers beside them, RGB."""
    side, width = 224, 560
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (side + 8)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, scene in enumerate(scenes):
        left, top = place % columns * width, place // columns * (side + 8)
        sheet.paste(draw_scene(scene, book, size=side), (left, top))
        pen.text((left + side + 8, top), _beside(scene, book), fill="black")
    return sheet


def _beside(scene: Scene, book: SpriteBook) -> str:
    lines = [f"seed {scene.seed}, {scene.style}, overlap {scene.overlap:.2f}"]
    for question in ask_about(scene, book, seed=0)[:7]:
        lines += textwrap.wrap(f"{question.text} {question.answer}", 54)
    return "\n".join(lines[:15])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a contact sheet."""
    parser = argparse.ArgumentParser(prog="python -m training.scenes", description=__doc__)
    show = parser.add_subparsers(required=True).add_parser("show", help="draw a contact sheet")
    show.add_argument("--n", type=int, default=24)
    show.add_argument("--seed", type=int, default=0, help="of the first scene")
    show.add_argument("--style", choices=STYLES, action="append", help="default: all")
    show.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    try:
        book = load_sprites()
    except UserError as problem:
        sys.exit(str(problem))
    scenes = [
        plan_scene(chosen.seed + step, book=book, styles=chosen.style or STYLES, seen=None)
        for step in range(chosen.n)
    ]
    contact_sheet(scenes, book).save(chosen.out)


if __name__ == "__main__":
    main()
