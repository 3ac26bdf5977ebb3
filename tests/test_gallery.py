"""The gallery: vectors that can be checked by eye, kills, damage, locks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.catalogue import Entry, Source
from core.errors import DataFolderError, UserError
from core.gallery import FreshPicture, Gallery, calibrate, status_of

ROOT = Path(__file__).resolve().parent.parent
D = 8


def axis(number: int) -> np.ndarray:
    """A unit vector along one axis."""
    return np.eye(D, dtype=np.float32)[number]


def unit(seed: int, count: int = 1) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fresh(name: str, of_picture: np.ndarray, of_caption: np.ndarray, **fields) -> FreshPicture:
    entry = dict(
        id=name,
        caption=f"the caption of {name}",
        labels=("one", "two"),
        album="tests",
        credit="nobody",
        thumbnail="0" * 64,
        source=Source(root="", path=name, size=1, mtime_ns=0, sha256=name),
    )
    return FreshPicture(
        entry=Entry(**{**entry, **fields}), picture_vector=of_picture, caption_vector=of_caption
    )


def many(count: int, *, seed: int = 0) -> list[FreshPicture]:
    pictures, captions = unit(seed, count), unit(seed + 1, count)
    return [fresh(f"p{n:04d}", pictures[n], captions[n]) for n in range(count)]


def open_gallery(root: Path, *, model_id: str = "a model", dimension: int = D) -> Gallery:
    return Gallery(root, model_id=model_id, dimension=dimension)


@pytest.fixture
def gallery(tmp_path):
    opened = open_gallery(tmp_path / "gallery")
    yield opened
    opened.close()


def ids(hits) -> list[str]:
    return [hit.picture.id for hit in hits]


def test_a_picture_is_found_by_its_caption_or_by_itself_whichever_is_nearer(gallery):
    gallery.add([fresh("seen", axis(0), axis(1)), fresh("told", axis(2), axis(0))])
    gallery.add([fresh("neither", axis(3), axis(4))])
    # Fewer than eight pictures: plain cosines. Both have one vector equal to the query.
    hits = gallery.nearest(axis(0), limit=3)
    assert [(hit.picture.id, hit.matched, hit.score) for hit in hits] == [
        ("seen", "picture", 1.0),
        ("told", "caption", 1.0),
        ("neither", "picture", 0.0),
    ]


def test_two_kinds_of_score_are_compared_by_how_unusual_they_are():
    # Captions score 0.0 or 0.4 (mean .2, spread .2), pictures .8 or .9 (mean .85, spread .05).
    sample = np.array([[0.8, 0.0], [0.9, 0.4]] * 8)
    calibration = calibrate(sample, "text")
    # A caption at .6 is two deviations up; a picture at .95 as well, counted 0.7 times for words.
    np.testing.assert_allclose(calibration.deviations(np.array([[0.95, 0.6]])), [[1.4, 2.0]])
    # Back on the captions' scale, 1.4 deviations are .2 + 1.4 * .2.
    assert calibration.as_cosine(1.4) == pytest.approx(0.48)


def test_a_picture_as_query_finds_itself_first_with_score_one(gallery):
    gallery.add(many(60))
    for name in ("p0000", "p0031", "p0059"):
        hit = gallery.nearest(gallery.vectors(name)[0], limit=5, query="picture")[0]
        assert (hit.picture.id, hit.matched) == (name, "picture")
        assert hit.score == pytest.approx(1.0, abs=1e-5)


def test_search_agrees_with_comparing_every_picture(gallery):
    gallery.add(many(200))
    for query in unit(7, 20):
        everything = ids(gallery.nearest(query, limit=10, album="tests"))  # exact within an album
        assert ids(gallery.nearest(query, limit=10)) == everything


def test_an_album_limits_the_search_and_the_pages(gallery):
    gallery.add([fresh("a", axis(0), axis(1), album="sea"), fresh("b", axis(0), axis(1))])
    assert ids(gallery.nearest(axis(0), limit=5, album="sea")) == ["a"]
    assert [picture.id for picture in gallery.pictures(album="sea")] == ["a"]
    assert gallery.albums() == {"sea": 1, "tests": 1}


def test_an_empty_gallery_finds_nothing(gallery):
    assert gallery.nearest(axis(0), limit=5) == []
    assert gallery.nearest_texts(axis(0), limit=5) == []
    assert gallery.pictures() == []


def test_an_unknown_picture_is_a_message_for_the_person(gallery):
    with pytest.raises(UserError, match="no picture 'gone'"):
        gallery.get("gone")


def test_texts_near_a_picture_are_captions_and_words_each_once(gallery):
    gallery.add(
        [fresh("a", axis(5), axis(0), caption="Cat"), fresh("b", axis(5), axis(1), caption="tree")]
    )
    gallery.learn_words(["cat", "dog"], np.stack([axis(0), axis(2)]))
    found = gallery.nearest_texts((axis(0) + axis(1) * 0.5) / np.sqrt(1.25), limit=3)
    # Caption and label "cat" both score .894; the caption stays. Then the tree, then the dog at 0.
    assert [(hit.text, hit.kind) for hit in found] == [
        ("Cat", "caption"),
        ("tree", "caption"),
        ("dog", "label"),
    ]


def test_what_was_added_is_there_after_a_restart(tmp_path):
    first = open_gallery(tmp_path)
    first.add(many(40))
    first.remove(["p0003"])
    first.learn_words(["sea"], axis(1)[None])
    before = [ids(first.nearest(query, limit=10)) for query in unit(3, 10)]
    first.close()
    second = open_gallery(tmp_path)
    assert len(second) == 39
    assert second.get("p0001").labels == ("one", "two")
    assert second.knows_words(["sea"])
    assert [ids(second.nearest(query, limit=10)) for query in unit(3, 10)] == before
    second.close()


def test_an_index_that_was_closed_in_order_is_not_made_anew(tmp_path):
    first = open_gallery(tmp_path)
    first.add(many(1200))
    first.close()
    for _ in range(2):
        open_gallery(tmp_path).close()
    assert [folder.name for folder in (tmp_path / "chroma").glob("*/g*")] == ["g1"]


def test_adding_again_replaces(gallery):
    gallery.add([fresh("a", axis(0), axis(1)), fresh("b", axis(2), axis(3))])
    gallery.add([fresh("a", axis(4), axis(5), caption="new")])
    assert len(gallery) == 2
    assert gallery.get("a").caption == "new"
    assert gallery.nearest(axis(4), limit=1)[0].score == 1.0


def test_a_thumbnail_is_small_without_metadata_and_goes_with_its_picture(gallery, tmp_path):
    photo = Image.new("RGB", (1200, 600), "red")
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    photo.save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as opened:
        name = gallery.save_thumbnail(opened)
    gallery.add([fresh("a", axis(0), axis(1), thumbnail=name)])
    path = gallery.get("a").path
    with Image.open(path) as small:
        assert small.size == (384, 192)
        assert not small.getexif() and "exif" not in small.info
    gallery.remove(["a"])
    assert not path.exists()


def test_a_thumbnail_shared_by_two_pictures_stays_until_both_are_gone(gallery):
    name = gallery.save_thumbnail(Image.new("RGB", (10, 10), "blue"))
    gallery.add([fresh(n, axis(0), axis(1), thumbnail=name) for n in ("a", "b")])
    gallery.remove(["a"])
    assert gallery.get("b").path.exists()


def test_each_model_has_its_own_vectors(tmp_path):
    first = open_gallery(tmp_path, model_id="small")
    first.add(many(5))
    first.close()
    other = open_gallery(tmp_path, model_id="large", dimension=4)
    assert len(other) == 0
    other.close()
    again = open_gallery(tmp_path, model_id="small")
    assert len(again) == 5
    again.close()


def test_vectors_of_another_model_are_refused(tmp_path):
    open_gallery(tmp_path).close()
    card = next((tmp_path / "models").glob("*/gallery.json"))
    card.write_text(json.dumps({"format": 1, "model_id": "another", "dimension": D}))
    with pytest.raises(DataFolderError, match="was not made by a model"):
        open_gallery(tmp_path)


@pytest.mark.parametrize("bad", [np.full(D, np.nan), np.full(D, np.inf)])
def test_vectors_that_are_not_numbers_are_refused(gallery, bad):
    with pytest.raises(ValueError, match="finite"):
        gallery.add([fresh("a", bad.astype(np.float32), axis(0))])
    assert len(gallery) == 0


# Damage


def chroma_files(root: Path, pattern: str) -> list[Path]:
    found = [path for path in (root / "chroma").rglob(pattern) if path.is_file()]
    assert found, f"Chroma has no {pattern}, so nothing would be damaged"
    return found


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, len(content), dtype=np.uint8)
    path.write_bytes(noise.tobytes())


def seal(root: Path) -> Path:
    return next((root / "chroma").glob("*/CLOSED"))


DAMAGE = {
    "folder gone": lambda root: shutil.rmtree(root / "chroma"),
    "database gone": lambda root: [p.unlink() for p in chroma_files(root, "chroma.sqlite3")],
    "database empty": lambda root: [os.truncate(p, 0) for p in chroma_files(root, "*.sqlite3")],
    "database cut": lambda root: [cut(p) for p in chroma_files(root, "*.sqlite3")],
    "database scrambled": lambda root: [scramble(p) for p in chroma_files(root, "*.sqlite3")],
    "vectors gone": lambda root: [p.unlink() for p in chroma_files(root, "*.bin")],
    "vectors cut": lambda root: [cut(p) for p in chroma_files(root, "*.bin")],
    "vectors scrambled": lambda root: [scramble(p) for p in chroma_files(root, "*.bin")],
    "a file in its place": lambda root: [
        (shutil.rmtree(folder), folder.write_text("?")) for folder in (root / "chroma").glob("*/g1")
    ],
    "never closed": lambda root: [seal(root).unlink()],
    "never closed and scrambled": lambda root: [
        seal(root).unlink(),
        *(scramble(p) for p in chroma_files(root, "*.bin")),
    ],
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_search_index_is_made_anew_with_the_same_answers(tmp_path, damage):
    first = open_gallery(tmp_path)
    first.add(many(1200))  # more than Chroma keeps in its log, so that it writes its vector files
    queries = unit(11, 30)
    before = [ids(first.nearest(query, limit=10)) for query in queries]
    first.close()
    DAMAGE[damage](tmp_path)
    second = open_gallery(tmp_path)
    assert [ids(second.nearest(query, limit=10)) for query in queries] == before
    second.close()


def test_an_index_with_foreign_vectors_is_made_anew(tmp_path):
    first = open_gallery(tmp_path)
    first.add(many(30))
    collection = first._index._sides["pictures"]
    collection.update(ids=["p0000", "p0001"], embeddings=unit(99, 2))
    # Two of thirty are wrong, and a sample of fifty at opening takes all thirty.
    first.close()
    second = open_gallery(tmp_path)
    kept = second._index._sides["pictures"].get(ids=["p0000"], include=["embeddings"])
    np.testing.assert_allclose(kept["embeddings"][0], second.vectors("p0000")[0], atol=1e-6)
    second.close()


def test_a_half_written_line_and_row_are_cut_off(tmp_path):
    first = open_gallery(tmp_path)
    first.add(many(10))
    first.close()
    folder = next((tmp_path / "models").iterdir())
    with open(folder / "vectors.f32", "ab") as file:
        file.write(b"half a row")
    with open(folder / "catalogue.jsonl", "ab") as file:
        file.write(b'{"add": {"id": "p00')
    second = open_gallery(tmp_path)
    assert len(second) == 10
    second.add([fresh("later", axis(0), axis(1))])
    second.close()
    third = open_gallery(tmp_path)
    assert len(third) == 11 and third.get("later").caption == "the caption of later"
    third.close()


def test_a_picture_with_altered_vectors_is_forgotten(tmp_path):
    first = open_gallery(tmp_path)
    first.add(many(10))
    first.close()
    vectors = next((tmp_path / "models").glob("*/vectors.f32"))
    content = bytearray(vectors.read_bytes())
    content[5 * 2 * D * 4 + 3] ^= 0xFF  # one byte in the sixth row
    vectors.write_bytes(content)
    second = open_gallery(tmp_path)
    assert len(second) == 9 and "p0005" not in second
    second.close()


def test_a_line_that_is_no_json_costs_only_its_own_picture(tmp_path):
    first = open_gallery(tmp_path)
    first.add(many(10))
    first.close()
    lines = next((tmp_path / "models").glob("*/catalogue.jsonl"))
    content = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(b"".join([*content[:4], b"{oops\n", *content[5:]]))
    second = open_gallery(tmp_path)
    assert len(second) == 9 and "p0004" not in second
    second.close()


def test_a_full_disk_is_a_message_and_loses_nothing(gallery, monkeypatch):
    gallery.add(many(5))

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataFolderError, match="No space left on device"):
        gallery.add([fresh("late", axis(0), axis(1))])
    monkeypatch.undo()
    assert len(gallery) == 5
    gallery.add([fresh("later", axis(0), axis(1))])
    assert ids(gallery.nearest(axis(0), limit=1)) == ["later"]


# Processes

CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from core.errors import DataFolderError
    from core.gallery import Gallery
    from tests.test_gallery import D, many

    root, what = Path(sys.argv[1]), sys.argv[2]
    try:
        gallery = Gallery(root, model_id="a model", dimension=D)
    except DataFolderError as problem:
        print(problem)
        sys.exit(3)
    if what == "hold":
        print("ready", flush=True)
        sys.stdin.read()
    for picture in many(2000):
        gallery.add([picture])
        print(picture.entry.id, flush=True)
    """
)


def child(root: Path, what: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), what],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_is_refused_within_a_second(tmp_path):
    holder = child(tmp_path, "hold")
    try:
        assert holder.stdout.readline() == "ready\n"
        started = time.perf_counter()
        with pytest.raises(DataFolderError, match="in use by another running Sightloop"):
            open_gallery(tmp_path)
        assert time.perf_counter() - started < 1.0
    finally:
        holder.kill()
        holder.wait()
    open_gallery(tmp_path).close()  # a killed process leaves no lock behind


@pytest.mark.parametrize("seen_before_kill", [1, 40, 130])
def test_a_kill_while_indexing_loses_nothing_that_was_reported(tmp_path, seen_before_kill):
    process = child(tmp_path, "add")
    reported = [process.stdout.readline().strip() for _ in range(seen_before_kill)]
    process.send_signal(signal.SIGKILL)
    reported += process.stdout.read().split()
    process.wait()
    gallery = open_gallery(tmp_path)
    assert set(reported) <= set(gallery.entries())
    assert len(gallery) <= len(reported) + 1  # one may be on disk and not yet reported
    # The index survived as well: what the kill kept out of it was added, nothing was made anew.
    assert [folder.name for folder in (tmp_path / "chroma").glob("*/g*")] == ["g1"]
    for name in reported[:: max(1, len(reported) // 20)]:
        assert name in ids(gallery.nearest(gallery.vectors(name)[0], limit=1, query="picture"))
    gallery.close()


def test_readers_see_whole_pictures_while_one_thread_writes(gallery):
    gallery.add(many(50))
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                for query in unit(5, 3):
                    assert len(gallery.nearest(query, limit=5)) == 5
                gallery.pictures(0, 10)
                gallery.nearest_texts(axis(0), limit=5)
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(20):
        gallery.add([fresh(f"x{number}", *unit(100 + number, 2))])
        gallery.remove([f"x{number - 5}"])
    done.set()
    for reader in readers:
        reader.join()
    assert not problems


def test_status_can_be_read_while_the_gallery_is_open(tmp_path):
    gallery = open_gallery(tmp_path / "gallery")
    gallery.add([fresh("a", axis(0), axis(1), album="sea"), fresh("b", axis(0), axis(1))])
    said = status_of(tmp_path)
    gallery.close()
    assert said == "2 pictures, indexed by a model\n       1  sea\n       1  tests\n"


def test_status_of_nothing_says_so(tmp_path):
    assert "is empty" in status_of(tmp_path)
