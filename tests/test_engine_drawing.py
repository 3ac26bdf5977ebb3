"""Pictures by a diffusion pipeline, through the engine; absent where the preset names none."""

import io
import threading
from pathlib import Path

import pytest
from PIL import Image

from core.engine import Engine
from core.errors import UserError
from core.settings import FolderRef, IllustratorPreset
from tests.tiny_pipelines import save_tiny_sdxl


@pytest.fixture
def drawing_engine(tiny_settings, tmp_path):
    pipeline = save_tiny_sdxl(tmp_path / "sdxl")
    illustrator = IllustratorPreset(
        model=FolderRef(folder=pipeline), num_inference_steps=2, guidance_scale=0.0, size_px=64
    )
    name = tiny_settings.preset
    preset = tiny_settings.presets[name].model_copy(update={"illustrator": illustrator})
    settings = tiny_settings.model_copy(update={"presets": {name: preset}})
    engine = Engine(settings, data_dir=tmp_path / "data", cache=tmp_path / "cache")
    yield engine
    engine.close()


def test_a_picture_is_drawn_step_by_step_and_says_how(drawing_engine: Engine) -> None:
    assert drawing_engine.can_draw_pictures
    steps = list(drawing_engine.draw_picture("a red apple", seed=5))
    assert [(step.done, step.total) for step in steps] == [(1, 2), (2, 2), (2, 2)]
    assert [step.picture is not None for step in steps] == [False, False, True]
    picture = steps[-1].picture
    image = Image.open(io.BytesIO(picture.png))
    assert image.size == (64, 64)
    assert image.info["Sightloop-Seed"] == "5"
    assert "apple" not in str(image.info)


def test_the_same_seed_draws_the_same_picture(drawing_engine: Engine) -> None:
    first, again, other = (
        list(drawing_engine.draw_picture("a red apple", seed=seed))[-1].picture.png
        for seed in (5, 5, 6)
    )
    assert first == again != other


def test_a_cancelled_drawing_gives_no_picture(drawing_engine: Engine) -> None:
    cancel = threading.Event()
    cancel.set()
    steps = list(drawing_engine.draw_picture("a red apple", seed=5, cancel=cancel))
    assert all(step.picture is None for step in steps)


def test_without_a_pipeline_there_is_no_drawing(tiny_settings, tmp_path: Path) -> None:
    engine = Engine(tiny_settings, data_dir=tmp_path / "data", cache=tmp_path / "cache")
    try:
        assert not engine.can_draw_pictures
        with pytest.raises(UserError, match="--preset gpu"):
            list(engine.draw_picture("a red apple", seed=5))
    finally:
        engine.close()
