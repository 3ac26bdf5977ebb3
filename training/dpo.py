"""Preference pairs -> a LoRA adapter of the answerer: TRL's DPOTrainer on the served model.

Rafailov et al. 2023, arXiv:2305.18290. Every adapter starts anew from the base model, which is
also the reference, so that drift is bounded however many nights there have been.
"""

import contextlib
import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOConfig, DPOTrainer

from core.answerer import LORA_TARGETS
from core.prompts import encode, harmless
from core.settings import NightlyPreset
from core.types import PreferencePair

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

FIRST_MARGIN_TOLERANCE = 1e-3
CHECKPOINT_EVERY_S = 300.0
# Batches of this many are sorted by length together: less padding, and still a random order.
SORT_WINDOW = 8

OpenPicture = Callable[[str], "Image.Image"]
OnStep = Callable[[int, int, float], None]  # (step, of how many, seconds left)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What happened while an adapter was trained."""

    n_pairs: int  # different ones
    n_rows: int  # pairs as planned, repeated once per epoch and by weight
    n_steps: int
    planned_steps: int
    first_loss: float  # nats; ln 2 for a fresh adapter, without the chosen answers' likelihood
    last_loss: float  # mean of the last tenth of the steps, nats
    seconds: float
    pairs_per_s: float
    curve: tuple[Mapping[str, float], ...] = field(default=(), repr=False)

    @property
    def ran_out_of_time(self) -> bool:
        """Whether the night's minutes ended the training early."""
        return self.n_steps < self.planned_steps


def train_adapter(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pairs: Sequence[PreferencePair],
    *,
    preset: NightlyPreset,
    open_picture: OpenPicture,
    folder: Path,
    work: Path,
    max_seconds: float = math.inf,
    on_step: OnStep | None = None,
) -> TrainingRecord:
    """Train a fresh adapter on `pairs` and save it into `folder`.

    Args:
        model: the base model as it is served; it leaves this function with the adapter inside.
        open_picture: a picture by its id, for prompts that hold its tokens.
        folder: gets adapter_config.json and adapter_model.safetensors.
        work: for checkpoints; training goes on from one that lies there.
        max_seconds: training ends by itself after about so long.

    Raises:
        ValueError: there are no pairs.
        RuntimeError: the first margin is not 0, so policy and reference differed from the start.
    """
    if not pairs:
        raise ValueError("There are no pairs to train on")
    rows = draw_rows(pairs, epochs=preset.epochs, batch_size=preset.batch_size, seed=preset.seed)
    collator = PairCollator(processor, open_picture=open_picture, dtype=model.dtype)
    clock = _Clock(max_seconds=max_seconds, on_step=on_step)
    trainer = DPOTrainer(
        model=model,
        args=_arguments(preset, work=work, model=model),
        # The column "images" makes TRL leave the rendering to the collator.
        train_dataset=Dataset.from_dict({"row": range(len(rows)), "images": [[]] * len(rows)}),
        processing_class=processor,
        data_collator=lambda batch: collator.batch([rows[entry["row"]] for entry in batch]),
        peft_config=lora_config(preset.lora_rank),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)  # the clock reports, nothing goes to stdout
    started = time.monotonic()
    with _head_on_answers_only():
        trainer.train(resume_from_checkpoint=_checkpoint(work))
    seconds = time.monotonic() - started
    record = _record(trainer.state, rows=rows, seconds=seconds, steps_here=clock.n_steps)
    _check_first_margin(record.curve[0]["margin"])
    adapted: Any = trainer.model
    adapted.save_pretrained(folder)
    return record


def lora_config(rank: int) -> LoraConfig:
    """LoRA on every matrix of the language model and nowhere else; starts as the base model."""
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )


def draw_rows(
    pairs: Sequence[PreferencePair], *, epochs: int, batch_size: int, seed: int
) -> list[PreferencePair]:
    """The pairs in training order, each as often as its weight says: `epochs` times on average.

    TRL's DPO has no weights, so a pair of weight 0.5 comes half as often instead. Systematic
    sampling keeps every count within one of what its weight asks for. Batches hold answers of
    similar length, and no pair comes back before all others have had their turn.
    """
    generator = random.Random(seed)
    total = epochs * len(pairs)
    mean = sum(pair.weight for pair in pairs) / len(pairs)
    reach, passes = generator.random(), [list[PreferencePair]() for _ in range(total)]
    for pair in generator.sample(pairs, len(pairs)):
        reach += epochs * pair.weight / mean
        count = int(reach)
        reach -= count
        for turn in passes[:count]:
            turn.append(pair)
    rows: list[PreferencePair] = []
    for turn in passes:
        generator.shuffle(turn)
        rows += _by_similar_length(turn, batch_size=batch_size, generator=generator)
    return rows


class PairCollator:
    """Turns pairs into a batch: first the chosen answers' rows, then the rejected ones'.

    Prompts become tokens by the very function that serving uses, so that training sees what the
    model will see; TRL's own collators would render and escape them differently.
    """

    def __init__(
        self, processor: ProcessorMixin, *, open_picture: OpenPicture, dtype: torch.dtype
    ) -> None:
        self._processor = processor
        self._open_picture = open_picture
        self._dtype = dtype
        self._pad = processor.tokenizer.pad_token_id or processor.tokenizer.eos_token_id

    def batch(self, pairs: Sequence[PreferencePair]) -> "dict[str, Tensor]":
        """Model inputs for 2 B rows, padded on the right, and which tokens are the answers'.

        Returns:
            input_ids, attention_mask, completion_mask: shape (2 B, L), integers; whatever else
            the processor makes of the pictures (pixel_values ...), rows in the same order.
        """
        prompts = [self._encode_prompt(pair) for pair in pairs]
        answers = [
            *(self.answer_tokens(pair.chosen, has_ended=pair.chosen_ended) for pair in pairs),
            *(self.answer_tokens(pair.rejected, has_ended=pair.rejected_ended) for pair in pairs),
        ]
        return self._join([*prompts, *prompts], answers)

    def answer_tokens(self, answer: str, *, has_ended: bool) -> list[int]:
        """An answer's tokens, with the end mark unless it was cut off at its length limit."""
        tokenizer = self._processor.tokenizer
        tokens: list[int] = tokenizer(
            harmless(answer, self._processor), add_special_tokens=False
        ).input_ids
        return [*tokens, tokenizer.eos_token_id] if has_ended else tokens

    def _encode_prompt(self, pair: PreferencePair) -> "dict[str, Tensor]":
        has_picture = any(message.has_picture for message in pair.prompt)
        picture = None
        if has_picture:
            if pair.picture_id is None:
                raise ValueError("A prompt holds a picture, and the pair does not say which")
            picture = self._open_picture(pair.picture_id)
        return dict(encode(pair.prompt, self._processor, picture=picture))

    def _join(
        self, prompts: "Sequence[Mapping[str, Tensor]]", answers: Sequence[Sequence[int]]
    ) -> "dict[str, Tensor]":
        lengths = [
            prompt["input_ids"].shape[1] + len(answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        shape = (len(prompts), max(lengths))
        batch = {
            "input_ids": torch.full(shape, self._pad),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "completion_mask": torch.zeros(shape, dtype=torch.long),
        }
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = prompt["input_ids"][0]
            end = len(ids) + len(answer)
            batch["input_ids"][row, : len(ids)] = ids
            batch["input_ids"][row, len(ids) : end] = torch.tensor(answer, dtype=torch.long)
            batch["attention_mask"][row, :end] = 1
            batch["completion_mask"][row, len(ids) : end] = 1
        return batch | self._join_pictures(prompts, shape)

    def _join_pictures(
        self, prompts: "Sequence[Mapping[str, Tensor]]", shape: tuple[int, int]
    ) -> "dict[str, Tensor]":
        joined: dict[str, Tensor] = {}
        names = {name for prompt in prompts for name in prompt} - {"input_ids", "attention_mask"}
        for name in sorted(names):
            if name.endswith("token_type_ids"):  # one number per token: 0 for an answer's
                joined[name] = torch.zeros(shape, dtype=torch.long)
                for row, prompt in enumerate(prompts):
                    joined[name][row, : prompt[name].shape[1]] = prompt[name][0]
            else:
                values = torch.cat([prompt[name] for prompt in prompts if name in prompt])
                joined[name] = values.to(self._dtype) if values.is_floating_point() else values
        return joined


class _Clock(TrainerCallback):
    """Reports every step, saves a checkpoint now and then, and ends training in time."""

    def __init__(self, *, max_seconds: float, on_step: OnStep | None) -> None:
        self._max_seconds = max_seconds
        self._on_step = on_step
        self._started = self._saved = time.monotonic()
        self.n_steps = 0  # of this process; a resumed training has more

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The clock starts with the first step, not with the loading before it."""
        self._started = self._saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """One optimizer step is done."""
        self.n_steps += 1
        now = time.monotonic()
        per_step = (now - self._started) / self.n_steps
        if self._on_step is not None:
            left = (state.max_steps - state.global_step) * per_step
            left = min(left, self._max_seconds - (now - self._started))
            self._on_step(state.global_step, state.max_steps, max(left, 0.0))
        if now - self._started + per_step > self._max_seconds:
            control.should_training_stop = True
        elif now - self._saved > CHECKPOINT_EVERY_S:
            self._saved = now
            control.should_save = True


def _arguments(preset: NightlyPreset, *, work: Path, model: PreTrainedModel) -> DPOConfig:
    on_cpu = model.device.type == "cpu"
    return DPOConfig(
        output_dir=str(work),
        per_device_train_batch_size=preset.batch_size,
        num_train_epochs=1,  # draw_rows repeats the pairs
        train_sampling_strategy="sequential",  # draw_rows has shuffled them
        learning_rate=preset.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,  # Adam's first steps are small enough for a fresh adapter
        beta=preset.beta,
        loss_type=["sigmoid", "sft"] if preset.sft_weight else ["sigmoid"],
        loss_weights=[1.0, preset.sft_weight] if preset.sft_weight else None,
        max_length=None,  # 1,024 by default, which could cut a picture's tokens
        bf16=model.dtype == torch.bfloat16,
        use_cpu=on_cpu,
        gradient_checkpointing=not on_cpu,
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",  # _Clock decides
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        seed=preset.seed,
        data_seed=preset.seed,
    )


@contextlib.contextmanager
def _head_on_answers_only() -> Iterator[None]:
    """TRL 1.16 scores the prompt's positions too where it has no Triton, and drops the result.

    Scoring only the answers gives the same losses 1.6 times faster on two CPU cores
    (benchmarks/LOG.md). Where TRL has changed, its own way goes on.
    """
    from trl.trainer import utils as trl_utils

    original = getattr(trl_utils, "_use_triton", None)
    if original is None:
        yield
        return
    trl_utils._use_triton = lambda device: True if device.type == "cpu" else original(device)
    try:
        yield
    finally:
        trl_utils._use_triton = original


def _by_similar_length(
    pairs: Sequence[PreferencePair], *, batch_size: int, generator: random.Random
) -> list[PreferencePair]:
    batches: list[Sequence[PreferencePair]] = []
    window = batch_size * SORT_WINDOW
    for start in range(0, len(pairs), window):
        near = sorted(pairs[start : start + window], key=_length)
        batches += [near[n : n + batch_size] for n in range(0, len(near), batch_size)]
    # The odd batch goes last, so that a pass never breaks the batches of the next.
    whole = [batch for batch in batches if len(batch) == batch_size]
    odd = [batch for batch in batches if len(batch) < batch_size]
    generator.shuffle(whole)
    return [pair for batch in [*whole, *odd] for pair in batch]


def _length(pair: PreferencePair) -> int:
    """Characters of the longer row; they stand for tokens."""
    prompt = sum(len(message.content) for message in pair.prompt)
    return prompt + max(len(pair.chosen), len(pair.rejected))


def _checkpoint(work: Path) -> str | None:
    """A checkpoint that is whole; half a one is removed."""
    if not work.is_dir():
        return None
    found: str | None = get_last_checkpoint(str(work))
    if found is not None and not (Path(found) / "trainer_state.json").is_file():
        shutil.rmtree(found)
        return None
    return found


def _record(
    state: TrainerState, *, rows: Sequence[PreferencePair], seconds: float, steps_here: int
) -> TrainingRecord:
    curve = tuple(
        {
            "step": float(entry["step"]),
            "loss": float(entry["loss"]),
            "margin": float(entry["rewards/margins"]),
            "accuracy": float(entry["rewards/accuracies"]),
        }
        for entry in state.log_history
        if "loss" in entry
    )
    tail = [entry["loss"] for entry in curve[-max(1, len(curve) // 10) :]]
    per_step = len(rows) / max(state.max_steps, 1)
    return TrainingRecord(
        n_pairs=len({id(pair) for pair in rows}),
        n_rows=len(rows),
        n_steps=state.global_step,
        planned_steps=state.max_steps,
        first_loss=curve[0]["loss"],
        last_loss=sum(tail) / len(tail),
        seconds=seconds,
        pairs_per_s=steps_here * per_step / max(seconds, 1e-9),
        curve=curve,
    )


def _check_first_margin(margin: float) -> None:
    if not abs(margin) <= FIRST_MARGIN_TOLERANCE:
        raise RuntimeError(
            f"The first margin is {margin:.4f} and must be 0: the reference is not the model the "
            "adapter started from."
        )
