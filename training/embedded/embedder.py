"""Train the embedded embedder's heads: `python -m training.embedded.embedder STEP --minutes N`.

    features  what the frozen towers see in pictograms, scenes and photographs, in shards on disk
    train     picture head and text head on those features; resumes where it stopped
    export    the trained heads into core/embedded/embedder/, where the app picks them up

Contrastive as in LiT (Zhai et al. 2022, arXiv:2111.07991): the towers stay as they are. A picture
of one thing is told from all other names; a scene from other scenes' captions and from its own with
one word wrong; and each cell of the grid names the thing that is centred in it.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.cells import CELLS, GRID, HeadSight, PictureHead, TextHead, TowerSight
from core.embedder import EMBEDDER_FOLDER, HEADS_CONFIG, ConseModel, Device, load_embedder
from core.errors import UserError
from core.settings import ConseEmbedder, cache_dir, load_settings
from training.embedded.embedder_features import (
    NONE,
    SHARD,
    Shard,
    Towers,
    TruePicture,
    World,
    kind_texts,
    make_features,
    read_shard,
    shard_numbers,
)
from training.embedded.named_pictures import NamedKind, NamedPictures
from training.embedded.sprites import load_sprites

log = logging.getLogger(__name__)

SEED = 3
HELD_OUT_SHARDS = 2  # the first two: single pictograms and scenes that training leaves out
PASSES = 12
LOG_EVERY = 50  # steps
SAVE_EVERY_S = 60.0
SHARD_LIMIT_MB = 9.5  # the Space's git refuses files of 10 MB
# Of a drawing, of a photograph. 0.05 is best for drawings of seen styles (noto, twemoji; 0 to 0.15
# tried: benchmarks/LOG.md); photographs stay nearly as they were without training.
CONSE_SHARE = (0.05, 0.9)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does; a checkpoint of another plan is refused."""

    steps: int = 1500
    singles: int = 96  # pictures a step
    scenes: int = 64
    photographs: int = 8
    learning_rate: float = 1e-3
    warmup: int = 60
    weight_decay: float = 0.05
    seed: int = SEED


@dataclass(frozen=True, slots=True)
class Features:
    """All shards together; one row per picture."""

    tokens: list[np.ndarray]  # one (n, 49, 768) array per shard, on disk
    shard_of: np.ndarray  # (N,)
    row_of: np.ndarray  # (N,) within its shard
    pooled: Tensor  # (N, 1280)
    singles: np.ndarray  # rows
    scenes: np.ndarray
    photographs: np.ndarray
    kind: Tensor  # (N,) of a single, else NONE
    cell_kind: Tensor  # (N, 49) kind centred in the cell, NONE for empty ones
    cell_colour: Tensor  # (N, 49)
    cell_box: Tensor  # (N, 49, 4): centre x, y, width, height
    captions: Tensor  # (N, 2, 384) of scenes
    altered: Tensor  # (N, 2, 384)

    def sight(self, rows: np.ndarray) -> TowerSight:
        """What the tower saw in these pictures."""
        tokens = [self.tokens[self.shard_of[row]][self.row_of[row]] for row in rows]
        return TowerSight(torch.from_numpy(np.stack(tokens)), self.pooled[rows])


@dataclass(slots=True)
class Progress:
    """What a run has reached; kept beside the checkpoint as JSON."""

    step: int = 0
    seconds: float = 0.0
    samples: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)  # every 50 steps
    measured: dict[str, float] = field(default_factory=dict)  # on held-out shards


class Heads(nn.Module):
    """Everything that is trained."""

    def __init__(self, *, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.shape = {"width": width, "layers": layers}
        self.picture = PictureHead(**self.shape)
        self.text = TextHead()
        # Logarithms of the factors on cosines; 20 is where CLIP's runs settle for few classes.
        self.whole_scale = nn.Parameter(torch.tensor(20.0).log())
        self.name_scale = nn.Parameter(torch.tensor(20.0).log())


def main() -> None:
    """Run one step of the training."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    deadline = time.monotonic() + 60 * arguments.minutes
    work = arguments.work or cache_dir() / "training" / "embedder"
    try:
        if arguments.step == "features":
            run_features(work, deadline=deadline, n_shards=arguments.shards, size=arguments.size)
        elif arguments.step == "train":
            plan = Plan(steps=arguments.steps or usual_steps(work))
            conse = Towers(_towers(_device())).conse
            run_training(work, plan=plan, deadline=deadline, device=_device(), conse=conse)
        else:
            export(work, arguments.out)
    except UserError as problem:
        sys.exit(str(problem))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.embedded.embedder")
    parser.add_argument("step", choices=("features", "train", "export"))
    parser.add_argument("--minutes", type=float, default=15, help="stop after so long; run again")
    parser.add_argument("--work", type=Path, help="features and checkpoints; default: the cache")
    parser.add_argument("--shards", type=int, default=100, help="how many to make in all")
    parser.add_argument("--size", type=int, default=256, help="pictures in a shard")
    parser.add_argument("--steps", type=int, help="default: twelve passes over the features")
    parser.add_argument("--out", type=Path, default=EMBEDDER_FOLDER)
    return parser


def _device() -> Device:
    return "cuda" if torch.cuda.is_available() else "cpu"


def run_features(work: Path, *, deadline: float, n_shards: int, size: int) -> None:
    """Shards until the deadline, and the vectors of everything a kind may be called."""
    model = _towers(_device())
    towers = Towers(model)
    world = _world()
    with _disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "kinds.json").is_file():
            write_kinds(work, world.kinds, towers)
        count = make_features(
            work / "shards", world, towers, deadline=deadline, n_shards=n_shards, size=size
        )
    log.info("%d of %d shards are there", count, n_shards)


def _towers(device: Device) -> ConseModel:
    preset = load_settings().presets["embedded"]
    model = load_embedder(preset.embedder, device=device, dtype="float32", cache=cache_dir())
    if not isinstance(model, ConseModel) or not isinstance(preset.embedder, ConseEmbedder):
        raise UserError("The embedded preset of spaces.yaml names no conse embedder; restore it.")
    return model


def _world() -> World:
    book = load_sprites()
    return World(book, NamedPictures(book, cache=cache_dir()))


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns a refusing disk into words."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}). Features take 20 MB a shard: "
            "free room there, or name another folder with --work, and start again; what is "
            "finished is kept."
        ) from error


def write_kinds(work: Path, kinds: Sequence[NamedKind], towers: Towers) -> None:
    """Names of all kinds, and the text tower's vectors of all ways to ask for each."""
    ways = kind_texts(kinds)
    vectors = towers.read([text for texts in ways for text in texts]).astype(np.float16)
    owners = np.repeat(np.arange(len(kinds)), [len(texts) for texts in ways])
    pending = work / "kind_texts.npz.new"
    with open(pending, "wb") as file:
        np.savez(file, vectors=vectors, owners=owners)
    os.replace(pending, work / "kind_texts.npz")
    content = json.dumps([asdict(kind) for kind in kinds], ensure_ascii=False)
    (work / "kinds.json.new").write_text(content, encoding="utf-8")
    os.replace(work / "kinds.json.new", work / "kinds.json")


def read_features(work: Path, numbers: Sequence[int]) -> Features:
    """The shards with these numbers as arrays.

    Raises:
        UserError: there are none.
    """
    shards = [read_shard(work / "shards", number) for number in numbers]
    if not shards:
        raise UserError(
            f"There are not enough features in {work}. Run `python -m training.embedded.embedder "
            "features` first."
        )
    truth = [one for shard in shards for one in shard.truth]
    cells = [_cell_targets(one) for one in truth]
    sizes = [len(shard.truth) for shard in shards]
    source = np.array([one.source for one in truth])
    captions, altered = _caption_rows(shards)
    return Features(
        tokens=[shard.tokens for shard in shards],
        shard_of=np.repeat(np.arange(len(shards)), sizes),
        row_of=np.concatenate([np.arange(size) for size in sizes]),
        pooled=torch.from_numpy(np.concatenate([shard.pooled for shard in shards])),
        singles=np.flatnonzero(source == "single"),
        scenes=np.flatnonzero(source == "scene"),
        photographs=np.flatnonzero(source == "photograph"),
        kind=torch.tensor(
            [one.things[0].kind if one.source == "single" else NONE for one in truth]
        ),
        cell_kind=torch.from_numpy(np.stack([kind for kind, _, _ in cells])),
        cell_colour=torch.from_numpy(np.stack([colour for _, colour, _ in cells])),
        cell_box=torch.from_numpy(np.stack([box for _, _, box in cells])),
        captions=captions,
        altered=altered,
    )


def _cell_targets(picture: TruePicture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind (49,), colour (49,) and box (49, 4) of the thing centred in each cell."""
    kind = np.full(CELLS, NONE, dtype=np.int64)
    colour = np.full(CELLS, NONE, dtype=np.int64)
    box = np.zeros((CELLS, 4), dtype=np.float32)
    for thing in picture.things:  # of two in one cell the later one lies on top
        left, top, right, bottom = thing.box
        centre = ((left + right) / 2, (top + bottom) / 2)
        column, row = (min(GRID - 1, max(0, int(place * GRID))) for place in centre)
        cell = row * GRID + column
        kind[cell], colour[cell] = thing.kind, thing.colour
        box[cell] = (*centre, right - left, bottom - top)
    return kind, colour, box


def _caption_rows(shards: Sequence[Shard]) -> tuple[Tensor, Tensor]:
    """(N, 2, 384) vectors of captions and of altered captions; zeros where there are none."""
    rows = []
    for shard in shards:
        start = 0
        for one in shard.truth:
            n = len(one.captions)
            both = np.zeros((2, 2, 384), dtype=np.float16)
            if n:
                said = shard.texts[start : start + n]
                wrong = shard.texts[start + n : start + n + len(one.altered)]
                both[0], both[1] = said[[0, -1]], wrong[[0, -1]]
            rows.append(both)
            start += n + len(one.altered)
    stacked = torch.from_numpy(np.stack(rows))
    return stacked[:, 0], stacked[:, 1]


class KindTexts:
    """Vectors of what kinds may be called; those of unseen kinds are never handed out."""

    def __init__(self, work: Path, kinds: Sequence[Mapping[str, object]]) -> None:
        with np.load(work / "kind_texts.npz") as kept:
            vectors, owners = kept["vectors"], kept["owners"]
        self._vectors = torch.from_numpy(vectors.astype(np.float32))
        self._starts = np.searchsorted(owners, np.arange(len(kinds) + 1))
        self.seen = np.array([n for n, kind in enumerate(kinds) if kind["is_seen"]])
        self.place = torch.full((len(kinds),), NONE)  # of a kind among the seen ones
        self.place[self.seen] = torch.arange(len(self.seen))

    def plain(self, kinds: np.ndarray | None = None) -> Tensor:
        """(K, 384): the plain names of the seen kinds, or of the given ones."""
        return self._vectors[self._starts[self.seen if kinds is None else kinds]]

    def varied(self, rng: np.random.Generator) -> Tensor:
        """(K, 384): one way to name each seen kind, every other time the plain one."""
        first, last = self._starts[self.seen], self._starts[self.seen + 1]
        chosen = first + (rng.random(len(first)) * (last - first)).astype(int)
        return self._vectors[np.where(rng.random(len(first)) < 0.5, first, chosen)]


@dataclass(slots=True)
class _Run:
    """A training run in progress."""

    work: Path
    plan: Plan
    device: Device
    features: Features
    texts: KindTexts
    targets: Mapping[int, Tensor]  # training-free vectors of photographs by row
    heads: Heads
    optimizer: torch.optim.Optimizer
    signature: Mapping[str, object]  # of the run that a checkpoint belongs to
    progress: Progress

    def save(self) -> None:
        """Put checkpoint and progress in the place of the last ones, each whole."""
        content = {
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "signature": dict(self.signature),
        }
        pending = self.work / "checkpoint.pt.new"
        try:
            torch.save(content, pending)
            os.replace(pending, self.work / "checkpoint.pt")
        finally:
            pending.unlink(missing_ok=True)
        report = self.work / "progress.json.new"
        report.write_text(
            json.dumps(asdict(self.progress) | {"signature": self.signature}, indent=1)
        )
        os.replace(report, self.work / "progress.json")


def run_training(
    work: Path,
    *,
    plan: Plan,
    deadline: float,
    device: Device,
    conse: Callable[[Tensor], Tensor],
) -> Progress:
    """Train until the plan's last step or the deadline, whichever comes first.

    Args:
        deadline: on time.monotonic()'s clock, seconds.
        conse: training-free vectors (N, 384) of photographs from pooled features (N, 1280).

    Raises:
        UserError: features are missing, or the checkpoint belongs to another plan.
    """
    run = _begin(work, plan=plan, device=device, conse=conse)
    with _disk_errors(work):
        _train_until(run, deadline)
        run.save()
        held_out = [n for n in shard_numbers(work / "shards") if n < HELD_OUT_SHARDS]
        if run.progress.step >= plan.steps and held_out:
            features = read_features(work, held_out)
            run.progress.measured = measure(run.heads, features, run.texts, device)
            log.info("held out: %s", json.dumps(run.progress.measured))
            run.save()
    return run.progress


def _begin(work: Path, *, plan: Plan, device: Device, conse: Callable[[Tensor], Tensor]) -> _Run:
    """The run at its first step, or where its checkpoint left it."""
    kinds = _read_kinds(work)
    numbers = shard_numbers(work / "shards")
    features = read_features(work, [number for number in numbers if number >= HELD_OUT_SHARDS])
    torch.manual_seed(plan.seed)
    heads = Heads()
    _learn_scale(heads, features, plan.seed)
    heads.to(device)
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    signature = {"plan": asdict(plan), "shards": len(numbers), "pictures": len(features.pooled)}
    photographs = features.photographs
    vectors = conse(features.pooled[photographs])
    return _Run(
        work=work,
        plan=plan,
        device=device,
        features=features,
        texts=KindTexts(work, kinds),
        targets=dict(zip(photographs.tolist(), vectors, strict=True)),
        heads=heads,
        optimizer=optimizer,
        signature=signature,
        progress=_resume(work, heads, optimizer, signature),
    )


def _train_until(run: _Run, deadline: float) -> None:
    plan, progress = run.plan, run.progress
    losses: list[dict[str, float]] = []
    started, first, saved = time.monotonic(), progress.step, time.monotonic()
    while progress.step < plan.steps and time.monotonic() < deadline:
        for group in run.optimizer.param_groups:
            group["lr"] = plan.learning_rate * rate_at(progress.step, plan)
        parts = _train_step(run)
        progress.samples += int(parts.pop("pictures"))
        progress.step += 1
        losses.append(parts)
        if progress.step % LOG_EVERY == 0 or progress.step == plan.steps:
            progress.losses.append({"step": progress.step, **_means(losses)})
            losses.clear()
            _log_progress(progress, plan, (time.monotonic() - started) / (progress.step - first))
        if time.monotonic() - saved > SAVE_EVERY_S:
            progress.seconds += time.monotonic() - started
            started, first, saved = time.monotonic(), progress.step, time.monotonic()
            run.save()
    progress.seconds += time.monotonic() - started


def _means(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each part over the steps that had it."""
    names = dict.fromkeys(name for one in losses for name in one)
    return {name: float(np.mean([one[name] for one in losses if name in one])) for name in names}


def usual_steps(work: Path) -> int:
    """Twelve passes over the features that there are; more passes learn them by heart."""
    plan, n_shards = Plan(), max(0, len(shard_numbers(work / "shards")) - HELD_OUT_SHARDS)
    a_step = plan.singles + plan.scenes + plan.photographs
    return max(2 * plan.warmup, round(PASSES * n_shards * SHARD / a_step))


def rate_at(step: int, plan: Plan) -> float:
    """Share of the full learning rate: a short rise, then half a cosine down to nothing."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))


def _learn_scale(heads: Heads, features: Features, seed: int) -> None:
    rows = np.random.default_rng([seed, 1]).permutation(len(features.pooled))[:1000]
    sight = features.sight(rows)
    heads.picture.learn_scale(sight.tokens, sight.pooled)


def _train_step(run: _Run) -> dict[str, float]:
    plan, features, heads = run.plan, run.features, run.heads
    # Everything random comes from seed and step, so a resumed run goes on exactly as it would have.
    rng = np.random.default_rng([plan.seed, 2, run.progress.step])
    torch.manual_seed(int(rng.integers(2**31)))
    rows = np.concatenate(
        [
            _draw(features.singles, plan.singles, rng),
            _draw(features.scenes, plan.scenes, rng),
            _draw(features.photographs, plan.photographs, rng),
        ]
    )
    heads.train()
    sight = features.sight(rows)
    sight = TowerSight(sight.tokens.to(run.device), sight.pooled.to(run.device))
    with torch.autocast(run.device, dtype=torch.bfloat16):
        seen = heads.picture(sight)
    seen = _as_float(seen)
    parts = losses_of(heads, seen, features, rows, run.texts, run.targets, rng)
    loss = torch.stack(list(parts.values())).sum()
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
    run.optimizer.step()
    values = {name: float(value.detach()) for name, value in parts.items()}
    return values | {"loss": float(loss.detach()), "pictures": float(len(rows))}


def _draw(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, min(count, len(rows)), replace=False) if len(rows) else rows


def _as_float(seen: HeadSight) -> HeadSight:
    return HeadSight(
        seen.vectors.float(),
        seen.presence.float(),
        seen.names.float(),
        seen.colours.float(),
        seen.boxes.float(),
        seen.drawing.float(),
    )


def losses_of(
    heads: Heads,
    seen: HeadSight,
    features: Features,
    rows: np.ndarray,
    texts: KindTexts,
    targets: Mapping[int, Tensor],
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """The weighted parts of the loss for one batch."""
    device = seen.vectors.device
    names = heads.text(texts.varied(rng).to(device))
    plain = texts.plain().to(device)
    parts = {"text": 0.3 * (1 - (heads.text(plain) * plain).sum(dim=-1)).mean()}
    kind = texts.place[features.kind[rows].clamp_min(0)].to(device)
    is_single = (features.kind[rows] != NONE).to(device)
    if is_single.any():
        logits = heads.whole_scale.exp() * seen.vectors[is_single] @ names.T
        parts["single"] = nn.functional.cross_entropy(logits, kind[is_single], label_smoothing=0.05)
    is_scene = np.isin(rows, features.scenes)
    if is_scene.any():
        parts["caption"] = 0.3 * _caption_loss(heads, seen, features, rows, is_scene, rng)
    parts |= _cell_losses(heads, seen, features, rows, names, texts)
    is_photograph = torch.from_numpy(np.isin(rows, features.photographs)).to(device)
    parts["drawing"] = nn.functional.binary_cross_entropy_with_logits(
        seen.drawing,
        (~is_photograph).float(),
        weight=torch.where(is_photograph, 8.0, 1.0),
    )
    if is_photograph.any():
        wanted = torch.stack([targets[row] for row in rows.tolist() if row in targets]).to(device)
        near = (seen.vectors[is_photograph] * heads.text(wanted).detach()).sum(dim=-1)
        parts["photograph"] = 0.3 * (1 - near).mean()
    return parts


def _caption_loss(
    heads: Heads,
    seen: HeadSight,
    features: Features,
    rows: np.ndarray,
    is_scene: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """Each scene's caption against the other scenes' and against itself with one word wrong."""
    device = seen.vectors.device
    vectors = seen.vectors[torch.from_numpy(is_scene).to(device)]
    chosen = torch.from_numpy(rng.integers(0, 2, len(vectors)))
    order = torch.arange(len(vectors))
    said = heads.text(features.captions[rows[is_scene]][order, chosen].float().to(device))
    wrong = heads.text(features.altered[rows[is_scene]][order, chosen].float().to(device))
    scale = heads.whole_scale.exp()
    logits = scale * torch.cat([vectors @ said.T, (vectors * wrong).sum(-1, keepdim=True)], dim=1)
    return nn.functional.cross_entropy(logits, order.to(device))


def _cell_losses(
    heads: Heads,
    seen: HeadSight,
    features: Features,
    rows: np.ndarray,
    names: Tensor,
    texts: KindTexts,
) -> dict[str, Tensor]:
    """What is centred in each cell: there or not, its name, its colour, its box."""
    device = seen.vectors.device
    kind = features.cell_kind[rows].to(device)
    has_truth = torch.from_numpy(~np.isin(rows, features.photographs)).to(device)
    there = kind != NONE
    presence = nn.functional.binary_cross_entropy_with_logits(
        seen.presence[has_truth],
        there[has_truth].float(),
        pos_weight=torch.tensor(3.0, device=device),
    )
    place = texts.place.to(device)[kind[there]]
    logits = heads.name_scale.exp() * seen.names[there] @ names.T
    parts = {
        "presence": 3 * presence,
        "name": nn.functional.cross_entropy(logits, place, label_smoothing=0.02),
        "box": 5
        * nn.functional.l1_loss(seen.boxes[there], features.cell_box[rows].to(device)[there]),
    }
    colour = features.cell_colour[rows].to(device)
    coloured = there & (colour != NONE)
    if coloured.any():
        parts["colour"] = 0.5 * nn.functional.cross_entropy(
            seen.colours[coloured], colour[coloured]
        )
    return parts


@torch.inference_mode()
def measure(heads: Heads, features: Features, texts: KindTexts, device: Device) -> dict[str, float]:
    """Shares right on held-out pictures of seen kinds in seen styles."""
    heads.eval()
    names = heads.text(texts.plain().to(device))
    right: dict[str, list[float]] = {"single": [], "cell_name": [], "cell_presence_f1": []}
    hits = wanted = reported = 0
    for start in range(0, len(features.pooled), 128):
        rows = np.arange(start, min(start + 128, len(features.pooled)))
        sight = features.sight(rows)
        seen = heads.picture(TowerSight(sight.tokens.to(device), sight.pooled.to(device)))
        place = texts.place[features.kind[rows].clamp_min(0)]
        chosen = (seen.vectors @ names.T).argmax(dim=1).cpu()
        is_single = features.kind[rows] != NONE
        right["single"] += (chosen == place)[is_single].tolist()
        in_scene = torch.from_numpy(np.isin(rows, features.scenes))
        kind = features.cell_kind[rows]
        there = (kind != NONE) & in_scene[:, None]
        named = (seen.names.cpu()[there] @ names.cpu().T).argmax(dim=1)
        right["cell_name"] += (named == texts.place[kind[there]]).tolist()
        said = (seen.presence.cpu() > 0) & in_scene[:, None]
        hits += int((said & there).sum())
        wanted, reported = wanted + int(there.sum()), reported + int(said.sum())
    right["cell_presence_f1"] = [2 * hits / max(1, wanted + reported)]
    return {name: float(np.mean(values)) for name, values in right.items() if values}


def _log_progress(progress: Progress, plan: Plan, a_step_s: float) -> None:
    last = progress.losses[-1]
    log.info(
        "step %d of %d, %.2f s a step, %.0f s left; %s",
        progress.step,
        plan.steps,
        a_step_s,
        (plan.steps - progress.step) * a_step_s,
        ", ".join(f"{name} {value:.3f}" for name, value in last.items() if name != "step"),
    )


def _read_kinds(work: Path) -> list[dict]:
    file = work / "kinds.json"
    if not file.is_file():
        raise UserError(
            f"There are no features in {work}. Run `python -m training.embedded.embedder features` "
            "first."
        )
    return json.loads(file.read_text(encoding="utf-8"))


def _resume(
    work: Path, heads: Heads, optimizer: torch.optim.Optimizer, signature: Mapping[str, object]
) -> Progress:
    file = work / "checkpoint.pt"
    if not file.is_file():
        return Progress()
    kept = torch.load(file, map_location="cpu", weights_only=True)
    if kept["signature"] != signature:
        raise UserError(
            f"{file} belongs to a run with other settings or features ({kept['signature']}). "
            "Finish that run with the same ones, or delete the checkpoint to begin anew."
        )
    heads.load_state_dict(kept["heads"])
    optimizer.load_state_dict(kept["optimizer"])
    log.info("going on from step %d", kept["progress"]["step"])
    return Progress(**kept["progress"])


def export(work: Path, out: Path) -> None:
    """Write the trained heads as half-precision safetensors with their configuration.

    Raises:
        UserError: nothing was trained yet.
    """
    file = work / "checkpoint.pt"
    if not file.is_file():
        raise UserError(f"There is no checkpoint in {work}. Run the train step first.")
    kept = torch.load(file, map_location="cpu", weights_only=True)
    heads = Heads()
    heads.load_state_dict(kept["heads"])
    heads.eval()
    kinds = _read_kinds(work)
    texts = KindTexts(work, kinds)
    # Names for what the cells find: the scenes' kinds, those never trained on by their name alone.
    counted = np.array([n for n, kind in enumerate(kinds) if kind["is_counted"]])
    with torch.inference_mode():
        kind_vectors = heads.text(texts.plain(counted))
    tensors = {f"picture.{name}": value for name, value in heads.picture.state_dict().items()}
    tensors |= {f"text.{name}": value for name, value in heads.text.state_dict().items()}
    tensors["kind_vectors"] = kind_vectors
    out.mkdir(parents=True, exist_ok=True)
    with _disk_errors(out):
        _write_tensors(out, tensors)
        _write_config(out, heads, kinds, counted, kept["progress"])
    log.info("exported to %s: %.1f MB", out, sum(f.stat().st_size for f in out.iterdir()) / 1e6)


def _write_tensors(out: Path, tensors: Mapping[str, Tensor]) -> None:
    # The scales of the inputs stay in full precision: some spreads are too small for half.
    halves = {
        name: (value if "_mean" in name or "_spread" in name else value.half()).contiguous()
        for name, value in tensors.items()
    }
    pending = out / "model.safetensors.new"
    save_file(halves, pending)
    pending.chmod(0o644)  # safetensors keeps it from other users
    size_mb = pending.stat().st_size / 1e6
    if size_mb > SHARD_LIMIT_MB:
        pending.unlink()
        raise UserError(f"The heads take {size_mb:.1f} MB and files may take {SHARD_LIMIT_MB} MB.")
    os.replace(pending, out / "model.safetensors")


def _write_config(
    out: Path,
    heads: Heads,
    kinds: Sequence[Mapping[str, object]],
    counted: np.ndarray,
    progress: Mapping[str, object],
) -> None:
    preset = load_settings().presets["embedded"].embedder
    if not isinstance(preset, ConseEmbedder):
        raise UserError("The embedded preset of spaces.yaml names no conse embedder; restore it.")
    towers = [getattr(ref, "wheel", str(ref)) for ref in (preset.image_tower, preset.text_tower)]
    config = {
        "towers": towers,
        "picture_head": heads.shape,
        "text_head": {},
        "conse_share": list(CONSE_SHARE),
        "name_scale": round(float(heads.name_scale.detach().exp()), 3),
        "trained": {name: progress[name] for name in ("step", "seconds", "samples", "measured")},
        "kinds": [[kinds[n][word] for word in ("name", "plural", "synonyms")] for n in counted],
    }
    pending = out / f"{HEADS_CONFIG}.new"
    pending.write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(pending, out / HEADS_CONFIG)


if __name__ == "__main__":
    main()
