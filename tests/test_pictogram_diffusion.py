"""The pictogram diffusion's own parts; loading, seeds and LoRA are in test_illustrator.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from core.pictogram_diffusion import (
    PictogramTransformer,
    TextFeatures,
    enlarged,
    register_pipeline,
    split_style,
    to_images,
)
from tests.tiny_pipelines import TINY_PICTOGRAM, save_tiny_pictogram


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = save_tiny_pictogram(tmp_path_factory.mktemp("pipelines") / "tiny")
    register_pipeline()
    loaded = DiffusionPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipeline, prompt: str, *, seed: int = 1, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": 2, "output_type": "pt"} | options
    return pipeline(prompt, generator=generator, **options).images


@pytest.mark.parametrize(
    ("prompt", "text", "style"),
    [
        ("a cat", "a cat", None),
        ("a flat cat", "a cat", "flat"),
        ("a cat, 3d", "a cat", "3d"),
        ("a cat in 3D style", "a cat", "3d"),
        ("Shaded cat and dog", "cat and dog", "shaded"),
        ("a cat in a flat style", "a cat", "flat"),
        ("an inflated balloon", "an inflated balloon", None),
    ],
)
def test_the_style_words_leave_the_text(prompt: str, text: str, style: str | None) -> None:
    assert split_style(prompt) == (text, style)


def test_a_named_style_holds_and_an_unnamed_one_comes_from_the_seed(pipeline) -> None:
    named = [draw(pipeline, f"a cat, {style}") for style in ("flat", "3d", "shaded")]
    assert not torch.equal(named[0], named[1]) and not torch.equal(named[1], named[2])
    generators = [torch.Generator().manual_seed(seed) for seed in range(30)]
    drawn = {pipeline._style_number(None, generator) for generator in generators}
    assert drawn == {0, 1, 2}


def test_words_change_the_picture_and_guidance_strengthens_them(pipeline) -> None:
    # Guidance multiplies what the words change in the prediction: Ho and Salimans 2022, eq. 6.
    text = pipeline._encode(["a cat"])
    noise, style = torch.randn(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)
    sigma = torch.tensor(1.0)
    nothing = TextFeatures(text.words, torch.zeros_like(text.mask), text.pooled)
    plain, bare = (
        pipeline._predict(noise, sigma, some, style, guidance=1.0) for some in (text, nothing)
    )
    assert not torch.equal(plain, bare)
    guided = pipeline._predict(noise, sigma, text, style, guidance=3.0)
    expected = (bare + 3 * (plain - bare)).clamp(-1, 1)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)


def test_the_last_step_ends_on_the_predicted_picture(pipeline) -> None:
    # One step from pure noise to nothing: noise - 1 * (noise - clean) / 1 = clean.
    text = pipeline._encode(["a cat"])
    generator = torch.Generator().manual_seed(1)
    noise = pipeline._noise([generator])
    clean = pipeline._predict(
        noise, torch.tensor(1.0), text, torch.zeros(1, dtype=torch.int64), guidance=1.0
    )
    drawn = draw(pipeline, "a cat, flat", num_inference_steps=1, guidance_scale=1.0)
    torch.testing.assert_close(drawn, clean, rtol=1e-4, atol=1e-4)


def test_padding_does_not_change_a_picture(pipeline) -> None:
    alone = draw(pipeline, "a cat, flat", guidance_scale=1.0)
    both = pipeline(
        ["a cat, flat", "a much longer text, 3d"],
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
        num_inference_steps=2,
        guidance_scale=1.0,
        output_type="pt",
    ).images
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-3)


def test_as_many_generators_as_pictures(pipeline) -> None:
    with pytest.raises(ValueError, match="2 pictures need as many generators, got 1"):
        pipeline("a cat", num_images_per_prompt=2, generator=[torch.Generator()])


def test_a_fresh_transformer_starts_by_drawing_grey() -> None:
    model = PictogramTransformer(**TINY_PICTOGRAM)
    text = TextFeatures(torch.randn(2, 3, 32), torch.ones(2, 3, dtype=bool), torch.randn(2, 16))
    out = model(torch.randn(2, 3, 32, 32), torch.rand(2), text, torch.tensor([0, 1]))
    assert out.shape == (2, 3, 32, 32) and not out.any()


def test_patches_go_back_where_they_came_from() -> None:
    from core.pictogram_diffusion import _patches, _picture

    pictures = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).view(2, 3, 32, 32)
    patches = _patches(pictures, 16)
    assert patches.shape == (2, 4, 768)
    assert torch.equal(patches[0, 1].view(3, 16, 16), pictures[0, :, :16, 16:])
    assert torch.equal(_picture(patches, 16, 32), pictures)


def test_pixels_run_from_black_to_white() -> None:
    black_to_white = torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    pixels = np.asarray(to_images(black_to_white)[0])
    assert pixels[0, :, 0].tolist() == [0, 128, 255, 255]


def test_enlarging_keeps_an_edge_crisp() -> None:
    half = Image.new("L", (16, 16), 0)
    half.paste(255, (8, 0, 16, 16))
    large = np.asarray(enlarged(half.convert("RGB"), 128, 128).convert("L"))
    plain = np.asarray(half.resize((128, 128), Image.Resampling.LANCZOS))
    soft = lambda row: int(((row > 20) & (row < 235)).sum())  # noqa: E731
    assert soft(large[64]) < soft(plain[64])
    assert enlarged(half, 16, 16) is half
