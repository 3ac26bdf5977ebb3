"""The gate's rules by hand, and its measurements on a tiny model against plain arithmetic."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.adapters import base_layers, finish, verify
from core.answerer import Answerer, load_base
from core.assembly import BaseModel
from core.prompts import build_prompt
from core.settings import NightlyPreset
from core.types import Evidence, PreferencePair
from feedback.ratings import wilson_interval
from tests.tiny_models import make_tiny_fastvlm
from training.dpo import PairCollator, train_adapter
from training.gate import (
    Measurements,
    agreement,
    answer_greedily,
    answer_logps,
    decide,
    measure,
)
from training.rewards import checkable_questions, count_words, is_right

GOOD = Measurements(
    against_base=wilson_interval(36, 40),
    against_live=None,
    right_before=(True,) * 36 + (False,) * 4,
    right_after=(True,) * 36 + (False,) * 4,
    answers_before=("It is a cat.",) * 10,
    answers_after=("A cat.",) * 10,
    chosen_words=tuple(range(2, 13)),
    held_out_words_before=20.0,
    held_out_words_after=6.0,
)


def test_a_good_adapter_passes_with_a_reason_for_every_test() -> None:
    verdict = decide(GOOD)
    assert verdict.is_passed
    assert [reason.split(":")[0] for reason in verdict.reasons] == [
        "votes",
        "questions",
        "empty answers",
        "length",
    ]
    assert verdict.metrics["held_out_agreement"] == pytest.approx(0.9)


def test_half_of_the_votes_is_chance_and_refused_in_plain_words() -> None:
    # 21 of 40: 52.5 %, Wilson's interval is 37.497 to 67.06
    verdict = decide(dataclasses.replace(GOOD, against_base=wilson_interval(21, 40)))
    assert not verdict.is_passed
    assert verdict.reasons[0] == (
        "votes: compared with the base model, it agreed with 52 % of 40 held-out votes "
        "(95 % interval 37 to 67), not clearly more than half"
    )


def test_better_than_the_base_is_not_enough_when_a_version_is_live() -> None:
    verdict = decide(dataclasses.replace(GOOD, against_live=wilson_interval(20, 40)))
    assert not verdict.is_passed
    assert verdict.reasons[0].startswith("votes: compared with the live version")


def test_no_held_out_votes_prove_nothing() -> None:
    verdict = decide(dataclasses.replace(GOOD, against_base=wilson_interval(0, 0)))
    assert not verdict.is_passed and "none were held out" in verdict.reasons[0]


@pytest.mark.parametrize(("n_right", "is_passed"), [(31, True), (30, False)])
def test_right_answers_may_fall_only_within_the_interval(n_right: int, is_passed: bool) -> None:
    # 36 of 40 before: Wilson's lower end is 0.7695, so 30.8 of 40
    after = (True,) * n_right + (False,) * (40 - n_right)
    assert decide(dataclasses.replace(GOOD, right_after=after)).is_passed is is_passed


def test_more_empty_answers_are_refused() -> None:
    verdict = decide(dataclasses.replace(GOOD, answers_after=("",) + ("A cat.",) * 9))
    assert not verdict.is_passed and verdict.reasons[0].startswith("empty answers: 1 of 10")


@pytest.mark.parametrize(
    ("words", "is_passed"),
    # The chosen answers have 3 to 11 words (10th and 90th percentile), today's 20:
    # 0.75 * 3 = 2.25 to 1.25 * 20 = 25.
    [(2.0, False), (2.5, True), (25.0, True), (26.0, False)],
)
def test_length_may_move_only_as_far_as_the_votes_do(words: float, is_passed: bool) -> None:
    assert decide(dataclasses.replace(GOOD, held_out_words_after=words)).is_passed is is_passed


def test_agreement_counts_ties_half_and_prompts_of_many_pairs_less() -> None:
    before = torch.zeros(3, 2)
    after = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])  # right, wrong, tie
    assert agreement(before, after, weights=[1.0, 1.0, 1.0]) == wilson_interval(1.5, 3)
    # weights 1, 1/2, 1/2: n = 2^2 / 1.5 = 2.67, rounded down; share = (1 + 1/4) / 2
    weighted = agreement(before, after, weights=[1.0, 0.5, 0.5])
    assert weighted.n == 2 and weighted.estimate == pytest.approx(0.625)


def test_checkable_questions_are_always_the_same_and_their_answers_known() -> None:
    questions = checkable_questions()
    assert questions == checkable_questions() and len(questions) == 40
    shown = questions[0]
    assert shown.picture is not None
    assert shown.evidence.labels[0].text == shown.picture.name == shown.right_words[0]


def test_words_are_checked_whole_in_any_case_singular_or_plural() -> None:
    assert is_right("Two CATS sleep.", ("cat",)) and is_right("It is 7.", ("seven", "7"))
    assert not is_right("A catalogue.", ("cat",)) and not is_right("", ("cat",))
    assert count_words("It's 2 cats.") == 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = make_tiny_fastvlm(tmp_path_factory.mktemp("tiny"))
    return BaseModel(folder=folder, id="tiny", revision="1")


def picture(picture_id: str) -> Image.Image:
    return Image.new("RGB", (64, 64), picture_id)


def pair(n: int, colour: str | None) -> PreferencePair:
    return PreferencePair(
        prompt=build_prompt(f"{'x' * n}?", evidence=Evidence(), has_picture=colour is not None),
        chosen="Yes, round.",
        rejected="No, it is not that" + " at all" * n,
        picture_id=colour,
        weight=1.0,
        split="held_out",
        vote_ids=(str(n),),
    )


PAIRS = [pair(n, ("red", None, "blue")[n % 3]) for n in range(7)]


def load(base: BaseModel) -> Answerer:
    model, processor = load_base(base, device="cpu", dtype="float32")
    return Answerer(model, processor, base=base, picture_tokens=True)


def test_answers_are_scored_alone_as_in_a_batch_with_pictures(base: BaseModel) -> None:
    answerer = load(base)
    collator = PairCollator(answerer.processor, open_picture=picture, dtype=torch.float32)
    together = answer_logps(answerer, PAIRS, adapter=None, collator=collator)
    for one, found in zip(PAIRS, together, strict=True):
        batch = collator.batch([one])
        mask = batch.pop("completion_mask").bool()
        with torch.no_grad():
            logps = answerer.model(**batch).logits.log_softmax(-1)
        tokens = logps[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        expected = (tokens * mask[:, 1:]).sum(1)  # chosen, rejected
        torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-4)


def test_answers_do_not_depend_on_their_batch(base: BaseModel) -> None:
    answerer = load(base)
    prompts = [(p.prompt, picture(p.picture_id) if p.picture_id else None) for p in PAIRS]
    together = answer_greedily(answerer, prompts, adapter=None, max_new_tokens=12)
    alone = [
        answer_greedily(answerer, [prompt], adapter=None, max_new_tokens=12)[0]
        for prompt in prompts
    ]
    assert together == alone


def test_what_is_measured_is_what_was_trained(base: BaseModel, tmp_path: Path) -> None:
    model, processor = load_base(base, device="cpu", dtype="float32")
    train_adapter(
        model,
        processor,
        PAIRS,
        preset=NightlyPreset(epochs=6, learning_rate=3e-3, lora_rank=4),
        open_picture=picture,
        folder=tmp_path / "candidate",
        work=tmp_path / "work",
    )
    finish(tmp_path / "candidate", base=base, parent=None, n_pairs=7, decision="not yet")
    answerer = load(base)
    layers = base_layers(answerer.model)
    answerer.load_adapter(verify(tmp_path / "candidate", base=base, layers=layers))
    parts: list[float] = []
    measured = measure(
        answerer,
        new="candidate",
        live=None,
        held_out=PAIRS,
        chosen=[p.chosen for p in PAIRS],
        questions=checkable_questions(4)[:6],
        open_picture=picture,
        on_part=lambda _, fraction: parts.append(fraction),
    )
    assert measured.against_base.estimate == 1.0 and measured.against_live is None
    assert measured.chosen_words == (2,) * 7
    assert len(measured.right_before) == len(measured.right_after) == 6
    assert len(measured.answers_after) == len(measured.samples) == 7 + 6
    assert parts == sorted(parts)
