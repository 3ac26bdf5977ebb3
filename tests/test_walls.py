"""The walls between the rooms (who may import whom), and settings that must not drift apart."""

import ast
import re
from pathlib import Path

import pytest

from core.settings import front_matter, load_settings

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"core", "feedback", "training", "ui", "app"}
# ui and feedback reach into core for values and errors only, never for models.
MAY_IMPORT = {
    "core": {"core"},
    "feedback": {"feedback", "core.types", "core.errors"},
    "ui": {"ui", "core.types", "core.errors"},
    "training": {"training", "core", "feedback"},
}
ONLY_IN = {
    "gradio": {"ui", "app"},
    "sqlite_utils": {"feedback"},
    "chromadb": {"core"},
    "open_clip": {"core"},
    "diffusers": {"core", "training"},
    "trl": {"training"},
}
NOT_IN = {"feedback": {"torch", "transformers"}, "ui": {"torch", "transformers"}}
VAGUE_NAMES = {"utils", "helpers", "common", "base", "manager"}


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def is_within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py")) if room != "app" else [ROOT / "app.py"]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_only_inwards(room: str) -> None:
    for path in files_of(room):
        ours = {name for name in imported_modules(path) if name.split(".")[0] in ROOMS}
        # "import core" as a package says nothing about what is used of it, so it is not allowed
        # where only parts of core are; a bare "core" module comes with "from core import types".
        astray = {
            name
            for name in ours
            if not is_within(name, MAY_IMPORT[room])
            and not any(
                is_within(other, MAY_IMPORT[room]) for other in ours if other.startswith(name)
            )
        }
        assert not astray, f"{path.relative_to(ROOT)} reaches into another room: {sorted(astray)}"


@pytest.mark.parametrize("room", [*sorted(MAY_IMPORT), "app"])
def test_heavy_packages_stay_in_their_rooms(room: str) -> None:
    for path in files_of(room):
        packages = {name.split(".")[0] for name in imported_modules(path)}
        for package, rooms in ONLY_IN.items():
            assert package not in packages or room in rooms, (
                f"{path.relative_to(ROOT)} imports {package}; only {sorted(rooms)} may"
            )
        forbidden = packages & NOT_IN.get(room, set())
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_only_feedback_opens_databases() -> None:
    # Chroma's errors may be named elsewhere; speaking SQL may not.
    for room in sorted({*MAY_IMPORT, "app"} - {"feedback"}):
        for path in files_of(room):
            text = path.read_text(encoding="utf-8")
            assert "sqlite3.connect" not in text and ".execute(" not in text, path.name


def test_no_file_has_a_name_that_says_nothing() -> None:
    names = {path.stem for room in MAY_IMPORT for path in files_of(room)}
    assert not names & VAGUE_NAMES


def test_app_is_a_short_composition_root() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) < 60


def test_readme_front_matter_mirrors_spaces_yaml() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(front_matter(load_settings())), "run: python -m core.settings"


def test_gradio_pin_and_space_sdk_version_agree() -> None:
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pin = re.search(r"^gradio~=(\d+\.\d+)", requirements, flags=re.MULTILINE)
    assert pin and str(load_settings().space["sdk_version"]).startswith(pin.group(1) + ".")


def test_no_large_file_in_the_checkout() -> None:
    shipped = [path for path in (ROOT / "core" / "embedded").rglob("*") if path.is_file()]
    assert all(path.stat().st_size < 10_000_000 for path in shipped)
    assert sum(path.stat().st_size for path in shipped) < 60_000_000
