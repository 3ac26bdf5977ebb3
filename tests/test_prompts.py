"""Evidence in plain words: as sure as the recogniser is, and to the point of the question."""

import numpy as np
import pytest
from PIL import Image

from core.colours import main_colours
from core.prompts import build_prompt, describe
from core.questions import asked_labels
from core.types import Evidence, GalleryPicture, Label, SearchHit, Turn

DOG, CAT = 207, 281  # golden retriever and tabby cat in the order of the head


def label(text, confidence, kind="object"):
    return Label(text=text, confidence=confidence, kind=kind, source="imagenet")


def hit(caption, *, score, album):
    picture = GalleryPicture(id="1", path="1.webp", caption=caption, labels=(), album=album)
    return SearchHit(picture=picture, score=score, matched="picture")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([("cup", 0.7), ("pot", 0.2), ("eel", 0.1)], "The picture shows a cup (maybe a pot)."),
        ([("apple", 0.3), ("ball", 0.2)], "The picture probably shows an apple or a ball."),
        ([("eel", 0.1)], "It is hard to tell what the picture shows, maybe an eel."),
        ([], ""),
    ],
)
def test_labels_are_told_as_surely_as_they_are_known(labels, told):
    assert describe(Evidence(labels=tuple(label(*entry) for entry in labels))) == told


def test_a_gallery_picture_is_called_what_the_gallery_calls_it():
    told = describe(Evidence(labels=(label("dog", 0.9),), caption="A sleeping cat"))
    assert told == "The picture shows this: A sleeping cat."


def test_only_captions_of_a_persons_own_near_pictures_are_told():
    told = describe(
        Evidence(
            neighbours=(
                hit("hot springs", score=0.99, album="pictograms"),
                hit("Grandmother's garden", score=0.9, album="holiday"),
                hit("a bus", score=0.3, album="holiday"),
            )
        )
    )
    assert told == "A similar picture is called: Grandmother's garden."


def test_what_a_question_names_is_looked_for():
    probabilities = np.full(1000, 0.0001)
    probabilities[CAT] = 0.9
    asked = asked_labels("Is there a dog or are there Cats?", probabilities)
    assert [entry.text for entry in asked] == ["dog", "cat"]
    assert asked[1].confidence > 0.9
    told = describe(Evidence(asked=asked))
    assert told == "There is no dog. There is a cat."


def test_what_the_caption_names_is_there_for_sure():
    (rocket,) = asked_labels(
        "Is this a rocket?", np.full(1000, 0.001), caption="A rocket on its launch pad"
    )
    assert rocket.confidence == 1.0


def test_things_the_recogniser_does_not_know_are_not_claimed():
    assert asked_labels("Was ist das für ein Rucksäcklein?", np.full(1000, 0.001)) == ()


@pytest.mark.parametrize(
    "question", ["Is there a dog?", "What colour is it?", "How many are there?"]
)
def test_a_blind_model_is_shown_how_such_a_question_is_answered(question):
    evidence = Evidence(labels=(label("cat", 0.9),))
    blind = build_prompt(question, evidence=evidence, has_picture=True, picture_tokens=False)
    seeing = build_prompt(question, evidence=evidence, has_picture=True)
    assert len(blind) > len(seeing) == 2
    assert blind[-1].content == seeing[-1].content == f"The picture shows a cat.\n{question}"


@pytest.mark.parametrize(
    ("confidence", "answer"),
    [(0.9, "Yes, there is a car."), (0.1, "not sure"), (0.001, "No, I see no horse")],
)
def test_the_example_has_the_answer_that_the_evidence_asks_for(confidence, answer):
    evidence = Evidence(labels=(label("cat", 0.9),), asked=(label("dog", confidence),))
    prompt = build_prompt(
        "Is there a dog?", evidence=evidence, has_picture=True, picture_tokens=False
    )
    examples = [message.content for message in prompt if message.role == "assistant"]
    assert len(examples) == 1
    assert answer in examples[0]


def test_a_question_about_the_thing_itself_is_told_what_it_is():
    prompt = build_prompt(
        "What does it eat?",
        evidence=Evidence(labels=(label("cat", 0.9),)),
        has_picture=True,
        picture_tokens=False,
    )
    assert [message.content for message in prompt[1:]] == ["About a cat: What does it eat?"]


def test_examples_leave_room_for_earlier_turns():
    prompt = build_prompt(
        "Is there a dog?",
        evidence=Evidence(labels=(label("cat", 0.9),)),
        history=[Turn(question="What is this?", answer="A cat.")],
        has_picture=True,
        picture_tokens=False,
    )
    assert [message.content for message in prompt[1:3]] == ["What is this?", "A cat."]


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ("red", "red"),
        ("#ff8c00", "orange"),
        ("#7a4a20", "brown"),
        ("yellow", "yellow"),
        ("#208030", "green"),
        ("#2050d0", "blue"),
        ("#8030c0", "purple"),
        ("#ff69b4", "pink"),
        ("white", "white"),
        ("#808080", "grey"),
        ("#101010", "black"),
    ],
)
def test_a_colour_has_the_name_people_use(colour, name):
    assert main_colours(Image.new("RGB", (50, 40), colour)) == (name,)


def test_the_colour_that_covers_most_comes_first_and_specks_are_left_out():
    picture = Image.new("RGB", (100, 100), "white")
    picture.paste("blue", (0, 0, 100, 30))
    picture.paste("red", (0, 0, 5, 5))
    assert main_colours(picture) == ("white", "blue")
