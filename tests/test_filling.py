"""Filling the gallery: resumable, honest about what it cannot read, and nothing left behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.filling import index_folder, index_pack
from core.gallery import Gallery
from core.pack import PackPicture

ROOT = Path(__file__).resolve().parent.parent
D = 8
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEyes:
    """Vectors that can be told by eye: a picture's mean colour; a text's first colour word."""

    def __init__(self) -> None:
        self.pictures_seen = 0

    def __call__(self, pictures, texts):
        self.pictures_seen += len(pictures)
        seen = [np.asarray(picture, dtype=np.float32).mean(axis=(0, 1)) for picture in pictures]
        return self._rows(seen), self._rows([self._colour(text) for text in texts])

    def _colour(self, text):
        named = [colour for name, colour in COLOURS.items() if name in text]
        return np.array(named[0] if named else (1, 1, 1), dtype=np.float32)

    def _rows(self, colours):
        rows = np.zeros((len(colours), D), dtype=np.float32)
        for row, colour in zip(rows, colours, strict=True):
            row[:3] = colour
            row[3] = 1e-3  # black has a direction too
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def eyes():
    return ColourEyes()


@pytest.fixture
def gallery(tmp_path):
    opened = Gallery(tmp_path / "gallery", model_id="colours", dimension=D)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one of them in a folder below."""
    root = tmp_path / "holiday"
    (root / "day two").mkdir(parents=True)
    paint(root / "red boat.png", "red")
    paint(root / "IMG_0042.jpg", "green")
    paint(root / "day two" / "blue sea.webp", "blue")
    return root


def paint(path: Path, colour: str, size=(80, 60)) -> None:
    Image.new("RGB", size, colour).save(path)


def counts(report):
    return report.added, report.unchanged, report.removed, len(report.unreadable)


def test_a_folder_is_indexed_and_found_by_name_and_by_look(gallery, folder, eyes):
    report = index_folder(gallery, folder, eyes)
    assert counts(report) == (3, 0, 0, 0) and not report.was_cancelled
    assert gallery.albums() == {"holiday": 3}
    blue = gallery.nearest(eyes([], ["blue"])[1][0], limit=1)[0].picture
    assert blue.caption.startswith("blue sea (") and blue.album == "holiday"
    green = gallery.nearest(eyes([Image.new("RGB", (9, 9), (0, 255, 0))], [])[0][0], limit=1)
    # A camera's counter says nothing, so only what was recognised is the caption.
    assert "IMG" not in green[0].picture.caption and green[0].picture.labels


def test_nothing_is_embedded_twice(gallery, folder, eyes):
    index_folder(gallery, folder, eyes)
    seen = eyes.pictures_seen
    assert counts(index_folder(gallery, folder, eyes)) == (0, 3, 0, 0)
    os.utime(folder / "red boat.png", (1, 1))  # another time, the same bytes
    assert counts(index_folder(gallery, folder, eyes)) == (0, 3, 0, 0)
    assert eyes.pictures_seen == seen


def test_changed_files_are_indexed_anew_and_gone_ones_removed(gallery, folder, eyes):
    index_folder(gallery, folder, eyes)
    paint(folder / "red boat.png", "blue", size=(81, 60))
    (folder / "IMG_0042.jpg").unlink()
    thumbnails = set((gallery.root / "thumbnails").rglob("*.webp"))
    assert counts(index_folder(gallery, folder, eyes)) == (1, 1, 1, 0)
    assert len(gallery) == 2
    left = set((gallery.root / "thumbnails").rglob("*.webp"))
    assert len(thumbnails - left) == 2, "pictures that are gone must not be served any more"


def test_unreadable_files_are_named_and_the_rest_goes_on(gallery, folder, eyes):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (folder / "empty.png").touch()
    (folder / "page.png").write_text("<html>hello</html>")
    (folder / "notes.txt").write_text("not counted: it does not claim to be a picture")
    report = index_folder(gallery, folder, eyes)
    assert report.added == 3
    assert sorted(name for name, _ in report.unreadable) == ["broken.jpg", "empty.png", "page.png"]
    assert all(why for _, why in report.unreadable)


def test_a_picture_that_was_overwritten_with_rubbish_is_not_shown_any_more(gallery, folder, eyes):
    index_folder(gallery, folder, eyes)
    (folder / "red boat.png").write_bytes(b"rubbish")
    report = index_folder(gallery, folder, eyes)
    assert len(gallery) == 2 and [name for name, _ in report.unreadable] == ["red boat.png"]


def test_links_and_hidden_files_are_left_alone(gallery, folder, eyes, tmp_path):
    paint(tmp_path / "secret.png", "red")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    paint(folder / ".hidden.png", "red")
    assert index_folder(gallery, folder, eyes).added == 3


def test_a_cancelled_run_keeps_what_it_did_and_the_next_goes_on(gallery, tmp_path, eyes):
    root = tmp_path / "many"
    root.mkdir()
    for number in range(70):
        Image.new("RGB", (8, 8), (number, 2 * number, 3)).save(root / f"{number:03d}.png")
    cancel = threading.Event()
    first = index_folder(
        gallery, root, eyes, lambda state: state.done >= 32 and cancel.set(), cancel
    )
    assert first.was_cancelled and 0 < first.added < 70
    second = index_folder(gallery, root, eyes)
    assert second.added + second.unchanged == 70 == len(gallery)
    assert second.unchanged == first.added


def test_progress_counts_to_the_end(gallery, folder, eyes):
    states = []
    index_folder(gallery, folder, eyes, states.append)
    assert (states[0].done, states[0].total) == (0, 3)
    assert (states[-1].done, states[-1].total) == (3, 3)


def test_a_folder_that_is_not_there_removes_nothing(gallery, folder, eyes):
    index_folder(gallery, folder, eyes)
    folder.rename(folder.with_name("elsewhere"))  # or its disk was unplugged
    with pytest.raises(UserError, match="is not a folder"):
        index_folder(gallery, folder, eyes)
    assert len(gallery) == 3


def test_two_folders_of_one_name_are_two_albums(gallery, folder, eyes, tmp_path):
    index_folder(gallery, folder, eyes)
    other = tmp_path / "other" / "holiday"
    other.mkdir(parents=True)
    paint(other / "x.png", "red")
    for _ in range(2):  # the second run finds the name of the first
        index_folder(gallery, other, eyes)
        assert gallery.albums() == {"holiday": 3, "holiday 2": 1}
    with pytest.raises(UserError, match="an album 'holiday' already"):
        index_folder(gallery, other, eyes, album="holiday")


def test_an_album_cannot_take_the_name_of_what_ships(gallery, folder, eyes):
    with pytest.raises(UserError, match="'pictograms'"):
        index_folder(gallery, folder, eyes, album="pictograms")


def test_an_album_can_be_renamed_without_looking_again(gallery, folder, eyes):
    index_folder(gallery, folder, eyes)
    seen = eyes.pictures_seen
    index_folder(gallery, folder, eyes, album="summer")
    assert gallery.albums() == {"summer": 3} and eyes.pictures_seen == seen


def test_a_picture_stays_itself_when_another_model_takes_over(tmp_path, folder, eyes, monkeypatch):
    monkeypatch.setattr("core.filling.read_pack", lambda: iter(()))
    first = Gallery(tmp_path / "gallery", model_id="colours", dimension=D)
    index_folder(first, folder, eyes)
    names = set(first.entries())
    first.close()
    second = Gallery(tmp_path / "gallery", model_id="better colours", dimension=D)
    assert len(second) == 0
    assert index_pack(second, eyes).added == 3
    assert set(second.entries()) == names
    hit = second.nearest(eyes([], ["blue"])[1][0], limit=1)[0]
    assert hit.picture.caption.startswith("blue sea")
    assert counts(index_folder(second, folder, eyes)) == (0, 3, 0, 0)
    second.close()


def pack_picture(name: str, colour: str) -> PackPicture:
    import io

    content = io.BytesIO()
    Image.new("RGBA", (16, 16), colour).save(content, "WEBP", lossless=True)
    return PackPicture(
        id=f"pictogram-{name}",
        name=name,
        caption=f"a {colour} {name}",
        keywords=("thing",),
        album="pictograms",
        group="objects",
        credit="nobody, CC0",
        webp=content.getvalue(),
    )


def test_the_shipped_pack_is_indexed_once_and_follows_its_changes(gallery, eyes, monkeypatch):
    pack = [pack_picture("car", "red"), pack_picture("leaf", "green")]
    monkeypatch.setattr("core.filling.read_pack", lambda: iter(pack))
    assert counts(index_pack(gallery, eyes)) == (2, 0, 0, 0)
    assert counts(index_pack(gallery, eyes)) == (0, 2, 0, 0)
    pack[1] = pack_picture("leaf", "blue")  # another picture under the same id
    pack.append(pack_picture("sea", "blue"))
    del pack[0]
    assert counts(index_pack(gallery, eyes)) == (2, 0, 1, 0)
    assert gallery.get("pictogram-leaf").caption == "a blue leaf"
    assert gallery.get("pictogram-sea").credit == "nobody, CC0"


def test_indexing_the_pack_leaves_a_persons_pictures_alone(gallery, folder, eyes, monkeypatch):
    monkeypatch.setattr("core.filling.read_pack", lambda: iter([pack_picture("car", "red")]))
    index_folder(gallery, folder, eyes)
    index_pack(gallery, eyes)
    assert gallery.albums() == {"holiday": 3, "pictograms": 1}


def test_the_command_says_at_once_that_the_app_is_running(tmp_path, folder):
    from core.datafolder import DataFolder

    running = DataFolder(tmp_path / "data")
    asked = subprocess.run(
        [sys.executable, "-m", "core.gallery", "add", str(folder), "--data-dir", running.root],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    running.close()
    assert asked.returncode == 1
    assert "in use by another running Sightloop" in asked.stderr


@pytest.mark.weights
def test_the_command_indexes_a_folder_and_names_what_it_cannot_read(tmp_path, folder, weights):
    (folder / "broken.jpg").write_bytes(b"rubbish")
    command = [sys.executable, "-m", "core.gallery"]
    place = ["--data-dir", str(tmp_path / "data")]
    run = dict(cwd=ROOT, capture_output=True, text=True, timeout=120)
    run["env"] = {**os.environ, "SIGHTLOOP_CACHE_DIR": str(weights)}
    added = subprocess.run([*command, "add", str(folder), *place], **run)
    assert added.returncode == 0, added.stderr
    assert added.stdout == "3 added, 0 unchanged, 0 removed, 1 unreadable\n"
    assert "broken.jpg: " in added.stderr
    status = subprocess.run([*command, "status", *place], **run)
    assert "3 pictures, indexed by conse-1" in status.stdout and "3  holiday" in status.stdout
