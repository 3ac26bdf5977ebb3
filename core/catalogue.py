"""What the gallery knows, on disk: an append-only catalogue and the vectors beside it.

Two files, both only ever appended to: `vectors.f32` (rows of float32, two vectors a picture) and
`catalogue.jsonl` (one line per change, naming its row and the row's checksum). Vectors are on disk
before the line that names them, so whatever a crash leaves behind, every line that counts is whole.
"""

import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataFolderError

log = logging.getLogger(__name__)

FORMAT = 1
VECTORS_A_PICTURE = 2  # of the picture itself and of its caption, in this order
CHECKED_AT_ONCE = 1024  # rows read together when checksums are verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file a picture came from, and how to tell whether it changed."""

    root: str  # the indexed folder, absolute; "" for what ships with the app
    path: str  # below root, with forward slashes; the picture's name for what ships with the app
    size: int  # bytes
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One picture of the catalogue."""

    id: str
    caption: str
    labels: tuple[str, ...]
    album: str
    credit: str
    thumbnail: str  # name of the thumbnail, the sha256 of its bytes
    source: Source


@dataclass(frozen=True, slots=True)
class _Place:
    row: int
    checksum: int  # crc32 of the row's bytes


class Catalogue:
    """Entries and vectors of one model. One process, one writer; reading needs no lock."""

    def __init__(self, folder: Path, *, model_id: str, dimension: int) -> None:
        """Open or create the folder, and mend what a crash or a bad disk left behind.

        Raises:
            DataFolderError: the folder cannot be written or was made by another model.
        """
        self.folder = folder
        self.dimension = dimension
        self._row_bytes = VECTORS_A_PICTURE * dimension * 4
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _check_card(folder / "gallery.json", model_id=model_id, dimension=dimension)
            # Unbuffered: what a full disk refused must not be written by a later flush.
            self._vectors = open(folder / "vectors.f32", "a+b", buffering=0)
            self._lines = open(folder / "catalogue.jsonl", "a+b", buffering=0)
            _cut_to(self._vectors, _size(self._vectors) // self._row_bytes * self._row_bytes)
            _cut_to(self._lines, _end_of_last_line(self._lines))
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, _Place] = {}
        for name, kept in _read(folder / "catalogue.jsonl"):
            if kept is None:
                self.entries.pop(name, None)
                self._places.pop(name, None)
            else:
                self.entries[name], self._places[name] = kept
        self._rows = self._map_rows()
        self._drop_damaged()

    def close(self) -> None:
        """Close both files."""
        self._vectors.close()
        self._lines.close()

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """(N, 2, D): picture and caption vectors of the ids, unit length.

        Raises:
            KeyError: an id is not there.
        """
        rows = [self._places[name].row for name in ids]
        return np.asarray(self._rows[rows])

    def add(self, entries: Sequence[Entry], vectors: np.ndarray) -> None:
        """Add entries, or put them in the place of those with the same ids; on disk on return.

        Args:
            vectors: picture and caption vectors. Shape (N, 2, D), unit length.

        Raises:
            DataFolderError: the disk is full or cannot be written; nothing was added.
        """
        wanted = (len(entries), VECTORS_A_PICTURE, self.dimension)
        if vectors.shape != wanted or not np.isfinite(vectors).all():
            raise ValueError(f"Vectors of shape {wanted} are needed, finite; got {vectors.shape}")
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        first = len(self._rows)
        places = [
            _Place(first + number, zlib.crc32(row.tobytes())) for number, row in enumerate(rows)
        ]
        lines = [
            {"add": asdict(entry), "row": place.row, "checksum": place.checksum}
            for entry, place in zip(entries, places, strict=True)
        ]
        with disk_errors(self.folder):
            _append(self._vectors, rows.tobytes())
            _append(self._lines, _encode(lines))
        self._rows = self._map_rows()
        for entry, place in zip(entries, places, strict=True):
            self.entries[entry.id] = entry
            self._places[entry.id] = place

    def replace(self, entry: Entry) -> None:
        """Write an entry anew beside its present vectors.

        Raises:
            KeyError: its id is not there.
        """
        place = self._places[entry.id]
        line = {"add": asdict(entry), "row": place.row, "checksum": place.checksum}
        with disk_errors(self.folder):
            _append(self._lines, _encode([line]))
        self.entries[entry.id] = entry

    def remove(self, ids: Sequence[str]) -> None:
        """Forget the ids; unknown ones are passed over."""
        known = [name for name in ids if name in self.entries]
        with disk_errors(self.folder):
            _append(self._lines, _encode([{"remove": name} for name in known]))
        for name in known:
            del self.entries[name]
            del self._places[name]

    def _map_rows(self) -> np.ndarray:
        count = _size(self._vectors) // self._row_bytes
        shape = (count, VECTORS_A_PICTURE, self.dimension)
        if count == 0:
            return np.empty(shape, dtype=np.float32)
        return np.memmap(self.folder / "vectors.f32", dtype=np.float32, mode="r", shape=shape)

    def _drop_damaged(self) -> None:
        """Forget entries whose vectors are missing or altered: they will be indexed anew."""
        names = list(self._places)
        damaged: list[str] = []
        for start in range(0, len(names), CHECKED_AT_ONCE):
            for name in names[start : start + CHECKED_AT_ONCE]:
                place = self._places[name]
                if place.row >= len(self._rows) or (
                    zlib.crc32(np.ascontiguousarray(self._rows[place.row]).data) != place.checksum
                ):
                    damaged.append(name)
        if damaged:
            log.warning("%d pictures have damaged vectors and are forgotten", len(damaged))
            self.remove(damaged)


def read_entries(folder: Path) -> dict[str, Entry]:
    """The entries of a catalogue folder, without opening it for writing or checking vectors."""
    entries: dict[str, Entry] = {}
    for name, kept in _read(folder / "catalogue.jsonl"):
        if kept is None:
            entries.pop(name, None)
        else:
            entries[name] = kept[0]
    return entries


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the disk's refusals into a message for the person."""
    try:
        yield
    except OSError as error:
        raise DataFolderError(
            f"The gallery in {folder} cannot be written ({error.strerror or error}). "
            "Correct its permissions or free some space, and try again; nothing already there is "
            "lost."
        ) from error


def _check_card(file: Path, *, model_id: str, dimension: int) -> None:
    card = {"format": FORMAT, "model_id": model_id, "dimension": dimension}
    if file.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != card:
            raise DataFolderError(
                f"The gallery in {file.parent} was not made by {model_id}, so its vectors cannot "
                "be compared with that model's. Move the folder away; it is made anew at the next "
                "start."
            )
        return
    pending = file.with_suffix(".new")
    pending.write_text(json.dumps(card, indent=1), encoding="utf-8")
    os.replace(pending, file)


def _read(file: Path) -> Iterator[tuple[str, tuple[Entry, _Place] | None]]:
    """Changes in their order: the id, and entry and place, or None where it was removed."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            change = json.loads(line)
            if "remove" in change:
                yield change["remove"], None
            else:
                entry = _entry(change["add"])
                yield entry.id, (entry, _Place(change["row"], change["checksum"]))
        except (ValueError, KeyError, TypeError):
            log.warning("line %d of %s is damaged and passed over", number, file.name)


def _entry(fields: dict[str, Any]) -> Entry:
    source = Source(**fields.pop("source"))
    return Entry(**{**fields, "labels": tuple(fields["labels"]), "source": source})


def _encode(changes: Sequence[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(change).encode("utf-8") + b"\n" for change in changes)


def _append(file: FileIO, content: bytes) -> None:
    """Append and wait for the disk; on failure the file is cut back to what it was."""
    before = _size(file)
    try:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        _cut_to(file, before)
        raise


def _cut_to(file: FileIO, size: int) -> None:
    if _size(file) != size:
        os.ftruncate(file.fileno(), size)


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _end_of_last_line(file: FileIO) -> int:
    file.seek(0)
    return file.read().rfind(b"\n") + 1
