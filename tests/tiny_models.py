"""Tiny real models made on the spot: the app's own classes and loading code, seconds to make.

Their weights are random, so their words mean nothing; their tokens, shapes, adapters and streams
are real.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from core.adapters import AdapterShelf, finish
from core.answerer import LORA_TARGETS
from core.assembly import BaseModel, Tower, join_towers, prepare_base
from core.settings import (
    FolderRef,
    OpenClipEmbedder,
    PretrainedAnswerer,
    Settings,
    load_settings,
)

TINY_TOWER = Tower(architecture="test_efficientnet", width=256, image_size=64, stride=32)


def byte_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One token per byte, and ChatML's own; any text in any language fits."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra)
    backend.add_special_tokens([AddedToken(name, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def make_tiny_fastvlm(folder: Path) -> Path:
    """A FastVLM of two layers, saved as `save_pretrained` does; four image tokens a picture."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.1,  # wide enough that prompts and adapters change the words
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        language_model = LlamaForCausalLM(config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, processor = join_towers(
            language_model, tokenizer, tower=TINY_TOWER, tower_weights=None
        )
        _make_pictures_heard(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _make_pictures_heard(model) -> None:
    """Scale the projector so that picture tokens vary as much as word tokens do.

    timm's random tower gives features near zero, and every picture would look the same.
    """
    with torch.inference_mode():
        features = model.get_image_features(torch.rand(8, 3, 64, 64)).pooler_output
        spread = (features - features.mean((0, 1))).std()
        projector = model.model.multi_modal_projector
        projector.linear_2.weight.mul_(0.1 / spread)  # 0.1: the embeddings' initializer_range
        projector.linear_2.bias.zero_()


QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "max_position_embeddings": 4096,
}


def make_tiny_qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL of two layers with one deepstack level, saved as `save_pretrained` does."""
    tokenizer = byte_tokenizer(QWEN_MARKS)
    config = Qwen3VLConfig(
        text_config={
            **TINY_TEXT,
            **_text_ids(tokenizer),
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_qwen_ids(tokenizer),
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=8, **_tiny_pictures()),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=8),
        chat_template=QWEN_TEMPLATE,
    )
    return _save_qwen(Qwen3VLForConditionalGeneration, config, processor, folder)


def make_tiny_qwen2_5_vl(folder: Path) -> Path:
    """A Qwen2.5-VL of two layers, saved as `save_pretrained` does."""
    tokenizer = byte_tokenizer(QWEN_MARKS)
    config = Qwen2_5_VLConfig(
        text_config={
            **TINY_TEXT,
            **_text_ids(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        **_qwen_ids(tokenizer),
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=14, **_tiny_pictures()),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=14),
        chat_template=QWEN_TEMPLATE,
    )
    return _save_qwen(Qwen2_5_VLForConditionalGeneration, config, processor, folder)


def make_tiny_open_clip(folder: Path) -> Path:
    """A CLIP of one layer a tower, as open_clip keeps one in a folder."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = open_clip.CLIP(**config)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [32, 32]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}), encoding="utf-8"
    )
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def tiny_settings(answerer: Path, embedder: Path, *, picture_tokens: bool = True) -> Settings:
    """The shipped settings with tiny models in place of the preset's own, in float32."""
    settings = load_settings()
    preset = settings.active.model_copy(
        update={
            "dtype": "float32",
            "answerer": PretrainedAnswerer(
                kind="pretrained",
                model=FolderRef(folder=answerer),
                picture_tokens=picture_tokens,
            ),
            "embedder": OpenClipEmbedder(kind="open_clip", model=FolderRef(folder=embedder)),
        }
    )
    return settings.model_copy(update={"preset": "tiny", "presets": {"tiny": preset}})


def tiny_base(folder: Path) -> BaseModel:
    """The tiny model as adapters name it."""
    answerer = PretrainedAnswerer(kind="pretrained", model=FolderRef(folder=folder))
    return prepare_base(answerer, cache=folder)


def make_adapter(
    shelf: AdapterShelf,
    base: BaseModel,
    *,
    seed: int,
    scale: float = 0.05,
    rank: int = 4,
    targets: str | Sequence[str] = LORA_TARGETS,
) -> str:
    """A finished, unpublished version on the shelf with random weights; returns its name.

    Args:
        scale: standard deviation of the B matrices; peft's own start is 0, which changes nothing.
    """
    model = AutoModelForImageTextToText.from_pretrained(base.folder, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(
            model,
            LoraConfig(
                r=rank,
                lora_alpha=2 * rank,
                target_modules=targets if isinstance(targets, str) else list(targets),
                task_type="CAUSAL_LM",
            ),
        )
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=scale)
    folder = shelf.new_folder()
    adapted.save_pretrained(folder)
    finish(folder, base=base, parent=shelf.current(), n_pairs=0, decision="made for a test")
    return folder.name


def _tiny_pictures() -> dict[str, object]:
    return {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}


def _text_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(QWEN_MARKS))
    return {
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "image_token_id": image,
        "video_token_id": video,
    }


def _save_qwen(model_class, config, processor, folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = model_class(config)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
