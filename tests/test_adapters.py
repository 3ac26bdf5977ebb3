"""The adapter shelf: what is live, and that nothing unsound is ever served (bar 6)."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.adapters import CARD, CONFIG, WEIGHTS, AdapterShelf, finish, read_card, verify
from core.answerer import Answerer, load_base
from core.errors import AdapterRefused, UserError
from core.types import Evidence, RowSpec, Sampling
from tests.tiny_models import make_adapter, tiny_base


@pytest.fixture(scope="module")
def base(tiny_fastvlm):
    return tiny_base(tiny_fastvlm)


@pytest.fixture(scope="module")
def answerer(base):
    model, processor = load_base(base, device="cpu", dtype="float32")
    return Answerer(model, processor, base=base, picture_tokens=True)


@pytest.fixture(scope="module")
def good(base, tmp_path_factory) -> Path:
    """The folder of one good adapter."""
    shelf = AdapterShelf(tmp_path_factory.mktemp("good"))
    return shelf.folder(make_adapter(shelf, base, seed=1))


@pytest.fixture
def copy(good, tmp_path) -> Path:
    """A copy of the good adapter that a test may damage."""
    return shutil.copytree(good, tmp_path / "v0001")


@pytest.fixture
def shelf(tmp_path):
    return AdapterShelf(tmp_path / "shelf")


def say(answerer: Answerer, adapter: str | None, *, seed: int = 3) -> str:
    picture = Image.new("RGB", (64, 64), "green")
    prompt = answerer.fit_prompt(
        "What is this?", evidence=Evidence(), history=(), picture=picture, max_new_tokens=24
    )
    (candidate,) = answerer.generate(
        prompt,
        picture=picture,
        rows=[RowSpec(adapter=adapter, seed=seed)],
        sampling=Sampling(max_new_tokens=24),
        cancel=threading.Event(),
        on_texts=lambda _: None,
    )
    return candidate.content


def change_tensors(folder: Path, change) -> None:
    """Rewrite the weights and sign them anew, so that only the change itself is wrong."""
    tensors = load_file(folder / WEIGHTS)
    changed = change(tensors)
    save_file(changed if changed is not None else tensors, folder / WEIGHTS)
    sign(folder)


def change_config(folder: Path, **values) -> None:
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | values))
    sign(folder)


def sign(folder: Path) -> None:
    """Make the card's checksums those of the files as they are now."""
    from core.adapters import _sha256

    content = json.loads((folder / CARD).read_text())
    content["files"] = {name: _sha256(folder / name) for name in (CONFIG, WEIGHTS)}
    (folder / CARD).write_text(json.dumps(content))


def first(tensors, part="lora_B"):
    return next(name for name in sorted(tensors) if part in name)


def put_in(value):
    def change(tensors):
        tensors[first(tensors)][0, 0] = value

    return change


def make_huge(tensors):
    for name in tensors:
        tensors[name] *= 1e3


def make_zero(tensors):
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def without_one(tensors):
    del tensors[first(tensors)]


def widen(tensors):
    name = first(tensors)
    tensors[name] = torch.zeros(tensors[name].shape[0] + 8, tensors[name].shape[1])


def replace_by_pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def add_pickle(folder):
    torch.save({}, folder / "extra.pt")


def link_weights(folder):
    target = folder.parent / "elsewhere.safetensors"
    shutil.move(folder / WEIGHTS, target)
    (folder / WEIGHTS).symlink_to(target)


def truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    sign(folder)


def flip_a_bit(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS).write_bytes(content)


BAD = {
    "NaN": (lambda f: change_tensors(f, put_in(float("nan"))), "NaN"),
    "infinity": (lambda f: change_tensors(f, put_in(float("inf"))), "infinite"),
    "huge norm": (lambda f: change_tensors(f, make_huge), "root mean square"),
    "all zeros": (lambda f: change_tensors(f, make_zero), "change nothing"),
    "wrong shape": (lambda f: change_tensors(f, widen), "has shape"),
    "integers": (
        lambda f: change_tensors(f, lambda t: {n: v.to(torch.int32) for n, v in t.items()}),
        "real numbers",
    ),
    "missing key": (lambda f: change_tensors(f, without_one), "missing"),
    "extra key": (
        lambda f: change_tensors(f, lambda t: t.update(lm_head=torch.ones(2, 2))),
        "too many",
    ),
    "other base model": (
        lambda f: change_config(f, base_model_name_or_path="someone/else"),
        "made for someone/else",
    ),
    "other revision": (lambda f: change_config(f, revision="0" * 12), "made for"),
    "rank unlike the weights": (lambda f: change_config(f, r=8, lora_alpha=16), "has shape"),
    "rank out of bounds": (lambda f: change_config(f, r=4096), "rank is 4096"),
    "alpha out of bounds": (lambda f: change_config(f, lora_alpha=1e9), "lora_alpha"),
    "other targets": (
        lambda f: change_config(f, target_modules=["q_proj"]),
        "too many",
    ),
    "reaches the projector": (
        lambda f: change_config(f, target_modules=["linear_1"]),
        "outside the language model",
    ),
    "not LoRA": (lambda f: change_config(f, peft_type="IA3"), "not a LoRA"),
    "DoRA": (lambda f: change_config(f, use_dora=True), "use_dora"),
    "saves other modules": (lambda f: change_config(f, modules_to_save=["lm_head"]), "modules"),
    "truncated": (truncate, "damaged"),
    "wrong checksum": (flip_a_bit, "checksum"),
    "pickle instead": (replace_by_pickle, "adapter_model.bin does not belong"),
    "pickle beside": (add_pickle, "extra.pt does not belong"),
    "link": (link_weights, "not a plain file"),
    "no card": (lambda f: (f / CARD).unlink(), "card.json is missing"),
    "no configuration": (lambda f: (f / CONFIG).unlink(), "adapter_config.json is missing"),
    "configuration is not JSON": (
        lambda f: ((f / CONFIG).write_text("{"), sign(f)),
        "not JSON",
    ),
    "card of another version": (lambda f: f.rename(f.with_name("v0009")), "card is that of"),
}


@pytest.mark.parametrize("damage", sorted(BAD))
def test_a_bad_adapter_is_refused_and_serving_is_unchanged(damage, copy, base, answerer, good):
    answerer.load_adapter(verify(good, base=base, layers=answerer.layers))
    before = [say(answerer, None), say(answerer, "v0001")]
    spoil, reason = BAD[damage]
    spoil(copy)
    folder = copy if copy.exists() else copy.with_name("v0009")
    with pytest.raises(AdapterRefused, match=reason):
        verify(folder, base=base, layers=answerer.layers)
    assert [say(answerer, None), say(answerer, "v0001")] == before


def test_a_good_adapter_is_accepted_and_changes_the_words(good, base, answerer):
    checked = verify(good, base=base, layers=answerer.layers)
    answerer.load_adapter(checked)
    assert checked.card.files.keys() == {CONFIG, WEIGHTS}
    assert say(answerer, "v0001") != say(answerer, None)


def test_the_card_and_the_configuration_name_no_local_path(good, base):
    text = (good / CARD).read_text() + (good / CONFIG).read_text()
    assert str(base.folder) not in text
    assert not (good / "README.md").exists()


def test_versions_count_up_and_an_unfinished_one_is_not_seen(shelf, base, good):
    first_folder = shelf.new_folder()
    second = shelf.new_folder()
    for name in (CONFIG, WEIGHTS):
        shutil.copy(good / name, second)
    finish(second, base=base, parent=None, n_pairs=7, decision="a test", metrics={"loss": 0.5})
    assert first_folder.name == "v0001"
    assert shelf.versions() == ["v0002"]
    assert shelf.card("v0002") == read_card(second)
    assert shelf.card("v0002").metrics == {"loss": 0.5}
    with pytest.raises(AdapterRefused, match=r"card\.json"):
        shelf.publish("v0001")


def test_roll_back_goes_version_by_version_down_to_the_base_model(shelf, base, good):
    for _ in range(2):
        folder = shelf.new_folder()
        for name in (CONFIG, WEIGHTS):
            shutil.copy(good / name, folder)
        finish(folder, base=base, parent=shelf.current(), n_pairs=1, decision="a test")
        shelf.publish(folder.name)
    assert (shelf.current(), shelf.previous()) == ("v0002", "v0001")
    assert shelf.roll_back() == "v0001"
    assert (shelf.current(), shelf.previous()) == ("v0001", None)
    assert shelf.roll_back() is None
    assert shelf.current() is None
    with pytest.raises(UserError, match="nothing to roll back"):
        shelf.roll_back()


def test_a_name_that_is_no_version_is_refused(shelf):
    with pytest.raises(ValueError, match="expected one like"):
        shelf.folder("../../etc")
