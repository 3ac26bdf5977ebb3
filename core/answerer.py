"""The vision-language model: streams one answer, or several rows of one prompt, with adapters.

Everything here runs on the model worker's thread; nothing in it is safe to call from two.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging as transformers_logging

from core.adapters import BaseLayers, CheckedAdapter, base_layers
from core.assembly import BaseModel, prepare_base
from core.errors import UserError
from core.prompts import build_prompt, encode
from core.settings import Preset
from core.types import Candidate, Evidence, FinishReason, Message, RowSpec, Sampling, Turn
from core.weights import Progress

if TYPE_CHECKING:
    from peft import PeftModel
    from PIL import Image
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, ProcessorMixin

log = logging.getLogger(__name__)

BASE_ROW = "__base__"  # peft's name for a row without an adapter
MAX_CONTEXT = 4096  # tokens of prompt and answer together; longer ones cost seconds of waiting
# Adapters attach to the language model's own matrices; the pattern keeps clear of image towers,
# some of which use the same names.
LORA_TARGETS = r".*\blanguage_model\b.*\.(q|k|v|o|gate|up|down)_proj"

OnTexts = Callable[[tuple[str, ...]], None]


class Answerer:
    """A loaded base model, its processor and the adapters that are ready to answer."""

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        *,
        base: BaseModel,
        picture_tokens: bool,
    ) -> None:
        self.base = base
        self.processor = processor
        self.picture_tokens = picture_tokens
        self.layers: BaseLayers = base_layers(model)
        self._model: PreTrainedModel | PeftModel = model.eval()
        # peft puts its layers into this very model; its wrapper would add the active adapter.
        self._bare_model = model
        self._device = model.device
        self._max_context = min(MAX_CONTEXT, _context_length(model))
        self._ends, self._pad = _end_tokens(model, processor)
        self._silenced = sorted(set(processor.tokenizer.all_special_ids) - set(self._ends))
        self._adapters: frozenset[str] = frozenset()

    @property
    def model(self) -> "PreTrainedModel | PeftModel":
        """The model with its loaded adapters, for the nightly gate, which owns its process."""
        return self._model

    @property
    def adapters(self) -> frozenset[str]:
        """The versions that are loaded; may be read from any thread."""
        return self._adapters

    def load_adapter(self, adapter: CheckedAdapter) -> None:
        """Make a checked version ready to answer; the others stay as they are."""
        from peft import PeftModel, set_peft_model_state_dict

        if adapter.version in self.adapters:
            return
        if not isinstance(self._model, PeftModel):
            self._model = PeftModel(
                self._model,
                adapter.config,
                adapter_name=adapter.version,
                autocast_adapter_dtype=False,
                low_cpu_mem_usage=True,
            )
        else:
            self._model.add_adapter(
                adapter.version,
                adapter.config,
                autocast_adapter_dtype=False,
                low_cpu_mem_usage=True,
            )
        set_peft_model_state_dict(
            self._model,
            {name: tensor.to(self._model.dtype) for name, tensor in adapter.tensors.items()},
            adapter_name=adapter.version,
            low_cpu_mem_usage=True,
        )
        self._model.to(self._device)
        self._model.eval().requires_grad_(False)
        self._adapters |= {adapter.version}

    def drop_adapters(self, *, keep: Sequence[str]) -> None:
        """Free the versions that are not in `keep`; the last one stays, since peft needs one."""
        gone = sorted(self._adapters - set(keep))[: len(self._adapters) - 1]
        if not gone:
            return
        # Rows name their adapters, so which one is active only matters to peft's bookkeeping.
        model: Any = self._model
        model.set_adapter(min(self._adapters - set(gone)), inference_mode=True)
        for version in gone:
            self._adapters -= {version}
            model.delete_adapter(version)

    def fit_prompt(
        self,
        question: str,
        *,
        evidence: Evidence,
        history: Sequence[Turn],
        picture: "Image.Image | None",
        max_new_tokens: int,
    ) -> tuple[Message, ...]:
        """The prompt with as many earlier turns as there is room for; the oldest go first.

        Raises:
            UserError: even the bare question is too long for this model.
        """
        for first in range(len(history) + 1):
            prompt = build_prompt(
                question,
                evidence=evidence,
                history=history[first:],
                has_picture=picture is not None,
                picture_tokens=self.picture_tokens,
            )
            length = self._encode(prompt, picture, rows=1)["input_ids"].shape[1]
            if length + max_new_tokens <= self._max_context:
                return prompt
        raise UserError(
            f"Your question is {length} tokens long, and this model takes "
            f"{max(self._max_context - max_new_tokens, 0)}. Shorten it and ask again."
        )

    def generate(
        self,
        prompt: Sequence[Message],
        *,
        picture: "Image.Image | None",
        rows: Sequence[RowSpec],
        sampling: Sampling,
        cancel: threading.Event,
        on_texts: OnTexts,
    ) -> tuple[Candidate, ...]:
        """One candidate per row, all rows in one batch; `on_texts` hears every step.

        A row's tokens depend on its seed, its adapter and the prompt, not on what the other rows
        hold. Their number may change how bfloat16 rounds, and so decide between tokens that are
        all but equally likely; in float32 a row reads the same in any batch.

        Args:
            prompt: from `fit_prompt`.
            picture: what the prompt's picture tokens stand for; ignored where it has none.
            rows: adapter (already loaded) and seed of each row.
            sampling: how tokens are drawn.
            cancel: when set, all rows end at the next token.
            on_texts: called after every token with each row's text so far.
        """
        started = time.monotonic()
        inputs = self._encode(prompt, picture, rows=len(rows)).to(self._device)
        stream = RowStream(
            self.processor.tokenizer, n_rows=len(rows), ends=self._ends, on_texts=on_texts
        )
        with torch.inference_mode(), self._adapted(rows):
            generate: Any = self._bare_model.generate
            generate(
                **inputs,
                generation_config=GenerationConfig(
                    do_sample=False,  # RowSampler draws; what it returns is taken as it is
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=self._ends,
                    pad_token_id=self._pad,
                    use_cache=True,
                ),
                logits_processor=LogitsProcessorList(
                    [RowSampler(sampling, rows=rows, silenced=self._silenced)]
                ),
                stopping_criteria=StoppingCriteriaList([_WhenSet(cancel)]),
                streamer=stream,
            )
        return tuple(
            Candidate(
                content=text,
                model_id=self.base.id,
                revision=self.base.revision,
                adapter=row.adapter,
                seed=row.seed,
                parameters={
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "repetition_penalty": sampling.repetition_penalty,
                    "max_new_tokens": sampling.max_new_tokens,
                },
                finish_reason=reason or ("cancelled" if cancel.is_set() else "length"),
                n_tokens=n_tokens,
                latency_ms=round(1000 * (ended - started)),
            )
            for row, (text, n_tokens, ended, reason) in zip(rows, stream.outcomes(), strict=True)
        )

    def _adapted(self, rows: Sequence[RowSpec]) -> AbstractContextManager[None]:
        if not self._adapters:
            return nullcontext()
        return row_adapters(self._bare_model, [row.adapter for row in rows])

    def _encode(
        self, prompt: Sequence[Message], picture: "Image.Image | None", *, rows: int
    ) -> Any:
        wanted = any(message.has_picture for message in prompt)
        inputs = encode(prompt, self.processor, picture=picture if wanted else None, rows=rows)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self._model.dtype)
        return inputs


@contextmanager
def row_adapters(model: "Module", versions: Sequence[str | None]) -> Iterator[None]:
    """Inside, row n of every batch runs with the loaded adapter `versions[n]`, None with none.

    The same as peft's `adapter_names`, whose gathering and scattering of rows in each of 210 layers
    made one answer 1.9 times as slow as the base model's: here a layer adds two batched products.
    """
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    hooks = []
    try:
        for layer in layers:
            layer._disable_adapters = True  # the layer alone is then the base model's
            if any(versions):
                hooks.append(layer.register_forward_hook(_RowLora(layer, versions)))
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
        for hook in hooks:
            hook.remove()


class _RowLora:
    """What each row's adapter adds to one layer: x A^T B^T, scaled; zero for the base model."""

    def __init__(self, layer: Any, versions: Sequence[str | None]) -> None:
        held = [version for version in versions if version in layer.lora_A]
        self._products: tuple[Tensor, Tensor] | None = None
        if not held:  # these adapters leave the layer alone
            return
        rank = max(layer.r[version] for version in held)
        like = layer.lora_A[held[0]].weight
        down = like.new_zeros(len(versions), like.shape[1], rank)
        up = like.new_zeros(len(versions), rank, layer.out_features)
        for row, version in enumerate(versions):
            if version in layer.lora_A:
                r = layer.r[version]
                down[row, :, :r] = layer.lora_A[version].weight.T
                up[row, :r] = layer.lora_B[version].weight.T * layer.scaling[version]
        self._products = (down, up)

    def __call__(self, layer: Any, inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor":
        if self._products is None:
            return output
        down, up = self._products
        return output + (inputs[0] @ down) @ up


class RowSampler(LogitsProcessor):
    """Draws each row's next token from that row's own generator.

    Adding Gumbel noise to log-probabilities and taking the largest is an exact draw (Maddison et
    al. 2014, arXiv:1411.0030); doing it per row keeps a row's words independent of its neighbours.
    """

    def __init__(
        self, sampling: Sampling, *, rows: Sequence[RowSpec], silenced: Sequence[int]
    ) -> None:
        self._sampling = sampling
        # On the CPU whatever the model runs on, so that a seed means the same draw everywhere.
        self._generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        self._silenced = list(silenced)
        self._prompt_length: int | None = None  # tokens before the first that is drawn

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Scores whose largest entry is the drawn token. Shape (rows, vocabulary), float32."""
        scores = scores.float()
        scores[:, self._silenced] = -torch.inf
        scores = self._less_of_the_same(input_ids, scores)
        if self._sampling.temperature == 0:
            return scores
        scores = _keep_top_p(scores / self._sampling.temperature, self._sampling.top_p)
        noise = torch.stack(
            [
                torch.empty(scores.shape[1]).exponential_(generator=generator).log().neg()
                for generator in self._generators
            ]
        )
        return scores + noise.to(scores.device)

    def _less_of_the_same(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Scores with what a row has said already made less likely; the prompt does not count.

        Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
        """
        penalty = self._sampling.repetition_penalty
        said = input_ids[:, self._n_prompt(input_ids) :]
        if penalty == 1 or not said.shape[1]:
            return scores
        before = scores.gather(1, said)
        return scores.scatter(1, said, torch.where(before < 0, before * penalty, before / penalty))

    def _n_prompt(self, input_ids: "Tensor") -> int:
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1]
        return self._prompt_length


class RowStream(BaseStreamer):
    """Turns the tokens of several rows into their texts, one step at a time.

    A text never ends in half a character: bytes wait until the character is whole. A row that has
    ended stays still.
    """

    def __init__(
        self, tokenizer: Any, *, n_rows: int, ends: Sequence[int], on_texts: OnTexts
    ) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._on_texts = on_texts
        self._rows = [_RowText(tokenizer) for _ in range(n_rows)]
        self._has_prompt = False

    def put(self, value: "Tensor") -> None:
        """First the prompts, shape (rows, length); then each row's next token, shape (rows,)."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        for row, token in zip(self._rows, value.tolist(), strict=True):
            if row.reason is None:
                row.add(token, is_end=token in self._ends)
        self._on_texts(tuple(row.text for row in self._rows))

    def end(self) -> None:
        """Nothing is held back that could still be shown."""

    def outcomes(self) -> list[tuple[str, int, float, FinishReason | None]]:
        """Per row: text, tokens, time of its last token (monotonic, s), "stop" if it ended."""
        return [(row.text, row.n_tokens, row.ended_at, row.reason) for row in self._rows]


class _RowText:
    """One row's tokens and the text of those that make whole characters."""

    def __init__(self, tokenizer: Any) -> None:
        self.text = ""
        self.n_tokens = 0
        self.ended_at = time.monotonic()
        self.reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens up to _shown are in `text`. They are decoded again from _from on, because some
        # tokenizers write a token differently at the very start of a text.
        self._from = 0
        self._shown = 0

    def add(self, token: int, *, is_end: bool) -> None:
        self.n_tokens += 1
        self.ended_at = time.monotonic()
        if is_end:
            self.reason = "stop"
            return
        self._tokens.append(token)
        before = self._decode(self._tokens[self._from : self._shown])
        after = self._decode(self._tokens[self._from :])
        if after.endswith("\ufffd"):  # bytes of a character that is not complete yet
            return
        self.text += after[len(before) :]
        self._from, self._shown = self._shown, len(self._tokens)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class _WhenSet(StoppingCriteria):
    """Ends every row once the event is set."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel

    def __call__(self, input_ids: "Tensor", scores: "Tensor", **kwargs: object) -> "Tensor":
        return torch.full((input_ids.shape[0],), self._cancel.is_set(), device=input_ids.device)


def load_answerer(preset: Preset, *, cache: Path, progress: Progress | None = None) -> Answerer:
    """The preset's answerer, on its device and in its precision.

    Raises:
        WeightsError: the weights cannot be had.
        UserError: the preset wants a device this machine has not.
    """
    _check_device(preset.device)
    base = prepare_base(preset.answerer, cache=cache, progress=progress)
    if progress is not None:
        progress("loading the language model", 0.0)
    model, processor = load_base(base, device=preset.device, dtype=preset.dtype)
    return Answerer(model, processor, base=base, picture_tokens=preset.answerer.picture_tokens)


def load_base(
    base: BaseModel, *, device: str, dtype: str
) -> "tuple[PreTrainedModel, ProcessorMixin]":
    """The base model and its processor, as serving and training both start from them."""
    transformers_logging.disable_progress_bar()
    model: Any = AutoModelForImageTextToText.from_pretrained(
        base.folder, dtype=getattr(torch, dtype), use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(base.folder)
    return model.to(device).eval(), processor


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "This preset runs on an NVIDIA GPU, and none is found here. "
            "Start with --preset embedded, or on a machine with CUDA."
        )


def _keep_top_p(scores: "Tensor", top_p: float) -> "Tensor":
    """Scores with -inf where the smallest set of tokens holding `top_p` of the mass ends."""
    if top_p >= 1:
        return scores
    ordered, order = scores.softmax(-1).sort(-1, descending=True)
    is_cut = ordered.cumsum(-1) - ordered >= top_p  # the mass before a token already suffices
    return scores.masked_fill(is_cut.scatter(-1, order, is_cut), -torch.inf)


def _context_length(model: "PreTrainedModel") -> int:
    text_config = model.config.get_text_config()
    return int(getattr(text_config, "max_position_embeddings", MAX_CONTEXT))


def _end_tokens(model: "PreTrainedModel", processor: "ProcessorMixin") -> tuple[list[int], int]:
    """The tokens that end an answer, and the one that fills ended rows."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    found = sorted({e for e in (*ends, processor.tokenizer.eos_token_id) if e is not None})
    pad = model.generation_config.pad_token_id
    return found, pad if pad is not None else found[0]
