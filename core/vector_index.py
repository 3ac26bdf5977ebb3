"""Chroma as an index that can be deleted: checked when opened, and made anew when it is wrong."""

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zlib
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
# Chroma's defaults are 16 neighbours, ef_search 100 and the l2 distance. Pictures lie in dense
# clusters: at 20,000 of them 24 and 100 gave a recall@10 of .866, 32 and 200 give .998.
HNSW: "CreateHNSWConfiguration" = {
    "space": "cosine",
    "max_neighbors": 32,
    "ef_construction": 100,
    "ef_search": 200,
}

ROOT = Path(__file__).resolve().parent.parent
SEAL = "CLOSED"  # what the files were when the index was last closed
PROBE_TIMEOUT_S = 120.0

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
        root.mkdir(parents=True, exist_ok=True)
        folder = _generation(root)
        try:
            if folder.exists():
                _check_unopened(root, folder)
            self._open(folder)
            self._mend(ids)
            self._verify(ids)
        except IndexDamaged as problem:
            if folder.exists():
                log.warning("the search index is made anew: %s", problem)
            self._rebuild(ids)

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
        """Let go of the files, and note what they were when they were let go."""
        if self._client is not None:
            self._client.close()
            self._client = None
            _write_seal(self._root, _generation(self._root))

    def _open(self, folder: Path) -> None:
        with chroma_errors():
            client = self._client = _client_of(folder)
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
        if self._client is not None:
            self._client.close()
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


def _check_unopened(root: Path, folder: Path) -> None:
    """Find damage before Chroma meets it: over a damaged vector file its own code crashes.

    A folder that was closed in order must be what it was then. One that was not (a kill, a power
    cut) is opened and searched by another process first, which may crash in our place.

    Raises:
        IndexDamaged: it should not be opened.
    """
    seal = root / SEAL
    if seal.exists():
        was = seal.read_text(encoding="utf-8")
        seal.unlink()  # it holds only until the folder is opened
        if was != _seal_of(folder):
            raise IndexDamaged("its files have changed since it was closed")
        return
    probe = [sys.executable, "-m", "core.vector_index", str(folder)]
    try:
        tried = subprocess.run(
            probe, cwd=ROOT, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise IndexDamaged("it does not answer") from error
    if tried.returncode != 0:
        raise IndexDamaged(f"it was not closed, and opening it ended with {tried.returncode}")


def _write_seal(root: Path, folder: Path) -> None:
    pending = root / f"{SEAL}.new"
    try:
        pending.write_text(_seal_of(folder), encoding="utf-8")
        os.replace(pending, root / SEAL)
    except OSError as error:  # then the next start takes the longer way
        log.warning("the search index could not be sealed: %s", error)


def _seal_of(folder: Path) -> str:
    """Name, size and checksum of every file."""
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        checksum = 0
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
        lines.append(f"{file.relative_to(folder).as_posix()} {file.stat().st_size} {checksum}")
    return "\n".join(lines)


def _probe(folder: Path) -> None:
    """Open a folder and search for some of its own vectors; meant to crash if it must."""
    client = _client_of(folder)
    for side in SIDES:
        collection = client.get_collection(side, embedding_function=None)
        some = collection.get(limit=FAITHFULNESS_SAMPLE, include=["embeddings"])
        collection.count()
        if some["ids"]:
            collection.query(query_embeddings=some["embeddings"], n_results=10, include=[])
    client.close()


def _client_of(folder: Path) -> "Client":
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    return cast("Client", chromadb.PersistentClient(path=str(folder), settings=settings))


def _generation(root: Path) -> Path:
    return max(root.glob("g*"), key=_number, default=root / "g1")


def _number(folder: Path) -> int:
    found = re.fullmatch(r"g(\d+)", folder.name)
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    _probe(Path(sys.argv[1]))
