"""How long until the page answers, and how much memory one question takes.

`python -m benchmarks.startup [--data-dir D]`. Without --data-dir a new folder is used: the first
start there indexes the default gallery, the second finds everything in place. Weights are expected
in the cache already (`python -m core.weights`).
"""

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from gradio_client import Client

from benchmarks.report import Row, write_report

ROOT = Path(__file__).resolve().parent.parent
PORT = 7877
START_LIMIT_S = 180.0
INDEX_LIMIT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = arguments.data_dir or Path(temporary)
        rows = [_measure_start(data_dir, name=name) for name in ("first", "second")]
    write_report("startup", rows, notes="Bars: second start under 15 s, under 3 GB.")


def _measure_start(data_dir: Path, *, name: str) -> Row:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--data-dir", str(data_dir), "--port", str(PORT)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_page(process)
        page_s = time.perf_counter() - started
        client = Client(f"http://127.0.0.1:{PORT}", verbose=False)
        indexed_s = _wait_for_gallery(client, started)
        asked = time.perf_counter()
        client.predict("Is a whale a fish?", api_name="/ask")
        return {
            "start": name,
            "page after s": round(page_s, 1),
            "gallery ready after s": round(indexed_s, 1),
            "first answer s": round(time.perf_counter() - asked, 1),
            "memory after it GB": round(_peak_memory_gb(process.pid), 2),
        }
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for_page(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"The app stopped with exit code {process.returncode} before its page.")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/config", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"No page after {START_LIMIT_S:.0f} s.")


def _wait_for_gallery(client: Client, started: float) -> float:
    """Seconds since `started` at which a search finds pictures of the whole default gallery."""
    deadline = time.monotonic() + INDEX_LIMIT_S
    while time.monotonic() < deadline:
        status = client.predict(api_name="/gallery_status")
        if not status["indexing"] and status["pictures"] >= 600:
            return time.perf_counter() - started
        time.sleep(0.5)
    sys.exit(f"The gallery was not indexed within {INDEX_LIMIT_S:.0f} s.")


def _peak_memory_gb(pid: int) -> float:
    """Largest resident size the process had, in GB (10^9 bytes); Linux only."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
