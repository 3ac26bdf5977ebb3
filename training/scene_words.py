"""Words about scenes: articles, numbers and lists in English, and finding kinds in an answer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from training.embedded.sprites import Kind, all_kinds, plural_of

NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve").split()
COLOUR_WORDS: dict[str, str] = {
    **{
        name: name
        for name in "red orange yellow green blue purple pink brown black white grey beige".split()
    },
    "turquoise": "turquoise",
    "gray": "grey",
    "silver": "grey",
    "violet": "purple",
    "magenta": "pink",
    "cyan": "turquoise",
    "teal": "turquoise",
    "cream": "beige",
    "tan": "beige",
    "gold": "yellow",
    "golden": "yellow",
    "crimson": "red",
    "reddish": "red",
    "navy": "blue",
}
AN = re.compile(r"(?!uni|eu|one\b|ufo|u\b)(?:[aeiou]|hour|x-ray)", re.IGNORECASE)


def with_article(name: str) -> str:
    """The name with a or an: "an apple"."""
    return f"{'an' if AN.match(name) else 'a'} {name}"


def number_word(number: int) -> str:
    """A small number as a word, a larger one in digits."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def counted(kind: Kind, count: int, *, colour: str | None = None) -> str:
    """How many of a kind, as one would say it: "a red dog", "three dogs"."""
    paint = f"{colour} " if colour else ""
    if count == 1:
        return with_article(f"{paint}{kind.name}")
    return f"{number_word(count)} {paint}{kind.plural}"


def joined(parts: Sequence[str]) -> str:
    """A list in words: "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


@dataclass(frozen=True, slots=True)
class Mention:
    """A kind named in a text, and the words before it."""

    kind: str
    start: int  # index of its first token
    end: int  # one past its last token
    is_plural: bool


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers; hyphens and apostrophes split nothing off."""
    folded = text.lower().replace("’", "'").replace("-", " ").replace("ñ", "n")
    return re.findall(r"[a-z0-9']+", folded)


def mentions(words: Sequence[str]) -> list[Mention]:
    """Every kind named in the words, the longest name first: "hot dog" mentions no dog."""
    names = _names()
    longest = max(map(len, names))
    found, position = [], 0
    while position < len(words):
        for length in range(min(longest, len(words) - position), 0, -1):
            hit = names.get(tuple(words[position : position + length]))
            if hit is not None:
                kind, is_plural = hit
                found.append(
                    Mention(kind=kind, start=position, end=position + length, is_plural=is_plural)
                )
                position += length
                break
        else:
            position += 1
    return [mention for mention in found if not _is_colour(mention, found)]


@cache
def kinds_by_name() -> dict[str, Kind]:
    """The kinds by their name."""
    return {kind.name: kind for kind in all_kinds()}


@cache
def _names() -> dict[tuple[str, ...], tuple[str, bool]]:
    """Every name, plural and other name as tokens: the kind, and whether it is a plural."""
    return {
        tuple(tokens(name)): (kind, is_plural)
        # Own names last: they win over another kind's other name.
        for own in (False, True)
        for name, kind, is_plural in _all_names(own=own)
    }


def _all_names(*, own: bool) -> Iterator[tuple[str, str, bool]]:
    for kind in all_kinds():
        if own:
            yield kind.name, kind.name, False
            yield kind.plural, kind.name, kind.plural != kind.name
            continue
        for synonym in kind.synonyms:
            yield plural_of(synonym), kind.name, True
            yield synonym, kind.name, False


def _is_colour(mention: Mention, found: Sequence[Mention]) -> bool:
    """Whether "orange" stands before another name: "an orange cat" holds one kind."""
    return mention.kind == "orange" and any(other.start == mention.end for other in found)
