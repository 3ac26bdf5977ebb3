"""Labels: probabilities that add up to everyday words, zero-shot words, real photographs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.embedder import Sight, class_names, load_embedder
from core.recognizer import (
    Recognizer,
    cleaned_words,
    default_scenes,
    default_tags,
    everyday_words,
    object_words,
    objects_from,
)
from core.settings import load_settings


class WordsOnAxes:
    """An embedder whose words lie on axes in the order in which they are first asked for."""

    model_id = "axes"
    dimension = 1400
    word_temperature = 0.1

    def __init__(self) -> None:
        self.axes: dict[str, int] = {}
        self.asked = 0

    def look(self, pictures):
        raise NotImplementedError

    embed_images = look

    def embed_texts(self, texts):
        self.asked += 1
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[self.axes.setdefault(text, len(self.axes))] = 1
        return rows


def likely(**classes: float) -> np.ndarray:
    """Probabilities over ImageNet, by class number: likely(_281=.5)."""
    probabilities = np.zeros(1000)
    for number, value in classes.items():
        probabilities[int(number[1:])] = value
    return probabilities


def texts(labels) -> list[str]:
    return [label.text for label in labels]


def test_breeds_add_up_to_the_everyday_word():
    # Five breeds of cat at .18 each: no breed is sure, the cat is.
    labels = objects_from(likely(_281=0.18, _282=0.18, _283=0.18, _284=0.18, _285=0.18))
    assert labels[0].text == "cat" and labels[0].confidence == pytest.approx(0.9)
    assert texts(labels) == ["cat"], "a breed with a fifth of the sum is a guess"


def test_a_breed_that_is_sure_is_named_beside_its_word():
    labels = objects_from(likely(_281=0.7, _282=0.1))
    assert texts(labels) == ["cat", "tabby cat"]
    assert [round(label.confidence, 2) for label in labels] == [0.8, 0.7]


def test_two_classes_of_one_name_are_one_label():
    labels = objects_from(likely(_836=0.4, _837=0.4))
    assert texts(labels) == ["sunglasses"] and labels[0].confidence == pytest.approx(0.8)


def test_an_unsure_picture_still_has_its_best_guess():
    labels = objects_from(np.full(1000, 0.001))
    assert labels and labels == tuple(sorted(labels, key=lambda label: -label.confidence))


def test_confidences_are_probabilities_and_kinds_are_told_apart():
    eyes = WordsOnAxes()
    recognizer = Recognizer(eyes)
    beach = eyes.embed_texts(["beach"])
    (found,) = recognizer.describe(Sight(beach, likely(_978=1.0)[None]), ["x"])
    assert found.picture_id == "x"
    assert (found.scenes[0].text, found.scenes[0].kind) == ("beach", "scene")
    # cosine 1 against 0 at temperature .1 among n words: e^10 / (e^10 + n - 1)
    share = np.exp(10) / (np.exp(10) + len(default_scenes()) - 1)
    assert found.scenes[0].confidence == pytest.approx(share, abs=1e-4)
    assert {label.source for label in found.objects} == {"imagenet"}
    assert {label.source for label in found.scenes + found.tags} == {"zero_shot"}
    for label in found.objects + found.scenes + found.tags:
        assert 0 <= label.confidence <= 1


def test_a_persons_own_words_take_the_place_of_the_tags():
    eyes = WordsOnAxes()
    sight = Sight(eyes.embed_texts(["my dog Rex"]), likely(_151=1.0)[None])
    (found,) = Recognizer(eyes).describe(
        sight, ["x"], words=["my dog Rex", " my  dog Rex ", "", "the neighbour's cat"]
    )
    assert texts(found.tags)[0] == "my dog Rex"
    assert set(texts(found.tags)) <= {"my dog Rex", "the neighbour's cat"}
    (without,) = Recognizer(eyes).describe(sight, ["x"], words=[])
    assert without.tags == ()


def test_words_are_embedded_once():
    eyes = WordsOnAxes()
    sight = Sight(eyes.embed_texts(["sea"]), likely(_978=1.0)[None])
    recognizer = Recognizer(eyes)
    recognizer.describe(sight, ["x"])
    asked = eyes.asked
    recognizer.describe(sight, ["y"])
    assert eyes.asked == asked


def test_without_a_class_head_objects_are_zero_shot_words():
    eyes = WordsOnAxes()
    (found,) = Recognizer(eyes).describe(Sight(eyes.embed_texts(["teapot"]), None), ["x"])
    assert (found.objects[0].text, found.objects[0].source) == ("teapot", "zero_shot")


def test_typed_words_are_trimmed_and_bounded():
    assert cleaned_words(["  a   cat ", "", "a cat", "b"]) == ("a cat", "b")
    assert len(cleaned_words([str(number) for number in range(1000)])) == 200
    assert len(cleaned_words(["x" * 1000])[0]) == 80


def test_shipped_words_fit_the_classes():
    names = class_names()
    for word in everyday_words():
        assert word.classes and all(0 <= number < 1000 for number in word.classes), word.text
    by_text = {word.text: word.classes for word in everyday_words()}
    # The ends of every long range, read out of ImageNet's own list.
    assert [names[n] for n in (by_text["dog"][0], by_text["dog"][-1])] == [
        "Chihuahua",
        "Mexican hairless dog",
    ]
    assert [names[n] for n in (by_text["cat"][0], by_text["cat"][-1])] == [
        "tabby cat",
        "Egyptian Mau",
    ]
    assert [names[n] for n in (by_text["snake"][0], by_text["snake"][-1])] == [
        "worm snake",
        "sidewinder rattlesnake",
    ]
    assert [names[n] for n in by_text["clock"]] == ["analog clock", "digital clock", "wall clock"]
    assert len(set(default_tags())) == len(default_tags()) >= 60
    assert len(set(default_scenes())) == len(default_scenes()) >= 50
    assert len(object_words()) > 1000


# Chosen, with the words that count as right, before any result was seen.
PHOTOGRAPHS = {
    "chelsea.png": {"cat", "tabby cat", "kitten"},
    "coffee.png": {"coffee", "cup", "espresso", "coffee mug"},
    "rocket.jpg": {"rocket", "missile", "launch pad", "spacecraft"},
    "astronaut.png": {"astronaut", "space suit", "person", "woman", "space shuttle"},
    "camera.png": {"camera", "tripod", "photographer", "person", "man"},
    "coins.png": {"coins", "coin", "money"},
    "clock_motion.png": {"clock", "wall clock", "analog clock"},
    "motorcycle_left.png": {"motorcycle", "moped", "vespa", "scooter"},
    "flower.jpg": {"flower", "daisy", "dahlia"},
    "china.jpg": {"temple", "pagoda", "palace", "monastery"},
}


@pytest.mark.weights
def test_the_right_thing_is_among_the_top_three_for_8_of_10_photographs(weights):
    import skimage.data
    import sklearn.datasets

    folders = [
        Path(skimage.data.__file__).parent,
        Path(sklearn.datasets.__file__).parent / "images",
    ]
    files = [next(f / name for f in folders if (f / name).exists()) for name in PHOTOGRAPHS]
    preset = load_settings().presets["embedded"].embedder
    embedder = load_embedder(preset, device="cpu", dtype="float32", cache=weights)
    found = Recognizer(embedder).recognize(
        [Image.open(file).convert("RGB") for file in files], list(PHOTOGRAPHS)
    )
    right = [
        one.picture_id
        for one in found
        if PHOTOGRAPHS[one.picture_id] & {label.text for label in one.objects[:3]}
    ]
    assert len(right) >= 8, right
