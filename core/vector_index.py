"""Chroma as an index that can be deleted: checked when opened, and made anew when it is wrong."""

import logging
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.collection_configuration import CreateHNSWConfiguration
    from chromadb.api.models.Collection import Collection

log = logging.getLogger(__name__)

Side = Literal["pictures", "captions"]
SIDES: tuple[Side, Side] = ("pictures", "captions")
FAITHFULNESS_SAMPLE = 50  # pictures looked up at every opening, as in Chroma's own test advice
SAME = 1e-3  # cosine distance below which two vectors count as the same one
BATCH = 2000  # Chroma refuses more than 5,461 at once
# Chroma's defaults are 16 neighbours and the l2 distance; see benchmarks/LOG.md for the recall.
HNSW: "CreateHNSWConfiguration" = {
    "space": "cosine",
    "max_neighbors": 24,
    "ef_construction": 100,
    "ef_search": 100,
}

VectorsOf = Callable[[Sequence[str]], np.ndarray]


class IndexDamaged(Exception):
    """Chroma cannot answer from its folder."""


class VectorIndex:
    """Nearest neighbours among pictures and among captions. Holds nothing that is not elsewhere."""

    def __init__(
        self,
        root: Path,
        *,
        model_id: str,
        dimension: int,
        ids: Sequence[str],
        vectors_of: VectorsOf,
    ) -> None:
        """Open the index under `root`; afterwards it holds exactly `ids` with their vectors.

        Args:
            root: a folder of its own; everything in it may be deleted.
            model_id: what made the vectors; an index of another model is thrown away.
            dimension: D.
            ids: every picture that must be found.
            vectors_of: the true vectors, from ids. Shape (N, 2, D).
        """
        self._root = root
        self._card: dict[str, str | int] = {"model_id": model_id, "dimension": dimension}
        self._vectors_of = vectors_of
        self._client: Client | None = None
        self._sides: dict[Side, Collection] = {}
        opening = root / "OPENING"
        # A damaged index can kill the process inside Chroma's own code. Then the mark is still
        # there at the next start, and the folder is not opened a second time.
        died_while_opening = opening.exists()
        root.mkdir(parents=True, exist_ok=True)
        opening.touch()
        try:
            if died_while_opening:
                raise IndexDamaged("the last opening did not come to its end")
            self._open(_generation(root))
            self._mend(ids)
            self._verify(ids)
        except IndexDamaged as problem:
            if list(root.glob("g*")):
                log.warning("the search index is made anew: %s", problem)
            self._rebuild(ids)
        opening.unlink()

    def put(self, ids: Sequence[str]) -> None:
        """Add the ids, or renew their vectors."""
        for start in range(0, len(ids), BATCH):
            chosen = list(ids[start : start + BATCH])
            vectors = self._vectors_of(chosen)
            with chroma_errors():
                for number, side in enumerate(SIDES):
                    self._sides[side].upsert(ids=chosen, embeddings=vectors[:, number])

    def delete(self, ids: Sequence[str]) -> None:
        """Take the ids out."""
        for start in range(0, len(ids), BATCH):
            with chroma_errors():
                for side in SIDES:
                    self._sides[side].delete(ids=list(ids[start : start + BATCH]))

    def nearest(self, side: Side, vector: np.ndarray, *, limit: int) -> list[str]:
        """Ids nearest to the vector, best first.

        Raises:
            IndexDamaged: Chroma could not answer.
        """
        with chroma_errors():
            found = self._sides[side].query(
                query_embeddings=vector[None], n_results=limit, include=[]
            )
        return found["ids"][0]

    def close(self) -> None:
        """Let go of the files."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self, folder: Path) -> None:
        import chromadb
        from chromadb.config import Settings

        with chroma_errors():
            client = chromadb.PersistentClient(
                path=str(folder), settings=Settings(anonymized_telemetry=False)
            )
            self._client = cast("Client", client)
            for side in SIDES:
                self._sides[side] = client.get_or_create_collection(
                    side,
                    # Never let Chroma choose or load an embedding function of its own.
                    embedding_function=None,
                    metadata=self._card,
                    configuration={"hnsw": HNSW},
                )
            for side in SIDES:
                if self._sides[side].metadata != self._card:
                    raise IndexDamaged(f"it belongs to {self._sides[side].metadata}")

    def _mend(self, ids: Sequence[str]) -> None:
        """Add what a crash kept out of the index, and take out what it kept in."""
        wanted = set(ids)
        for side in SIDES:
            with chroma_errors():
                found = set(self._sides[side].get(include=[])["ids"])
            if surplus := found - wanted:
                self.delete(sorted(surplus))
            if missing := wanted - found:
                if len(missing) == len(wanted):
                    raise IndexDamaged("it is empty")
                self.put([name for name in ids if name in missing])

    def _verify(self, ids: Sequence[str]) -> None:
        """Look up a sample by its own vectors.

        Raises:
            IndexDamaged: a count is wrong, or a picture does not find itself.
        """
        with chroma_errors():
            counts = {side: self._sides[side].count() for side in SIDES}
        if set(counts.values()) != {len(ids)}:
            raise IndexDamaged(f"it holds {counts} of {len(ids)} pictures")
        if not ids:
            return
        chooser = np.random.default_rng()
        size = min(FAITHFULNESS_SAMPLE, len(ids))
        sample = [ids[number] for number in chooser.choice(len(ids), size, replace=False)]
        vectors = self._vectors_of(sample)
        for number, side in enumerate(SIDES):
            with chroma_errors():
                found = self._sides[side].query(
                    query_embeddings=vectors[:, number], n_results=1, include=["distances"]
                )
                kept = self._sides[side].get(ids=sample, include=["embeddings"])
            nearest = [row[0] if row else 2.0 for row in found["distances"] or []]
            if len(nearest) != size or max(nearest) > SAME:
                raise IndexDamaged("a picture does not find itself")
            order = {name: place for place, name in enumerate(kept["ids"])}
            stored = np.asarray(kept["embeddings"])[[order[name] for name in sample]]
            if not np.allclose(stored, vectors[:, number], atol=1e-4):
                raise IndexDamaged("its vectors are not the gallery's")

    def _rebuild(self, ids: Sequence[str]) -> None:
        old = list(self._root.glob("g*"))
        self.close()
        # A new name each time: Chroma keeps clients by path, and a broken one might be kept.
        number = 1 + max((_number(folder) for folder in old), default=0)
        self._open(self._root / f"g{number}")
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        self.put(ids)


@contextmanager
def chroma_errors() -> Iterator[None]:
    """Everything Chroma raises over a broken folder, as IndexDamaged."""
    from chromadb.errors import ChromaError

    try:
        yield
    except (ChromaError, sqlite3.Error, OSError, ValueError, KeyError, RuntimeError) as error:
        raise IndexDamaged(f"{type(error).__name__}: {error}") from error
    except BaseException as error:
        # Its Rust side panics with a class that derives from BaseException and cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise IndexDamaged(f"Chroma panicked: {error}") from error


def _generation(root: Path) -> Path:
    return max(root.glob("g*"), key=_number, default=root / "g1")


def _number(folder: Path) -> int:
    found = re.fullmatch(r"g(\d+)", folder.name)
    return int(found.group(1)) if found else 0
