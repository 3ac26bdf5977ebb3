"""Training of the embedder's heads: shards, resumption, refusals, export."""

import errno
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.cells import CELLS, GRID, POOLED_WIDTH, TOKEN_WIDTH, TowerSight
from core.embedder import load_heads
from core.errors import UserError
from training.embedded.drawn_singles import SIZE_PX, draw_single, plain_single
from training.embedded.embedder import Plan, _cell_targets, export, run_training, write_kinds
from training.embedded.embedder_features import (
    NONE,
    TruePicture,
    TrueThing,
    make_features,
    read_shard,
    shard_numbers,
    vary_photograph,
)
from training.embedded.named_pictures import NamedKind

SIZE = 6
KINDS = [
    NamedKind(
        name=name,
        plural=f"{name}s",
        codepoint=f"1F40{n}",
        synonyms=(),
        keywords=("animal",),
        is_seen=n != 3,
        is_counted=True,
    )
    for n, name in enumerate(("cat", "dog", "cow", "elk"))
]


class TinyWorld:
    """Six grey pictures a shard, each with a thing in its first cell."""

    def make(self, number: int, *, size: int):
        for n in range(size):
            thing = TrueThing((number + n) % 3, n % 12, (0.0, 0.0, 0.1, 0.1))
            source = ("single", "scene", "photograph")[number % 3]
            said = ("a cat",) if source == "scene" else ()
            things = () if source == "photograph" else (thing,)
            yield Image.new("L", (8, 8), n), TruePicture(source, things, said, said)


class TinyTowers:
    """Random but repeatable numbers in place of what towers see and read."""

    def see(self, pictures) -> TowerSight:
        rng = np.random.default_rng([picture.getpixel((0, 0)) for picture in pictures])
        tokens = rng.standard_normal((len(pictures), CELLS, TOKEN_WIDTH)).astype(np.float16)
        pooled = rng.standard_normal((len(pictures), POOLED_WIDTH)).astype(np.float16)
        return TowerSight(torch.from_numpy(tokens), torch.from_numpy(pooled))

    def read(self, texts) -> np.ndarray:
        rows = np.random.default_rng(len(texts)).standard_normal((len(texts), 384))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if len(texts) else rows


def conse(pooled: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(pooled[:, :384].float(), dim=-1)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Features of thirteen tiny shards."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_kinds(folder, KINDS, TinyTowers())
    shards(folder, n_shards=13)
    return folder


def shards(folder: Path, *, n_shards: int, deadline: float = float("inf")) -> int:
    return make_features(
        folder / "shards",
        TinyWorld(),
        TinyTowers(),
        deadline=deadline,
        n_shards=n_shards,
        size=SIZE,
    )


def train(work: Path, *, steps: int = 4, deadline: float = float("inf"), seed: int = 3):
    plan = Plan(steps=steps, singles=4, scenes=4, photographs=2, warmup=1, seed=seed)
    return run_training(work, plan=plan, deadline=deadline, device="cpu", conse=conse)


def weights_of(work: Path) -> dict[str, torch.Tensor]:
    return torch.load(work / "checkpoint.pt", weights_only=True)["heads"]


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(work, monkeypatch) -> None:
    train(work)
    whole = weights_of(work)
    (work / "checkpoint.pt").unlink()
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.0, 99.0])
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(clock, 99.0))
        assert train(work, deadline=50.0).step < 4
    assert train(work).step == 4
    again = weights_of(work)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_checkpoint_of_another_plan_is_refused(work) -> None:
    train(work, steps=1)
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        train(work, steps=1, seed=4)


def test_training_without_features_says_what_to_run(tmp_path) -> None:
    with pytest.raises(UserError, match="features` first"):
        train(tmp_path)


def test_progress_records_steps_samples_and_losses(work) -> None:
    train(work, steps=2)
    progress = json.loads((work / "progress.json").read_text())
    # Two steps of four singles, four scenes and two photographs.
    assert progress["step"] == 2 and progress["samples"] == 20
    assert {"single", "name", "presence", "caption"} <= set(progress["losses"][-1])
    assert 0 <= progress["measured"]["single"] <= 1


def test_shards_made_in_two_goes_are_those_made_in_one(tmp_path) -> None:
    assert shards(tmp_path / "twice", n_shards=3) == 3
    assert shards(tmp_path / "twice", n_shards=5) == 5
    shards(tmp_path / "once", n_shards=5)
    for number in range(5):
        first, second = (read_shard(tmp_path / way / "shards", number) for way in ("once", "twice"))
        np.testing.assert_array_equal(first.tokens, second.tokens)
        assert first.truth == second.truth


def test_no_shard_is_begun_after_the_deadline(tmp_path) -> None:
    assert shards(tmp_path, n_shards=3, deadline=0.0) == 0


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch) -> None:
    shards(tmp_path, n_shards=1)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        shards(tmp_path, n_shards=2)
    assert shard_numbers(tmp_path / "shards") == [0]
    assert not list((tmp_path / "shards").glob("*.new"))


def test_names_of_unseen_kinds_are_never_trained_on(work) -> None:
    from training.embedded.embedder import KindTexts

    texts = KindTexts(work, [asdict(kind) for kind in KINDS])
    assert texts.seen.tolist() == [0, 1, 2]  # the elk is left out
    assert texts.place[3] == NONE
    assert texts.varied(np.random.default_rng(0)).shape == (3, 384)


def test_a_thing_is_told_by_the_cell_its_centre_lies_in() -> None:
    # Centre (.5, .25): column int(3.5) = 3, row int(1.75) = 1 of the seven.
    thing = TrueThing(2, 5, (0.4, 0.2, 0.6, 0.3))
    kind, colour, box = _cell_targets(TruePicture("scene", (thing,)))
    assert (kind[1 * GRID + 3], colour[1 * GRID + 3]) == (2, 5)
    assert (kind != NONE).sum() == 1
    np.testing.assert_allclose(box[1 * GRID + 3], [0.5, 0.25, 0.2, 0.1], atol=1e-6)


def test_the_export_is_what_the_app_loads(work, tmp_path) -> None:
    train(work, steps=1)
    export(work, tmp_path / "out")
    heads = load_heads(tmp_path / "out")
    assert heads is not None
    assert [kind.name for kind in heads.kinds] == ["cat", "dog", "cow", "elk"]
    assert heads.kind_vectors.shape == (4, 384)
    trained = weights_of(work)["picture.whole.weight"]
    torch.testing.assert_close(
        heads.picture.state_dict()["whole.weight"], trained, atol=1e-3, rtol=1e-3
    )
    assert all(file.stat().st_size < 10e6 for file in (tmp_path / "out").iterdir())


def test_export_before_training_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        export(tmp_path, tmp_path / "out")


def test_a_single_lies_inside_its_picture() -> None:
    sprite = Image.new("RGBA", (64, 64), (200, 30, 30, 255))
    single = draw_single(sprite, np.random.default_rng(1))
    left, top, right, bottom = single.box
    assert single.picture.size == (SIZE_PX, SIZE_PX) and single.picture.mode == "RGB"
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    # A red square on white: what is not white is the thing, 212 px a side.
    plain = np.asarray(plain_single(sprite))
    assert ((plain != 255).any(axis=2)).sum() == 212 * 212


def test_the_same_seed_varies_a_photograph_the_same_way() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise)
    first, second = (vary_photograph(photograph, np.random.default_rng(5)) for _ in range(2))
    assert first.size == (SIZE_PX, SIZE_PX)
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
