"""The engine with tiny models: answers, evidence, adapters, and what goes wrong around them."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.swapping import swap_under_load
from core.adapters import WEIGHTS, AdapterShelf
from core.engine import Engine
from core.errors import AdapterRefused, DataFolderError, UserError
from core.types import RowSpec, Sampling, Turn
from tests.tiny_models import make_adapter, tiny_base

BASE_ROW = RowSpec(adapter=None, seed=1)
SHORT = Sampling(max_new_tokens=8)


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine(tiny_settings, data_dir, tmp_path):
    engine = Engine(tiny_settings, data_dir=data_dir, cache=tmp_path / "cache")
    yield engine
    engine.close()


@pytest.fixture
def shelf(data_dir, tiny_settings):
    return AdapterShelf(data_dir / "adapters" / "answerer")


@pytest.fixture
def base(tiny_fastvlm):
    return tiny_base(tiny_fastvlm)


@pytest.fixture
def picture(engine, tmp_path):
    file = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(file)
    return engine.add_picture(file)


def ask(engine, rows=(BASE_ROW,), *, question="What is this?", picture=None, **options):
    options = {"sampling": SHORT} | options
    return list(engine.answer(question, picture=picture, rows=rows, **options))


def words(steps):
    return tuple(candidate.content for candidate in steps[-1].candidates)


def long_answer(engine):
    """An answer that has begun and goes on for a while: a random model ends a row by chance."""
    rows = [RowSpec(adapter=None, seed=seed) for seed in range(8)]
    steps = engine.answer(
        "Tell me", picture=None, rows=rows, sampling=Sampling(max_new_tokens=3500)
    )
    next(steps), next(steps)
    return steps


def wait_for(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    assert condition()


def test_an_answer_streams_and_only_its_last_step_has_candidates(engine, picture):
    steps = ask(engine, picture=picture)
    assert len(steps) > 5
    assert all(step.candidates is None for step in steps[:-1])
    assert steps[-1].texts == words(steps)
    assert steps[0].evidence.labels
    assert steps[0].prompt == steps[-1].prompt
    assert steps[-1].prompt[-1].has_picture
    assert steps[-1].prompt[-1].content.endswith("What is this?")


def test_a_pair_streams_together_and_each_side_equals_its_own_answer(engine, picture):
    rows = (RowSpec(adapter=None, seed=1), RowSpec(adapter=None, seed=2))
    pair = words(ask(engine, rows, picture=picture))
    alone = tuple(words(ask(engine, (row,), picture=picture))[0] for row in rows)
    assert pair == alone


def test_a_pair_is_drawn_more_freely_than_one_answer(engine, tiny_settings):
    chosen = tiny_settings.answering
    pair = (RowSpec(adapter=None, seed=1), RowSpec(adapter=None, seed=2))
    for rows, temperature in (((BASE_ROW,), chosen.temperature), (pair, chosen.pair_temperature)):
        candidates = ask(engine, rows, sampling=None)[-1].candidates
        assert {candidate.parameters["temperature"] for candidate in candidates} == {temperature}


def test_a_question_without_a_picture_is_answered_from_words_alone(engine):
    steps = ask(engine, question="How do birds fly?")
    assert steps[-1].evidence.labels == ()
    assert not any(message.has_picture for message in steps[-1].prompt)
    assert [message.role for message in steps[-1].prompt] == ["system", "user"]


@pytest.mark.parametrize(
    "question",
    ["What is in this picture?", "Describe the photo.", "What is this?", "Can you see it?"],
)
def test_who_asks_about_a_picture_and_shows_none_is_told_so(engine, question):
    examples = ask(engine, question=question)[-1].prompt[1:-1]
    assert {m.content for m in examples if m.role == "assistant"} == {
        "I see no picture here. Please add one and ask again."
    }


def test_earlier_turns_are_in_the_prompt(engine):
    steps = ask(engine, history=[Turn(question="Who?", answer="Me.")])
    assert [m.content for m in steps[-1].prompt[1:]] == ["Who?", "Me.", "What is this?"]


def test_edited_labels_take_the_place_of_the_tags(engine, picture):
    found = engine.recognize(picture, words=["a red wall", "the sea"])
    assert {label.text for label in found.tags} <= {"a red wall", "the sea"}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "The question is empty. Write what you want to know."),
        ("  \n ", "The question is empty. Write what you want to know."),
        ("x" * 10_000, "The question is 10,000 characters long and the limit is 2,000."),
    ],
)
def test_a_question_that_cannot_be_asked_says_why(engine, question, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        engine.answer(question, picture=None, rows=[BASE_ROW])


def test_a_question_in_another_language_is_answered(engine):
    assert words(ask(engine, question="这是什么？ Что это? 🐈"))


def test_stopping_ends_the_answer_and_keeps_what_was_said(engine):
    cancel = threading.Event()
    steps = []
    for step in engine.answer(
        "Tell me everything",
        picture=None,
        rows=[RowSpec(adapter=None, seed=seed) for seed in range(8)],
        cancel=cancel,
        sampling=Sampling(max_new_tokens=1500),
    ):
        steps.append(step)
        if len(steps) == 5:
            cancel.set()
    longest = max(steps[-1].candidates, key=lambda candidate: candidate.n_tokens)
    assert longest.finish_reason == "cancelled"
    assert longest.content == steps[-1].texts[steps[-1].candidates.index(longest)]
    assert 3 <= longest.n_tokens < 1500


def test_an_answer_that_nobody_listens_to_any_more_frees_the_worker(engine):
    long = long_answer(engine)
    long.close()
    started = time.monotonic()
    assert words(ask(engine))
    assert time.monotonic() - started < 3


def test_a_request_taken_back_before_its_turn_ends_at_once(engine):
    long = long_answer(engine)
    cancel = threading.Event()
    cancel.set()
    steps = ask(engine, cancel=cancel)
    assert steps[-1].candidates[0].finish_reason == "cancelled"
    assert steps[-1].candidates[0].content == ""
    long.close()


def test_searching_does_not_wait_for_a_running_answer(engine):
    ask(engine), engine.search_text("warm up")
    long = long_answer(engine)
    started = time.monotonic()
    assert engine.search_text("a cat") == []
    assert time.monotonic() - started < 1
    assert next(long).candidates is None
    long.close()


def test_a_published_adapter_answers_within_seconds_and_rolls_back(engine, shelf, base):
    before = words(ask(engine))
    version = make_adapter(shelf, base, seed=1)
    shelf.publish(version)
    wait_for(lambda: engine.live_adapter() == version)
    row = RowSpec(adapter=engine.live_adapter(), seed=1)
    after = ask(engine, (row,))
    assert after[-1].candidates[0].adapter == version
    assert words(after) != before
    assert engine.previous_adapter() is None
    started = time.monotonic()
    assert engine.roll_back() is None
    assert engine.live_adapter() is None
    assert time.monotonic() - started < 2
    assert words(ask(engine)) == before


def test_a_bad_adapter_is_refused_and_the_old_one_goes_on(engine, shelf, base):
    good = make_adapter(shelf, base, seed=1)
    shelf.publish(good)
    row = RowSpec(adapter=good, seed=1)
    before = words(ask(engine, (row,)))
    bad = make_adapter(shelf, base, seed=2)
    (shelf.folder(bad) / WEIGHTS).write_bytes(b"\0" * 100)
    shelf.publish(bad)
    wait_for(lambda: bad in engine.adapter_problems())
    assert "checksum" in engine.adapter_problems()[bad]
    wait_for(lambda: engine.live_adapter() == good)
    assert words(ask(engine, (row,))) == before
    with pytest.raises(AdapterRefused):
        ask(engine, (RowSpec(adapter=bad, seed=1),))
    assert words(ask(engine, (row,))) == before


def test_a_bad_adapter_found_at_start_gives_way_to_the_one_before(
    tiny_settings, data_dir, tmp_path, base
):
    shelf = AdapterShelf(data_dir / "adapters" / "answerer")
    for seed in (1, 2):
        shelf.publish(make_adapter(shelf, base, seed=seed))
    (shelf.folder("v0002") / WEIGHTS).write_bytes(b"broken")
    engine = Engine(tiny_settings, data_dir=data_dir, cache=tmp_path / "cache")
    steps = ask(engine, (RowSpec(adapter=engine.live_adapter(), seed=1),))
    assert steps[-1].candidates[0].adapter == "v0001"
    assert engine.live_adapter() == "v0001"
    engine.close()


def test_200_swaps_under_4_clients_give_only_old_or_new_answers(engine, shelf, base):
    """Bar 6: no text is a mixture, and no request fails."""
    # Four in turn: only live and previous stay loaded, so every swap loads one and frees one.
    versions = [make_adapter(shelf, base, seed=seed, scale=0.4) for seed in range(4)]
    report = swap_under_load(
        engine,
        shelf,
        versions,
        questions=[f"Question {n}?" for n in range(4)],
        n_swaps=200,
        sampling=SHORT,
    )
    assert (report.failed, report.mixed) == ([], [])
    assert len(report.swap_s) == 200
    assert len(report.asked) >= 4
    assert report.n_answers >= 200


def test_a_second_process_on_the_same_data_is_told_what_to_do(engine, tiny_settings, data_dir):
    script = (
        "import sys; from pathlib import Path; from core.datafolder import DataFolder\n"
        "from core.errors import DataFolderError\n"
        "try: DataFolder(Path(sys.argv[1]))\n"
        "except DataFolderError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(data_dir)], capture_output=True, text=True, timeout=60
    ).stdout
    assert "is in use by another running Sightloop" in said
    assert "--data-dir" in said


def test_a_data_folder_that_is_a_file_says_so(tiny_settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="cannot be written"):
        Engine(tiny_settings, data_dir=tmp_path / "file", cache=tmp_path)


def test_the_folder_is_free_after_closing(tiny_settings, data_dir, tmp_path):
    for _ in range(2):
        Engine(tiny_settings, data_dir=data_dir, cache=tmp_path).close()


def test_importing_the_engine_loads_no_model_library():
    script = (
        "import sys, core.engine; "
        "print([n for n in ('torch', 'transformers', 'open_clip', 'chromadb') if n in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert said.strip() == "[]"


def test_closing_ends_a_running_answer_at_its_next_token(engine):
    steps = long_answer(engine)
    engine.close()
    finished = list(steps)[-1].candidates
    assert any(candidate.finish_reason == "cancelled" for candidate in finished)
    assert all(candidate.finish_reason in ("cancelled", "stop") for candidate in finished)
