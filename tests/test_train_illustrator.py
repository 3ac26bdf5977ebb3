"""Training the illustrator: what its pictures hold, and that an interrupted run loses nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import BertConfig, BertModel

from core.errors import UserError
from core.pictogram_diffusion import register_pipeline
from tests.tiny_models import byte_tokenizer
from tests.tiny_pipelines import TINY_PICTOGRAM
from training.embedded import illustrator
from training.embedded.illustrator import Recipe, Run, export, train, velocity_loss
from training.embedded.illustrator_pack import ART, Order, Pack, make_orders, make_pack
from training.embedded.sprites import INDEX, SpriteBook, all_kinds

SEEN = [kind for kind in all_kinds() if kind.is_seen][:2]
UNSEEN = next(kind for kind in all_kinds() if not kind.is_seen)
CONFIG = TINY_PICTOGRAM | {"sample_size": 64}
RECIPE = Recipe(batch_size=4, warmup_steps=2)
# A thing of one kind is a square of this colour, so that the eye knows it by its pixels.
INK = {SEEN[0].name: (200, 0, 0), SEEN[1].name: (0, 0, 200), UNSEEN.name: (0, 90, 0)}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> SpriteBook:
    folder = tmp_path_factory.mktemp("sprites")
    look = ([0, 0, 1, 1], [0, 0, 0], None)
    for style in ART.values():
        squares = [Image.new("RGBA", (64, 64), (*ink, 255)) for ink in INK.values()]
        np.save(folder / f"{style}.npy", np.stack([np.asarray(square) for square in squares]))
    looks = {style: dict.fromkeys(INK, look) for style in ART.values()}
    (folder / INDEX).write_text(json.dumps({"looks": looks}))
    return SpriteBook(folder)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(vocab_size=len(tokenizer), intermediate_size=16, **sizes),
            add_pooling_layer=False,
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pack(book: SpriteBook, tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("pack") / "pack"
    return make_pack(folder, book, tower=tower, kinds=[*SEEN, UNSEEN], n_pairs=3)


def tiny_train(pack: Pack, folder: Path, **options) -> Run:
    return train(pack, folder, recipe=RECIPE, config=CONFIG, **options)


def test_a_kind_that_is_held_out_is_in_no_caption_and_no_picture(pack: Pack) -> None:
    assert UNSEEN.name not in pack.kinds
    assert not any(UNSEEN.name in order.caption for order in pack.orders)


def test_a_relation_puts_the_first_thing_where_it_says(pack: Pack) -> None:
    first, second = (kind.name for kind in SEEN)
    # centres of the four halves: x, y of the first and of the second thing
    expected = {
        "left": ((16, 32), (48, 32)),
        "right": ((48, 32), (16, 32)),
        "above": ((32, 16), (32, 48)),
        "below": ((32, 48), (32, 16)),
    }
    for relation, places in expected.items():
        order = Order(caption="", family="two", things=(first, second), layout=relation)
        picture = pack.picture(order, 0)
        for name, (x, y) in zip((first, second), places, strict=True):
            assert tuple(picture[y, x]) == INK[name]


def test_a_count_draws_as_many_as_it_says(pack: Pack) -> None:
    counts = {order.caption: order for order in pack.orders if order.family == "count"}
    for word, n in (("two", 2), ("three", 3), ("four", 4)):
        picture = pack.picture(counts[f"{word} {SEEN[0].plural}"], 0)
        ink = (picture == INK[SEEN[0].name]).all(-1).sum()
        assert ink == n * 28 * 28  # a half is 32 px with a margin of 2 on each side


def test_every_order_of_a_pair_has_both_kinds_in_its_caption() -> None:
    pairs = [order for order in make_orders(SEEN, n_pairs=5) if order.family == "two"]
    assert len(pairs) == 10
    assert all(thing in order.caption for order in pairs for thing in order.things)


def test_a_pack_is_made_once(pack: Pack, book: SpriteBook, tmp_path: Path) -> None:
    # There is no tower in this folder: making the pack again would fail.
    again = make_pack(
        pack.folder, book, tower=tmp_path / "nothing", kinds=[*SEEN, UNSEEN], n_pairs=3
    )
    assert again.orders == pack.orders


def test_a_batch_depends_on_its_seed_alone(pack: Pack) -> None:
    first, again, other = (pack.batch(8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(first.pictures, again.pictures, rtol=0, atol=0)
    assert not torch.equal(first.text.pooled, other.text.pooled)


def test_velocity_loss_by_hand() -> None:
    # Error 0.5 everywhere: 0.25 / 1 at sigma 1; 0.25 / 0.5^2 = 1 at sigma 0.1 with the floor 0.5.
    pictures = torch.zeros(2, 3, 4, 4)
    loss = velocity_loss(pictures + 0.5, pictures, torch.tensor([1.0, 0.1]), floor=0.5)
    torch.testing.assert_close(loss, torch.tensor((0.25 + 1.0) / 2))


def test_training_learns(pack: Pack, tmp_path: Path) -> None:
    losses = tiny_train(pack, tmp_path, steps=100).losses
    assert [step for step, _ in losses] == [50, 100]
    assert losses[1][1] < 0.8 * losses[0][1]


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    pack: Pack, tmp_path: Path
) -> None:
    whole = tiny_train(pack, tmp_path / "whole", steps=6)

    def stop_at_four(run: Run) -> None:
        if run.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_train(pack, tmp_path / "cut", steps=6, checkpoint_every_s=0, on_step=stop_at_four)
    resumed = tiny_train(pack, tmp_path / "cut", steps=6)
    for name, value in whole.average.items():
        torch.testing.assert_close(resumed.average[name], value, rtol=0, atol=0)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_clock_ends_a_run_and_a_later_one_takes_it_further(pack: Pack, tmp_path: Path) -> None:
    first = tiny_train(pack, tmp_path, minutes=0.2 / 60)
    assert first.seconds >= 0.2
    assert tiny_train(pack, tmp_path, minutes=0.2 / 60).step == first.step
    assert tiny_train(pack, tmp_path, minutes=(first.seconds + 0.1) / 60).step > first.step
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["samples"] == record["steps"] * RECIPE.batch_size


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_train(pack, tmp_path, steps=2)
    before = (tmp_path / illustrator.CHECKPOINT).read_bytes()

    def full_disk(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="No space left.*run the same command again"):
        tiny_train(pack, tmp_path, steps=3)
    assert (tmp_path / illustrator.CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob("*.new"))


def test_a_checkpoint_of_another_model_is_refused(pack: Pack, tmp_path: Path) -> None:
    tiny_train(pack, tmp_path, steps=1)
    with pytest.raises(UserError, match="another model"):
        train(pack, tmp_path, recipe=RECIPE, config=CONFIG | {"depth": 1}, steps=2)


def test_what_is_exported_draws_what_was_trained(
    pack: Pack, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_train(pack, tmp_path / "run", steps=20)
    monkeypatch.setattr(
        illustrator, "contact_sheet", lambda pipeline, prompts: Image.new("RGB", (8, 8))
    )
    folder = export(tmp_path / "run", tmp_path / "shipped")
    register_pipeline()
    loaded = DiffusionPipeline.from_pretrained(folder)
    assert json.loads((folder / "record.json").read_text())["steps"] == 20
    assert "20 steps, 80 pictures" in (folder / "README.md").read_text()
    assert not (folder / "text_encoder").exists()
    for name, value in loaded.transformer.state_dict().items():
        torch.testing.assert_close(value, run.average[name], rtol=1e-3, atol=1e-6)
    loaded.use_text_tower(tower)
    drawn = loaded("a picture", generator=torch.Generator().manual_seed(1), height=96, width=96)
    assert drawn.images[0].size == (96, 96)
    assert all(file.stat().st_size < 10_000_000 for file in folder.rglob("*") if file.is_file())


def test_the_card_shows_what_was_measured(pack: Pack, tmp_path: Path) -> None:
    tiny_train(pack, tmp_path, steps=1)
    row = {"check": "colour", "n": 10, "right": 0.5}
    report = {"rows": [row], "notes": "One of two."}
    (tmp_path / illustrator.EVALUATION).write_text(json.dumps(report))
    illustrator.write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| check | n | right |" in card and "| colour | 10 | 0.500 |" in card
    assert "One of two." in card
