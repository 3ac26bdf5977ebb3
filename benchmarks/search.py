"""How long does a search take, and does the index find what comparing with everything finds?

`python -m benchmarks.search [--sizes 1000 20000]`. The vectors are real: captions and pictures of
the default gallery, each used many times with noise, so that there are near neighbours to confuse.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import Row, write_report
from core.catalogue import Entry, Source
from core.embedder import Embedder, load_embedder
from core.gallery import FreshPicture, Gallery, QueryKind
from core.pack import read_pack
from core.settings import cache_dir, load_settings

QUERIES = 200
LIMIT = 10
NOISE = 0.5  # length of the noise against the vector's own length of 1
BATCH = 1000
ALL = "everything"  # an album is searched exactly, so this one is the truth to compare with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 20000])
    sizes = parser.parse_args().sizes
    preset = load_settings().active
    embedder = load_embedder(
        preset.embedder, device=preset.device, dtype=preset.dtype, cache=cache_dir()
    )
    base = _real_vectors(embedder)
    rows = [_measure(size, base, embedder.model_id) for size in sizes]
    write_report(
        "search",
        rows,
        notes=f"{QUERIES} text queries, top {LIMIT}, embedding of the query not included. "
        "Recall: share of the exact top ten that Gallery.nearest returns, for words and for a "
        "picture as query. Chroma alone: pictures by pictures and captions by words, top ten of "
        "ten, without the four times as many candidates that Gallery.nearest scores exactly. "
        "Bar: recall at least 0.95.",
    )


def _measure(size: int, base: np.ndarray, model_id: str) -> Row:
    chooser = np.random.default_rng(0)
    picked = base[chooser.integers(0, len(base), size)]
    vectors = _unit(picked + _noise(chooser, picked.shape))
    shape = (QUERIES, base.shape[2])
    queries = _unit(base[chooser.integers(0, len(base), QUERIES), 1] + _noise(chooser, shape))
    seen = _unit(base[chooser.integers(0, len(base), QUERIES), 0] + _noise(chooser, shape))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "gallery"
        gallery = Gallery(root, model_id=model_id, dimension=base.shape[2])
        started = time.perf_counter()
        for start in range(0, size, BATCH):
            gallery.add(_pictures(vectors, start, min(size, start + BATCH)))
        built_s = time.perf_counter() - started
        gallery.close()
        started = time.perf_counter()
        gallery = Gallery(root, model_id=model_id, dimension=base.shape[2])
        opened_s = time.perf_counter() - started
        gallery.nearest(queries[0], limit=LIMIT)
        found, index_ms = _each(lambda q: _ids(gallery, q, "text"), queries)
        exact, exact_ms = _each(lambda q: _ids(gallery, q, "text", album=ALL), queries)
        similar, _ = _each(lambda q: _ids(gallery, q, "picture"), seen)
        exactly_similar, _ = _each(lambda q: _ids(gallery, q, "picture", album=ALL), seen)
        sides = [
            _side_recall(gallery, vectors, seen, side=0),
            _side_recall(gallery, vectors, queries, side=1),
        ]
        gallery.close()
    return {
        "pictures": size,
        "p50 ms": round(float(np.percentile(index_ms, 50)), 2),
        "p95 ms": round(float(np.percentile(index_ms, 95)), 2),
        "recall@10 words": round(_overlap(found, exact), 4),
        "recall@10 picture": round(_overlap(similar, exactly_similar), 4),
        "Chroma alone": " ".join(f"{value:.3f}" for value in sides),
        "exact p50 ms": round(float(np.percentile(exact_ms, 50)), 2),
        "added/s": round(size / built_s),
        "opened in s": round(opened_s, 2),
    }


def _ids(
    gallery: Gallery, vector: np.ndarray, query: QueryKind, *, album: str | None = None
) -> list[str]:
    hits = gallery.nearest(vector, limit=LIMIT, album=album, query=query)
    return [hit.picture.id for hit in hits]


def _side_recall(gallery: Gallery, vectors: np.ndarray, queries: np.ndarray, *, side: int) -> float:
    """Recall of the index itself, against numpy over one kind of vector."""
    name = ("pictures", "captions")[side]
    found = [gallery._index.nearest(name, query, limit=LIMIT) for query in queries]  # type: ignore[arg-type]
    order = np.argsort(-(queries @ vectors[:, side].T), axis=1)[:, :LIMIT]
    return _overlap(found, [[f"p{number}" for number in row] for row in order])


def _overlap(found: list[list[str]], exact: list[list[str]]) -> float:
    pairs = zip(found, exact, strict=True)
    return float(np.mean([len(set(some) & set(true)) / len(true) for some, true in pairs]))


def _each(
    search: Callable[[np.ndarray], list[str]], queries: np.ndarray
) -> tuple[list[list[str]], list[float]]:
    found, spent = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(search(query))
        spent.append(1000 * (time.perf_counter() - started))
    return found, spent


def _pictures(vectors: np.ndarray, start: int, end: int) -> list[FreshPicture]:
    return [
        FreshPicture(
            entry=Entry(
                id=f"p{number}",
                caption=f"picture {number}",
                labels=(),
                album=ALL,
                credit="",
                thumbnail="0" * 64,
                source=Source(root="", path=str(number), size=0, mtime_ns=0, sha256=""),
            ),
            picture_vector=vectors[number, 0],
            caption_vector=vectors[number, 1],
        )
        for number in range(start, end)
    ]


def _real_vectors(embedder: Embedder) -> np.ndarray:
    """(N, 2, D) vectors of the default gallery's pictures and captions."""
    pack = list(read_pack())
    pictures = embedder.embed_images([picture.image() for picture in pack])
    return np.stack([pictures, embedder.embed_texts([p.caption for p in pack])], axis=1)


def _noise(chooser: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return chooser.normal(size=shape).astype(np.float32) * NOISE / shape[-1] ** 0.5


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
