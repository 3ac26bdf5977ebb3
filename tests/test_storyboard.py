import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from core.captions import CAPTION_CHARS
from core.diagram import draw_storyboard
from core.drawings import storyboard_picture, storyboard_pictures
from core.errors import UserError
from core.judge import check_storyboard
from core.notes import read_notes
from core.pictograms import PictogramFinder
from core.storyboard import (
    is_request,
    plan_note,
    plan_storyboard,
    replan_storyboard,
    title_of_request,
)
from core.types import StoryboardPlan, StoryboardStep, StoryStructure
from tests.word_space import WordSpace

SVG = "{http://www.w3.org/2000/svg}"
BLACK_HOLE = (
    "A black hole forms when a very massive star reaches the end of its life. For millions of "
    "years, the star burns hydrogen in its core, and the outward pressure from this fusion "
    "balances the inward pull of gravity. Eventually, the star runs out of fuel and can no longer "
    "produce enough energy to support itself. As a result, the core collapses under its own "
    "gravity in less than a second. The outer layers are then blown away in a huge explosion "
    "called a supernova. Finally, all of the matter is squeezed into a tiny point, and its gravity "
    "becomes so strong that not even light can escape."
)
WATER = (
    "The water cycle describes how water moves between the ground, the sea and the sky. The sun "
    "heats the sea and turns water into vapour. The vapour rises into the air, where it cools and "
    "forms clouds. When the drops become too heavy, they fall as rain or snow. The water flows "
    "through rivers back to the sea, and the cycle begins again."
)
CELL = (
    "A plant cell consists of several parts. The nucleus controls the cell and holds its DNA. The "
    "cell wall is a stiff layer which gives the cell its shape. Chloroplasts capture sunlight and "
    "make sugar. The vacuole is a large bag that stores water."
)
PETS = (
    "Cats and dogs are different in many ways. Cats are independent and like to hunt alone. Dogs "
    "are social animals that live in packs. Cats clean themselves with their tongues, while dogs "
    "need to be washed by people. Both make loving pets."
)
BREAD = (
    "Sure! Here is how bread is made:\n1. **Mix**: First, flour, water and yeast are mixed.\n"
    "2. **Knead**: Next, the dough is kneaded until it is smooth.\n3. **Rise**: It rises in a warm "
    "place. The yeast makes bubbles.\n4. **Bake**: Finally, it is baked in a hot oven.\n\n"
    "I hope this helps!"
)
BILL = (
    "A member of Congress writes a bill. A committee studies the bill and may change it. Then the "
    "House debates the bill. The House votes on it. Then it goes to the Senate. The Senate also "
    "debates and votes. Next, the president receives the bill. The president can sign or veto it. "
    "Finally, the law takes effect."
)
SUPPLY = "The sun warms the ground, then the air above it rises, and finally cool air flows in."
TEXTS: dict[str, tuple[str, StoryStructure]] = {
    "black hole": (BLACK_HOLE, "sequence"),
    "water": (WATER, "cycle"),
    "cell": (CELL, "parts"),
    "pets": (PETS, "comparison"),
    "bread": (BREAD, "sequence"),
    "bill": (BILL, "sequence"),
    "one sentence": (SUPPLY, "sequence"),
    "things": ("A cat is sitting on a red couch next to a lamp.", "parts"),
    "layers": ("The Earth is made of four layers: the core, the mantle and the crust.", "parts"),
}


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> PictogramFinder:
    return PictogramFinder(
        storyboard_pictures(),
        embed_texts=WordSpace().embed_texts,
        model_id="word-space",
        cache=tmp_path_factory.mktemp("cache"),
    )


def plan(text: str, finder: PictogramFinder, **options: str) -> StoryboardPlan:
    return plan_storyboard(text, pictograms=finder, **options)


def made_plan(captions: Sequence[str], structure: StoryStructure = "sequence") -> StoryboardPlan:
    columns = ("This side", "That side") if structure == "comparison" else ()
    return StoryboardPlan(
        title="A title",
        structure=structure,
        steps=tuple(
            StoryboardStep(
                caption=caption,
                sentence=caption,
                relation="meanwhile" if i else "",
                column=(*columns, "")[i % 3] if columns else "",
            )
            for i, caption in enumerate(captions)
        ),
        columns=columns,
        text_sha256="0" * 64,
    )


@pytest.mark.parametrize(("text", "structure"), TEXTS.values(), ids=TEXTS)
def test_a_text_becomes_three_to_seven_short_steps_of_the_right_structure(
    text: str, structure: StoryStructure, finder: PictogramFinder
) -> None:
    made = plan(text, finder)
    assert made.structure == structure
    assert 3 <= len(made.steps) <= 7
    assert all(0 < len(step.caption) <= CAPTION_CHARS for step in made.steps)


@pytest.mark.parametrize("text", [text for text, _ in TEXTS.values()], ids=TEXTS)
def test_every_word_of_a_caption_is_the_texts_own(text: str, finder: PictogramFinder) -> None:
    def words(words: str) -> set[str]:
        return {word.strip(".,:;!?*…").lower() for word in words.split()}

    for step in plan(text, finder).steps:
        assert words(step.caption) <= words(text)


def test_the_collapse_comes_before_the_black_hole(finder: PictogramFinder) -> None:
    captions = [step.caption for step in plan(BLACK_HOLE, finder).steps]
    order = [
        next(i for i, caption in enumerate(captions) if word in caption)
        for word in ("massive star", "out of fuel", "collapses", "explosion", "tiny point")
    ]
    assert order == sorted(order)


def test_a_request_for_a_black_hole_has_the_collapse_before_the_hole() -> None:
    note = next(note for note in read_notes() if note.id == "black-hole")
    captions = [step.caption for step in note.steps]
    collapse = next(i for i, caption in enumerate(captions) if "collapses" in caption)
    hole = next(i for i, caption in enumerate(captions) if "black hole" in caption)
    assert collapse < hole


def test_the_steps_of_a_list_are_its_entries(finder: PictogramFinder) -> None:
    made = plan(BREAD, finder)
    assert made.title == "How bread is made"
    assert [step.caption.split(":")[0] for step in made.steps] == ["Mix", "Knead", "Rise", "Bake"]


def test_of_a_long_text_the_first_and_last_steps_stay(finder: PictogramFinder) -> None:
    captions = [step.caption for step in plan(BILL, finder).steps]
    assert len(captions) == 7
    assert captions[0] == "A member of Congress writes a bill"
    assert captions[-1] == "The law takes effect"


def test_a_comparison_has_two_sides_and_what_holds_for_both(finder: PictogramFinder) -> None:
    made = plan(PETS, finder)
    assert made.columns == ("Cats", "Dogs")
    assert [step.column for step in made.steps] == ["Cats", "Dogs", "Cats", "Dogs", ""]


def test_relations_come_from_the_text(finder: PictogramFinder) -> None:
    relations = {step.caption: step.relation for step in plan(BLACK_HOLE, finder).steps}
    assert relations["The star runs out of fuel"] == "then"
    assert [r for c, r in relations.items() if c.startswith("The core collapses")] == ["so"]


@pytest.mark.parametrize(
    ("request_", "title"),
    [
        ("Explain how a black hole forms", "How a black hole forms"),
        ("can you show me how bread is made.", "How bread is made"),
        ("Draw a diagram of the water cycle", "The water cycle"),
        ("What is rain?", "What is rain?"),
    ],
)
def test_a_request_gives_the_title(request_: str, title: str, finder: PictogramFinder) -> None:
    assert title_of_request(request_) == title
    assert plan(WATER, finder, request=request_).title == title


def test_requests_are_told_from_explanations() -> None:
    requests = ("Explain how a black hole forms", "water cycle", "Why is it cold in winter?")
    assert all(is_request(text) for text in requests)
    assert not any(is_request(text) for text, _ in TEXTS.values())


@pytest.mark.parametrize("text", ["", " \n ", "Hello.", "!!!"])
def test_too_little_text_says_what_to_do(text: str, finder: PictogramFinder) -> None:
    with pytest.raises(UserError, match="few sentences"):
        plan(text, finder)


def test_a_notes_text_gives_the_notes_own_plan(finder: PictogramFinder) -> None:
    note = read_notes()[0]
    assert plan(f" {note.text}\n", finder) == plan_note(note, pictograms=finder)
    assert "reference notes" in plan(note.text, finder).credit


def test_pictograms_are_distinct_and_found_by_words(finder: PictogramFinder) -> None:
    found = finder.find(["The rainbow appears", "A rainbow", "A camel walks", "It is abstract"])
    names = [picture.name if picture else None for picture in found]
    assert names[2] == "camel"
    assert "rainbow" in names[:2]
    assert names[3] is None
    assert len({picture.id for picture in found if picture}) == sum(map(bool, found))


def test_pack_vectors_are_made_once_and_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    def finder(space: WordSpace) -> PictogramFinder:
        return PictogramFinder(
            storyboard_pictures()[:40],
            embed_texts=space.embed_texts,
            model_id="word-space",
            cache=tmp_path,
        )

    first, second, third = WordSpace(), WordSpace(), WordSpace()
    finder(first).prepare()
    assert first.calls > 0
    finder(second).prepare()
    assert second.calls == 0
    (file,) = (tmp_path / "pictograms").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    finder(third).prepare()
    assert third.calls > 0


def test_an_edited_plan_keeps_what_was_not_edited(finder: PictogramFinder) -> None:
    before = plan(BLACK_HOLE, finder)
    captions = [step.caption for step in before.steps]
    captions[2] = "A camel walks by"
    after = replan_storyboard(before, captions, pictograms=finder)
    assert after.steps[2].pictogram_name == "camel"
    assert after.steps[2].relation == before.steps[2].relation
    assert [*after.steps[:2], *after.steps[3:]] == [*before.steps[:2], *before.steps[3:]]
    shorter = replan_storyboard(before, captions[:3], pictograms=finder)
    assert [step.caption for step in shorter.steps] == captions[:3]


@pytest.mark.parametrize(
    ("captions", "complaint"),
    [(["a", "b"], "has 2 steps"), (["x"] * 8, "has 8 steps"), (["y" * 200] * 3, "200 characters")],
)
def test_an_edit_that_cannot_be_drawn_says_why(
    captions: list[str], complaint: str, finder: PictogramFinder
) -> None:
    with pytest.raises(UserError, match=complaint):
        replan_storyboard(plan(WATER, finder), captions, pictograms=finder)


@pytest.mark.parametrize("structure", ["sequence", "cycle", "parts", "comparison"])
@pytest.mark.parametrize("n", range(3, 8))
@pytest.mark.parametrize("caption", ["Ice", "W" * 68, "One word after another " * 3, "冰" * 30])
def test_no_layout_overlaps_or_overflows(structure: StoryStructure, n: int, caption: str) -> None:
    assert check_storyboard(made_plan([f"{caption}{i}" for i in range(n)], structure)) == ()


def test_no_note_overlaps_or_overflows(finder: PictogramFinder) -> None:
    for note in read_notes():
        assert check_storyboard(plan_note(note, pictograms=finder)) == (), note.id


@pytest.mark.parametrize("text", [text for text, _ in TEXTS.values()], ids=TEXTS)
def test_the_svg_parses_and_stands_alone(text: str, finder: PictogramFinder) -> None:
    board = draw_storyboard(plan(text, finder))
    for svg in (board.svg, board.svg_narrow):
        root = ElementTree.fromstring(svg)
        assert root.findtext(f"{SVG}title") == board.plan.title
        assert root.findtext(f"{SVG}desc") == board.alt_text
        words = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
        for step in board.plan.steps:
            assert set(step.caption.split()) <= set(words.split())
        links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith("data:image/png;base64,") for link in links)
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_hostile_text_stays_text() -> None:
    hostile = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "]]></style><svg onload=alert(1)>",
        "&#x3c;b&#x3e; \x00\x0b\ud800\ufffe",
    ]
    board = draw_storyboard(replace(made_plan(hostile), title=hostile[0], credit=hostile[1]))
    for svg in (board.svg, board.svg_narrow):
        root = ElementTree.fromstring(svg)
        names = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert names <= {"svg", "title", "desc", "style", "rect", "circle", "path", "g", "text"}
        assert not any(key.startswith("on") for element in root.iter() for key in element.attrib)
        assert "<script" not in svg and "<img" not in svg
    assert Image.open(io.BytesIO(board.png)).format == "PNG"


def test_the_png_opens_and_says_where_it_comes_from_but_not_what_it_says(
    finder: PictogramFinder,
) -> None:
    made = plan(WATER, finder)
    board = draw_storyboard(made)
    with Image.open(io.BytesIO(board.png)) as picture:
        assert picture.width == 1600
        assert picture.info == {
            "Software": "Sightloop",
            "Sightloop-Text-SHA256": made.text_sha256,
            "Sightloop-Plan-Version": "1",
        }
    assert b"vapour" not in board.png


def test_a_step_without_a_pictogram_shows_its_number() -> None:
    root = ElementTree.fromstring(draw_storyboard(made_plan(["Ab", "Cd", "Ef"])).svg)
    assert {"1", "2", "3"} <= {element.text for element in root.iter(f"{SVG}text")}
    assert not list(root.iter(f"{SVG}image"))


def test_a_pictogram_that_is_gone_becomes_a_number() -> None:
    made = made_plan(["Ab", "Cd", "Ef"])
    steps = tuple(replace(step, pictogram_id="pictogram-of-old") for step in made.steps)
    assert "image" not in draw_storyboard(replace(made, steps=steps)).svg.split("<style")[0]


def test_the_same_plan_gives_the_same_bytes(finder: PictogramFinder) -> None:
    made = plan(CELL, finder)
    assert draw_storyboard(made) == draw_storyboard(made)
    assert plan(CELL, finder) == made


def test_dark_and_light_differ_and_auto_follows_the_reader(finder: PictogramFinder) -> None:
    made = plan(WATER, finder)
    light, dark, auto = (draw_storyboard(made, theme=theme) for theme in ("light", "dark", "auto"))
    assert light.png != dark.png
    assert light.png == auto.png
    assert "prefers-color-scheme" in auto.svg
    assert "prefers-color-scheme" not in light.svg + dark.svg
    corner = [np.asarray(Image.open(io.BytesIO(b.png)))[60, 60, :3].mean() for b in (light, dark)]
    assert corner[0] > 200 > 60 > corner[1]


def test_the_text_is_drawn_in_the_shipped_font_on_a_bare_server(finder: PictogramFinder) -> None:
    # The words' own pixels: dark ink where the title stands, in a drawing without any picture.
    board = draw_storyboard(made_plan(["Ab", "Cd", "Ef"]))
    title = np.asarray(Image.open(io.BytesIO(board.png)).convert("L"))[50:115, 600:1000]
    assert (title < 80).mean() > 0.03


def test_chinese_is_drawn_too() -> None:
    board = draw_storyboard(replace(made_plan(["恒星耗尽燃料", "核心坍缩", "黑洞"]), title="黑洞"))
    title = np.asarray(Image.open(io.BytesIO(board.png)).convert("L"))[50:115, 700:900]
    assert (title < 80).mean() > 0.03


def test_a_storyboard_is_drawn_within_two_seconds(finder: PictogramFinder) -> None:
    made = plan_note(read_notes()[0], pictograms=finder)
    draw_storyboard(made)
    started = time.perf_counter()
    draw_storyboard(made)
    assert time.perf_counter() - started < 2


def test_our_own_drawings_have_names_and_words() -> None:
    own = [picture for picture in storyboard_pictures() if picture.group == "drawings"]
    assert len(own) >= 25
    for picture in own:
        assert picture.name and len(picture.keywords) >= 1
        assert storyboard_picture(picture.id).transparent_image().size == (192, 192)
