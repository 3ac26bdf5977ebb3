"""The pictures that can be found: add, remove, nearest. `python -m core.gallery --help`.

What counts is the catalogue with its vectors (core/catalogue.py); the Chroma index over it may be
deleted at any time. Each picture has two vectors, its own and its caption's.
"""

import argparse
import hashlib
import io
import json
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from core.catalogue import Catalogue, Entry, disk_errors, read_entries
from core.errors import DataFolderError, UserError
from core.types import GalleryPicture, SearchHit, TextHit
from core.vector_index import SIDES, IndexDamaged, Side, VectorIndex

log = logging.getLogger(__name__)

QueryKind = Literal["text", "picture"]

THUMBNAIL_PX = 384
CANDIDATES = 4  # times the limit are taken from each side of the index before calibration
REFERENCES = 512  # pictures that the two kinds of score are calibrated against
FEWEST_REFERENCES = 8  # with fewer pictures than this, plain cosines are compared
SMALLEST_SPREAD = 0.02
# How far a score of the other kind may count, in standard deviations. Words name captions well
# and pictures less well: on 40 searches made for this, 0.3 to 0.7 found the same 37 in the top 5,
# and 1.0 found one fewer at the first place (chosen on those searches, so a little flattering).
OTHER_KIND = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshPicture:
    """A picture to add, with its vectors."""

    entry: Entry
    picture_vector: np.ndarray  # (D,), unit length
    caption_vector: np.ndarray  # (D,), unit length


class Gallery:
    """The gallery of one embedding model. Reading is safe from any thread; one thread writes."""

    def __init__(self, root: Path, *, model_id: str, dimension: int) -> None:
        """Open the gallery, or make an empty one; the search index is mended or made anew.

        Raises:
            DataFolderError: another process has it, or the folder cannot be written.
        """
        self.root = root
        self.dimension = dimension
        # Vectors of different models cannot be compared, so each has its own catalogue; a person
        # who goes back to an earlier preset finds its index as it was.
        key = hashlib.sha256(f"{model_id} {dimension}".encode()).hexdigest()[:12]
        self._thumbnails = root / "thumbnails"
        with disk_errors(root):
            self._thumbnails.mkdir(parents=True, exist_ok=True)
        self._owner = _own(root)
        try:
            self._catalogue = Catalogue(
                root / "models" / key, model_id=model_id, dimension=dimension
            )
            with disk_errors(root):
                self._index = VectorIndex(
                    root / "chroma" / key,
                    model_id=model_id,
                    dimension=dimension,
                    ids=list(self._catalogue.entries),
                    vectors_of=self._catalogue.vectors_of,
                )
        except BaseException:
            self._owner.release()
            raise
        self._lock = threading.RLock()  # guards the catalogue's tables, never held while searching
        self._references = np.empty((0, 2, dimension), dtype=np.float32)
        self._words, self._word_vectors = _read_words(self._words_file, dimension)
        self._refresh_references()

    def __len__(self) -> int:
        return len(self._catalogue.entries)

    def close(self) -> None:
        """Let go of the files and of the lock."""
        self._index.close()
        self._catalogue.close()
        self._owner.release()

    def get(self, picture_id: str) -> GalleryPicture:
        """One picture.

        Raises:
            UserError: there is none with this id.
        """
        entry = self._catalogue.entries.get(picture_id)
        if entry is None:
            raise UserError(
                f"There is no picture {picture_id!r} in the gallery; it may have been removed. "
                "Search again."
            )
        return self._shown(entry)

    def pictures(
        self, offset: int = 0, limit: int = 48, *, album: str | None = None
    ) -> list[GalleryPicture]:
        """A page of the gallery in the order in which pictures came."""
        entries = self._entries(album)
        return [self._shown(entry) for entry in entries[offset : offset + limit]]

    def albums(self) -> dict[str, int]:
        """How many pictures each album has."""
        return dict(Counter(entry.album for entry in self._entries(None)))

    def vectors(self, picture_id: str) -> np.ndarray:
        """(2, D): the picture's own vector and its caption's.

        Raises:
            KeyError: there is none with this id.
        """
        with self._lock:
            return self._catalogue.vectors_of([picture_id])[0]

    def nearest(
        self,
        vector: np.ndarray,
        *,
        limit: int,
        album: str | None = None,
        query: QueryKind = "text",
    ) -> list[SearchHit]:
        """Pictures that fit the query, best first.

        A picture may fit by itself or by its caption. The two kinds of cosine have different
        means and spreads, so each is counted in standard deviations above what this query scores
        on a sample of the gallery; the better one decides. Scores are given on the scale of the
        query's own kind: captions for words, pictures for a picture.

        Args:
            vector: the query's. Shape (D,), unit length.
            limit: at most so many.
            album: look only there.
            query: what the vector was made from.
        """
        vector = np.asarray(vector, dtype=np.float32).reshape(self.dimension)
        ids = self._candidates(vector, limit=limit, album=album)
        with self._lock:
            entries = [self._catalogue.entries[name] for name in ids if name in self]
            vectors = self._catalogue.vectors_of([entry.id for entry in entries])
            calibration = self._calibration(vector, query)
        scores = vectors @ vector
        deviations = calibration.deviations(scores)
        best = deviations.max(axis=1)
        if len(best) > limit:  # of a whole album: leave the many that are far off unsorted
            front = np.flatnonzero(best >= np.partition(best, -limit)[-limit])
        else:
            front = np.arange(len(best))
        order = sorted(front.tolist(), key=lambda number: (-best[number], entries[number].id))
        return [
            SearchHit(
                picture=self._shown(entries[number]),
                score=calibration.as_cosine(best[number]),
                matched="picture" if deviations[number].argmax() == 0 else "caption",
            )
            for number in order[:limit]
        ]

    def nearest_texts(self, vector: np.ndarray, *, limit: int) -> list[TextHit]:
        """Captions and label words nearest to a picture, best first; each text once."""
        vector = np.asarray(vector, dtype=np.float32).reshape(self.dimension)
        ids = self._side_candidates("captions", vector, limit=CANDIDATES * limit)
        with self._lock:
            entries = [self._catalogue.entries[name] for name in ids if name in self]
            vectors = self._catalogue.vectors_of([entry.id for entry in entries])
        captions = [
            TextHit(text=entry.caption, kind="caption", score=_cosine(score))
            for entry, score in zip(entries, vectors[:, 1] @ vector, strict=True)
        ]
        word_scores = self._word_vectors @ vector
        labels = [
            TextHit(text=self._words[number], kind="label", score=_cosine(word_scores[number]))
            for number in np.argsort(-word_scores)[:limit]
        ]
        # Of a caption and a label that read the same, the caption is kept: it has a picture.
        best: dict[str, TextHit] = {}
        for hit in sorted(captions + labels, key=lambda hit: (-hit.score, hit.kind)):
            best.setdefault(hit.text.lower(), hit)
        return list(best.values())[:limit]

    def add(self, fresh: Sequence[FreshPicture]) -> None:
        """Add pictures, or put them in the place of those with the same ids.

        Raises:
            DataFolderError: the disk refused; nothing was added.
        """
        if not fresh:
            return
        entries = [one.entry for one in fresh]
        vectors = np.stack([[one.picture_vector, one.caption_vector] for one in fresh])
        with self._lock:
            replaced = [self._catalogue.entries.get(entry.id) for entry in entries]
            self._catalogue.add(entries, vectors.astype(np.float32))
        self._index_or_warn(lambda: self._index.put([entry.id for entry in entries]))
        self._refresh_references()
        self._drop_thumbnails([entry.thumbnail for entry in replaced if entry is not None])

    def remove(self, ids: Sequence[str]) -> None:
        """Forget pictures and delete their thumbnails; unknown ids are passed over."""
        with self._lock:
            gone = [self._catalogue.entries[name] for name in ids if name in self]
            if not gone:
                return
            self._catalogue.remove([entry.id for entry in gone])
        self._index_or_warn(lambda: self._index.delete([entry.id for entry in gone]))
        self._refresh_references()
        self._drop_thumbnails([entry.thumbnail for entry in gone])

    def touch(self, entry: Entry) -> None:
        """Write what is known of a picture anew; its vectors stay."""
        with self._lock:
            self._catalogue.replace(entry)

    def entries(self, *, root: str | None = None) -> dict[str, Entry]:
        """Catalogue entries by id, all or those indexed from one folder."""
        with self._lock:
            everything = dict(self._catalogue.entries)
        if root is None:
            return everything
        return {name: entry for name, entry in everything.items() if entry.source.root == root}

    def entries_of_other_models(self) -> dict[str, Entry]:
        """What was indexed with another embedding model and has a thumbnail still."""
        found: dict[str, Entry] = {}
        for folder in sorted((self.root / "models").iterdir()):
            if folder != self._catalogue.folder:
                found |= read_entries(folder)
        return {
            name: entry
            for name, entry in found.items()
            if self.thumbnail_path(entry.thumbnail).is_file()
        }

    def save_thumbnail(self, picture: Image.Image) -> str:
        """Keep a small copy without metadata; the name under which it can be served."""
        small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        small.save(content, "WEBP", quality=88, method=4)
        name = hashlib.sha256(content.getvalue()).hexdigest()
        path = self.thumbnail_path(name)
        if not path.exists():
            with disk_errors(self.root):
                path.parent.mkdir(exist_ok=True)
                pending = path.with_suffix(".new")
                pending.write_bytes(content.getvalue())
                os.replace(pending, path)
        return name

    def thumbnail_path(self, name: str) -> Path:
        """Where the thumbnail of that name lies."""
        return self._thumbnails / name[:2] / f"{name}.webp"

    def knows_words(self, words: Sequence[str]) -> bool:
        """Whether these are the words that `nearest_texts` offers as labels."""
        return self._words == tuple(words)

    def learn_words(self, words: Sequence[str], vectors: np.ndarray) -> None:
        """Offer these words as labels from now on; they are kept."""
        if vectors.shape != (len(words), self.dimension):
            raise ValueError(f"{len(words)} words and vectors of shape {vectors.shape}")
        with disk_errors(self.root):
            pending = self._words_file.with_suffix(".new")
            with open(pending, "wb") as file:
                np.savez(file, words=np.array(words), vectors=vectors.astype(np.float32))
            os.replace(pending, self._words_file)
        with self._lock:
            self._words, self._word_vectors = tuple(words), vectors.astype(np.float32)

    def words_near(self, vectors: np.ndarray, *, limit: int) -> list[tuple[str, ...]]:
        """For each picture vector the nearest label words, best first."""
        scores = vectors @ self._word_vectors.T
        order = np.argsort(-scores, axis=1)[:, :limit]
        return [tuple(self._words[number] for number in row) for row in order]

    def __contains__(self, picture_id: str) -> bool:
        return picture_id in self._catalogue.entries

    @property
    def _words_file(self) -> Path:
        return self._catalogue.folder / "words.npz"

    def _shown(self, entry: Entry) -> GalleryPicture:
        return GalleryPicture(
            id=entry.id,
            path=self.thumbnail_path(entry.thumbnail),
            caption=entry.caption,
            labels=entry.labels,
            album=entry.album,
            credit=entry.credit,
        )

    def _entries(self, album: str | None) -> list[Entry]:
        with self._lock:
            everything = list(self._catalogue.entries.values())
        return [entry for entry in everything if album in (None, entry.album)]

    def _candidates(self, vector: np.ndarray, *, limit: int, album: str | None) -> list[str]:
        if album is not None:  # an album is a small part: exact search is faster than filtering
            return [entry.id for entry in self._entries(album)]
        found = [self._side_candidates(side, vector, limit=CANDIDATES * limit) for side in SIDES]
        return list(dict.fromkeys(name for names in found for name in names))

    def _side_candidates(self, side: Side, vector: np.ndarray, *, limit: int) -> list[str]:
        try:
            return self._index.nearest(side, vector, limit=max(1, min(limit, len(self))))
        except IndexDamaged as problem:
            log.warning("the search index failed, searching without it: %s", problem)
            return self._exact(side, vector, limit=limit)

    def _exact(self, side: Side, vector: np.ndarray, *, limit: int) -> list[str]:
        """Ids nearest to the vector, by comparing with every one."""
        with self._lock:
            ids = list(self._catalogue.entries)
            vectors = self._catalogue.vectors_of(ids)
        order = np.argsort(-(vectors[:, SIDES.index(side)] @ vector))
        return [ids[number] for number in order[:limit]]

    def _calibration(self, vector: np.ndarray, query: QueryKind) -> "Calibration":
        return calibrate(self._references @ vector, query)

    def _refresh_references(self) -> None:
        """Take the sample anew: evenly over the catalogue, so that it is the same next time."""
        with self._lock:
            ids = list(self._catalogue.entries)
            step = max(1, -(-len(ids) // REFERENCES))
            self._references = self._catalogue.vectors_of(ids[::step])

    def _index_or_warn(self, change: Callable[[], None]) -> None:
        """The catalogue is what counts: an index that fails now is mended at the next start."""
        try:
            change()
        except IndexDamaged as problem:
            log.warning("the search index could not be changed: %s", problem)

    def _drop_thumbnails(self, names: Sequence[str]) -> None:
        used = {entry.thumbnail for entry in self._entries(None)}
        for name in set(names) - used:
            self.thumbnail_path(name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a query's cosines mean: mean and spread over a sample, by kind of vector."""

    means: np.ndarray  # (2,): of pictures, of captions
    spreads: np.ndarray  # (2,)
    weights: np.ndarray  # (2,)
    own: int  # the kind on whose scale scores are given

    def deviations(self, cosines: np.ndarray) -> np.ndarray:
        """(N, 2) weighted standard deviations above the sample's mean."""
        return (cosines - self.means) / self.spreads * self.weights

    def as_cosine(self, deviation: float) -> float:
        """A deviation on the scale of the query's own kind of cosine, -1 to 1."""
        return _cosine(self.means[self.own] + deviation * self.spreads[self.own])


def calibrate(sample: np.ndarray, query: QueryKind) -> Calibration:
    """The calibration of a query from its cosines with a sample of the gallery.

    Args:
        sample: cosines with picture and caption vectors. Shape (N, 2).
        query: what the query was made from.
    """
    own = 0 if query == "picture" else 1
    if len(sample) < FEWEST_REFERENCES:
        return Calibration(np.zeros(2), np.ones(2), np.ones(2), own)
    weights = np.full(2, OTHER_KIND)
    weights[own] = 1.0
    spreads = np.maximum(sample.std(axis=0), SMALLEST_SPREAD)
    return Calibration(sample.mean(axis=0), spreads, weights, own)


def _cosine(value: float) -> float:
    return float(min(1.0, max(-1.0, value)))


def _own(root: Path) -> FileLock:
    """The lock of the gallery, held.

    Raises:
        DataFolderError: another process has it.
    """
    lock = FileLock(root / "gallery.lock")
    with disk_errors(root):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # an OSError itself
            # Two processes on one Chroma folder damage it silently, and both hear that all is well.
            raise DataFolderError(
                f"The gallery in {root} is in use by another running Sightloop. Close that one, or "
                "add your folder there, on its search page."
            ) from error
    return lock


def _read_words(file: Path, dimension: int) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as kept:
            words, vectors = tuple(str(word) for word in kept["words"]), kept["vectors"]
    except (OSError, ValueError, KeyError, EOFError):
        return (), np.empty((0, dimension), dtype=np.float32)
    if vectors.shape != (len(words), dimension):
        return (), np.empty((0, dimension), dtype=np.float32)
    return words, vectors


def main() -> None:
    """Add a folder, or say what is there."""
    from core.settings import default_data_dir

    parser = argparse.ArgumentParser(
        prog="python -m core.gallery", description="Pictures that Sightloop can find."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="index a folder of your own pictures")
    add.add_argument("folder", type=Path)
    add.add_argument("--album", help="name shown with its pictures; default: the folder's name")
    add.add_argument("--preset", help="a preset of spaces.yaml; default: the active one")
    status = commands.add_parser("status", help="say what is indexed")
    for command in (add, status):
        command.add_argument("--data-dir", type=Path, default=default_data_dir())
    arguments = parser.parse_args()
    try:
        if arguments.command == "status":
            sys.stdout.write(status_of(arguments.data_dir))
        else:
            from core.filling import add_from_terminal

            add_from_terminal(
                arguments.folder,
                data_dir=arguments.data_dir,
                album=arguments.album,
                preset=arguments.preset,
            )
    except UserError as problem:
        sys.exit(str(problem))


def status_of(data_dir: Path) -> str:
    """Models, albums and sizes as text; can be read while the app runs."""
    models = data_dir.expanduser() / "gallery" / "models"
    lines = []
    for folder in sorted(models.iterdir()) if models.is_dir() else []:
        card = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        albums = Counter(entry.album for entry in read_entries(folder).values())
        lines.append(f"{albums.total()} pictures, indexed by {card['model_id']}")
        lines += [f"  {count:6d}  {album}" for album, count in sorted(albums.items())]
    return "\n".join(lines or ["The gallery is empty. The app fills it at its first start."]) + "\n"


if __name__ == "__main__":
    main()
