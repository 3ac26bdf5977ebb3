"""What every test may rely on: nothing outside its own folder, no network, tiny real models."""

from pathlib import Path

import pytest

import core.settings


@pytest.fixture(scope="session")
def real_cache() -> Path:
    """The person's own cache, where `make test` has put the embedded weights."""
    return core.settings.cache_dir()


@pytest.fixture(autouse=True)
def own_folders(real_cache, tmp_path, monkeypatch):
    """Data and cache of a test lie in its own folder; the hub is not asked for anything."""
    monkeypatch.setenv("SIGHTLOOP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture(scope="session")
def weights(real_cache) -> Path:
    """The cache with the embedded weights in it; the test is skipped where they are not."""
    from core.errors import WeightsError
    from core.settings import load_settings
    from core.weights import local_folder, references

    preset = load_settings().presets["embedded"]
    try:
        for reference in references(preset):
            local_folder(reference, cache=real_cache)
    except WeightsError as error:
        pytest.skip(f"the embedded weights are not there: {error}")
    return real_cache


@pytest.fixture(scope="session")
def tiny_fastvlm(tmp_path_factory) -> Path:
    """A saved FastVLM of two layers."""
    from tests.tiny_models import make_tiny_fastvlm

    return make_tiny_fastvlm(tmp_path_factory.mktemp("models") / "tiny-fastvlm")


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory) -> Path:
    """A saved CLIP of one layer a tower."""
    from tests.tiny_models import make_tiny_open_clip

    return make_tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def tiny_settings(tiny_fastvlm, tiny_open_clip):
    """The shipped settings with tiny models."""
    from tests.tiny_models import tiny_settings

    return tiny_settings(tiny_fastvlm, tiny_open_clip)
