"""The benchmark's own eye: pieces on white, the 50 captions, and right pictures made of sprites."""

import numpy as np
from PIL import Image

from benchmarks.illustrator_quality import N_CAPTIONS, captions_of, things_in
from training.scene_prompts import Prompt, PromptThing


def white_with(*boxes: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    for box in boxes:
        picture.paste((200, 30, 30), box)
    return picture


def test_things_that_stand_apart_are_found_with_their_boxes() -> None:
    found = things_in(white_with((2, 18, 30, 46), (34, 18, 62, 46)))
    boxes = sorted(box for _, box in found)
    np.testing.assert_allclose(boxes[0], (2 / 64, 18 / 64, 30 / 64, 46 / 64))
    np.testing.assert_allclose(boxes[1], (34 / 64, 18 / 64, 62 / 64, 46 / 64))


def test_a_speck_belongs_to_its_neighbour_and_a_small_gap_parts_nothing() -> None:
    # 28 x 28 with a speck of 4 x 4 six pixels below it; two halves with two white columns between
    assert len(things_in(white_with((2, 2, 30, 30), (10, 36, 14, 40)))) == 1
    assert len(things_in(white_with((2, 2, 15, 30), (17, 2, 30, 30)))) == 1


def test_an_empty_picture_holds_nothing() -> None:
    assert things_in(white_with()) == []


def test_the_right_caption_is_among_fifty_different_ones() -> None:
    names = [f"kind {n}" for n in range(80)]
    things = (PromptThing(kind="kind 3"), PromptThing(kind="kind 70"))
    prompt = Prompt(text="", task="two", things=things)
    captions = captions_of(prompt, names, 5)
    assert len(set(captions)) == N_CAPTIONS == len(captions)
    assert {"kind 3", "kind 70"} <= set(captions)
    assert captions == captions_of(prompt, names, 5)
