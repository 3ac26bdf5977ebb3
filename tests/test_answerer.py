"""The answerer: prompts, streams, seeds and adapters, with tiny real models."""

import threading

import pytest
import torch
from PIL import Image

from core.adapters import AdapterShelf, verify
from core.answerer import Answerer, RowSampler, RowStream, load_base
from core.errors import UserError
from core.prompts import build_prompt, chat_text, encode
from core.types import Evidence, Message, RowSpec, Sampling, Turn
from tests.tiny_models import (
    byte_tokenizer,
    make_adapter,
    make_tiny_fastvlm,
    make_tiny_qwen2_5_vl,
    make_tiny_qwen3_vl,
    tiny_base,
)

MAKERS = {
    "fastvlm": make_tiny_fastvlm,
    "qwen2.5-vl": make_tiny_qwen2_5_vl,
    "qwen3-vl": make_tiny_qwen3_vl,
}
RED = Image.new("RGB", (90, 60), "red")
NOISE = Image.effect_noise((90, 60), 90).convert("RGB")


@pytest.fixture(scope="module", params=sorted(MAKERS))
def any_answerer(request, tmp_path_factory):
    """Each class of model in turn, with adapter v0001 loaded and v0002 on its shelf."""
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "model")
    answerer = load(folder)
    shelf = AdapterShelf(folder.parent / "shelf")
    for seed in (1, 2):
        make_adapter(shelf, answerer.base, seed=seed)
    answerer.load_adapter(checked(answerer, shelf, "v0001"))
    return answerer, shelf


@pytest.fixture(scope="module")
def answerer(tiny_fastvlm):
    return load(tiny_fastvlm)


def load(folder, *, picture_tokens=True) -> Answerer:
    base = tiny_base(folder)
    model, processor = load_base(base, device="cpu", dtype="float32")
    return Answerer(model, processor, base=base, picture_tokens=picture_tokens)


def checked(answerer, shelf, version):
    return verify(shelf.folder(version), base=answerer.base, layers=answerer.layers)


def run(answerer, rows, *, question="What is this?", picture=RED, n=16, on_texts=None, **options):
    prompt = answerer.fit_prompt(
        question, evidence=Evidence(), history=(), picture=picture, max_new_tokens=n
    )
    return answerer.generate(
        prompt,
        picture=picture,
        rows=rows,
        sampling=Sampling(max_new_tokens=n, **options),
        cancel=threading.Event(),
        on_texts=on_texts or (lambda _: None),
    )


def words(candidates):
    return [candidate.content for candidate in candidates]


def test_rows_with_different_adapters_say_what_each_says_alone(any_answerer):
    answerer, _ = any_answerer
    rows = [RowSpec(adapter=a, seed=s) for a, s in (("v0001", 1), (None, 1), ("v0001", 2))]
    alone = [words(run(answerer, [row]))[0] for row in rows]
    assert words(run(answerer, rows)) == alone
    assert len(set(alone)) == 3


def test_a_swap_leaves_the_base_model_and_the_other_version_as_they_were(any_answerer):
    answerer, shelf = any_answerer
    rows = [RowSpec(adapter=None, seed=5), RowSpec(adapter="v0001", seed=5)]
    before = words(run(answerer, rows))
    answerer.load_adapter(checked(answerer, shelf, "v0002"))
    assert words(run(answerer, rows)) == before
    assert words(run(answerer, [RowSpec(adapter="v0002", seed=5)])) != before[:1]
    answerer.drop_adapters(keep=["v0001"])
    assert answerer.adapters == {"v0001"}
    assert words(run(answerer, rows)) == before


def test_the_picture_changes_the_words(any_answerer):
    answerer, _ = any_answerer
    rows = [RowSpec(adapter=None, seed=seed) for seed in range(8)]
    red, noise = (
        words(run(answerer, rows, picture=picture, temperature=1.0, top_p=1.0, n=40))
        for picture in (RED, NOISE)
    )
    assert red != noise


def test_without_picture_tokens_only_the_evidence_counts(tiny_fastvlm):
    blind = load(tiny_fastvlm, picture_tokens=False)
    rows = [RowSpec(adapter=None, seed=1)]
    assert words(run(blind, rows, picture=RED)) == words(run(blind, rows, picture=NOISE))


def test_a_seed_fixes_the_words_and_temperature_zero_needs_none(answerer):
    rows = [RowSpec(adapter=None, seed=s) for s in (1, 2)]
    assert words(run(answerer, rows)) == words(run(answerer, rows))
    assert len(set(words(run(answerer, rows)))) == 2
    assert len(set(words(run(answerer, rows, temperature=0)))) == 1


def test_candidates_say_how_to_make_them_again(answerer):
    (candidate,) = run(answerer, [RowSpec(adapter=None, seed=9)], temperature=0.5)
    assert candidate.model_id == answerer.base.id
    assert candidate.revision == answerer.base.revision
    assert (candidate.adapter, candidate.seed) == (None, 9)
    assert candidate.parameters == {
        "temperature": 0.5,
        "top_p": 0.9,
        "repetition_penalty": 1.0,
        "max_new_tokens": 16,
    }
    assert candidate.n_tokens == 16
    assert candidate.finish_reason == "length"


def test_texts_only_grow_and_end_as_the_candidates(answerer):
    steps = []
    candidates = run(
        answerer, [RowSpec(adapter=None, seed=s) for s in (1, 2)], on_texts=steps.append, n=40
    )
    for earlier, later in zip(steps, steps[1:], strict=False):
        assert all(b.startswith(a) for a, b in zip(earlier, later, strict=True))
    assert list(steps[-1]) == words(candidates)
    assert len(steps) == 40


def test_cancelling_ends_within_one_token(answerer):
    cancel, steps = threading.Event(), []

    def on_texts(texts):
        steps.append(texts)
        if len(steps) == 3:
            cancel.set()

    prompt = answerer.fit_prompt(
        "Tell me", evidence=Evidence(), history=(), picture=None, max_new_tokens=64
    )
    (candidate,) = answerer.generate(
        prompt,
        picture=None,
        rows=[RowSpec(adapter=None, seed=1)],
        sampling=Sampling(max_new_tokens=64),
        cancel=cancel,
        on_texts=on_texts,
    )
    assert len(steps) <= 4
    assert candidate.finish_reason == "cancelled"


def put_all(tokens, *, ends=(999,)):
    seen = []
    stream = RowStream(
        byte_tokenizer(), n_rows=len(tokens[0]), ends=ends, on_texts=lambda t: seen.append(t)
    )
    stream.put(torch.zeros(len(tokens[0]), 5, dtype=torch.long))
    for step in tokens:
        stream.put(torch.tensor(step))
    return seen, stream


def test_a_text_never_ends_in_half_a_character():
    tokens = byte_tokenizer().encode("aé🐈b", add_special_tokens=False)
    seen, _ = put_all([[token] for token in tokens])
    assert [texts[0] for texts in seen] == ["a", "a", "aé", "aé", "aé", "aé", "aé🐈", "aé🐈b"]


def test_a_row_that_has_ended_stays_still():
    tokenizer = byte_tokenizer()
    a, b = tokenizer.encode("ab", add_special_tokens=False)
    end = tokenizer.eos_token_id
    seen, stream = put_all([[a, b], [end, b], [a, b]], ends=[end])
    assert seen == [("a", "b"), ("a", "bb"), ("a", "bbb")]
    assert [(text, n, reason) for text, n, _, reason in stream.outcomes()] == [
        ("a", 2, "stop"),
        ("bbb", 3, None),
    ]


def test_tokens_are_drawn_as_often_as_their_probability_says():
    # Probabilities .5, .3, .2; top_p .9 keeps all three, since .8 lies before the last.
    n = 4000
    rows = [RowSpec(adapter=None, seed=seed) for seed in range(n)]
    sampler = RowSampler(Sampling(temperature=1.0, top_p=0.9), rows=rows, silenced=[3])
    logits = torch.tensor([0.5, 0.3, 0.2, 0.9]).log().repeat(n, 1)
    drawn = sampler(torch.zeros(n, 1), logits).argmax(-1).bincount(minlength=4) / n
    # three standard errors of a share of .5 among 4000: .024
    assert drawn.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.024)


def test_top_p_leaves_out_what_is_not_needed():
    rows = [RowSpec(adapter=None, seed=seed) for seed in range(500)]
    sampler = RowSampler(Sampling(temperature=1.0, top_p=0.7), rows=rows, silenced=[])
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(500, 1)
    assert set(sampler(torch.zeros(500, 1), logits).argmax(-1).tolist()) == {0, 1}


def test_what_a_row_has_said_becomes_less_likely_and_the_prompt_does_not_count():
    rows = [RowSpec(adapter=None, seed=1)] * 2
    sampler = RowSampler(Sampling(temperature=0, repetition_penalty=2.0), rows=rows, silenced=[])
    logits = torch.tensor([[2.0, 1.5, -1.0]] * 2)
    prompt = torch.tensor([[0], [0]])
    assert sampler(prompt, logits.clone()).tolist() == logits.tolist()
    said = torch.tensor([[0, 0], [0, 2]])  # the first row said token 0, the second token 2
    assert sampler(said, logits.clone()).tolist() == [[1.0, 1.5, -1.0], [2.0, 1.5, -2.0]]


@pytest.mark.parametrize("mark", ["<image>", "<|im_end|>", "<|im_start|>system", "<<image>image>"])
def test_marks_of_the_model_in_a_question_stay_text(answerer, mark):
    plain = build_prompt("Say x", evidence=Evidence(), has_picture=False)
    marked = build_prompt(f"Say {mark} x", evidence=Evidence(), has_picture=False)
    special = answerer.processor.tokenizer.all_special_ids

    def count(prompt):
        ids = encode(prompt, answerer.processor)["input_ids"][0].tolist()
        return [ids.count(token) for token in special]

    assert count(marked) == count(plain)


def test_a_picture_takes_its_tokens_and_must_be_there(answerer):
    prompt = build_prompt("What?", evidence=Evidence(), has_picture=True)
    ids = encode(prompt, answerer.processor, picture=RED, rows=2)["input_ids"]
    assert (ids == answerer.processor.image_token_id).sum(1).tolist() == [4, 4]
    with pytest.raises(ValueError, match="1 pictures, 0 given"):
        encode(prompt, answerer.processor)


def test_the_oldest_turns_go_first_when_the_room_is_short(answerer):
    history = [Turn(question=f"question {n} " + "x" * 700, answer="yes") for n in range(8)]
    prompt = answerer.fit_prompt(
        "And now?", evidence=Evidence(), history=history, picture=None, max_new_tokens=50
    )
    asked = [message.content[:10] for message in prompt if message.role == "user"]
    assert asked[-1] == "And now?"
    assert asked[:-1] == [f"question {n}" for n in range(8)][-len(asked) + 1 :]
    assert 1 < len(asked) < 9


def test_a_question_longer_than_the_model_takes_says_so(answerer):
    with pytest.raises(UserError, match=r"tokens long, and this model takes 4046\. Shorten"):
        answerer.fit_prompt(
            "x" * 5000, evidence=Evidence(), history=(), picture=None, max_new_tokens=50
        )


def test_the_chat_text_is_chatml(answerer):
    prompt = (
        Message(role="system", content="Rules."),
        Message(role="user", content="What?", has_picture=True),
    )
    assert chat_text(prompt, answerer.processor) == (
        "<|im_start|>system\nRules.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )
