"""A text embedder computable by eye: one direction per word, a text is the mean of its words."""

from collections.abc import Sequence

import numpy as np

from core.captions import content_words, stem

DIMENSION = 4096


class WordSpace:
    """Texts that share words are near, all others are at right angles."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self.calls = 0

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 4096), unit rows."""
        self.calls += 1
        rows = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in content_words(text) or ["nothing"]:
                row[self._places.setdefault(stem(word), len(self._places)) % DIMENSION] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
