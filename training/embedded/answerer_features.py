"""Pictures for the answerer's training, kept as what the frozen half of the tower makes of them.

The tower's first five stages never change, so each picture passes through them once; what they
give is 44 KB in float16, a third of the tower's last feature map.
"""

import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

from core.assembly import LITE0
from core.colours import main_colours
from core.pack import read_pack
from core.recognizer import everyday_words, objects_from
from core.types import Evidence, Label
from training.embedded.sources import package_folder
from training.embedded.sprites import SEEN_STYLES
from training.scenes import Background, Scene, SceneThing, draw_scene, plan_scene

if TYPE_CHECKING:
    from training.embedded.sprites import SpriteBook

log = logging.getLogger(__name__)

Origin = Literal["scene", "shapes", "photo"]

FEATURES_VERSION = 1  # raise when the same number would give another picture or other features
SHARD_PICTURES = 256
BATCH = 32  # 44 pictures/s through the tower on two cores; larger batches are no faster
FROZEN_STAGES = 5  # of the tower's seven; 112 channels on a grid of 14 x 14 come out
SHARD_PATTERN: tuple[Origin, ...] = (  # of every 16 shards 11 hold scenes, 4 easy-vqa, 1 photos
    *("scene", "shapes", "scene", "scene", "photo", "scene", "shapes", "scene"),
    *("scene", "scene", "shapes", "scene", "scene", "scene", "shapes", "scene"),
)
EASY_VQA_PICTURES = 4000  # in its training split
SURE_LABEL = 0.3  # confidence from which the ImageNet head may teach its own label


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """One training picture without its pixels."""

    origin: Origin
    number: int  # the scene's seed, easy-vqa's picture, or the photograph's augmentation
    scene: Scene | None = None  # a scene's truth
    evidence: Evidence  # what serving would tell the model about it, but for neighbours
    word: str | None = None  # a photograph's main thing as the ImageNet head names it
    cells: tuple[float, ...] = ()  # how sure the head is of that word in each cell, row by row


class Shard:
    """256 pictures: features, class probabilities, and what is known about each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pictures = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
        self.pictures: tuple[Taught, ...] = tuple(_taught(fields) for fields in pictures)

    @cached_property
    def stems(self) -> np.ndarray:
        """(N, 112, 14, 14) float16, read from disk as it is needed."""
        return np.load(self.folder / "stems.npy", mmap_mode="r")

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N, 1000) float16 over ImageNet's classes."""
        return np.load(self.folder / "probabilities.npy")


def features_folder(cache: Path) -> Path:
    """Where the shards lie; may be deleted when the training is done."""
    return cache / "training" / f"answerer-features-{FEATURES_VERSION}"


def open_shards(folder: Path) -> list[Shard]:
    """The finished shards in order."""
    return [Shard(path) for path in sorted(folder.glob("shard-[0-9]*")) if path.is_dir()]


def write_features(
    tower: "FrozenTower",
    folder: Path,
    *,
    book: "SpriteBook",
    cache: Path,
    pictures: int,
    max_seconds: float,
    shard_pictures: int = SHARD_PICTURES,
) -> int:
    """Make the shards that are not there yet; returns how many are.

    Args:
        pictures: how many in all; the disk takes 46 KB for each.
        max_seconds: no shard is begun that would end later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started, made = time.monotonic(), 0
    planned = -(-pictures // shard_pictures)
    for number in range(planned):
        target = folder / f"shard-{number:04d}"
        if target.is_dir():  # finished: folders are moved into place when whole
            continue
        elapsed = time.monotonic() - started
        per_shard = elapsed / made if made else 0.0
        if elapsed + per_shard > max_seconds:
            break
        origin, numbers = plan_shard(number, shard_pictures=shard_pictures)
        drawn = _pictures(origin, numbers, book=book, cache=cache)
        _write_shard(target, tower, drawn, origin=origin, book=book)
        made += 1
        per_shard = (time.monotonic() - started) / made
        log.info(
            "features: shard %d of %d (%s), %.0f pictures/s, %.1f minutes left",
            number + 1,
            planned,
            origin,
            shard_pictures / per_shard,
            (planned - number - 1) * per_shard / 60,
        )
    return len(open_shards(folder))


def plan_shard(number: int, *, shard_pictures: int = SHARD_PICTURES) -> tuple[Origin, range]:
    """What a shard holds: its kind of picture and their numbers within that kind."""
    origins = [SHARD_PATTERN[n % len(SHARD_PATTERN)] for n in range(number + 1)]
    rank = origins[:-1].count(origins[-1])
    start = rank * shard_pictures
    return origins[-1], range(start, start + shard_pictures)


class FrozenTower(nn.Module):
    """The image tower as it is served, in float32, with its ImageNet head."""

    def __init__(self, tower: nn.Module, head: nn.Linear, evidence: "LabelMaker") -> None:
        super().__init__()
        whole: Any = tower.float().eval()  # torch's stubs do not know memory_format here
        self.tower = whole.to(memory_format=torch.channels_last)
        self.head = head.float().eval()
        self.evidence = evidence
        self.requires_grad_(False)

    @torch.inference_mode()
    def look(self, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor, Tensor]:
        """Stems, class probabilities of pictures, and of their cells.

        Returns:
            Shapes (N, 112, 14, 14), (N, 1000), (N, 49, 1000).
        """
        pixels = torch.stack([to_pixels(picture) for picture in pictures])
        device = self.head.weight.device
        stems = stem(self.tower, pixels.to(device))
        cells = tail(self.tower, stems).flatten(2).transpose(1, 2)
        whole = self.head(cells.mean(1)).softmax(-1)
        return stems, whole, self.head(cells).softmax(-1)


LabelMaker = Callable[[np.ndarray], "list[tuple[Label, ...]]"]  # (N, 1000) -> labels


def stem(tower: Any, pixels: Tensor) -> Tensor:
    """(N, 112, 14, 14), what the frozen stages of a timm EfficientNet give."""
    seen = tower.bn1(tower.conv_stem(pixels.contiguous(memory_format=torch.channels_last)))
    for stage in tower.blocks[:FROZEN_STAGES]:
        seen = stage(seen)
    return seen


def tail(tower: Any, stems: Tensor) -> Tensor:
    """(N, 1280, 7, 7), the tower's last feature map."""
    seen = stems
    for stage in tower.blocks[FROZEN_STAGES:]:
        seen = stage(seen)
    return tower.bn2(tower.conv_head(seen))


def to_pixels(picture: Image.Image) -> Tensor:
    """(3, 224, 224) from -1 to 1, as the answerer's processor makes it."""
    side = LITE0.image_size
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    return values.float() / 127.5 - 1


def scene_of(seed: int, book: "SpriteBook") -> "Scene":
    """The training scene of a seed: seen kinds in seen styles."""
    return plan_scene(seed, book=book, styles=SEEN_STYLES, seen=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePicture:
    """One picture of easy-vqa: a coloured shape, and the questions about it."""

    file: Path
    questions: tuple[tuple[str, str], ...]  # (question, one-word answer)

    def image(self) -> Image.Image:
        """The picture as RGB, 64 pixels a side."""
        with Image.open(self.file) as picture:
            return picture.convert("RGB")


def easy_vqa(split: Literal["train", "test"], *, cache: Path) -> list[ShapePicture]:
    """The pictures of a split in the order of their numbers."""
    root = package_folder("easy-vqa", cache=cache)
    (file,) = root.rglob(f"{split}/questions.json")
    asked: dict[int, list[tuple[str, str]]] = {}
    for question, answer, number in json.loads(file.read_text(encoding="utf-8")):
        asked.setdefault(int(number), []).append((question, answer))
    return [
        ShapePicture(file=file.parent / "images" / f"{number}.png", questions=tuple(asked[number]))
        for number in sorted(asked)
    ]


def photograph(number: int, photographs: Sequence[Image.Image]) -> Image.Image:
    """A crop of a sample photograph, flipped and relit; the same for the same number."""
    generator = random.Random(f"photo {number}")
    chosen = photographs[generator.randrange(len(photographs))]
    share, ratio = generator.uniform(0.35, 1.0), generator.uniform(0.75, 1.33)
    width = min(chosen.width, round(chosen.width * (share * ratio) ** 0.5))
    height = min(chosen.height, round(chosen.height * (share / ratio) ** 0.5))
    left = generator.randint(0, chosen.width - width)
    top = generator.randint(0, chosen.height - height)
    picture = chosen.crop((left, top, left + width, top + height))
    if generator.random() < 0.5:
        picture = ImageOps.mirror(picture)
    for change in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        picture = change(picture).enhance(generator.uniform(0.7, 1.3))
    return picture.resize((LITE0.image_size,) * 2, Image.Resampling.BICUBIC)


def sample_photographs() -> list[Image.Image]:
    """The photographs that the repository carries, as RGB."""
    return [entry.image() for entry in read_pack("photographs")]


def _pictures(
    origin: Origin, numbers: range, *, book: "SpriteBook", cache: Path
) -> Iterator[tuple[int, Image.Image]]:
    match origin:
        case "scene":
            for number in numbers:
                yield number, draw_scene(scene_of(number, book), book, size=LITE0.image_size)
        case "shapes":
            shapes = easy_vqa("train", cache=cache)
            for number in numbers:
                yield number % len(shapes), shapes[number % len(shapes)].image()
        case "photo":
            photographs = sample_photographs()
            for number in numbers:
                yield number, photograph(number, photographs)


def _write_shard(
    target: Path,
    tower: FrozenTower,
    drawn: Iterator[tuple[int, Image.Image]],
    *,
    origin: Origin,
    book: "SpriteBook",
) -> None:
    stems, probabilities, pictures = [], [], []
    for batch in _batches(drawn):
        images = [image for _, image in batch]
        seen, whole, cells = tower.look(images)
        stems.append(seen.half().cpu().contiguous().numpy())
        probabilities.append(whole.half().cpu().numpy())
        shares = whole.cpu().numpy()
        labels = tower.evidence(shares)
        for row, (number, image) in enumerate(batch):
            evidence = Evidence(labels=labels[row], colours=main_colours(image))
            word, sure = None, tuple[float, ...]()
            if origin == "photo":
                word, sure = _word_of(shares[row], cells[row])
            pictures.append(
                Taught(
                    origin=origin,
                    number=number,
                    scene=scene_of(number, book) if origin == "scene" else None,
                    evidence=evidence,
                    word=word,
                    cells=sure,
                )
            )
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        np.save(aside / "stems.npy", np.concatenate(stems))
        np.save(aside / "probabilities.npy", np.concatenate(probabilities))
        fields = [asdict(picture) for picture in pictures]
        (aside / "pictures.json").write_text(json.dumps(fields), encoding="utf-8")
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _word_of(probabilities: np.ndarray, cells: Tensor) -> tuple[str | None, tuple[float, ...]]:
    """A photograph's main thing, and how sure the head is of it in each cell."""
    best = objects_from(probabilities)[0]
    if best.confidence < SURE_LABEL:
        return None, ()
    classes = [number for word in everyday_words() if word.text == best.text
               for number in word.classes]  # fmt: skip
    classes = classes or [int(probabilities.argmax())]
    return best.text, tuple(round(float(share), 4) for share in cells[:, classes].sum(-1))


def _taught(fields: dict[str, Any]) -> Taught:
    told = fields["evidence"]
    evidence = Evidence(
        labels=tuple(Label(**label) for label in told["labels"]),
        colours=tuple(told["colours"]),
    )
    return Taught(
        origin=fields["origin"],
        number=fields["number"],
        scene=_scene(fields["scene"]) if fields["scene"] else None,
        evidence=evidence,
        word=fields["word"],
        cells=tuple(fields["cells"]),
    )


def _scene(fields: dict[str, Any]) -> Scene:
    ground = fields["background"]
    first, second = (tuple(colour) for colour in ground["colours"])
    things = [SceneThing(**thing | {"box": tuple(thing["box"])}) for thing in fields["things"]]
    return Scene(
        seed=fields["seed"],
        style=fields["style"],
        things=tuple(things),
        background=Background(**ground | {"colours": (first, second)}),
        overlap=fields["overlap"],
    )


def _batches(
    drawn: Iterator[tuple[int, Image.Image]],
) -> Iterator[list[tuple[int, Image.Image]]]:
    batch: list[tuple[int, Image.Image]] = []
    for entry in drawn:
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
