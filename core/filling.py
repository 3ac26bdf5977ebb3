"""Filling the gallery: with what ships with the app, and with a person's own folders."""

import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from core.catalogue import Entry, Source
from core.datafolder import DataFolder
from core.errors import PictureError, UserError
from core.gallery import FreshPicture, Gallery
from core.images import open_untrusted
from core.pack import ALBUMS, PackPicture, read_pack
from core.settings import Limits, cache_dir, load_settings
from core.types import IndexProgress, IndexReport

log = logging.getLogger(__name__)

Embed = Callable[[list[Image.Image], list[str]], tuple[np.ndarray, np.ndarray]]
"""Vectors of pictures and of texts; the two lists may differ in length and either may be empty."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
WORKING_PX = 512  # longest side kept in memory while a batch waits for the tower
BATCH = 32  # pictures per step: after each one, everything so far is safe on disk
LABELS_A_PICTURE = 3
# What cameras and programs call files; it says nothing about the picture.
CAMERA_WORDS = frozenset(
    "img image dsc dscn dscf dji gopr pxl mvi vid photo picture pic scan screenshot snap whatsapp "
    "untitled copy edited export final new jpg jpeg png signal".split()
)

Element = TypeVar("Element")


def index_pack(
    gallery: Gallery,
    embed: Embed,
    progress: Callable[[IndexProgress], None] = lambda _: None,
    cancel: threading.Event | None = None,
) -> IndexReport:
    """Index what ships with the app and is missing; take out what no longer ships.

    Pictures of a person's own folders that were indexed with another embedding model are brought
    over as well, from their thumbnails.
    """
    cancel = cancel or threading.Event()
    _learn_label_words(gallery, embed)
    present = gallery.entries(root="")
    pack = {picture.id: picture for picture in read_pack()}
    gallery.remove([name for name in present if name not in pack])
    missing = [p for p in pack.values() if not _is_indexed(p, present.get(p.id))]
    elsewhere = gallery.entries_of_other_models().values()
    foreign = [e for e in elsewhere if e.source.root and e.id not in gallery]
    total = len(missing) + len(foreign)
    done = 0
    for batch in _batches(missing, cancel):
        progress(IndexProgress(done=done, total=total, current=batch[0].name))
        _add_from_pack(gallery, embed, batch)
        done += len(batch)
    for entries in _batches(foreign, cancel):
        progress(IndexProgress(done=done, total=total, current=entries[0].source.path))
        _bring_over(gallery, embed, entries)
        done += len(entries)
    progress(IndexProgress(done=done, total=total, current=""))
    return IndexReport(
        added=done,
        unchanged=len(pack) - len(missing),
        removed=len(present.keys() - pack.keys()),
        unreadable=(),
        was_cancelled=cancel.is_set(),
    )


def index_folder(
    gallery: Gallery,
    folder: Path,
    embed: Embed,
    progress: Callable[[IndexProgress], None] = lambda _: None,
    cancel: threading.Event | None = None,
    *,
    album: str | None = None,
    limits: Limits | None = None,
) -> IndexReport:
    """Index a person's own folder: what is new or changed is added, what is gone is removed.

    Every batch is safe on disk before the next, so a run that was stopped goes on where it was.

    Raises:
        UserError: there is no such folder, or `album` is the name of other pictures' album.
        DataFolderError: the disk refused.
    """
    cancel = cancel or threading.Event()
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder (is its disk connected?). Name a folder with pictures."
        )
    name = _album_name(gallery, album, folder)
    _learn_label_words(gallery, embed)
    files = list(_picture_files(folder))
    known = {entry.source.path: entry for entry in gallery.entries(root=str(folder)).values()}
    here = {path.relative_to(folder).as_posix() for path in files}
    gone = [entry.id for path, entry in known.items() if path not in here]
    gallery.remove(gone)
    run = _FolderRun(gallery, folder, embed, album=name, limits=limits or Limits(), known=known)
    done = 0
    for opened in run.opened_batches(files, cancel):
        progress(IndexProgress(done=done, total=len(files), current=opened[0].path.name))
        run.index(opened)
        done += len(opened)
    progress(IndexProgress(done=done, total=len(files), current=""))
    return IndexReport(
        added=run.added,
        unchanged=run.unchanged,
        removed=len(gone),
        unreadable=tuple(run.unreadable),
        was_cancelled=cancel.is_set(),
    )


def add_from_terminal(
    folder: Path, *, data_dir: Path, album: str | None, preset: str | None
) -> None:
    """Index a folder with a progress bar, and say what was done.

    Raises:
        UserError: the app runs on the same data, the folder is missing, weights cannot be had ...
    """
    # The lock comes first: a person whose app is running should not wait for models to hear it.
    owner = DataFolder(data_dir)
    try:
        from tqdm import tqdm

        from core.embedder import load_embedder

        settings = load_settings(preset=preset)
        active = settings.active
        embedder = load_embedder(
            active.embedder, device=active.device, dtype=active.dtype, cache=cache_dir()
        )
        gallery = Gallery(owner.gallery, model_id=embedder.model_id, dimension=embedder.dimension)
        with tqdm(unit=" pictures") as bar:

            def show(state: IndexProgress) -> None:
                bar.total = state.total
                bar.set_postfix_str(state.current[:40])
                bar.update(state.done - bar.n)

            report = index_folder(
                gallery,
                folder,
                lambda images, texts: (embedder.embed_images(images), embedder.embed_texts(texts)),
                show,
                album=album,
                limits=settings.limits,
            )
        gallery.close()
    finally:
        owner.close()
    for name, why in report.unreadable:
        sys.stderr.write(f"{name}: {why}\n")
    sys.stdout.write(
        f"{report.added} added, {report.unchanged} unchanged, {report.removed} removed, "
        f"{len(report.unreadable)} unreadable\n"
    )


@dataclass(frozen=True, slots=True)
class _OpenedFile:
    """A file that was read, and what came of it."""

    path: Path
    source: Source
    picture: Image.Image | None  # at most WORKING_PX long; None when it did not change
    problem: str = ""


class _FolderRun:
    """One run over one folder."""

    def __init__(
        self,
        gallery: Gallery,
        folder: Path,
        embed: Embed,
        *,
        album: str,
        limits: Limits,
        known: dict[str, Entry],
    ) -> None:
        self.added = self.unchanged = 0
        self.unreadable: list[tuple[str, str]] = []
        self._gallery, self._folder, self._embed = gallery, folder, embed
        self._album, self._limits, self._known = album, limits, known

    def opened_batches(
        self, files: Sequence[Path], cancel: threading.Event
    ) -> Iterator[list[_OpenedFile]]:
        """Files as they were opened, one batch ahead of the tower."""
        opening: list[Future[_OpenedFile]] = []
        with ThreadPoolExecutor(2, thread_name_prefix="open-picture") as openers:
            for batch in _batches(files, cancel):
                ahead = [openers.submit(self._open, file) for file in batch]
                if opening:
                    yield [future.result() for future in opening]
                opening = ahead
            if opening and not cancel.is_set():
                yield [future.result() for future in opening]

    def index(self, opened: Sequence[_OpenedFile]) -> None:
        """Add what is new among the files."""
        fresh = [one for one in opened if self._is_fresh(one)]
        if not fresh:
            return
        vectors, _ = self._embed([one.picture for one in fresh if one.picture is not None], [])
        labels = self._gallery.words_near(vectors, limit=LABELS_A_PICTURE)
        captions = [_own_caption(one.path, words) for one, words in zip(fresh, labels, strict=True)]
        _, caption_vectors = self._embed([], captions)
        self._gallery.add(
            [
                FreshPicture(
                    entry=self._entry(one, caption=caption, labels=words),
                    picture_vector=vector,
                    caption_vector=caption_vector,
                )
                for one, caption, words, vector, caption_vector in zip(
                    fresh, captions, labels, vectors, caption_vectors, strict=True
                )
            ]
        )
        self.added += len(fresh)

    def _open(self, file: Path) -> _OpenedFile:
        relative = file.relative_to(self._folder).as_posix()
        before = self._known.get(relative)
        blank = Source(root=str(self._folder), path=relative, size=0, mtime_ns=0, sha256="")
        try:
            status = file.stat()
            source = replace(blank, size=status.st_size, mtime_ns=status.st_mtime_ns)
            if before is not None and replace(before.source, sha256="") == source:
                return _OpenedFile(file, before.source, None)
            if status.st_size <= self._limits.max_upload_mb * 1024**2:
                source = replace(source, sha256=_sha256(file))
            if before is not None and before.source.sha256 == source.sha256 != "":
                return _OpenedFile(file, source, None)
            picture = open_untrusted(file, limits=self._limits)
            picture.thumbnail((WORKING_PX, WORKING_PX), Image.Resampling.BICUBIC)
            return _OpenedFile(file, source, picture)
        except PictureError as error:
            return _OpenedFile(file, blank, None, str(error))
        except OSError as error:
            return _OpenedFile(file, blank, None, f"It cannot be read ({error.strerror}).")

    def _is_fresh(self, one: _OpenedFile) -> bool:
        """Whether the file must be embedded; otherwise it is counted for what it is."""
        before = self._known.get(one.source.path)
        if one.problem:
            self.unreadable.append((one.source.path, one.problem))
            if before is not None:  # it was a picture once; what is shown must be what is there
                self._gallery.remove([before.id])
            return False
        if one.picture is None and before is not None:
            self.unchanged += 1
            if before.source != one.source or before.album != self._album:
                self._gallery.touch(replace(before, source=one.source, album=self._album))
            return False
        return True

    def _entry(self, one: _OpenedFile, *, caption: str, labels: tuple[str, ...]) -> Entry:
        assert one.picture is not None
        origin = f"{self._folder}\0{one.source.path}"
        return Entry(
            id=hashlib.sha256(origin.encode("utf-8", "surrogateescape")).hexdigest()[:20],
            caption=caption,
            labels=labels,
            album=self._album,
            credit="",
            thumbnail=self._gallery.save_thumbnail(one.picture),
            source=one.source,
        )


def _learn_label_words(gallery: Gallery, embed: Embed) -> None:
    """Give the gallery the recogniser's words, once for each embedding model."""
    from core.recognizer import default_scenes, default_tags, everyday_words

    everyday = [word.text for word in everyday_words()]
    words = tuple(dict.fromkeys([*everyday, *default_tags(), *default_scenes()]))
    if not gallery.knows_words(words):
        gallery.learn_words(words, embed([], list(words))[1])


def _is_indexed(picture: PackPicture, entry: Entry | None) -> bool:
    return entry is not None and entry.source == _pack_source(picture)


def _pack_source(picture: PackPicture) -> Source:
    said = "\n".join([picture.caption, *picture.keywords, picture.credit]).encode()
    digest = hashlib.sha256(picture.webp + said).hexdigest()
    return Source(root="", path=picture.name, size=len(picture.webp), mtime_ns=0, sha256=digest)


def _add_from_pack(gallery: Gallery, embed: Embed, batch: Sequence[PackPicture]) -> None:
    """Embed and add shipped pictures.

    The caption's vector is the mean of two: of the caption alone, and of the caption with its
    keywords. Alone the caption misses other words for the thing ("meal", "Beijing"); keywords
    alone blur it. On 40 searches made for this: 36, 34 and 37 found in the top 5.
    """
    images = [picture.image() for picture in batch]
    captions = [picture.caption for picture in batch]
    explained = [
        f"{p.caption}: {', '.join(p.keywords)}" if p.keywords else p.caption for p in batch
    ]
    vectors, texts = embed(images, captions + explained)
    both = texts[: len(batch)] + texts[len(batch) :]
    caption_vectors = both / np.linalg.norm(both, axis=1, keepdims=True)
    gallery.add(
        [
            FreshPicture(
                entry=Entry(
                    id=picture.id,
                    caption=picture.caption,
                    labels=picture.keywords,
                    album=picture.album,
                    credit=picture.credit,
                    thumbnail=gallery.save_thumbnail(image),
                    source=_pack_source(picture),
                ),
                picture_vector=vectors[number],
                caption_vector=caption_vectors[number],
            )
            for number, (picture, image) in enumerate(zip(batch, images, strict=True))
        ]
    )


def _bring_over(gallery: Gallery, embed: Embed, entries: Sequence[Entry]) -> None:
    images = []
    for entry in entries:
        with Image.open(gallery.thumbnail_path(entry.thumbnail)) as image:
            images.append(image.convert("RGB"))
    vectors, captions = embed(images, [entry.caption for entry in entries])
    gallery.add(
        [
            FreshPicture(entry=entry, picture_vector=vector, caption_vector=caption)
            for entry, vector, caption in zip(entries, vectors, captions, strict=True)
        ]
    )


def _own_caption(file: Path, labels: tuple[str, ...]) -> str:
    """The file's name where it says something ("IMG_0042" does not), and what was recognised."""
    words = [word for word in _words_of(file.stem) if word.lower() not in CAMERA_WORDS]
    said = " ".join(words)
    seen = ", ".join(labels)
    return f"{said} ({seen})" if said and seen else said or seen


def _words_of(name: str) -> list[str]:
    """Words of at least two letters; numbers and camera counters fall away."""
    parts = "".join(letter if letter.isalpha() else " " for letter in name).split()
    return [part for part in parts if len(part) > 1]


def _album_name(gallery: Gallery, wanted: str | None, folder: Path) -> str:
    """The folder's album: as wanted, or as it was called before, or by its name.

    Raises:
        UserError: other pictures have an album of the wanted name.
    """
    entries = gallery.entries().values()
    taken = {entry.album for entry in entries if entry.source.root != str(folder)} | {*ALBUMS}
    if wanted is None:
        before = [entry.album for entry in entries if entry.source.root == str(folder)]
        return before[0] if before else _numbered(folder.name or "pictures", taken)
    wanted = " ".join(wanted.split())
    if not wanted or wanted in taken:
        raise UserError(
            f"There is an album {wanted!r} already, of other pictures. Choose another name "
            "(--album NAME) and try again."
        )
    return wanted


def _numbered(name: str, taken: set[str]) -> str:
    """The name, or with the first number that makes it another: "holiday 2"."""
    if name not in taken:
        return name
    return next(f"{name} {n}" for n in count(2) if f"{name} {n}" not in taken)


def _picture_files(folder: Path) -> Iterator[Path]:
    """Picture files in the folder and below, in order of their names; links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            hidden = name.startswith(".") or path.is_symlink()
            if path.suffix.lower() in PICTURE_SUFFIXES and not hidden and path.is_file():
                yield path


def _batches(everything: Sequence[Element], cancel: threading.Event) -> Iterator[Sequence[Element]]:
    for start in range(0, len(everything), BATCH):
        if cancel.is_set():
            return
        yield everything[start : start + BATCH]


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
