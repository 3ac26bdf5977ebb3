"""What can be said on the command line."""

import argparse
import os
from pathlib import Path


def read_arguments(given: list[str] | None = None, *, data_dir: Path) -> argparse.Namespace:
    """preset, data_dir, host, port, share and owner_key, from the command line or the environment.

    Args:
        given: the words of the command line; those of this process when left out.
        data_dir: the default folder.
    """
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Sightloop: see, ask, draw, and teach it by choosing. Serves the page and the "
        "API until stopped with Ctrl+C. Settings are in spaces.yaml.",
    )
    add = parser.add_argument
    add("--preset", metavar="NAME", help="preset of spaces.yaml to run (default: the one it names)")
    add(
        "--data-dir",
        metavar="FOLDER",
        type=Path,
        default=data_dir,
        help="where votes, pictures and adapters are kept (default: %(default)s)",
    )
    add(
        "--host",
        metavar="ADDRESS",
        default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    add(
        "--port",
        metavar="NUMBER",
        type=_port,
        default=os.environ.get("GRADIO_SERVER_PORT", "7860"),
        help="port to listen on (default: %(default)s)",
    )
    add("--share", action="store_true", help="also make a public link through Gradio's tunnel")
    # A secret does not belong on a command line, where every user of the machine can read it.
    parser.set_defaults(owner_key=os.environ.get("SIGHTLOOP_OWNER_KEY", ""))
    return parser.parse_args(given)


def _port(given: str) -> int:
    port = int(given)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port; give a number from 1 to 65535")
    return port
