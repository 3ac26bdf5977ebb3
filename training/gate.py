"""The gate: may a freshly trained adapter answer people? Measured on what would be served."""

import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from core.answerer import BASE_ROW, Answerer, RowSampler
from core.prompts import build_prompt, chat_text
from core.types import Interval, Message, PreferencePair, RowSpec, Sampling
from feedback.ratings import wilson_interval
from training.dpo import OpenPicture, PairCollator
from training.rewards import CheckableQuestion, count_words, is_right

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

MAX_HELD_OUT = 200  # pairs that are scored, the newest; more cost minutes and move no decision
MAX_ANSWERED = 24  # held-out prompts that are answered anew
MAX_NEW_TOKENS = 64
LENGTH_MARGIN = 0.25  # beyond the lengths that voters chose
BATCH = 8

OnPart = Callable[[str, float], None]  # (what is being done, fraction of the gate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What the gate looks at; "before" is what is live now: a version, or the base model."""

    against_base: Interval  # share of held-out votes that the step base -> new agrees with
    against_live: Interval | None  # the same for the step live -> new; None when the base is live
    right_before: tuple[bool, ...]  # per checkable question
    right_after: tuple[bool, ...]
    answers_before: tuple[str, ...]  # to held-out prompts and checkable questions, greedily
    answers_after: tuple[str, ...]
    chosen_words: tuple[int, ...]  # lengths of the answers that voters chose
    held_out_words_before: float  # mean over the held-out prompts
    held_out_words_after: float
    samples: tuple[Mapping[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Publish or refuse, and why: one sentence per test, the failed ones first."""

    is_passed: bool
    reasons: tuple[str, ...]
    metrics: Mapping[str, float]
    samples: tuple[Mapping[str, str], ...] = ()


def decide(measured: Measurements) -> Verdict:
    """The verdict on the measurements. Every test must hold:

    - votes: of the held-out votes, clearly more than half agree with the step from the base model
      to the new version, and, where another version is live, with the step from that one. An
      adapter agrees with a vote when it raises the chosen answer's log-probability more than the
      rejected one's; half is chance, "clearly" is the lower end of Wilson's 95 % interval.
    - questions: not fewer right than the lower end of that interval for what is live now.
    - empty answers: not more than before.
    - length: within 25 % of the range between today's length and those of the chosen answers.
    """
    tests = [
        _votes_test("the base model", measured.against_base),
        *(
            [_votes_test("the live version", measured.against_live)]
            if measured.against_live is not None
            else []
        ),
        _questions_test(measured.right_before, measured.right_after),
        _empty_test(measured.answers_before, measured.answers_after),
        _length_test(measured),
    ]
    ordered = sorted(tests, key=lambda test: test[0])
    return Verdict(
        is_passed=all(is_held for is_held, _ in tests),
        reasons=tuple(sentence for _, sentence in ordered),
        metrics=_metrics(measured),
        samples=measured.samples,
    )


def measure(
    answerer: Answerer,
    *,
    new: str,
    live: str | None,
    held_out: Sequence[PreferencePair],
    chosen: Sequence[str],
    questions: Sequence[CheckableQuestion],
    open_picture: OpenPicture,
    on_part: OnPart,
    repetition_penalty: float = 1.0,
) -> Measurements:
    """The new version beside the base model and what is live, all as they are served.

    Args:
        answerer: with the adapters `new` and, unless it is None, `live` loaded.
        held_out: pairs on prompts that training never saw, oldest first.
        chosen: the answers that voters chose, for their lengths.
        repetition_penalty: as served.
    """
    scored = held_out[-MAX_HELD_OUT:]
    collator = PairCollator(
        answerer.processor, open_picture=open_picture, dtype=answerer.model.dtype
    )
    logps: dict[str | None, Tensor] = {}
    for n, version in enumerate(dict.fromkeys((None, live, new))):
        on_part("held-out votes", 0.15 * n)
        logps[version] = answer_logps(answerer, scored, adapter=version, collator=collator)
    prompts = [(pair.prompt, _picture_of(pair, open_picture)) for pair in _to_answer(scored)]
    n_held_out = len(prompts)
    prompts += [_prompt_of(question, answerer) for question in questions]
    on_part("answers as they are now", 0.5)
    before = answer_greedily(answerer, prompts, adapter=live, repetition_penalty=repetition_penalty)
    on_part("answers of the new version", 0.75)
    after = answer_greedily(answerer, prompts, adapter=new, repetition_penalty=repetition_penalty)
    return Measurements(
        against_base=agreement(logps[None], logps[new], weights=[p.weight for p in scored]),
        against_live=(
            None
            if live is None
            else agreement(logps[live], logps[new], weights=[p.weight for p in scored])
        ),
        right_before=tuple(_checked(questions, before[n_held_out:])),
        right_after=tuple(_checked(questions, after[n_held_out:])),
        answers_before=tuple(before),
        answers_after=tuple(after),
        chosen_words=tuple(count_words(answer) for answer in chosen),
        held_out_words_before=_mean_words(before[:n_held_out]),
        held_out_words_after=_mean_words(after[:n_held_out]),
        samples=tuple(
            {"question": prompt[-1].content, "before": old, "after": new_answer}
            for (prompt, _), old, new_answer in zip(prompts, before, after, strict=True)
        ),
    )


def agreement(before: "Tensor", after: "Tensor", *, weights: Sequence[float]) -> Interval:
    """Share of votes with which the step from one model to another agrees, weighted.

    Args:
        before, after: log-probabilities of the chosen and rejected answers, nats. Shape (N, 2).
        weights: of the pairs, > 0. Pairs that share a prompt weigh less, so they count for fewer
            votes in the interval: n = (sum w)^2 / sum w^2, rounded down.
    """
    if not weights:
        return wilson_interval(0, 0)
    change = after - before
    margins = (change[:, 0] - change[:, 1]).tolist()
    total = sum(weights)
    wins = sum(
        w * (1.0 if m > 0 else 0.5 if m == 0 else 0.0)
        for w, m in zip(weights, margins, strict=True)
    )
    n = int(total**2 / sum(weight**2 for weight in weights) + 1e-9)
    return wilson_interval(n * wins / total, n)


def answer_logps(
    answerer: Answerer,
    pairs: Sequence[PreferencePair],
    *,
    adapter: str | None,
    collator: PairCollator,
) -> "Tensor":
    """Summed log-probabilities of each pair's chosen and rejected answer, nats. Shape (N, 2)."""
    found = torch.zeros(len(pairs), 2, dtype=torch.float64)
    for places in _batches_by_length([_pair_length(pair) for pair in pairs], size=BATCH // 2):
        batch = collator.batch([pairs[place] for place in places])
        sums = _completion_logps(answerer, batch, adapter=adapter)
        found[places] = sums.view(2, len(places)).T.double()
    return found


def answer_greedily(
    answerer: Answerer,
    prompts: "Sequence[tuple[Sequence[Message], Image.Image | None]]",
    *,
    adapter: str | None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    repetition_penalty: float = 1.0,
) -> list[str]:
    """The likeliest answer to each prompt, as served but for the dice; batched, padded left."""
    sampling = Sampling(
        temperature=0, max_new_tokens=max_new_tokens, repetition_penalty=repetition_penalty
    )
    answers = [""] * len(prompts)
    lengths = [sum(len(message.content) for message in prompt) for prompt, _ in prompts]
    for places in _batches_by_length(lengths, size=BATCH):
        batch = [prompts[place] for place in places]
        for place, answer in zip(
            places,
            _generate(answerer, batch, adapter=adapter, sampling=sampling),
            strict=True,
        ):
            answers[place] = answer
    return answers


def _completion_logps(
    answerer: Answerer, batch: "Mapping[str, Tensor]", *, adapter: str | None
) -> "Tensor":
    model: Any = answerer.model
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    mask = inputs.pop("completion_mask").bool()
    first = int(mask.any(0).int().argmax())  # nobody's answer begins before it
    keep = mask.shape[1] - first + 1
    with torch.inference_mode():
        output = model(
            **inputs,
            **_row_adapters(answerer, adapter, n_rows=len(mask)),
            logits_to_keep=keep,
            use_cache=False,
        )
        logps = output.logits[:, :-1].float().log_softmax(-1)
        tokens = inputs["input_ids"][:, first:]
        chosen = logps.gather(-1, tokens[..., None])[..., 0]
        return (chosen * mask[:, first:]).sum(1).cpu()


def _generate(
    answerer: Answerer,
    prompts: "Sequence[tuple[Sequence[Message], Image.Image | None]]",
    *,
    adapter: str | None,
    sampling: Sampling,
) -> list[str]:
    model: Any = answerer.model
    processor: Any = answerer.processor
    pictures = [[picture] for _, picture in prompts if picture is not None]
    inputs = processor(
        text=[chat_text(prompt, processor) for prompt, _ in prompts],
        **({"images": pictures} if pictures else {}),
        padding=True,
        padding_side="left",
        return_tensors="pt",
        add_special_tokens=False,
    ).to(model.device, model.dtype)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {processor.tokenizer.eos_token_id}
    with torch.inference_mode():
        rows = model.generate(
            **inputs,
            **_row_adapters(answerer, adapter, n_rows=len(prompts)),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=sorted(ends),
                pad_token_id=processor.tokenizer.pad_token_id,
            ),
            logits_processor=LogitsProcessorList(
                [
                    RowSampler(
                        sampling,
                        rows=[RowSpec(adapter=adapter, seed=0)] * len(prompts),
                        silenced=sorted(set(processor.tokenizer.all_special_ids) - ends),
                    )
                ]
            ),
        )
    texts: list[str] = processor.batch_decode(
        rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [text.strip() for text in texts]


def _row_adapters(answerer: Answerer, adapter: str | None, *, n_rows: int) -> dict[str, list[str]]:
    return {"adapter_names": [adapter or BASE_ROW] * n_rows} if answerer.adapters else {}


def _batches_by_length(lengths: Sequence[int], *, size: int) -> Iterator[list[int]]:
    """Places in `lengths`, neighbours in length together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return (order[n : n + size] for n in range(0, len(order), size))


def _pair_length(pair: PreferencePair) -> int:
    prompt = sum(len(message.content) for message in pair.prompt)
    return prompt + max(len(pair.chosen), len(pair.rejected))


def _to_answer(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """One pair per prompt, the newest."""
    by_prompt = {(pair.prompt, pair.picture_id): pair for pair in pairs}
    return list(by_prompt.values())[-MAX_ANSWERED:]


def _picture_of(pair: PreferencePair, open_picture: OpenPicture) -> "Image.Image | None":
    has_picture = any(message.has_picture for message in pair.prompt)
    return open_picture(pair.picture_id) if has_picture and pair.picture_id else None


def _prompt_of(
    question: CheckableQuestion, answerer: Answerer
) -> "tuple[tuple[Message, ...], Image.Image | None]":
    prompt = build_prompt(
        question.question,
        evidence=question.evidence,
        has_picture=question.picture is not None,
        picture_tokens=answerer.picture_tokens,
    )
    sees = question.picture is not None and answerer.picture_tokens
    return prompt, question.picture.image() if sees and question.picture else None


def _checked(questions: Sequence[CheckableQuestion], answers: Sequence[str]) -> Iterator[bool]:
    return (
        is_right(answer, question.right_words)
        for question, answer in zip(questions, answers, strict=True)
    )


def _votes_test(rival: str, interval: Interval) -> tuple[bool, str]:
    if interval.n == 0:
        return False, f"votes: none were held out, so nothing shows it is better than {rival}"
    is_held = interval.low > 0.5
    return is_held, (
        f"votes: compared with {rival}, it agreed with {_percent(interval.estimate)} % of "
        f"{interval.n} held-out votes (95 % interval {_percent(interval.low)} to "
        f"{_percent(interval.high)}), {'clearly' if is_held else 'not clearly'} more than half"
    )


def _questions_test(before: Sequence[bool], after: Sequence[bool]) -> tuple[bool, str]:
    floor = wilson_interval(sum(before), len(before)).low * len(before)
    is_held = sum(after) >= floor
    return is_held, (
        f"questions: {sum(after)} of {len(after)} checkable ones right, {sum(before)} before, "
        f"{'at least' if is_held else 'fewer than'} the {floor:.1f} that chance allows for"
    )


def _empty_test(before: Sequence[str], after: Sequence[str]) -> tuple[bool, str]:
    empty_before, empty_after = (sum(not answer for answer in ones) for ones in (before, after))
    return empty_after <= empty_before, (
        f"empty answers: {empty_after} of {len(after)}, {empty_before} before"
    )


def _length_test(measured: Measurements) -> tuple[bool, str]:
    if not measured.chosen_words:
        return True, "length: no chosen answers to compare with"
    short, long = _usual_range(measured.chosen_words)
    low = (1 - LENGTH_MARGIN) * min(measured.held_out_words_before, short)
    high = (1 + LENGTH_MARGIN) * max(measured.held_out_words_before, long)
    is_held = low <= measured.held_out_words_after <= high
    return is_held, (
        f"length: {measured.held_out_words_after:.0f} words on average, "
        f"{measured.held_out_words_before:.0f} before, chosen answers mostly {short:.0f} to "
        f"{long:.0f}; {'within' if is_held else 'outside'} {low:.0f} to {high:.0f}"
    )


def _usual_range(words: Sequence[int]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    if len(words) == 1:
        return float(words[0]), float(words[0])
    tenths = statistics.quantiles(words, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def _metrics(measured: Measurements) -> dict[str, float]:
    metrics = {
        "held_out_n": float(measured.against_base.n),
        "held_out_agreement": measured.against_base.estimate,
        "held_out_low": measured.against_base.low,
        "held_out_high": measured.against_base.high,
        "questions_n": float(len(measured.right_after)),
        "questions_right_before": float(sum(measured.right_before)),
        "questions_right_after": float(sum(measured.right_after)),
        "words_before": measured.held_out_words_before,
        "words_after": measured.held_out_words_after,
        "empty_answers": float(sum(not answer for answer in measured.answers_after)),
    }
    if measured.against_live is not None:
        metrics |= {
            "live_agreement": measured.against_live.estimate,
            "live_low": measured.against_live.low,
            "live_high": measured.against_live.high,
        }
    return metrics


def _mean_words(answers: Iterable[str]) -> float:
    counts = [count_words(answer) for answer in answers]
    return sum(counts) / len(counts) if counts else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"
