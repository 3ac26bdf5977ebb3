from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.diagram import DARK, LIGHT
from core.judge import Judge, check_storyboard, contrast, contrast_problems
from core.pack import read_pack
from core.types import StoryboardPlan, StoryboardStep
from tests.word_space import WordSpace


@pytest.fixture
def judge() -> Judge:
    """A judge to whom every picture shows a cat on a couch."""
    space = WordSpace()

    def embed_images(images: list[Image.Image]) -> np.ndarray:
        return np.repeat(space.embed_texts(["cat couch"]), len(images), axis=0)

    return Judge(embed_images=embed_images, embed_texts=space.embed_texts)


@pytest.fixture
def picture() -> Image.Image:
    return Image.new("RGB", (8, 8))


def test_a_fitting_text_scores_higher_than_another(judge: Judge, picture: Image.Image) -> None:
    fitting = judge.judge(picture, "A cat sits on a couch.")
    other = judge.judge(picture, "A violin leans against a piano.")
    assert fitting.percent > 95
    # 1/sqrt(2) for each shared word of two in the picture's vector and the text's three.
    assert fitting.cosine == pytest.approx(2 / np.sqrt(2 * 3), abs=1e-5)
    assert other.percent < fitting.percent
    assert other.cosine == 0


def test_the_reason_names_what_was_seen_and_what_was_not(
    judge: Judge, picture: Image.Image
) -> None:
    agreement = judge.judge(picture, "A cat is on a couch next to a violin.")
    assert agreement.seen == ("cat", "couch")
    assert agreement.not_found == ("violin",)
    assert agreement.reason.endswith("seen: cat, couch; not found: violin")


def test_a_text_without_words_is_the_callers_mistake(judge: Judge, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="no text"):
        judge.judge(picture, " . ")


def test_contrast_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_both_themes_have_contrast_and_a_pale_one_is_told() -> None:
    assert contrast_problems(LIGHT) == contrast_problems(DARK) == []
    (problem,) = contrast_problems(replace(LIGHT, quiet="#cccccc"))
    assert problem.startswith("quiet on page has a contrast of 1.")


def test_a_plan_that_cannot_be_drawn_whole_is_told() -> None:
    endless = "word " * 200
    steps = tuple(StoryboardStep(caption=c, sentence=c) for c in ("Ice", "Snow", "Rain"))
    fine = StoryboardPlan(title="Water", structure="sequence", steps=steps, text_sha256="0" * 64)
    assert check_storyboard(fine) == ()
    columns = replace(fine, structure="comparison", columns=("Ice", "Snow"), title=endless)
    assert check_storyboard(columns) == ()  # cut with an ellipsis, not spilled


@pytest.mark.weights
def test_photographs_agree_with_their_own_captions(weights: Path) -> None:
    from core.embedder import load_embedder
    from core.settings import load_settings

    preset = load_settings().presets["embedded"]
    embedder = load_embedder(preset.embedder, device="cpu", dtype="float32", cache=weights)
    judge = Judge(embed_images=embedder.embed_images, embed_texts=embedder.embed_texts)
    photographs = list(read_pack("photographs"))
    own = [judge.judge(p.image(), p.caption).percent for p in photographs]
    # The caption of the photograph half the album away: mostly about something else.
    half = len(photographs) // 2
    shifted = photographs[half:] + photographs[:half]
    other = [
        judge.judge(p.image(), q.caption).percent for p, q in zip(photographs, shifted, strict=True)
    ]
    assert np.median(own) > np.median(other) + 20
