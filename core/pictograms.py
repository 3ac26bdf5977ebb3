"""The pictogram that fits a caption, found by embedding search over the pack's names and words."""

import hashlib
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from core.captions import content_words, stem
from core.pack import PackPicture

log = logging.getLogger(__name__)

EmbedTexts = Callable[[Sequence[str]], np.ndarray]  # N texts -> (N, D), unit rows

# Weights of the caption's cosine with the name, with name and keywords, and of the squared cosine
# of its best single word with the name. Chosen by eye on 111 captions of 24 texts: 78 get a
# pictogram and about 81 % of those fit; with .35, .25 and .40 of the plain cosine it was 89 and
# 73 %, because a word alone takes "the muscle begins to die" for a game die.
_NAME_WEIGHT, _KEYWORD_WEIGHT, _WORD_WEIGHT = 0.45, 0.40, 0.15
_UNSAID_HANDICAP = 0.04  # times the share of the name's words that the caption lacks
_REPEATED_WORD = 0.75  # a word of most captions ("star") says little about one of them
# Signs and faces are near many words and show few things.
_GROUP_HANDICAP = {"symbols": 0.14, "faces and feelings": 0.08, "people and body": 0.03}
_TWIN_COSINE, _TWIN_HANDICAP = 0.7, 0.05  # "star" and "glowing star" in one drawing
_BACKGROUND_SHARE = 0.9
# Captions that no pictogram shows. What they score tells how near "near enough" is: it differs
# from embedder to embedder.
_NOTHING_TO_SHOW = (
    "It is an important idea",
    "This can vary from case to case",
    "The result depends on many factors",
    "There are several reasons for this",
    "The process takes place gradually",
    "Most of them are similar",
    "It has a different meaning",
    "The next stage is reached",
    "The value becomes smaller",
    "One part influences the other",
    "It happens more often than before",
    "The rule applies to everyone",
    "They have been known since then",
    "A balance between both is needed",
    "It changes over the years",
    "The amount remains the same",
    "This is called the second phase",
    "Some properties are shared",
    "The difference can be seen clearly",
    "It consists of two parts",
    "The first condition is met",
    "An alternative is possible",
    "The concept was introduced later",
    "Its structure is complex",
    "The effect is stronger at the start",
    "The state no longer exists",
    "The outcome is uncertain",
    "Each of these has its own role",
    "It is based on an assumption",
    "The order does not matter",
)


class PictogramFinder:
    """Finds distinct pictograms for the captions of one storyboard.

    The vectors of the pack's names are made once for an embedder and kept in `cache`.
    """

    def __init__(
        self,
        pack: Sequence[PackPicture],
        *,
        embed_texts: EmbedTexts,
        model_id: str,
        cache: Path,
    ) -> None:
        self._pack = tuple(pack)
        self._embed_texts = embed_texts
        self._file = cache / "pictograms" / f"{_fingerprint(self._pack, model_id)}.npz"
        self._name_stems = [
            frozenset(stem(word) for word in content_words(picture.name)) for picture in self._pack
        ]
        self._lock = Lock()
        self._vectors: _Vectors | None = None

    def prepare(self) -> None:
        """Have the vectors of the pack at hand: 10 s the first time on one core, then 20 ms."""
        self._ready()

    @property
    def threshold(self) -> float:
        """The score from which a pictogram counts as near enough."""
        return self._ready().threshold

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) unit rows by the embedder the pack is searched with."""
        return self._embed_texts(texts)

    def find(
        self, captions: Sequence[str], *, without: Collection[str | None] = ()
    ) -> list[PackPicture | None]:
        """One pictogram per caption, all different; None where nothing is near enough.

        Those with an id in `without` are left out.

        The best pair of caption and pictogram is settled first, so a pictogram goes where it
        fits best and the others take their next choice.
        """
        if not captions:
            return []
        vectors = self._ready()
        scores = self._scores(vectors, captions)
        scores[:, [picture.id in without for picture in self._pack]] = -np.inf
        found: list[PackPicture | None] = [None] * len(captions)
        for _ in captions:
            row, column = np.unravel_index(int(scores.argmax()), scores.shape)
            if scores[row, column] < vectors.threshold:
                break
            found[row] = self._pack[column]
            twins = vectors.names @ vectors.names[column] > _TWIN_COSINE
            scores[:, twins] -= _TWIN_HANDICAP
            scores[row, :] = scores[:, column] = -np.inf
        return found

    def _scores(self, vectors: "_Vectors", captions: Sequence[str]) -> np.ndarray:
        """(N, P) how well each pictogram fits each caption."""
        words = [content_words(caption) for caption in captions]
        counts = Counter(word for caption_words in words for word in set(caption_words))
        vocabulary = sorted(counts)
        embedded = self._embed_texts([*captions, *vocabulary])
        to_captions, to_words = np.split(embedded, [len(captions)])
        word_scores = np.clip(vectors.names @ to_words.T, 0, 1) ** 2
        rows = []
        for caption_words, vector in zip(words, to_captions, strict=True):
            columns = [vocabulary.index(word) for word in set(caption_words)]
            weights = [
                _REPEATED_WORD if 2 * counts[vocabulary[column]] > len(captions) > 2 else 1.0
                for column in columns
            ]
            best_word = (word_scores[:, columns] * weights).max(axis=1, initial=0.0)
            rows.append(
                _NAME_WEIGHT * (vectors.names @ vector)
                + _KEYWORD_WEIGHT * (vectors.keywords @ vector)
                + _WORD_WEIGHT * best_word
                - _UNSAID_HANDICAP * self._unsaid(caption_words)
            )
        # Words that are a pictogram's whole name ask for it: the notes name theirs so.
        named = np.array(
            [
                [picture.name.lower() == caption.lower() for picture in self._pack]
                for caption in captions
            ]
        )
        handicap = [_GROUP_HANDICAP.get(picture.group, 0.0) for picture in self._pack]
        return np.array(rows) - np.array(handicap) + named

    def _unsaid(self, words: Sequence[str]) -> np.ndarray:
        """(P,) share of each name's words that are not among a caption's; 0 when none is."""
        said = {stem(word) for word in words}
        shares = [len(name - said) / len(name) if name else 0.0 for name in self._name_stems]
        return np.array([share if share < 1 else 0.0 for share in shares])

    def _ready(self) -> "_Vectors":
        with self._lock:
            if self._vectors is None:
                self._vectors = self._load() or self._make()
            return self._vectors

    def _load(self) -> "_Vectors | None":
        try:
            with np.load(self._file, allow_pickle=False) as kept:
                return _Vectors(kept["names"], kept["keywords"], float(kept["threshold"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if self._file.exists():
                log.warning(
                    "pictogram vectors are made anew: %s is damaged (%s)", self._file, error
                )
            return None

    def _make(self) -> "_Vectors":
        names = self._embed_texts([picture.name for picture in self._pack])
        keywords = self._embed_texts(
            [f"{picture.name}: {', '.join(picture.keywords)}" for picture in self._pack]
        )
        vectors = _Vectors(names, keywords, 0.0)
        background = [float(self._scores(vectors, [caption]).max()) for caption in _NOTHING_TO_SHOW]
        threshold = float(np.quantile(background, _BACKGROUND_SHARE))
        vectors = _Vectors(names, keywords, threshold)
        self._keep(vectors)
        return vectors

    def _keep(self, vectors: "_Vectors") -> None:
        # A cache: where it cannot be written, the next start makes the vectors again.
        pending = self._file.with_suffix(f".{os.getpid()}.part")
        try:
            pending.parent.mkdir(parents=True, exist_ok=True)
            with pending.open("wb") as file:
                np.savez(
                    file,
                    names=vectors.names,
                    keywords=vectors.keywords,
                    threshold=vectors.threshold,
                )
            os.replace(pending, self._file)
        except OSError as error:
            log.warning("pictogram vectors cannot be kept in %s: %s", self._file.parent, error)


@dataclass(frozen=True, slots=True)
class _Vectors:
    names: np.ndarray  # (P, D), unit rows
    keywords: np.ndarray  # (P, D), unit rows, of name and keywords together
    threshold: float


def _fingerprint(pack: Sequence[PackPicture], model_id: str) -> str:
    words = [(picture.id, picture.name, picture.keywords) for picture in pack]
    weights = (_NAME_WEIGHT, _KEYWORD_WEIGHT, _WORD_WEIGHT, _UNSAID_HANDICAP, _GROUP_HANDICAP)
    content = repr((model_id, words, _NOTHING_TO_SHOW, _BACKGROUND_SHARE, weights))
    return hashlib.sha256(content.encode()).hexdigest()[:24]
