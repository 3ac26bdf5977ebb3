"""Train the pictogram diffusion and ship it: `python -m training.embedded.illustrator STEP`.

`pack` makes the training pictures and captions, `train --minutes N` trains (and goes on where it
was stopped), `sample` draws a contact sheet, `export` writes core/embedded/illustrator/, and
`evaluate` measures what was exported.
"""

import argparse
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.errors import UserError
from core.pictogram_diffusion import (
    TEXT_TOWER,
    PictogramPipeline,
    PictogramTransformer,
    TextFeatures,
)
from core.settings import ROOT, cache_dir
from core.weights import local_folder
from training.embedded.illustrator_pack import (
    ART,
    COLOURS,
    COUNTS,
    INDEX,
    Batch,
    Pack,
    make_pack,
)
from training.embedded.sprites import load_sprites
from training.scene_words import number_word, with_article

log = logging.getLogger(__name__)

SHIPPED = ROOT / "core" / "embedded" / "illustrator"
CHECKPOINT = "checkpoint.pt"
RECORD = "record.json"
EVALUATION = "evaluation.json"
MAX_SHARD = "9MB"  # the Space's git refuses files of 10 MB
LOG_EVERY = 50
SHEET_SIDE = 8
SHEET_SEED = 64
CELL_PX = 128
CARD = """# Pictogram diffusion

Draws one to four things at 64 px from a short English text: a diffusers pipeline that
`core.illustrator` loads (`register_pipeline()`, then `DiffusionPipeline.from_pretrained(folder)`).
Style words: "flat", "3d", "shaded"; without one the seed chooses. It takes LoRA (`to_q`, `to_k`,
`to_v`, `to_out`).

{parameters_m:.1f} million parameters, {size_mb:.1f} MB in float16. A transformer on sixteen
16-pixel patches that predicts the clean picture, sampled by flow matching in 12 Euler steps. Text
is read by all-MiniLM-L6-v2, which is not in this folder.

## Made from

Twemoji (CC BY 4.0) as "flat", Fluent Emoji 3D (MIT) as "3d" and Noto Emoji (Apache-2.0) as
"shaded": the seen kinds of `training/embedded/kinds.py`, alone, in eight colours, two to four of
them, and in pairs with their positions. Kinds that are held out, OpenMoji and Fluent's flat art
were not trained on. Weights: Apache-2.0.

    python -m training.embedded.illustrator train --minutes {minutes:.0f}
    python -m training.embedded.illustrator export
    python -m training.embedded.illustrator evaluate

{steps} steps, {samples} pictures, {minutes:.1f} minutes at {pictures_per_s} pictures/s on
{threads} threads; last loss {last_loss:.4f}. The curve is in record.json.

## Measured

{measured}

## Limits

It redraws designs it has learnt and combines them; what it was not taught (held-out kinds, more
than two kinds at once, more than four things, scenes, people, letters) it draws wrongly. Two seeds
of one style differ little. 64 unpicked samples, the last eight of held-out kinds:

![64 samples](samples.webp)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a run learns."""

    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_from: float = 0.6  # share of the run after which the learning rate falls to zero
    ema: float = 0.998
    no_text_share: float = 0.1  # rows that learn to draw without text, for guidance
    # Much noise and a bounded weight 1 / sigma^2 put the effort where the words decide: at equal
    # time the error of a drawing's first step was a fifth lower than with JiT's 0.8 and 0.15.
    pure_noise_share: float = 0.2  # rows of noise alone: where a drawing begins
    sigma_mean: float = 1.0  # of the logit
    sigma_floor: float = 0.4
    seed: int = 1


@dataclass(slots=True)
class Run:
    """A run as it stands: model, average, optimizer and how far it is."""

    model: PictogramTransformer
    average: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # spent in training steps, all sessions together
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, mean since the last)


def train(
    pack: Pack,
    folder: Path,
    *,
    recipe: Recipe,
    config: dict[str, Any] | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    checkpoint_every_s: float = 60.0,
    on_step: Callable[[Run], None] | None = None,
) -> Run:
    """Train until the minutes or steps are used up; goes on from the folder's checkpoint.

    With `steps`, an interrupted run ends with exactly the weights of an uninterrupted one. With
    `minutes`, which count training time over all sessions, the learning rate follows the clock.

    Args:
        config: of the transformer; its defaults when not given.

    Raises:
        UserError: the checkpoint cannot be written, or is of another model.
        ValueError: neither minutes nor steps, or both.
    """
    if (minutes is None) == (steps is None):
        raise ValueError("Give either minutes or steps")
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = _resume(folder, _start(recipe, config or {}, device=device))
    saved_at, since = time.monotonic(), []
    while (progress := _progress(run, minutes=minutes, steps=steps)) < 1:
        started = time.monotonic()
        since.append(_train_step(run, pack, recipe, progress=progress))
        run.seconds += time.monotonic() - started
        if run.step % LOG_EVERY == 0:
            run.losses.append((run.step, sum(since) / len(since)))
            since = []
            _log_progress(run, recipe, minutes=minutes, steps=steps)
        if time.monotonic() - saved_at >= checkpoint_every_s:
            _save(folder, run)
            saved_at = time.monotonic()
        if on_step is not None:
            on_step(run)
    _save(folder, run)
    _record(folder, run, recipe)
    return run


def velocity_loss(clean: Tensor, pictures: Tensor, sigma: Tensor, *, floor: float) -> Tensor:
    """Mean squared error of the velocity that a predicted clean picture implies.

    The velocity is (noisy - clean) / sigma, so its error is the picture's error over sigma.

    Args:
        clean, pictures: predicted and true, (N, 3, S, S).
        sigma: noise level of each row, (N,); from below it counts as `floor`.

    Source: Li and He 2025, arXiv:2511.13720, table 1, x-prediction with v-loss.
    """
    errors = ((clean.float() - pictures) ** 2).mean((1, 2, 3))
    return (errors / sigma.clamp(min=floor) ** 2).mean()


def export(folder: Path, target: Path) -> Path:
    """The pipeline folder of a trained run: half precision, in shards, with sheet and card.

    Raises:
        UserError: nothing was trained yet, or it cannot be written.
    """
    pipeline = load_trained(folder)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    staging = target.with_name(target.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        sheet = contact_sheet(pipeline, _sheet_prompts())
        pipeline.register_modules(text_encoder=None, tokenizer=None)  # the app has them already
        pipeline.to(torch.float16).save_pretrained(staging, max_shard_size=MAX_SHARD)
        for file in staging.rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors keeps them from other users
        sheet.save(staging / "samples.webp", quality=88)
        (staging / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        write_card(staging)
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(staging, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"The pipeline cannot be written to {target} ({error.strerror}). "
            "Free 100 MB there and export again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def write_card(folder: Path) -> None:
    """README.md of an exported folder: what it is, what made it, what was measured on it."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    evaluation = folder / EVALUATION
    measured = "Not measured yet: `python -m training.embedded.illustrator evaluate`."
    if evaluation.exists():
        report = json.loads(evaluation.read_text(encoding="utf-8"))
        columns = list(report["rows"][0])
        table = [columns, ["---"] * len(columns)]
        table += [[_cell(row[column]) for column in columns] for row in report["rows"]]
        lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
        measured = f"{lines}\n\n{report['notes']}"
    size_mb = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
    text = CARD.format(
        **{name: record[name] for name in ("steps", "samples", "pictures_per_s", "threads")},
        minutes=record["seconds"] / 60,
        parameters_m=record["parameters"] / 1e6,
        size_mb=size_mb,
        last_loss=record["losses"][-1][1] if record["losses"] else float("nan"),
        measured=measured,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def load_trained(folder: Path) -> PictogramPipeline:
    """A pipeline that draws with a run's averaged weights.

    Raises:
        UserError: there is no checkpoint.
    """
    content = _read_checkpoint(folder)
    if content is None:
        raise UserError(f"There is no trained illustrator in {folder}. Run the train step first.")
    model = PictogramTransformer(**content["config"])
    model.load_state_dict(content["average"])
    pipeline = PictogramPipeline(model.eval(), FlowMatchEulerDiscreteScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def contact_sheet(pipeline: PictogramPipeline, prompts: Sequence[str]) -> Image.Image:
    """Unpicked pictures of the prompts, eight in a row, each with its prompt below."""
    caption_px = 16
    n_rows = math.ceil(len(prompts) / SHEET_SIDE)
    sheet = Image.new("RGB", (SHEET_SIDE * CELL_PX, n_rows * (CELL_PX + caption_px)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=9)
    for start in range(0, len(prompts), SHEET_SIDE):
        row = list(prompts[start : start + SHEET_SIDE])
        seeds = [torch.Generator().manual_seed(SHEET_SEED + start + i) for i in range(len(row))]
        drawn: Any = pipeline(row, generator=seeds, height=CELL_PX, width=CELL_PX)
        top = start // SHEET_SIDE * (CELL_PX + caption_px)
        for i, (prompt, image) in enumerate(zip(row, drawn.images, strict=True)):
            sheet.paste(image, (i * CELL_PX, top))
            draw.text((i * CELL_PX + 2, top + CELL_PX + 2), prompt[:30], "black", font)
    return sheet


def _sheet_prompts() -> list[str]:
    """64 by a fixed draw: 24 single things, 8 in a colour, 12 counts, 12 pairs, 8 unseen kinds."""
    rng = np.random.default_rng(SHEET_SEED)
    kinds = load_sprites().kinds
    seen = [kind for kind in kinds if kind.is_seen]
    unseen = [kind for kind in kinds if not kind.is_seen]
    styles = list(ART)

    def pick(n: int) -> list[int]:
        return [int(i) for i in rng.choice(len(seen), n, replace=False)]

    singles = [
        f"{with_article(seen[i].name)}, {styles[n % len(styles)]}" for n, i in enumerate(pick(24))
    ]
    coloured = [
        with_article(f"{colour} {seen[i].name}")
        for colour, i in zip(COLOURS, pick(len(COLOURS)), strict=True)
    ]
    counts = [
        f"{number_word(COUNTS[n % len(COUNTS)])} {seen[i].plural}" for n, i in enumerate(pick(12))
    ]
    joints = ("and", "to the left of", "above", "below", "to the right of", "and")
    pairs = [
        f"{with_article(seen[a].name)} {joints[n % 6]} {with_article(seen[b].name)}"
        for n, (a, b) in enumerate(zip(pick(12), pick(12), strict=True))
    ]
    new = [with_article(unseen[int(i)].name) for i in rng.choice(len(unseen), 8, replace=False)]
    return [*singles, *coloured, *counts, *pairs, *new]


def _start(recipe: Recipe, config: dict[str, Any], *, device: str) -> Run:
    torch.manual_seed(recipe.seed)
    model = PictogramTransformer(**config).to(device)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return Run(model, average, optimizer)


def _train_step(run: Run, pack: Pack, recipe: Recipe, *, progress: float) -> float:
    """One update; everything random in it comes from the run's seed and the step's number."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + run.step)
    batch = pack.batch(recipe.batch_size, np.random.default_rng([recipe.seed, run.step]))
    device = run.model.device
    pictures, noisy, sigma, text = _noised(batch, generator, recipe)
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.learning_rate * _rate(run.step, progress, recipe)
    with torch.autocast(device.type, torch.bfloat16):
        clean = run.model(
            noisy.to(device),
            sigma.to(device),
            TextFeatures(text.words.to(device), text.mask.to(device), text.pooled.to(device)),
            batch.styles.to(device),
        )
    loss = velocity_loss(clean, pictures.to(device), sigma.to(device), floor=recipe.sigma_floor)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    _average(run, min(recipe.ema, (1 + run.step) / (10 + run.step)))
    return float(loss.detach())


def _noised(
    batch: Batch, generator: torch.Generator, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor, TextFeatures]:
    """Clean and noisy pictures, their noise levels, and texts of which some are taken away."""
    n = len(batch.pictures)
    sigma = (torch.randn(n, generator=generator) + recipe.sigma_mean).sigmoid()
    sigma[torch.rand(n, generator=generator) < recipe.pure_noise_share] = 1.0
    noise = torch.randn(batch.pictures.shape, generator=generator)
    share = sigma[:, None, None, None]
    noisy = (1 - share) * batch.pictures + share * noise
    keeps_text = torch.rand(n, generator=generator) >= recipe.no_text_share
    mask = batch.text.mask & keeps_text[:, None]
    text = TextFeatures(batch.text.words, mask, batch.text.pooled)
    return batch.pictures, noisy, sigma, text


def _rate(step: int, progress: float, recipe: Recipe) -> float:
    """Share of the full learning rate: up in a few steps, level, down to zero in a line."""
    rising = min(1.0, (step + 1) / recipe.warmup_steps)
    return rising * min(1.0, (1 - progress) / (1 - recipe.decay_from))


@torch.no_grad()
def _average(run: Run, keep: float) -> None:
    new = [value.detach() for value in run.model.state_dict().values()]
    torch._foreach_lerp_(list(run.average.values()), new, 1 - keep)


def _progress(run: Run, *, minutes: float | None, steps: int | None) -> float:
    if steps is not None:
        return run.step / steps
    assert minutes is not None
    return run.seconds / (minutes * 60)


def _log_progress(run: Run, recipe: Recipe, *, minutes: float | None, steps: int | None) -> None:
    progress = _progress(run, minutes=minutes, steps=steps)
    eta_min = run.seconds * (1 / max(progress, 1e-9) - 1) / 60
    log.info(
        "step %d  loss %.4f  %.0f pictures/s  %.0f %%  %.0f min left",
        run.step,
        run.losses[-1][1],
        run.step * recipe.batch_size / max(run.seconds, 1e-9),
        100 * progress,
        eta_min,
    )


def _save(folder: Path, run: Run) -> None:
    content = {
        "config": _config(run.model),
        "model": run.model.state_dict(),
        "average": run.average,
        "optimizer": run.optimizer.state_dict(),
        "step": run.step,
        "seconds": run.seconds,
        "losses": run.losses,
    }
    pending = folder / (CHECKPOINT + ".new")
    try:
        torch.save(content, pending)
        os.replace(pending, folder / CHECKPOINT)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into RuntimeError
        pending.unlink(missing_ok=True)
        raise UserError(
            f"The checkpoint cannot be written to {folder} ({error}). Free 300 MB there and run "
            "the same command again; it goes on from the last checkpoint."
        ) from error


def _resume(folder: Path, run: Run) -> Run:
    content = _read_checkpoint(folder)
    if content is None:
        return run
    if content["config"] != _config(run.model):
        raise UserError(
            f"The checkpoint in {folder} is of another model. Remove it or name another --folder."
        )
    run.model.load_state_dict(content["model"])
    run.average = {name: value.to(run.model.device) for name, value in content["average"].items()}
    run.optimizer.load_state_dict(content["optimizer"])
    run.step, run.seconds = content["step"], content["seconds"]
    run.losses = [(int(step), float(loss)) for step, loss in content["losses"]]
    log.info("going on from step %d, %.1f minutes in", run.step, run.seconds / 60)
    return run


def _read_checkpoint(folder: Path) -> dict[str, Any] | None:
    file = folder / CHECKPOINT
    if not file.exists():
        return None
    return torch.load(file, map_location="cpu", weights_only=True)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _config(model: PictogramTransformer) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in model.config.items()
        if not name.startswith("_")
    }


def _record(folder: Path, run: Run, recipe: Recipe) -> None:
    content = {
        "steps": run.step,
        "samples": run.step * recipe.batch_size,
        "seconds": round(run.seconds, 1),
        "pictures_per_s": round(run.step * recipe.batch_size / max(run.seconds, 1e-9), 1),
        "threads": torch.get_num_threads(),
        "device": run.model.device.type,
        "parameters": sum(weight.numel() for weight in run.model.parameters()),
        "recipe": {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__},
        "losses": [[step, round(loss, 5)] for step, loss in run.losses],
    }
    pending = folder / (RECORD + ".new")
    pending.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(pending, folder / RECORD)


def main() -> None:
    """Do one step of the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.embedded.illustrator")
    parser.add_argument("step", choices=("pack", "train", "sample", "export", "evaluate"))
    parser.add_argument("--minutes", type=float, default=40.0, help="training time in all sessions")
    parser.add_argument("--folder", type=Path, default=cache_dir() / "illustrator")
    parser.add_argument("--out", type=Path, help="where the sample sheet or the pipeline goes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _do(arguments.step, arguments)
    except UserError as problem:
        sys.exit(str(problem))


def _do(step: str, arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    if step == "sample":
        sheet = contact_sheet(load_trained(folder / "run"), _sheet_prompts())
        sheet.save(arguments.out or folder / "samples.png")
    elif step == "export":
        log.info("%s", export(folder / "run", arguments.out or SHIPPED))
    elif step == "evaluate":
        _evaluate(arguments.out or SHIPPED)
    elif step == "train":
        train(_packed(folder), folder / "run", recipe=Recipe(), minutes=arguments.minutes)
    else:
        _make_pack(folder)


def _evaluate(folder: Path) -> None:
    from benchmarks.illustrator_quality import main as measure

    report = measure(["--folder", str(folder)])
    shutil.copy(report, folder / EVALUATION)
    write_card(folder)


def _packed(folder: Path) -> Pack:
    """The pack as it is, so that a run goes on with what it began on; made when there is none."""
    if (folder / "pack" / INDEX).exists():
        return Pack(folder / "pack")
    return _make_pack(folder)


def _make_pack(folder: Path) -> Pack:
    tower = local_folder(TEXT_TOWER, cache=cache_dir())
    pack = make_pack(folder / "pack", load_sprites(), tower=tower)
    log.info("%d captions of %d kinds", len(pack.orders), len(pack.kinds))
    return pack


if __name__ == "__main__":
    main()
