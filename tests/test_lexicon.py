"""Foreign words in queries become English ones; English queries stay as they are."""

import json

import pytest

from core.lexicon import Lexicon
from training.embedded.lexicon import align


@pytest.fixture
def lexicon() -> Lexicon:
    return Lexicon(
        english=frozenset("a dog red in the rose bus".split()),
        words={
            "de": {"hund": "dog", "apfel": "apple", "rot": "red", "ein": "", "roter": "red"},
            "es": {"perro": "dog", "rojo": "red", "un": "", "luz": "light", "flor de té": "bud"},
            "zh": {"狗": "dog", "红": "red", "苹果": "apple", "红苹果": "red apple", "的": ""},
        },
    )


@pytest.mark.parametrize(
    ("query", "english"),
    [
        ("ein roter Hund", "red dog"),
        ("Hunde", "dog"),  # the plural's e is taken off
        ("Äpfel", "apple"),  # so is the umlaut
        ("un perro", "dog"),
        ("perros rojos", "dog red"),
        ("roja", "red"),  # the list has the masculine form
        ("luces", "light"),
        ("flor de té", "bud"),  # the longest phrase wins
        ("红苹果", "red apple"),
        ("红的狗", "red dog"),
    ],
)
def test_foreign_words_are_translated(lexicon: Lexicon, query: str, english: str) -> None:
    assert lexicon.to_english(query) == english


@pytest.mark.parametrize("query", ["a red dog", "Rose", "the bus", "", "?!", "A dog in Rot"])
def test_english_stays_as_it_is(lexicon: Lexicon, query: str) -> None:
    assert lexicon.to_english(query) == query


def test_what_no_language_knows_stays_as_it_is(lexicon: Lexicon) -> None:
    assert lexicon.to_english("Zgrabny kot") == "Zgrabny kot"
    assert lexicon.to_english("齉") == "齉"


def test_a_lexicon_file_is_read(tmp_path) -> None:
    file = tmp_path / "lexicon.json"
    file.write_text(json.dumps({"english": ["a"], "words": {"de": {"hund": "dog"}}}))
    assert Lexicon.read(file).to_english("Hund") == "dog"


def test_a_keyword_means_the_english_word_given_to_the_same_emoji() -> None:
    english = {
        "1": {"tts": ["dog"], "default": ["animal"]},
        "2": {"tts": ["cat"], "default": ["animal"]},
        "3": {"tts": ["car"], "default": ["vehicle"]},
    }
    german = {
        "1": {"tts": ["Hund"], "default": ["Tier"]},
        "2": {"tts": ["Katze"], "default": ["Tier"]},
        "3": {"tts": ["Auto"], "default": ["Fahrt", "rot"]},
    }
    aligned = align(german, english)
    assert aligned["hund"] == "dog" and aligned["katze"] == "cat"
    assert aligned["tier"] == "animal"  # on the same two emoji
