"""The embedded preset's own weights: what a visitor asks first (see benchmarks for the rest)."""

from pathlib import Path

import pytest

from core.engine import Engine
from core.pack import read_pack
from core.settings import load_settings
from core.types import RowSpec, Sampling

pytestmark = pytest.mark.weights
GREEDY = Sampling(temperature=0, max_new_tokens=24)


@pytest.fixture(scope="module")
def engine(weights, tmp_path_factory):
    engine = Engine(
        load_settings(preset="embedded"), data_dir=tmp_path_factory.mktemp("data"), cache=weights
    )
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def cat(engine, tmp_path_factory) -> Path:
    (pack_picture,) = (p for p in read_pack("photographs") if p.id == "photograph-cat")
    file = tmp_path_factory.mktemp("pictures") / "cat.png"
    pack_picture.image().save(file)
    return engine.add_picture(file)


def ask(engine, question, *, picture=None) -> str:
    rows = [RowSpec(adapter=None, seed=1)]
    *_, last = engine.answer(question, picture=picture, rows=rows, sampling=GREEDY)
    return last.texts[0].lower()


def test_a_fact_is_answered_from_words_alone(engine):
    assert "paris" in ask(engine, "What is the capital of France?")


def test_a_cat_is_called_a_cat(engine, cat):
    assert "cat" in ask(engine, "What is this?", picture=cat)


@pytest.mark.parametrize(("thing", "answer"), [("cat", "yes"), ("bicycle", "no")])
def test_what_is_there_and_what_is_not(engine, cat, thing, answer):
    assert ask(engine, f"Is there a {thing}?", picture=cat).startswith(answer)
