"""Calibrate the judge: `python -m training.embedded.judge --minutes N`.

Scenes with their true captions and with one word wrong; a logistic regression turns what the cells
say of each claim into the probability that the text is true. Takes minutes; needs the embedder's
trained heads in core/embedded/embedder/.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.claims import FEATURES, CellReader, Vocabulary, check, features_of
from core.embedder import cells_reader, load_embedder
from core.errors import UserError
from core.judge import CALIBRATION
from core.settings import cache_dir, load_settings
from training.embedded.sprites import SEEN_STYLES, SpriteBook, load_sprites
from training.scenes import altered, captions, draw_scene, plan_scene

log = logging.getLogger(__name__)

FIRST_SEED = 600_000  # no other training draws these scenes; tests begin at 1,000,000
BATCH = 32
RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class JudgedTexts:
    """Features of texts about scenes, and whether they are true."""

    features: np.ndarray  # (N, F)
    is_true: np.ndarray  # (N,) bool
    change: tuple[str, ...]  # what was changed in the pair: count, kind, colour, relation, swap


def main() -> None:
    """Fit on fresh scenes and write core/embedded/judge/calibration.json."""
    parser = argparse.ArgumentParser(prog="python -m training.embedded.judge")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=CALIBRATION)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    started = time.monotonic()
    try:
        reader = embedded_cells()
    except UserError as problem:
        sys.exit(str(problem))
    judged = judge_scenes(
        reader,
        load_sprites(),
        seeds=range(FIRST_SEED, FIRST_SEED + arguments.scenes),
        styles=SEEN_STYLES,
        deadline=started + 60 * arguments.minutes,
    )
    calibration = fit(judged)
    write_calibration(
        arguments.out, calibration, n_texts=len(judged.is_true), seconds=time.monotonic() - started
    )


def embedded_cells() -> CellReader:
    """The cells of the embedded preset's embedder.

    Raises:
        UserError: its heads are not trained yet.
    """
    preset = load_settings().presets["embedded"]
    embedder = load_embedder(
        preset.embedder, device=preset.device, dtype=preset.dtype, cache=cache_dir()
    )
    reader = cells_reader(embedder)
    if reader is None:
        raise UserError(
            "The embedder has no trained heads yet. Run `python -m training.embedded.embedder` "
            "with features, train and export first."
        )
    return reader


def judge_scenes(
    reader: CellReader,
    book: SpriteBook,
    *,
    seeds: Sequence[int],
    styles: Sequence[str],
    seen: bool | None = True,
    deadline: float = float("inf"),
) -> JudgedTexts:
    """For each scene a true caption, the same with one word wrong, and another scene's caption.

    Args:
        deadline: on time.monotonic()'s clock; scenes after it are left out.
    """
    vocabulary = Vocabulary(reader.kinds)
    rows: list[np.ndarray] = []
    truth: list[bool] = []
    changes: list[str] = []
    for start in range(0, len(seeds), BATCH):
        if time.monotonic() >= deadline:
            log.info("out of time after %d scenes", start)
            break
        scenes = [
            plan_scene(seed, book=book, styles=styles, seen=seen)
            for seed in seeds[start : start + BATCH]
        ]
        sights = reader.look_at_cells([draw_scene(scene, book) for scene in scenes])
        for number, (scene, sight) in enumerate(zip(scenes, sights, strict=True)):
            pair = altered(scene, book, seed=0)
            other = scenes[(number + 1) % len(scenes)]
            swapped = captions(other, book, seed=0)[0]
            texts = ((pair.true, True, pair.change), (pair.false, False, pair.change))
            for text, is_true, change in (*texts, (swapped, False, "swap")):
                checked = check(vocabulary.claims_of(text), sight, reader)
                rows.append(features_of(checked))
                truth.append(is_true)
                changes.append(change)
        if start // BATCH % 10 == 0:
            log.info("%d of %d scenes", start + len(scenes), len(seeds))
    return JudgedTexts(np.array(rows), np.array(truth), tuple(changes))


def fit(judged: JudgedTexts) -> dict[str, list[float] | float]:
    """Weights of the logistic regression on true captions and those with one word wrong.

    Newton's method with a small ridge; texts of other scenes are left out, as they would teach
    that most wrong texts are wrong altogether.
    """
    chosen = np.array([change != "swap" for change in judged.change])
    features, truth = judged.features[chosen], judged.is_true[chosen].astype(float)
    means, spreads = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    design = np.concatenate([(features - means) / spreads, np.ones((len(features), 1))], axis=1)
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (truth - chance) / len(truth) - RIDGE * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design / len(truth)
        step = np.linalg.solve(curvature + RIDGE * np.eye(len(weights)), gradient)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return {
        "means": means.round(6).tolist(),
        "spreads": spreads.round(6).tolist(),
        "weights": weights[:-1].round(6).tolist(),
        "bias": round(float(weights[-1]), 6),
    }


def write_calibration(
    file: Path, calibration: dict[str, list[float] | float], *, n_texts: int, seconds: float
) -> None:
    """Write it whole or not at all."""
    content = {
        "features": FEATURES,
        **calibration,
        "second_weight": 0.0,
        "trained": {"texts": n_texts, "seconds": round(seconds, 1), "first_seed": FIRST_SEED},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pending = file.with_suffix(".new")
    pending.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(pending, file)
    log.info("wrote %s", file)


if __name__ == "__main__":
    main()
