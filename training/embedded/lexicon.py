"""Make core/embedded/embedder/lexicon.json: German, Spanish and Chinese words with English ones.

`python -m training.embedded.lexicon` aligns the names and keywords that Unicode's CLDR gives each
emoji in four languages: a word means the English word that is given to the same emoji.
"""

import argparse
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.embedder import EMBEDDER_FOLDER, LEXICON, class_texts
from core.lexicon import folded
from core.settings import cache_dir
from training.embedded.sources import package_folder
from training.embedded.sprites import all_kinds

log = logging.getLogger(__name__)

LANGUAGES = ("de", "es", "zh")
LEAST_OVERLAP = 0.45  # Dice coefficient of the two sets of emoji that share the two words
LONGEST_PHRASE = 4
PLAIN_BONUS = 0.15  # in overlap, for what the scenes call a thing

# What CLDR's keywords do not name or blur: small words, numbers, colours, and a few of the
# commonest things and feelings. "" drops a word.
SMALL_WORDS = {
    "de": {
        "": "ein eine einen einem einer eines der die das den dem des ist sind es",
        "and": "und",
        "with": "mit",
        "without": "ohne",
        "on": "auf",
        "in": "im",
        "of": "von",
        "under": "unter",
        "next to": "neben",
        "for": "für",
        "from": "aus",
        "big": "groß grosse große großer großes",
        "small": "klein kleine kleiner kleines",
        "old": "alt alte alter altes",
        "beautiful": "schön schöne schöner schönes",
        "two": "zwei",
        "three": "drei",
        "four": "vier",
        "five": "fünf",
        "six": "sechs",
        "red": "rot rote roter rotes roten",
        "blue": "blau blaue blauer blaues blauen",
        "green": "grün grüne grüner grünes grünen",
        "yellow": "gelb gelbe gelber gelbes gelben",
        "black": "schwarz schwarze schwarzer schwarzes schwarzen",
        "white": "weiß weiße weißer weißes weißen",
        "brown": "braun braune brauner braunes braunen",
        "pink": "rosa",
        "purple": "lila violett",
        "orange": "orangefarben",
        "grey": "grau graue grauer graues grauen",
        "coffee": "kaffee",
        "cup": "tasse becher",
        "flower": "blume blüte",
        "sky": "himmel",
        "happy": "glücklich fröhlich",
        "sad": "traurig",
    },
    "es": {
        "": "un una unos unas el la los las es son lo",
        "of": "de del",
        "and": "y e",
        "with": "con",
        "without": "sin",
        "in": "en",
        "on": "sobre",
        "for": "para",
        "big": "grande gran",
        "small": "pequeño pequeña",
        "old": "viejo vieja",
        "beautiful": "bonito bonita hermoso hermosa",
        "two": "dos",
        "three": "tres",
        "four": "cuatro",
        "five": "cinco",
        "six": "seis",
        "red": "rojo",
        "blue": "azul",
        "green": "verde",
        "yellow": "amarillo",
        "black": "negro",
        "white": "blanco",
        "brown": "marrón",
        "pink": "rosado",
        "purple": "morado",
        "orange": "anaranjado",
        "grey": "gris",
        "coffee": "café",
        "cup": "taza",
        "flower": "flor",
        "sky": "cielo",
        "happy": "feliz alegre contento",
        "sad": "triste",
    },
    "zh": {
        "": "的 一 个 只 条 头 辆 朵 棵 张 把 匹 本 着 了 是 座 架 杯 块",
        "and": "和 与 跟",
        "with": "带",
        "in": "里",
        "on": "上",
        "big": "大",
        "small": "小",
        "old": "老",
        "two": "二 两",
        "three": "三",
        "four": "四",
        "five": "五",
        "six": "六",
        "red": "红 红色",
        "blue": "蓝 蓝色",
        "green": "绿 绿色",
        "yellow": "黄 黄色",
        "black": "黑 黑色",
        "white": "白 白色",
        "brown": "棕色 褐色",
        "pink": "粉色 粉红色",
        "purple": "紫色",
        "orange": "橙色",
        "grey": "灰色",
        "coffee": "咖啡",
        "cup": "杯子",
        "flower": "花",
        "sky": "天空",
        "happy": "快乐 开心 高兴",
        "sad": "难过 伤心",
        "umbrella": "雨伞 伞",
    },
}
ENGLISH_SMALL_WORDS = frozenset(
    "a an the and or of in on at to for from with without by under over near is are one two three "
    "four five six seven eight nine ten some many no not left right above below next big small old "
    "young new red orange yellow green turquoise blue purple pink brown black white grey gray "
    "picture image photo photograph drawing icon pictogram something someone person that this it "
    "i you me my your who what where".split()
)
Annotations = Mapping[str, Mapping[str, list[str]]]  # emoji -> "default": keywords, "tts": [name]


def main() -> None:
    """Write the lexicon and log how many words it knows."""
    parser = argparse.ArgumentParser(prog="python -m training.embedded.lexicon")
    parser.add_argument("--out", type=Path, default=EMBEDDER_FOLDER / LEXICON)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    english = read_annotations("en", cache=cache_dir())
    words = {
        language: {
            **align(read_annotations(language, cache=cache_dir()), english),
            **_small_words(language),
        }
        for language in LANGUAGES
    }
    write_lexicon(arguments.out, words, english=english_words(english))
    log.info("%s", {language: len(known) for language, known in words.items()})


def read_annotations(language: str, *, cache: Path) -> Annotations:
    """CLDR's names and keywords by emoji.

    Raises:
        SourceError: the package cannot be had.
    """
    file = package_folder("cldr-annotations", cache=cache) / f"annotations/{language}"
    content = json.loads((file / "annotations.json").read_text(encoding="utf-8"))
    return content["annotations"]["annotations"]


def align(foreign: Annotations, english: Annotations) -> dict[str, str]:
    """Each foreign phrase with the English one that is given to the same emoji.

    A name is translated by the English name. A keyword is translated by the English keyword or
    name whose emoji overlap most with its own (Dice coefficient).
    """
    emoji_by_english = _emoji_by_phrase(english)
    aligned: dict[str, str] = {}
    for phrase, emoji in _emoji_by_phrase(foreign).items():
        candidates = {
            word: _dice(emoji, emoji_by_english[word])
            for one in emoji
            for word in _phrases(english, one)
        }
        # Of equals the shorter and commoner word: "dog" rather than "dogs".
        best = max(
            candidates, key=lambda word: (round(candidates[word], 3), -len(word)), default=""
        )
        if best and candidates[best] >= LEAST_OVERLAP and best != phrase:
            aligned[phrase] = best
    aligned.update(_names(foreign, english))
    return {phrase: word for phrase, word in sorted(aligned.items()) if _is_usable(phrase)}


def english_words(english: Annotations) -> set[str]:
    """Single words that count as English."""
    texts = [phrase for one in english for phrase in _phrases(english, one)]
    texts += [folded(text) for text in class_texts()]
    found = {str(word) for text in texts for word in re.findall(r"[a-z'-]+", text)}
    return found | ENGLISH_SMALL_WORDS


def write_lexicon(file: Path, words: Mapping[str, Mapping[str, str]], *, english: set[str]) -> None:
    """Write it whole or not at all."""
    content = {"english": sorted(english), "words": words}
    pending = file.with_suffix(".new")
    file.parent.mkdir(parents=True, exist_ok=True)
    pending.write_text(json.dumps(content, ensure_ascii=False, indent=0), encoding="utf-8")
    os.replace(pending, file)


def _plain_names() -> frozenset[str]:
    names = [name for kind in all_kinds() for name in (kind.name, *kind.synonyms)]
    return frozenset(folded(name) for name in names)


def _names(foreign: Annotations, english: Annotations) -> dict[str, str]:
    return {
        folded(foreign[one]["tts"][0]): folded(english[one]["tts"][0])
        for one in english
        if one in foreign and foreign[one].get("tts") and english[one].get("tts")
    }


def _emoji_by_phrase(annotations: Annotations) -> dict[str, set[str]]:
    emoji: dict[str, set[str]] = defaultdict(set)
    for one in annotations:
        for phrase in _phrases(annotations, one):
            emoji[phrase].add(one)
    return emoji


def _phrases(annotations: Annotations, one: str) -> Iterable[str]:
    entry = annotations.get(one, {})
    return dict.fromkeys(
        folded(text) for text in (*entry.get("tts", ()), *entry.get("default", ()))
    )


def _dice(first: set[str], second: set[str]) -> float:
    return 2 * len(first & second) / (len(first) + len(second))


def _is_usable(phrase: str) -> bool:
    """Whether people write it: not a sign, not too long, not a single letter."""
    is_word = re.fullmatch(r"[^\W\d_][\w' -]*", phrase) is not None
    is_chinese = re.match(r"[\u3400-\u9fff]", phrase) is not None
    return is_word and len(phrase.split()) <= LONGEST_PHRASE and (is_chinese or len(phrase) > 1)


def _small_words(language: str) -> dict[str, str]:
    table = SMALL_WORDS[language]
    return {word: english for english, words in table.items() for word in words.split()}


if __name__ == "__main__":
    main()
