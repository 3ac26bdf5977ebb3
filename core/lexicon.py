"""German, Spanish and Chinese words in a query become English ones before the text tower reads it.

The text tower knows English only. The word list (core/embedded/embedder/lexicon.json) is made from
Unicode's CLDR names by training/embedded/lexicon.py. English queries stay as they are.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LONGEST_PHRASE = 4  # words
LONGEST_CHINESE = 8  # characters
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
# What plural and gender add, to be taken off when the word as it stands is not in the list.
_ENDINGS = {"de": ("en", "er", "es", "em", "e", "n", "s"), "es": ("es", "s")}
_GENDER = {"es": (("a", "o"),)}  # the list has masculine forms: roja -> rojo
_UMLAUTS = str.maketrans("äöü", "aou")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words of other languages with their English ones."""

    english: frozenset[str]  # single English words; a query made of them is left alone
    words: Mapping[str, Mapping[str, str]]  # language -> phrase -> English; "" for small words

    @classmethod
    def read(cls, file: Path) -> "Lexicon":
        """The lexicon as training/embedded/lexicon.py writes it."""
        content = json.loads(file.read_text(encoding="utf-8"))
        return cls(frozenset(content["english"]), content["words"])

    def to_english(self, text: str) -> str:
        """The text with its foreign words translated; unchanged where it seems to be English."""
        if "zh" in self.words and _CHINESE.search(text):
            return self._chinese_to_english(text) or text
        spoken = _WORD.findall(folded(text))
        if not spoken:
            return text
        language = self._language_of(spoken)
        return text if language is None else self._translated(spoken, language) or text

    def _language_of(self, spoken: list[str]) -> str | None:
        """The language that knows most of the words; None for English, which wins a draw."""
        counts = {
            language: sum(
                length for length, found in self._phrases(spoken, language) if found is not None
            )
            for language in self.words
            if language != "zh"
        }
        best = max(counts, key=lambda language: counts[language], default=None)
        in_english = sum(word in self.english for word in spoken)
        return best if best is not None and counts[best] > in_english else None

    def _translated(self, spoken: list[str], language: str) -> str:
        parts, start = [], 0
        for length, found in self._phrases(spoken, language):
            parts.append(spoken[start] if found is None else found)
            start += length
        return " ".join(part for part in parts if part)

    def _phrases(self, spoken: list[str], language: str) -> Iterator[tuple[int, str | None]]:
        """Words in each longest known phrase, and its English; None for one unknown word."""
        start = 0
        while start < len(spoken):
            for length in range(min(LONGEST_PHRASE, len(spoken) - start), 0, -1):
                found = self._look_up(" ".join(spoken[start : start + length]), language)
                if found is not None:
                    break
            yield length, found
            start += length

    def _look_up(self, phrase: str, language: str) -> str | None:
        known = self.words[language]
        return next((known[form] for form in _forms(phrase, language) if form in known), None)

    def _chinese_to_english(self, text: str) -> str:
        known, parts, start = self.words["zh"], [], 0
        characters = unicodedata.normalize("NFKC", text).lower()
        while start < len(characters):
            for length in range(min(LONGEST_CHINESE, len(characters) - start), 0, -1):
                found = known.get(characters[start : start + length])
                if found is not None:
                    break
            if found is None and not _CHINESE.match(characters[start]):
                found = characters[start]  # spaces, signs and Latin words stay
            parts.append(f" {found} " if found and len(found) > 1 else found or "")
            start += length
        return " ".join("".join(parts).split())


def folded(text: str) -> str:
    """Small letters and one form of each character: how the lexicon's keys are written."""
    return unicodedata.normalize("NFC", text).lower().replace("’", "'").strip()


def _forms(phrase: str, language: str) -> Iterator[str]:
    """The phrase as it stands, then with what plural and gender may have added taken off."""
    yield phrase
    for ending, other in _GENDER.get(language, ()):
        if phrase.endswith(ending) and len(phrase) > 3:
            yield phrase[: -len(ending)] + other
    for ending in _ENDINGS.get(language, ()):
        if phrase.endswith(ending) and len(phrase) - len(ending) >= 3:
            yield phrase[: -len(ending)]
    if language == "es" and phrase.endswith("as"):
        yield phrase[:-2] + "o"
    if language == "es" and phrase.endswith("ces"):
        yield phrase[:-3] + "z"  # luces -> luz
    if language == "de":  # Äpfel -> Apfel, Häuser -> Haus
        plain = phrase.translate(_UMLAUTS)
        if plain != phrase:
            yield from (plain, *(plain[: -len(e)] for e in _ENDINGS["de"] if plain.endswith(e)))
