"""How well words find pictures: `python -m benchmarks.embedder_quality`.

The training-free vectors (ConSE), the trained ones, and both together as the app uses them: on
pictograms of a style that was never trained on, on kinds that were never trained on, on the sample
photographs, and on queries in four languages.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.foreign_queries import FOREIGN_QUERIES
from benchmarks.queries import QUERIES
from benchmarks.report import Row, write_report
from benchmarks.search_quality import TOP, wilson
from core.embedder import ConseModel, load_embedder
from core.filling import index_pack
from core.gallery import Gallery
from core.pack import read_pack
from core.settings import cache_dir, load_settings
from training.embedded.drawn_singles import plain_single
from training.embedded.embedder_features import HELD_OUT_PHOTOGRAPHS
from training.embedded.lexicon import LANGUAGES, read_annotations
from training.embedded.named_pictures import NamedKind, NamedPictures
from training.embedded.sprites import UNSEEN_STYLE, load_sprites

POOL = 1000  # pictograms to choose from
SAME_STYLE = "noto"
Halves = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure and write benchmarks/results/embedder_quality.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedder_quality")
    parser.add_argument("--without-gallery", action="store_true", help="leave out the searches")
    parser.add_argument("--pool", type=int, default=POOL, help="pictograms to choose from")
    arguments = parser.parse_args()
    preset = load_settings().presets["embedded"]
    embedder = load_embedder(
        preset.embedder, device=preset.device, dtype=preset.dtype, cache=cache_dir()
    )
    if not isinstance(embedder, ConseModel):
        raise SystemExit("this benchmark is for the embedded preset")
    pictures = NamedPictures(load_sprites(), cache=cache_dir())
    rows = pictogram_rows(embedder, pictures, size=arguments.pool) + photograph_rows(embedder)
    if not arguments.without_gallery:
        rows += search_rows(embedder)
    write_report(
        "embedder_quality",
        rows,
        notes=f"{embedder.model_id}. Unseen style: {UNSEEN_STYLE}. Bars: seen kinds in the unseen "
        f"style among {POOL} at least 55 %, unseen kinds at least 35 %, 39 of the 40 searches. "
        "The pool holds the scenes' kinds and, as distractors, the gallery's others.",
    )


def pictogram_rows(embedder: ConseModel, pictures: NamedPictures, *, size: int) -> list[Row]:
    """Plain names against pictograms on white."""
    rows: list[Row] = []
    for style in (UNSEEN_STYLE, SAME_STYLE):
        pool = [kind for kind in pictures.kinds if pictures.has(kind, style)][:size]
        seen = embedder.embed_images([plain_single(pictures.picture(one, style)) for one in pool])
        said = embedder.embed_texts([one.name for one in pool])
        for name, chosen, among in _questions(pool):
            where = f"{style}, {name}"
            for method, half in _methods(embedder).items():
                places = _places(half(said)[chosen] @ half(seen)[among].T, chosen, among)
                rows.append(_row(where, method, places, n_pictures=len(among)))
        if style == UNSEEN_STYLE:
            rows += _foreign_names(embedder, pool, seen)
    return rows


def _questions(pool: Sequence[NamedKind]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """What is asked: a title, the kinds asked for, and the pictures to choose from."""
    is_seen = np.array([kind.is_seen for kind in pool])
    is_counted = np.array([kind.is_counted for kind in pool])
    everything = np.arange(len(pool))
    unseen = np.flatnonzero(~is_seen)
    return [
        ("seen kinds of the scenes", np.flatnonzero(is_seen & is_counted), everything),
        ("all seen kinds", np.flatnonzero(is_seen), everything),
        ("unseen kinds of the scenes", np.flatnonzero(~is_seen & is_counted), everything),
        ("unseen kinds among unseen ones", unseen, unseen),
        (
            "unseen kinds of the scenes among those",
            np.flatnonzero(~is_seen & is_counted),
            np.flatnonzero(~is_seen & is_counted),
        ),
    ]


def _foreign_names(embedder: ConseModel, pool: Sequence[NamedKind], seen: np.ndarray) -> list[Row]:
    """CLDR's own names in other languages; the lexicon is made from them, so it knows them."""
    rows = []
    for language in LANGUAGES:
        names = {
            _code(signs): entry["tts"][0]
            for signs, entry in read_annotations(language, cache=cache_dir()).items()
            if entry.get("tts")
        }
        chosen = np.array(
            [n for n, kind in enumerate(pool) if kind.is_seen and kind.codepoint in names]
        )
        said = embedder.embed_texts([names[pool[n].codepoint] for n in chosen])
        places = _places(said @ seen.T, chosen, np.arange(len(pool)))
        where = f"{UNSEEN_STYLE}, all seen kinds by their {language} names"
        rows.append(_row(where, "both", places, n_pictures=len(pool)))
        plain = _without_lexicon(embedder, [names[pool[n].codepoint] for n in chosen])
        places = _places(plain @ seen.T, chosen, np.arange(len(pool)))
        rows.append(_row(where, "both, no lexicon", places, n_pictures=len(pool)))
    return rows


def _without_lexicon(embedder: ConseModel, texts: Sequence[str]) -> np.ndarray:
    kept, embedder._lexicon = embedder._lexicon, None
    try:
        return embedder.embed_texts(texts)
    finally:
        embedder._lexicon = kept


def _code(signs: str) -> str:
    return "-".join(f"{ord(sign):X}" for sign in signs.replace("\ufe0f", ""))


def photograph_rows(embedder: ConseModel) -> list[Row]:
    """Captions against the sample photographs: all, and those that no training saw."""
    photographs = list(read_pack("photographs"))
    seen = embedder.embed_images([one.image() for one in photographs])
    said = embedder.embed_texts([one.caption for one in photographs])
    everything = np.arange(len(photographs))
    rows = []
    for name, chosen in (
        ("sample photographs by caption", everything),
        ("held-out photographs by caption", everything[::HELD_OUT_PHOTOGRAPHS]),
    ):
        for method, half in _methods(embedder).items():
            places = _places(half(said)[chosen] @ half(seen).T, chosen, everything)
            rows.append(_row(name, method, places, n_pictures=len(photographs)))
    return rows


def search_rows(embedder: ConseModel) -> list[Row]:
    """The forty searches and the foreign ones over the default gallery, as the app searches."""
    with tempfile.TemporaryDirectory() as temporary:
        gallery = Gallery(Path(temporary), model_id=embedder.model_id, dimension=embedder.dimension)

        def embed(
            images: Sequence[Image.Image], texts: Sequence[str]
        ) -> tuple[np.ndarray, np.ndarray]:
            return embedder.embed_images(images), embedder.embed_texts(texts)

        index_pack(gallery, embed)
        sets = {"40 searches": QUERIES} | {
            f"searches in {language}": queries for language, queries in FOREIGN_QUERIES.items()
        }
        rows = [
            _row(
                name,
                "both, captions too",
                _found(gallery, embedder, queries),
                n_pictures=len(gallery),
            )
            for name, queries in sets.items()
        ]
        gallery.close()
    return rows


def _found(
    gallery: Gallery, embedder: ConseModel, queries: Sequence[tuple[str, str]]
) -> np.ndarray:
    vectors = embedder.embed_texts([query for query, _ in queries])
    places = []
    for vector, (query, accepted) in zip(vectors, queries, strict=True):
        ids = [hit.picture.id for hit in gallery.nearest(vector, limit=TOP)]
        right = set(accepted.split())
        places.append(next((n for n, name in enumerate(ids) if name in right), 10**6))
        if places[-1] >= TOP:
            print(f"  not in the top {TOP}: {query!r} -> {', '.join(ids)}")
    return np.array(places)


def _methods(embedder: ConseModel) -> dict[str, Halves]:
    """How vectors are compared: the two halves alone, and whole."""
    if embedder.heads is None:
        return {"training-free": _whole}
    width = embedder.width
    return {
        "training-free": lambda vectors: _unit(vectors[:, :width]),
        "trained": lambda vectors: _unit(vectors[:, width:]),
        "both": _whole,
    }


def _whole(vectors: np.ndarray) -> np.ndarray:
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _places(scores: np.ndarray, chosen: np.ndarray, among: np.ndarray) -> np.ndarray:
    """For each query the number of pictures that score above its own."""
    own = scores[np.arange(len(chosen)), np.searchsorted(among, chosen)]
    return (scores > own[:, None]).sum(axis=1)


def _row(name: str, method: str, places: np.ndarray, *, n_pictures: int) -> Row:
    right = int((places < 1).sum())
    low, high = wilson(right, len(places))
    return {
        "what": name,
        "vectors": method,
        "n": len(places),
        "pictures": n_pictures,
        "R@1": right / len(places),
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "R@5": float((places < TOP).mean()),
    }


if __name__ == "__main__":
    main()
