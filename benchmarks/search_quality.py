"""Is the right picture among the first five? `python -m benchmarks.search_quality`.

Forty searches (benchmarks/queries.py), fixed before anything was looked at, over the default
gallery. Beside the search as the app does it: captions alone, pictures alone, and chance. And the
embedder alone: does a photograph's caption find the photograph by its picture vector?
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.queries import QUERIES
from benchmarks.report import Row, write_report
from core.embedder import Embedder, load_embedder
from core.filling import index_pack
from core.gallery import Gallery
from core.settings import cache_dir, load_settings

TOP = 5
Z95 = 1.959964


def main() -> None:
    preset = load_settings().active
    embedder = load_embedder(
        preset.embedder, device=preset.device, dtype=preset.dtype, cache=cache_dir()
    )
    with tempfile.TemporaryDirectory() as temporary:
        gallery = Gallery(Path(temporary), model_id=embedder.model_id, dimension=embedder.dimension)
        index_pack(gallery, lambda i, t: (embedder.embed_images(i), embedder.embed_texts(t)))
        rows, missed = measure(gallery, embedder)
        gallery.close()
    print("not in the top 5:", *missed, sep="\n  ")
    write_report(
        "search_quality",
        rows,
        notes=f"{embedder.model_id}. Bar: right picture in the top 5 for at least 36 of 40. "
        f"Missed: {'; '.join(missed)}",
    )


def measure(gallery: Gallery, embedder: Embedder) -> tuple[list[Row], list[str]]:
    """Rows of the report, and the searches that failed with what came first instead."""
    words = [query for query, _ in QUERIES]
    accepted = [set(ids.split()) for _, ids in QUERIES]
    vectors = embedder.embed_texts(words)
    hits = [gallery.nearest(vector, limit=TOP) for vector in vectors]
    found = [[hit.picture.id for hit in row] for row in hits]
    names = list(gallery.entries())
    both = np.stack([gallery.vectors(name) for name in names])
    rows = [
        _row("as the app searches", _first(found, accepted)),
        _row("captions alone", _first(_exact(vectors, both[:, 1], names), accepted)),
        _row("pictures alone", _first(_exact(vectors, both[:, 0], names), accepted)),
        {
            "search": "chance",
            "n": len(words),
            "top 1": float(np.mean([len(a) / len(names) for a in accepted])),
            "top 5": float(np.mean([TOP * len(a) / len(names) for a in accepted])),
            "found in top 5": "",
            "95 % interval": "",
        },
        *_captions_to_photographs(gallery),
    ]
    missed = [
        f"{word!r} -> {', '.join(ids)}"
        for word, ids, right in zip(words, found, accepted, strict=True)
        if not right & set(ids)
    ]
    return rows, missed


def _captions_to_photographs(gallery: Gallery) -> list[Row]:
    """The embedder alone, on the photographs: caption vector against picture vectors."""
    names = [name for name, e in gallery.entries().items() if e.album == "photographs"]
    both = np.stack([gallery.vectors(name) for name in names])
    ranked = _exact(both[:, 1], both[:, 0], names, top=len(names))
    return [_row("caption to photograph, pictures alone", _first(ranked, [{n} for n in names]))]


def _exact(
    queries: np.ndarray, vectors: np.ndarray, names: Sequence[str], *, top: int = TOP
) -> list[list[str]]:
    order = np.argsort(-(queries @ vectors.T), axis=1)[:, :top]
    return [[names[number] for number in row] for row in order]


def _first(found: Sequence[Sequence[str]], accepted: Sequence[set[str]]) -> list[int]:
    """For each search the place of the first right picture, from 0; a large number for none."""
    return [
        next((place for place, name in enumerate(row) if name in right), 10**6)
        for row, right in zip(found, accepted, strict=True)
    ]


def _row(name: str, places: Sequence[int]) -> Row:
    count, n = sum(place < TOP for place in places), len(places)
    low, high = wilson(count, n)
    return {
        "search": name,
        "n": n,
        "top 1": sum(place < 1 for place in places) / n,
        "top 5": count / n,
        "found in top 5": count,
        "95 % interval": f"{low:.3f} to {high:.3f}",
    }


def wilson(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927, as in Brown et al. 2001, eq. 4."""
    share, z = count / n, Z95
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return middle - half, middle + half


if __name__ == "__main__":
    main()
