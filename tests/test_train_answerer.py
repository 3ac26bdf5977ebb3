"""The answerer's training: rows as serving asks them, exact merging, resuming, clear errors."""

import errno
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.answerer_quality import Asked, swapped, wilson
from core.assembly import assembled_revision, merge_lessons, read_lessons
from core.errors import UserError, WeightsError
from core.prompts import build_prompt, encode
from core.settings import load_settings
from core.types import Evidence, Label
from training.embedded.answerer import Course, answer_loss, rate_at, run_course
from training.embedded.answerer_card import card_text
from training.embedded.answerer_features import ShapePicture, plan_shard
from training.embedded.answerer_language import Speaker
from training.embedded.answerer_lessons import shape_of, shares_at
from training.embedded.answerer_rows import Branch, Lesson, Row, RowMaker, draw_weighted, join_rows
from training.embedded.answerer_sight import (
    EMPTY_WEIGHT,
    Words,
    cell_of_shape,
    cell_targets,
    named_right,
    naming_loss,
)

PICTURE_TOKENS = 4  # of the tiny model
DOG = Evidence(labels=(Label(text="dog", confidence=0.6, kind="object", source="imagenet"),))
LESSONS = (
    Lesson(question="Is there a dog?", answer="Yes."),
    Lesson(question="What is <image> this?", answer="It is a dog.", evidence=DOG),
    Lesson(question="How many?", answer="One."),
)


@pytest.fixture
def tiny(tiny_fastvlm):
    """Model and processor, in float32."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_fastvlm, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(tiny_fastvlm)


def make_row(processor) -> tuple[RowMaker, Row]:
    maker = RowMaker(processor, n_picture_tokens=PICTURE_TOKENS)
    return maker, maker.row(LESSONS, max_tokens=2000)


def speaker_with_random_pairs(model) -> Speaker:
    speaker = Speaker(model, rank=3)
    torch.manual_seed(4)
    for name, parameter in speaker.named_parameters():
        if name.endswith(".B"):
            nn.init.normal_(parameter, std=0.05)
    return speaker


def pair_tensors(speaker: Speaker) -> dict[str, torch.Tensor]:
    return {
        f"lora.{number}.{group}.{half}": getattr(pair, half).detach()
        for number, layer in enumerate(speaker.layers)
        for group, pair in layer.lora.items()
        for half in ("A", "B")
    }


@pytest.mark.parametrize("number", range(len(LESSONS)))
def test_a_branch_has_the_tokens_that_serving_makes(tiny, number):
    from PIL import Image

    _, processor = tiny
    _, row = make_row(processor)
    lesson = LESSONS[number]
    messages = build_prompt(lesson.question, evidence=lesson.evidence, has_picture=True)
    served = encode(messages, processor, picture=Image.new("RGB", (64, 64)))
    assert list(row.prefix + row.branches[number].prompt) == served["input_ids"][0].tolist()


def test_an_answer_ends_with_the_end_mark(tiny):
    _, processor = tiny
    _, row = make_row(processor)
    assert processor.tokenizer.decode(row.branches[0].answer) == "Yes.<|im_end|>"


@pytest.mark.parametrize("number", range(len(LESSONS)))
def test_a_branch_is_computed_as_if_it_were_asked_alone(tiny, number):
    # transformers' own model reads one question alone; ours reads all three in one row.
    model, processor = tiny
    maker, row = make_row(processor)
    batch = join_rows([row, row], image_token=maker.image_token, pad_token=0)
    speaker = Speaker(model)
    with torch.inference_mode():
        together = speaker(speaker.embed(batch.tokens), batch.layout)[1]
        branch = row.branches[number]
        ids = torch.tensor([row.prefix + branch.prompt + branch.answer])
        embeds = model.get_input_embeddings()(ids)
        alone = model.model.language_model(inputs_embeds=embeds).last_hidden_state[0]
    start = len(row.prefix) + sum(len(other) for other in row.branches[:number])
    torch.testing.assert_close(
        together[start : start + len(branch)], alone[len(row.prefix) :], atol=1e-4, rtol=1e-4
    )


def test_the_loss_is_that_of_the_answers_alone(tiny):
    model, processor = tiny
    maker, row = make_row(processor)
    batch = join_rows([row], image_token=maker.image_token, pad_token=0)
    picture = torch.randn(1, PICTURE_TOKENS, model.config.text_config.hidden_size)
    with torch.inference_mode():
        got = answer_loss(Speaker(model), batch, picture)
        total, count = torch.zeros(()), 0
        for branch in row.branches:
            ids = torch.tensor([row.prefix + branch.prompt + branch.answer])
            embeds = model.get_input_embeddings()(ids)
            embeds[ids == maker.image_token] = picture[0]
            logits = model.lm_head(model.model.language_model(inputs_embeds=embeds)[0])[0]
            n = len(branch.answer)
            total += nn.functional.cross_entropy(logits[-n - 1 : -1], ids[0, -n:], reduction="sum")
            count += n
    torch.testing.assert_close(got, total / count, atol=1e-4, rtol=1e-4)


def test_questions_that_do_not_fit_are_left_out(tiny):
    _, processor = tiny
    maker, whole = make_row(processor)
    limit = len(whole.prefix) + len(whole.branches[0]) + len(whole.branches[2])
    assert maker.row(LESSONS, max_tokens=limit).branches == (whole.branches[0], whole.branches[2])


def test_no_room_for_any_question_is_the_callers_mistake(tiny):
    maker, _ = make_row(tiny[1])
    with pytest.raises(ValueError, match="fits into 10 tokens"):
        maker.row(LESSONS, max_tokens=10)


def test_long_text_is_cut_to_its_row(tiny):
    maker, _ = make_row(tiny[1])
    samples = [Branch(prompt=(1,) * 5, answer=(2,) * 30), Branch(prompt=(1,) * 5, answer=(2,) * 30)]
    row = maker.text_row(samples, max_tokens=50, weight=0.5)
    assert [len(branch.answer) for branch in row.branches] == [30, 10]


def test_merged_lessons_compute_what_training_computed(tiny):
    model, processor = tiny
    maker, row = make_row(processor)
    batch = join_rows([row], image_token=maker.image_token, pad_token=0)
    speaker = speaker_with_random_pairs(model)
    with torch.inference_mode():
        before = Speaker(model)(speaker.embed(batch.tokens), batch.layout)
        trained = speaker(speaker.embed(batch.tokens), batch.layout)
        merge_lessons(model, pair_tensors(speaker))
        merged = Speaker(model)(speaker.embed(batch.tokens), batch.layout)
    assert (trained - before).abs().max() > 0.01
    torch.testing.assert_close(merged, trained, atol=1e-3, rtol=1e-3)


def test_merging_replaces_what_has_the_models_own_name(tiny):
    model, _ = tiny
    name = "model.multi_modal_projector.linear_2.bias"
    merge_lessons(model, {name: torch.full_like(model.state_dict()[name], 0.25)})
    assert bool((model.model.multi_modal_projector.linear_2.bias == 0.25).all())


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.nothing.weight": torch.zeros(1)},
        {"model.multi_modal_projector.linear_2.bias": torch.zeros(3)},
        {"lora.0.o.A": torch.zeros(2, 64), "lora.0.o.B": torch.zeros(65, 2)},
        {"lora.7.o.A": torch.zeros(2, 64), "lora.7.o.B": torch.zeros(64, 2)},
    ],
)
def test_weights_of_another_base_are_refused(tiny, tensors):
    with pytest.raises(WeightsError, match="do not fit"):
        merge_lessons(tiny[0], tensors)


def ship(folder: Path, *, base: str) -> None:
    folder.mkdir()
    save_file({"x": torch.zeros(2)}, folder / "taught-01.safetensors")
    digest = hashlib.sha256((folder / "taught-01.safetensors").read_bytes()).hexdigest()
    config = {"format": 1, "base": base, "files": {"taught-01.safetensors": digest}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def parts():
    return load_settings(preset="embedded").active.answerer


def test_shipped_lessons_give_the_base_another_name(tmp_path, parts):
    ship(tmp_path / "answerer", base=assembled_revision(parts))
    lessons = read_lessons(tmp_path / "answerer", parts)
    assert lessons is not None
    assert assembled_revision(parts, lessons) != assembled_revision(parts)


def test_without_shipped_lessons_the_parts_stay_as_they_are(tmp_path, parts):
    assert read_lessons(tmp_path, parts) is None


def test_lessons_for_other_parts_are_left_out(tmp_path, parts):
    ship(tmp_path / "answerer", base="0123456789ab")
    assert read_lessons(tmp_path / "answerer", parts) is None


def test_a_changed_file_is_refused(tmp_path, parts):
    ship(tmp_path / "answerer", base=assembled_revision(parts))
    save_file({"x": torch.ones(2)}, tmp_path / "answerer" / "taught-01.safetensors")
    with pytest.raises(WeightsError, match="checksum"):
        read_lessons(tmp_path / "answerer", parts)


def test_a_missing_file_is_refused(tmp_path, parts):
    ship(tmp_path / "answerer", base=assembled_revision(parts))
    (tmp_path / "answerer" / "taught-01.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        read_lessons(tmp_path / "answerer", parts)


def run_small(folder: Path, *, stop_at: int | None = None) -> torch.Tensor:
    """Twelve steps of a small regression; stops like a killed process before step `stop_at`."""
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)

    def loss_of(step, progress):
        if step == stop_at:
            raise KeyboardInterrupt
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (module(rows) - rows.sum(1, keepdim=True)).square().mean()
        return loss, {"loss": float(loss.detach())}

    course = Course(folder=folder, minutes=1, steps=12)
    run_course(course, modules={"module": module}, optimizer=optimizer, loss_of=loss_of)
    return module.weight.detach().clone()


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr("training.embedded.answerer.SAVE_EVERY_S", 0.0)
    whole = run_small(tmp_path / "whole")
    for stop in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path / "broken", stop_at=stop)
    torch.testing.assert_close(run_small(tmp_path / "broken"), whole, atol=0, rtol=0)


def test_a_run_records_what_it_reached(tmp_path):
    run_small(tmp_path)
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["step"] == 12
    assert record["losses"][-1]["loss"] < record["losses"][0]["loss"]


def test_a_full_disk_is_said_and_the_last_save_stays(tmp_path, monkeypatch):
    run_small(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    def no_space(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.embedded.answerer.torch.save", no_space)
    with pytest.raises(UserError, match="is full"):
        run_small(tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not (tmp_path / ".state.pt").exists()


def test_the_rate_warms_up_and_falls():
    assert rate_at(0.0) < 0.05
    assert rate_at(0.03) == pytest.approx(1.0)
    assert rate_at(1.0) == pytest.approx(0.03)


@pytest.fixture
def words():
    """Names and colours along the axes of eight dimensions; one token a word."""
    vocabulary = {" .": 0, " dog": 1, " cat": 2, " red": 3, " left": 4, " right": 5}
    vocabulary |= {" top": 6, " bottom": 7}

    class OneTokenAWord:
        def __call__(self, text, add_special_tokens):
            return type("Encoded", (), {"input_ids": [vocabulary[text]]})

    return Words(["dog", "cat"], ["red"], tokenizer=OneTokenAWord(), embeddings=torch.eye(8))


def targets_of(cells, words, *, judge_empty=True):
    return cell_targets([cells], words, grounds=[None], judge_empty=[judge_empty])


def test_the_cell_of_the_centre_is_named(words):
    # 0.5 of seven cells is the middle of the fourth: row 3, column 3
    targets = targets_of([(24, "cat", "red", (0.5, 0.5))], words)
    assert (int(targets.names[0, 24]), float(targets.weights[0, 24])) == (2, 1.0)
    assert int(targets.colours[0, 24]) == 0
    assert int((targets.names > 0).sum()) == 1
    assert float(targets.weights[0, 23]) == pytest.approx(EMPTY_WEIGHT)


def test_a_centre_near_a_border_leaves_the_next_cell_unjudged(words):
    # x 0.56 of seven is 3.92: 0.08 of a cell from column 4
    targets = targets_of([(24, "cat", None, (0.56, 0.5))], words)
    assert float(targets.weights[0, 25]) == 0
    assert float(targets.weights[0, 23]) == pytest.approx(EMPTY_WEIGHT)


def test_unknown_empty_cells_do_not_count(words):
    targets = targets_of([(24, "cat", None, (0.5, 0.5))], words, judge_empty=False)
    assert float(targets.weights.sum()) == 1


def test_a_name_that_is_not_taught_does_not_count(words):
    targets = targets_of([(24, "emu", None, (0.5, 0.5))], words)
    assert int((targets.names > 0).sum()) == 0
    assert float(targets.weights[0, 24]) == 0


def test_tokens_on_their_words_have_the_least_loss(words):
    targets = targets_of([(24, "cat", None, (0.5, 0.5))], words)
    exact = words.name_vectors[targets.names]  # the centre's place adds nothing
    losses = naming_loss(exact, targets, words)
    assert float(losses["near"]) == pytest.approx(0, abs=1e-9)
    # from the names' middle the right cosine is 1 and the others 0 or -1, scaled by 20: e^-20
    assert float(losses["name"]) == pytest.approx(0, abs=1e-6)
    assert named_right(exact, targets, words)["names"] == (1, 1)
    assert float(naming_loss(exact.roll(1, 1), targets, words)["loss"]) > 1


def test_a_shape_is_found_on_its_plain_ground():
    pixels = np.full((64, 64, 3), 240, np.uint8)
    pixels[8:24, 40:60] = (200, 0, 0)
    # centre: x 50 of 64, y 16 of 64 -> column 5, row 1
    ((cell, name, colour, (x, y)),) = cell_of_shape(pixels, "circle", "red")
    assert (cell, name, colour) == (12, "circle", "red")
    assert (x, y) == (50 / 64, 16 / 64)


def test_easy_vqa_tells_its_shape_by_its_answers():
    asked = (
        ("is there not a triangle?", "yes"),
        ("is no triangle present?", "yes"),
        ("is there a circle in the image?", "yes"),
        ("what color is the shape?", "teal"),
    )
    assert shape_of(ShapePicture(file=Path("0.png"), questions=asked)) == ("circle", "teal")


def test_shards_come_in_a_fixed_order():
    assert plan_shard(0) == ("scene", range(0, 256))
    assert plan_shard(2) == ("scene", range(256, 512))
    assert plan_shard(4) == ("photo", range(0, 256))
    assert plan_shard(16) == ("scene", range(11 * 256, 12 * 256))


def test_forms_with_a_larger_share_come_first():
    lessons = [("rare", LESSONS[0]), ("often", LESSONS[1]), ("never", LESSONS[2])]
    shares = {"rare": 0.1, "often": 10.0, "never": 0.0}
    first = [draw_weighted(lessons, shares, generator=random.Random(seed))[0] for seed in range(50)]
    assert first.count(LESSONS[1]) >= 45
    drawn = draw_weighted(lessons, shares, generator=random.Random(0))
    assert LESSONS[2] not in drawn


def test_counting_comes_later():
    assert shares_at(0.0)["how_many"] < shares_at(0.5)["how_many"] == shares_at(1.0)["how_many"]


def test_wilson_by_hand():
    # 8 of 10: (0.8 + 0.19207 +- 1.95996 sqrt(0.016 + 0.0096036)) / 1.38415
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_swapped_questions_get_another_picture():
    from PIL import Image

    asked = [
        Asked(picture=Image.new("RGB", (1, n + 1)), question="?", form="what", is_right=bool)
        for n in range(4)
    ]
    assert [entry.picture.height for entry in swapped(asked)] == [3, 4, 1, 2]


def make_card(results: Path) -> str:
    course = {"step": 900, "seconds": 600, "last": {"answers": 0.25}, "checked": {"names": 0.9}}
    config = {"files": {"a": "0"}, "base": "abc", "rank": 32, "project": {}, "tune": course}
    return card_text(config, size_mb=9.5, results=results)


def test_a_card_without_a_benchmark_says_so(tmp_path):
    text = make_card(tmp_path / "none.json")
    assert "Not measured yet" in text
    assert (
        "900 steps, 10 minutes (answers loss 0.250; right on held-out scenes: names 90.0%)" in text
    )


def test_a_card_shows_what_was_measured(tmp_path):
    row = {"part": "same style", "form": "all", "n": 10, "right": 0.8, "low": 0.49, "high": 0.943}
    report = {"measured_at": "2026-11-21T12:00:00", "notes": "greedy", "rows": [row]}
    (tmp_path / "results.json").write_text(json.dumps(report), encoding="utf-8")
    text = make_card(tmp_path / "results.json")
    assert "| same style | all | 10 | 80.0% | 49.0% to 94.3% |" in text
