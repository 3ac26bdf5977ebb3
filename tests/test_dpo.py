"""Training on preference pairs: the tokens of serving, ln 2 first, and what is chosen is learnt."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.answerer import Answerer, load_base
from core.assembly import BaseModel
from core.prompts import build_prompt
from core.settings import NightlyPreset
from core.types import Evidence, PreferencePair
from tests.tiny_models import make_tiny_fastvlm
from training.dpo import PairCollator, draw_rows, train_adapter

PRESET = NightlyPreset(epochs=1, learning_rate=5e-3, sft_weight=0, lora_rank=4, batch_size=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = make_tiny_fastvlm(tmp_path_factory.mktemp("tiny"))
    return BaseModel(folder=folder, id="tiny", revision="1")


def picture(picture_id: str) -> Image.Image:
    return Image.new("RGB", (64, 64), picture_id)


def pair(n: int = 0, *, colour: str | None = None, **fields: object) -> PreferencePair:
    prompt = build_prompt(f"Question {n}?", evidence=Evidence(), has_picture=colour is not None)
    values: dict[str, object] = {
        "prompt": prompt,
        "chosen": "Yes.",
        "rejected": "No, never.",
        "picture_id": colour,
        "weight": 1.0,
        "split": "train",
        "vote_ids": (f"vote{n}",),
    }
    return PreferencePair(**(values | fields))  # type: ignore[arg-type]


MIXED = [pair(n, colour=("red", None, "blue", None)[n % 4]) for n in range(16)]


@pytest.mark.parametrize("colour", [None, "red"])
def test_training_sees_the_tokens_that_serving_sees(base: BaseModel, colour: str | None) -> None:
    model, processor = load_base(base, device="cpu", dtype="float32")
    answerer = Answerer(model, processor, base=base, picture_tokens=True)
    row = pair(colour=colour, chosen="Say <|im_end|> or <image>.")
    served = answerer._encode(row.prompt, colour and picture(colour), rows=1)
    batch = PairCollator(processor, open_picture=picture, dtype=model.dtype).batch([row])

    length = served["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][:1, :length], served["input_ids"])
    assert batch["completion_mask"][0, :length].sum() == 0
    if colour:
        assert torch.equal(batch["pixel_values"][:1], served["pixel_values"])
    answer = batch["input_ids"][0][batch["completion_mask"][0] == 1]
    # The marks inside the answer stay text; only the end mark after it is a special token.
    assert processor.tokenizer.decode(answer) == "Say < |im_end|> or < image>.<|im_end|>"


def test_an_answer_that_was_cut_off_does_not_teach_to_end_there(base: BaseModel) -> None:
    _, processor = load_base(base, device="cpu", dtype="float32")
    collator = PairCollator(processor, open_picture=picture, dtype=torch.float32)
    ended = collator.answer_tokens("So it", has_ended=True)
    assert collator.answer_tokens("So it", has_ended=False) == ended[:-1]
    assert ended[-1] == processor.tokenizer.eos_token_id


def test_first_loss_is_ln_2_and_the_chosen_answers_gain(base: BaseModel, tmp_path: Path) -> None:
    model, processor = load_base(base, device="cpu", dtype="float32")
    steps: list[tuple[int, int, float]] = []
    record = train_adapter(
        model,
        processor,
        MIXED,
        preset=PRESET,
        open_picture=picture,
        folder=tmp_path / "adapter",
        work=tmp_path / "work",
        on_step=lambda *step: steps.append(step),
    )
    assert record.first_loss == pytest.approx(math.log(2), abs=1e-4)
    assert record.last_loss < 0.5
    assert record.curve[-1]["margin"] > record.curve[0]["margin"] == 0.0
    assert [step[:2] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all("language_model" in name for name in tensors)
    assert len(tensors) == 2 * 7 * 2  # two layers, seven matrices, A and B


def test_the_chosen_answers_stay_likely_where_they_are_trained_on_too(
    base: BaseModel, tmp_path: Path
) -> None:
    losses = {}
    for weight in (0.0, 1.0):
        model, processor = load_base(base, device="cpu", dtype="float32")
        preset = PRESET.model_copy(update={"sft_weight": weight})
        record = train_adapter(
            model,
            processor,
            MIXED,
            preset=preset,
            open_picture=picture,
            folder=tmp_path / f"{weight}",
            work=tmp_path / f"{weight}-work",
        )
        assert record.curve[0]["margin"] == 0.0
        losses[weight] = record.first_loss
    # Beside ln 2 the likelihood of the chosen answers, near ln(vocabulary) for a model that knows
    # nothing yet.
    likelihood = math.log(model.config.text_config.vocab_size)
    assert losses[1.0] - losses[0.0] == pytest.approx(likelihood, rel=0.1)


def test_training_goes_on_from_a_checkpoint_to_the_same_adapter(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.dpo.CHECKPOINT_EVERY_S", -1.0)

    class Interrupted(Exception):
        pass

    def stop_after_two(step: int, *_: float) -> None:
        if step == 3:
            raise Interrupted

    def train(name: str, **options: object) -> torch.Tensor:
        model, processor = load_base(base, device="cpu", dtype="float32")
        record = train_adapter(
            model,
            processor,
            MIXED,
            preset=PRESET,
            open_picture=picture,
            folder=tmp_path / name,
            work=tmp_path / f"{name}-work",
            **options,  # type: ignore[arg-type]
        )
        assert record.n_steps == 4 and record.first_loss == pytest.approx(math.log(2), abs=1e-4)
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        return torch.cat([tensors[key].flatten() for key in sorted(tensors)])

    with pytest.raises(Interrupted):
        train("resumed", on_step=stop_after_two)
    torch.testing.assert_close(train("resumed"), train("whole"))


def test_training_ends_when_its_time_is_up(base: BaseModel, tmp_path: Path) -> None:
    model, processor = load_base(base, device="cpu", dtype="float32")
    record = train_adapter(
        model,
        processor,
        MIXED,
        preset=PRESET,
        open_picture=picture,
        folder=tmp_path / "adapter",
        work=tmp_path / "work",
        max_seconds=0.0,
    )
    assert record.ran_out_of_time and record.n_steps == 1


def test_every_pair_comes_once_per_epoch_and_never_twice_before_all_others() -> None:
    pairs = [pair(n) for n in range(10)]
    rows = draw_rows(pairs, epochs=3, batch_size=4, seed=1)
    assert len(rows) == 30
    for epoch in range(3):
        assert {row.vote_ids for row in rows[10 * epoch : 10 * epoch + 10]} == {
            row.vote_ids for row in pairs
        }


def test_a_pair_of_half_the_weight_comes_half_as_often() -> None:
    # Weights 1, 1, 1/2, 1/2 have mean 3/4: over 6 epochs 8, 8, 4 and 4 times.
    pairs = [dataclasses.replace(pair(n), weight=(1.0, 0.5)[n // 2]) for n in range(4)]
    rows = draw_rows(pairs, epochs=6, batch_size=2, seed=1)
    counts = [sum(row is one for row in rows) for one in pairs]
    assert counts == pytest.approx([8, 8, 4, 4], abs=1)
    assert len(rows) == pytest.approx(24, abs=1)
