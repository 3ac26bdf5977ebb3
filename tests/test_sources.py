"""Source packages: fetched once, checked, kept whole or not at all, and clear when they fail."""

import errno
import hashlib
import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import training.embedded.sources as sources
from tests.tiny_sprites import disc, make_tiny_sprites, wide_box
from training.embedded.sources import MANIFEST, Package, SourceError, package_folder
from training.embedded.sprites import (
    NATIVE_PX,
    STYLES,
    SpriteBook,
    load_sprites,
    measure,
    own_colour,
    pack_sprites,
)


def npm_archive(files: dict[str, str]) -> bytes:
    """A .tgz as npm publishes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A stand-in for npm on the PATH that hands out one archive and notes each call."""
    archive = tmp_path / "served.tgz"
    calls = tmp_path / "calls"
    tools = tmp_path / "tools"
    tools.mkdir()
    npm = tools / "npm"
    npm.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{calls}"\n'
        f'/bin/cp "{archive}" "$5/thing-1.0.0.tgz" || {{ echo "npm error E404" >&2; exit 1; }}\n'
    )
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tools))

    def serve(files: dict[str, str], *, sha256: str | None = None) -> Path:
        content = npm_archive(files)
        archive.write_bytes(content)
        package = Package(
            spec="thing@1.0.0",
            sha256=sha256 or hashlib.sha256(content).hexdigest(),
            home="package",
            keep=("pictures/*.txt", "LICENSE"),
            licence="MIT",
        )
        monkeypatch.setitem(sources.PACKAGES, "thing", package)
        return calls

    return serve


FILES = {"package/pictures/one.txt": "1", "package/code.js": "no", "package/LICENSE": "MIT"}


def test_only_the_files_that_are_kept_land_in_the_cache(registry, tmp_path):
    registry(FILES)
    folder = package_folder("thing", cache=tmp_path / "cache")
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == {"pictures/one.txt", "LICENSE", MANIFEST}
    assert json.loads((folder / MANIFEST).read_text())["licence"] == "MIT"


def test_a_package_is_fetched_once(registry, tmp_path):
    calls = registry(FILES)
    for _ in range(3):
        package_folder("thing", cache=tmp_path / "cache")
    assert len(calls.read_text().splitlines()) == 1


def test_a_changed_checksum_is_refused_and_nothing_is_kept(registry, tmp_path):
    registry(FILES, sha256="0" * 64)
    with pytest.raises(SourceError, match="came with the checksum"):
        package_folder("thing", cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "sources").iterdir()] == [".lock"]


def test_a_package_that_is_gone_says_so(registry, tmp_path):
    registry(FILES)
    (tmp_path / "served.tgz").unlink()
    with pytest.raises(SourceError, match="cannot be fetched from its registry"):
        package_folder("thing", cache=tmp_path / "cache")


def test_no_npm_says_what_to_install(registry, tmp_path, monkeypatch):
    registry(FILES)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="Install Node.js"):
        package_folder("thing", cache=tmp_path / "cache")


def test_files_that_lead_outside_are_left_out(registry, tmp_path):
    registry({**FILES, "package/pictures/../../../outside.txt": "bad"})
    folder = package_folder("thing", cache=tmp_path / "cache")
    assert not list(tmp_path.rglob("outside.txt")) and (folder / "pictures/one.txt").exists()


def test_a_package_without_the_expected_files_is_refused(registry, tmp_path):
    registry({"package/other.txt": "x"})
    with pytest.raises(SourceError, match="none of the files"):
        package_folder("thing", cache=tmp_path / "cache")


def test_a_full_disk_says_what_to_free_and_leaves_nothing(registry, tmp_path, monkeypatch):
    registry(FILES)

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SourceError, match="Free 300 MB"):
        package_folder("thing", cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "sources").iterdir()] == [".lock"]


def test_a_killed_fetch_is_begun_again(registry, tmp_path):
    registry(FILES)
    leftover = tmp_path / "cache" / "sources" / "thing-1.0.0.partial" / "unpacked"
    leftover.mkdir(parents=True)
    (leftover / "half.txt").write_text("half")
    folder = package_folder("thing", cache=tmp_path / "cache")
    assert not (folder / "half.txt").exists() and not leftover.exists()


def test_wheels_are_read_as_well(tmp_path):
    with zipfile.ZipFile(tmp_path / "a-1.whl", "w") as wheel:
        wheel.writestr("a/data/one.txt", "1")
    members = [(name, file.read()) for name, file in sources._members(tmp_path / "a-1.whl")]
    assert members == [("a/data/one.txt", b"1")]


def test_an_unknown_package_is_the_callers_mistake(tmp_path):
    with pytest.raises(ValueError, match="Unknown source package 'apple'"):
        package_folder("apple", cache=tmp_path)


def test_no_package_keeps_apples_or_facebooks_pictures():
    kept = " ".join(pattern for one in sources.PACKAGES.values() for pattern in one.keep)
    assert "apple" not in kept and "facebook" not in kept
    assert all(len(one.sha256) == 64 for one in sources.PACKAGES.values())


# Sprites


def test_a_sprites_box_is_measured_by_hand():
    red = measure(disc((214, 32, 38)))
    assert red.box == (0.0, 0.0, 1.0, 1.0) and red.colour == "red" and red.mean == (214, 32, 38)
    # 16 to 48 of 64 px down.
    assert measure(wide_box((38, 96, 220))).box == (0.0, 0.25, 1.0, 0.75)


def test_two_colours_are_none():
    half = np.array([[214, 32, 38]] * 500 + [[38, 96, 220]] * 500, dtype=np.uint8)
    assert own_colour(half) is None


def test_a_pale_bluish_grey_is_grey():
    # Twemoji's elephant.
    assert own_colour(np.full((400, 3), (153, 170, 181), dtype=np.uint8)) == "grey"


def test_packed_sprites_come_back_as_they_were(tmp_path):
    book = make_tiny_sprites(tmp_path / "tiny")
    name = book.kinds[0].name
    assert book.has(name, "noto") and not book.has(name, "twemoji")
    assert book.sprite(name, "noto").tobytes() == disc((214, 32, 38)).tobytes()


def test_a_pack_that_fails_leaves_nothing(tmp_path):
    def breaks():
        yield "dog", disc((1, 2, 3))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        pack_sprites(tmp_path / "book", {"noto": breaks()})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def real_book(real_cache) -> SpriteBook:
    """The book of the person's own cache; skipped where no one has made it yet."""
    from training.embedded.sprites import INDEX, _fingerprint

    if not (real_cache / "sprites" / _fingerprint() / INDEX).exists():
        pytest.skip("the sprites are not packed; python -m training.scenes show packs them")
    return load_sprites(real_cache)


@pytest.mark.weights
@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_at_least_400_kinds_whole(real_book, style):
    drawn = real_book.drawable(style, seen=None)
    assert len(drawn) >= 400
    for kind in drawn[::9]:
        sprite = real_book.sprite(kind.name, style)
        assert sprite.size == (NATIVE_PX[style],) * 2 and sprite.mode == "RGBA"
        border = np.asarray(Image.fromarray(np.asarray(sprite)[..., 3]))
        edges = np.concatenate([border[0], border[-1], border[:, 0], border[:, -1]])
        assert edges.max() == 0, f"{kind.name} touches the edge"
