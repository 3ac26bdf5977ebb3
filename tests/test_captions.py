import pytest

from core.captions import CAPTION_CHARS, read_passages, relation_of, shorten, split_sentences

LONG = {
    "It is important to note that the mitochondria, which are often described as the powerhouse of "
    "the cell, release energy from food.": "The mitochondria release energy from food",
    "If the remaining core is heavier than about three times the mass of the Sun, nothing can stop "
    "the collapse.": "If the remaining core is heavier, nothing can stop the collapse",
    "Plants such as grass, clover and dandelions are eaten by rabbits (small animals with long "
    "ears) and by other animals.": "Plants are eaten by rabbits and by other animals",
}


@pytest.mark.parametrize(("sentence", "caption"), LONG.items())
def test_a_long_sentence_keeps_its_main_clause(sentence: str, caption: str) -> None:
    assert shorten(sentence) == caption


@pytest.mark.parametrize(
    "sentence",
    [
        "The moon does not shine with its own light, as stars do, but reflects that of the Sun.",
        "A virus is not alive by itself and can only multiply inside the living cells of a host.",
        "The drug never crosses into the brain through the walls of healthy blood vessels.",
        "Nothing travels faster than light in empty space, not even gravity or any other signal.",
    ],
)
def test_a_caption_never_turns_a_no_into_a_yes(sentence: str) -> None:
    negations = ("not", "never", "nothing", "only")
    found = [word for word in sentence.lower().split() if word in negations]
    caption = shorten(sentence).lower().split()
    assert found[0] in caption
    # What stands right behind the negation is there as well: cutting it would widen the claim.
    following = sentence.lower().split()[sentence.lower().split().index(found[0]) + 1]
    assert following.strip(",.") in " ".join(caption)


def test_a_condition_is_not_cut_off() -> None:
    sentence = (
        "If the president vetoes the bill, Congress can still pass it with a two-thirds vote."
    )
    assert shorten(sentence).startswith("If the president vetoes the bill")


def test_joining_words_and_hedges_go() -> None:
    assert shorten("As a result, the core collapses.") == "The core collapses"
    assert shorten("It is worth noting that, in fact, bees dance.") == "Bees dance"
    assert shorten("First, mix the flour.") == "Mix the flour"


def test_so_many_is_no_joining_word() -> None:
    assert shorten("So many stars shine.") == "So many stars shine"


def test_a_caption_without_a_place_to_cut_ends_in_an_ellipsis() -> None:
    caption = shorten("word " * 40)
    assert len(caption) <= CAPTION_CHARS
    assert caption.endswith("…")


def test_one_endless_word_is_cut_too() -> None:
    assert len(shorten("x" * 500)) <= CAPTION_CHARS


def test_relations_are_read_from_the_text() -> None:
    sentences = ["As a result, it falls.", "Then it rises.", "However, it stops.", "It shines."]
    assert [relation_of(sentence) for sentence in sentences] == ["so", "then", "but", ""]


def test_abbreviations_and_decimals_do_not_end_sentences() -> None:
    text = "Dr. Lee measured 3.5 litres, e.g. of milk. It was cold."
    assert split_sentences(text) == ["Dr. Lee measured 3.5 litres, e.g. of milk.", "It was cold."]


def test_chatter_around_the_matter_is_dropped() -> None:
    text = "Sure! Here is an explanation:\n\nRain falls.\n\nI hope this helps!"
    assert split_sentences(text) == ["Rain falls."]


def test_list_entries_keep_their_sentences_together() -> None:
    text = "# Bread\n1. **Mix** the flour.\n2. Knead it. Rest it.\n**Step 3: Bake**\nUse an oven."
    assert [(p.kind, p.sentences) for p in read_passages(text)] == [
        ("heading", ("Bread",)),
        ("entry", ("Mix the flour.",)),
        ("entry", ("Knead it.", "Rest it.")),
        ("entry", ("Bake: Use an oven.",)),
    ]


def test_marks_that_turn_the_writing_direction_are_dropped() -> None:
    assert split_sentences("A \u202ecat\u202c sat\x07.") == ["A cat sat."]


def test_lines_without_full_stops_are_steps() -> None:
    passages = read_passages("mix the flour\nknead the dough\nbake it")
    assert [p.sentences for p in passages] == [
        ("mix the flour",),
        ("knead the dough",),
        ("bake it",),
    ]
