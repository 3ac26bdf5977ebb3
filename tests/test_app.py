"""Starting the app: what it explains, and what it says where it cannot start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.datafolder import DataFolder
from core.settings import ROOT
from tests.pages import free_port


def started(*words: str) -> subprocess.CompletedProcess[str]:
    """app.py run to its end; only for starts that end by themselves."""
    command = [sys.executable, "app.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)


def test_help_explains_every_option() -> None:
    shown = started("--help")
    assert shown.returncode == 0
    assert all(
        option in shown.stdout
        for option in ("--preset", "--data-dir", "--host", "--port", "--share")
    )


def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = started("--port", str(port), "--data-dir", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Port {port} on 127.0.0.1 cannot be used")
    assert f"--port {port + 1}" in ended.stderr and ended.stderr.count("\n") == 1


def test_an_unknown_preset_is_named_with_the_known_ones(tmp_path: Path) -> None:
    ended = started("--preset", "huge", "--port", str(free_port()), "--data-dir", str(tmp_path))
    assert ended.returncode == 1
    assert "'huge' is not one of embedded, gpu" in ended.stderr and "Traceback" not in ended.stderr


def test_a_data_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    try:
        ended = started("--port", str(free_port()), "--data-dir", str(tmp_path))
    finally:
        folder.close()
    assert ended.returncode == 1
    assert "in use by another running Sightloop" in ended.stderr


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    # A read-only folder cannot be made for root, who may write anywhere; a file in its place can.
    (tmp_path / "data").write_text("not a folder")
    ended = started("--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert "cannot be written" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_data_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ended = started("--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    tmp_path.chmod(0o700)
    assert ended.returncode == 1
    assert "cannot be written" in ended.stderr


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    ended = started("--port", port)
    assert ended.returncode == 2 and "--port" in ended.stderr
