import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from core.errors import AdapterRefused, UserError, WeightsError
from core.illustrator import LORA_FILE, Illustrator, clean_png, load_illustrator, png_with_origin
from core.pictogram_diffusion import register_pipeline
from core.settings import FolderRef, IllustratorPreset
from tests.tiny_pipelines import (
    SIDE_PX,
    save_lora,
    save_tiny_flux2_klein,
    save_tiny_pictogram,
    save_tiny_sdxl,
)

MAKERS = {
    "sdxl": save_tiny_sdxl,
    "flux2-klein": save_tiny_flux2_klein,
    "pictogram": save_tiny_pictogram,
}
CLASSES = {
    "sdxl": "StableDiffusionXLPipeline",
    "flux2-klein": "Flux2KleinPipeline",
    "pictogram": "PictogramPipeline",
}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("pipelines") / request.param)


@pytest.fixture
def illustrator(folder: Path, tmp_path: Path) -> Illustrator:
    return load(folder, tmp_path)


@pytest.fixture
def lora(folder: Path, tmp_path: Path) -> Path:
    register_pipeline()
    return save_lora(DiffusionPipeline.from_pretrained(folder), tmp_path / "v0001")


def load(folder: Path, cache: Path) -> Illustrator:
    preset = IllustratorPreset(
        model=FolderRef(folder=folder), num_inference_steps=2, guidance_scale=0.0, size_px=SIDE_PX
    )
    return load_illustrator(preset, device="cpu", dtype="float32", cache=cache)


def pixels(illustrator: Illustrator, seed: int = 5) -> np.ndarray:
    return np.asarray(illustrator.draw("a red boat", seed=seed)[0].image)


def test_the_saved_class_is_the_loaded_class(illustrator: Illustrator, folder: Path) -> None:
    made = illustrator.draw("a red boat", seed=5)[0].candidate
    assert made.parameters["pipeline"] == CLASSES[folder.name]
    assert (made.model_id, made.seed, made.adapter) == (folder.name, 5, None)


def test_a_seed_draws_the_same_picture_again_and_another_seed_another(
    illustrator: Illustrator,
) -> None:
    first = pixels(illustrator)
    assert first.shape == (SIDE_PX, SIDE_PX, 3)
    np.testing.assert_array_equal(first, pixels(illustrator))
    assert (first != pixels(illustrator, seed=6)).any()


def test_a_picture_does_not_depend_on_its_batch(illustrator: Illustrator) -> None:
    pair = illustrator.draw("a red boat", n=2, seed=4)
    assert [drawing.candidate.seed for drawing in pair] == [4, 5]
    difference = np.asarray(pair[1].image).astype(int) - pixels(illustrator)
    assert np.abs(difference).max() <= 1  # one step of 255, from batched rounding


def test_a_lora_changes_the_picture_and_unloading_restores_every_bit(
    illustrator: Illustrator, lora: Path
) -> None:
    base = pixels(illustrator)
    illustrator.use_adapter("v0001", folder=lora)
    assert (pixels(illustrator) != base).any()
    assert illustrator.draw("a red boat", seed=5)[0].candidate.adapter == "v0001"
    illustrator.use_adapter(None)
    np.testing.assert_array_equal(pixels(illustrator), base)


def test_a_swap_gives_what_the_new_lora_gives_alone(
    illustrator: Illustrator, folder: Path, lora: Path, tmp_path: Path
) -> None:
    other = save_lora(DiffusionPipeline.from_pretrained(folder), tmp_path / "v0002", seed=2)
    alone = load(folder, tmp_path)
    alone.use_adapter("v0002", folder=other)
    illustrator.use_adapter("v0001", folder=lora)
    first = pixels(illustrator)
    illustrator.use_adapter("v0002", folder=other)
    np.testing.assert_array_equal(pixels(illustrator), pixels(alone))
    illustrator.use_adapter("v0001", folder=lora)
    np.testing.assert_array_equal(pixels(illustrator), first)


def _nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first, *_ = tensors
    return tensors | {first: torch.full_like(tensors[first], float("nan"))}


def _wrong_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(value.shape[0], value.shape[1] + 1) for key, value in tensors.items()}


def _other_base(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("to_q", "to_nowhere"): value for key, value in tensors.items()}


def _nothing(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {}


@pytest.mark.parametrize("spoil", [_nan, _wrong_shape, _other_base, _nothing])
def test_a_bad_lora_is_refused_and_the_pictures_stay_as_they_were(
    spoil, illustrator: Illustrator, lora: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    save_file(spoil(load_file(lora / LORA_FILE)), bad / LORA_FILE)
    base = pixels(illustrator)
    with pytest.raises(AdapterRefused):
        illustrator.use_adapter("bad", folder=bad)
    np.testing.assert_array_equal(pixels(illustrator), base)
    illustrator.use_adapter("v0001", folder=lora)
    tuned = pixels(illustrator)
    with pytest.raises(AdapterRefused):
        illustrator.use_adapter("bad", folder=bad)
    np.testing.assert_array_equal(pixels(illustrator), tuned)
    assert illustrator.adapter == "v0001"


def test_a_truncated_lora_is_refused(illustrator: Illustrator, lora: Path) -> None:
    file = lora / LORA_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(AdapterRefused, match="cannot be read"):
        illustrator.use_adapter("v0001", folder=lora)


def test_steps_are_reported_and_cancelling_leaves_no_picture(illustrator: Illustrator) -> None:
    steps: list[tuple[int, int]] = []
    illustrator.draw("a red boat", seed=1, on_step=lambda done, of: steps.append((done, of)))
    assert steps == [(1, 2), (2, 2)]
    cancel = threading.Event()
    cancel.set()
    assert illustrator.draw("a red boat", seed=1, cancel=cancel) == []


def test_the_png_says_how_it_was_made_and_the_blind_one_does_not(illustrator: Illustrator) -> None:
    drawing = illustrator.draw("the secret boat", seed=5)[0]
    with Image.open(io.BytesIO(png_with_origin(drawing))) as told:
        assert told.info["Sightloop-Seed"] == "5"
        assert illustrator.model_id in told.info["Sightloop-Model"]
        assert len(told.info["Sightloop-Prompt-SHA256"]) == 64
    assert b"secret" not in png_with_origin(drawing)
    with Image.open(io.BytesIO(clean_png(drawing.image))) as blind:
        assert blind.info == {}
        np.testing.assert_array_equal(np.asarray(blind), np.asarray(drawing.image))


def test_an_empty_prompt_is_the_persons_to_mend(illustrator: Illustrator) -> None:
    with pytest.raises(UserError, match="no text to draw"):
        illustrator.draw("  ", seed=1)


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="empty"):
        load(tmp_path / "empty", tmp_path)
