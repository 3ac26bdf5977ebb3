"""Tiny real diffusers pipelines made on the spot: the classes of SDXL-Turbo and FLUX.2-klein."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.pictogram_diffusion import PictogramPipeline, PictogramTransformer
from tests.tiny_models import byte_tokenizer

SIDE_PX = 32
TINY_PICTOGRAM = {
    "sample_size": SIDE_PX,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "text_width": 32,  # two states of 16
    "pooled_width": 16,
    "meaning_width": 16,
    "condition_width": 16,
    "canvas_width": 8,
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_sdxl(folder: Path) -> Path:
    """A pipeline of SDXL-Turbo's classes, 32 px, in `folder`."""
    torch.manual_seed(0)
    tokenizer = _clip_tokenizer(folder.parent / "clip-words")
    text = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipeline = StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=SIDE_PX // 2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,  # 6 sizes of 8 and the pooled text of 32
            cross_attention_dim=64,  # both text encoders side by side
        ),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",  # as SDXL-Turbo
        ),
        vae=AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            sample_size=SIDE_PX,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_flux2_klein(folder: Path) -> Path:
    """A pipeline of FLUX.2-klein's classes, 32 px, in `folder`."""
    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer(folder.parent / "qwen-words")
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLFlux2(
            block_out_channels=(4,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            layers_per_block=1,
            latent_channels=1,
            norm_num_groups=1,
            sample_size=SIDE_PX,
        ),
        text_encoder=Qwen3ForCausalLM(
            Qwen3Config(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=28,  # klein reads layers 9, 18 and 27
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                vocab_size=len(tokenizer),
            )
        ),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,  # three layers of 16
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=True,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_pictogram(folder: Path) -> Path:
    """Our own pipeline, two layers of 32, with a text tower of its own, in `folder`."""
    torch.manual_seed(0)
    transformer = PictogramTransformer(**TINY_PICTOGRAM)
    for weight in transformer.parameters():  # a fresh one draws nothing, whatever the words
        torch.nn.init.normal_(weight, std=0.1)
    tokenizer = byte_tokenizer()
    pipeline = PictogramPipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(),
        text_encoder=BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
            ),
            add_pooling_layer=False,
        ),
        tokenizer=tokenizer,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_lora(pipeline: DiffusionPipeline, folder: Path, *, seed: int = 1) -> Path:
    """A LoRA that changes the picture, written as diffusers writes it."""
    torch.manual_seed(seed)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    denoiser.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"), "made"
    )
    state = get_peft_model_state_dict(denoiser, adapter_name="made")
    state = {key: torch.randn_like(value) for key, value in state.items()}
    name = "unet_lora_layers" if hasattr(pipeline, "unet") else "transformer_lora_layers"
    type(pipeline).save_lora_weights(folder, **{name: state})
    denoiser.delete_adapters("made")
    return folder


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}))
    merges.write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return CLIPTokenizer.from_pretrained(folder)


def _qwen_tokenizer(folder: Path) -> Qwen2TokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({piece: n for n, piece in enumerate([*letters, *special])}))
    merges.write_text("#version: 0.2\n")
    config = {"model_max_length": 512, "pad_token": "<|endoftext|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Qwen2TokenizerFast.from_pretrained(folder)
