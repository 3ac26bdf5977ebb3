"""What a text claims, and how far cells bear it out; numbers by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from core.cells import CELLS, COLOURS, CellSight, find_things
from core.claims import Claim, KindWords, Vocabulary, check, count_probabilities, features_of
from core.errors import WeightsError
from core.judge import Calibration, Judge, load_calibration

KINDS = (
    KindWords(name="dog", plural="dogs", synonyms=("puppy",)),
    KindWords(name="hot dog", plural="hot dogs"),
    KindWords(name="orange", plural="oranges"),
    KindWords(name="cat", plural="cats"),
)


class TinyReader:
    """Each kind has a direction of its own; other words share the last one."""

    kinds = KINDS
    kind_vectors = np.eye(5, dtype=np.float32)[:4]
    name_scale = 20.0  # exp(20) against exp(0): a name is as good as certain

    def __init__(self, cells: CellSight | None = None) -> None:
        self._cells = cells

    def look_at_cells(self, pictures: Sequence[Image.Image]) -> list[CellSight]:
        assert self._cells is not None
        return [self._cells] * len(pictures)

    def name_vectors(self, names: Sequence[str]) -> np.ndarray:
        return np.repeat(np.eye(5, dtype=np.float32)[4:], len(names), axis=0)


def scene(*things: tuple[int, str, str], drawing: float = 1.0) -> CellSight:
    """A picture with things at (cell, name, colour); everything else is surely empty."""
    presence = np.zeros(CELLS)
    names = np.zeros((CELLS, 5), dtype=np.float32)
    colours = np.zeros((CELLS, len(COLOURS)))
    boxes = np.zeros((CELLS, 4))
    for cell in range(CELLS):
        row, column = divmod(cell, 7)
        boxes[cell] = (column / 7, row / 7, (column + 1) / 7, (row + 1) / 7)
    for cell, name, colour in things:
        presence[cell] = 1.0
        names[cell, [kind.name for kind in KINDS].index(name)] = 1.0
        colours[cell, COLOURS.index(colour)] = 1.0
    return CellSight(presence=presence, names=names, colours=colours, boxes=boxes, drawing=drawing)


def test_numbers_colours_and_places_are_read() -> None:
    claims = Vocabulary(KINDS).claims_of("Two red dogs to the left of an orange cat.")
    assert claims.things == (
        Claim(name="dog", count=2, colour="red"),
        Claim(name="cat", count=1, colour="orange"),
    )
    assert claims.relations == ((0, "left", 1),)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("a hot dog", [Claim(name="hot dog", count=1)]),  # the longest name: no dog
        ("puppies and cats", [Claim(name="cat", is_several=True)]),
        ("three oranges", [Claim(name="orange", count=3)]),
        ("a violin", [Claim(name="violin")]),  # outside the vocabulary
    ],
)
def test_things_are_claimed_by_their_kind(text: str, things: list[Claim]) -> None:
    assert list(Vocabulary(KINDS).claims_of(text).things) == things


def test_the_count_is_a_poisson_binomial() -> None:
    # Two even chances: 1/4 for none, 1/2 for one, 1/4 for both.
    counts = count_probabilities(np.array([0.5, 0.5]))
    np.testing.assert_allclose(counts[:4], [0.25, 0.5, 0.25, 0.0])
    # Twenty sure things are "twelve or more".
    assert count_probabilities(np.ones(20))[12] == pytest.approx(1)


def test_right_claims_hold_and_wrong_ones_do_not() -> None:
    cells = scene((0, "dog", "red"), (2, "dog", "red"), (48, "cat", "blue"))
    vocabulary, reader = Vocabulary(KINDS), TinyReader()

    def chances(text: str) -> tuple[float, float, float, float]:
        checked = check(vocabulary.claims_of(text), cells, reader)
        first = checked.claims[0]
        relation = checked.relations[0] if checked.relations else 1.0
        return first.exists, first.counted, first.coloured, relation

    assert chances("two red dogs") == pytest.approx((1, 1, 1, 1), abs=1e-6)
    assert chances("three red dogs")[1] == pytest.approx(0, abs=1e-6)
    assert chances("two blue dogs")[2] == pytest.approx(0, abs=1e-6)
    assert chances("an orange")[0] == pytest.approx(0, abs=1e-6)
    assert chances("a cat to the right of a dog")[3] == pytest.approx(1, abs=1e-3)
    assert chances("a cat above a dog")[3] == pytest.approx(0, abs=1e-3)


def test_things_are_found_with_colour_and_place_and_twins_are_one() -> None:
    cells = scene((0, "dog", "red"), (48, "cat", "blue"))
    wide = cells.boxes.copy()
    wide[0] = wide[1] = (0.0, 0.0, 0.4, 0.4)  # one large dog, seen from two cells
    presence, names = cells.presence.copy(), cells.names.copy()
    presence[1], names[1] = 0.9, names[0]
    twice = CellSight(presence=presence, names=names, colours=cells.colours, boxes=wide)
    found = find_things(
        twice,
        names=[kind.name for kind in KINDS],
        vectors=TinyReader.kind_vectors,
        scale=20.0,
    )
    assert sorted((thing.name, thing.colour) for thing in found) == [
        ("cat", "blue"),
        ("dog", "red"),
    ]


def judge_of(cells: CellSight) -> Judge:
    calibration = Calibration(
        means=np.zeros(8), spreads=np.ones(8), weights=np.ones(8) * [1, 0, 1, 1, 1, 0, 0, 0], bias=3
    )
    flat = np.ones((1, 2), dtype=np.float32) / 2**0.5
    return Judge(
        embed_images=lambda images: np.repeat(flat, len(images), axis=0),
        embed_texts=lambda texts: np.repeat(flat, len(texts), axis=0),
        cells=TinyReader(cells),
        calibration=calibration,
    )


def test_the_judge_scores_claims_and_says_what_is_wrong() -> None:
    judge = judge_of(scene((0, "dog", "red"), (2, "dog", "red")))
    picture = Image.new("RGB", (8, 8))
    right = judge.judge(picture, "two red dogs")
    assert right.is_calibrated and right.score == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-3)
    assert right.reason == "found: dog"
    # log(0.001), the least, for the one wrong part: 3 - 6.9 below even.
    wrong = judge.judge(picture, "three red dogs")
    assert wrong.score == pytest.approx(1 / (1 + np.exp(6.908 - 3)), abs=1e-3)
    assert wrong.reason == "dog: 2 found, not 3"
    assert judge.judge(picture, "two blue dogs").reason == "dog: red, not blue"
    assert judge.judge(picture, "a cat").reason == "no cat found"


def test_photographs_are_judged_by_their_vectors() -> None:
    judge = judge_of(scene((0, "dog", "red"), drawing=0.1))
    assert not judge.judge(Image.new("RGB", (8, 8)), "two red dogs").is_calibrated


def test_a_second_opinion_moves_the_score_by_its_weight() -> None:
    calibration = Calibration(
        means=np.zeros(1), spreads=np.ones(1), weights=np.zeros(1), bias=0.0, second_weight=1.0
    )
    assert calibration.score(np.zeros(1)) == pytest.approx(0.5)
    assert calibration.score(np.zeros(1), second=0.8) == pytest.approx(0.8)


def test_a_damaged_calibration_is_told_and_a_missing_one_is_none(tmp_path) -> None:
    assert load_calibration(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text('{"features": ["other"]}')
    with pytest.raises(WeightsError, match="cannot be used"):
        load_calibration(tmp_path / "bad.json")


def test_features_of_a_text_without_claims_are_neutral() -> None:
    empty = check(Vocabulary(KINDS).claims_of("the"), scene(), TinyReader())
    np.testing.assert_array_equal(features_of(empty), np.zeros(8))
