"""Short clips of pictograms with known truth: things that stay, move, appear or leave."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from training.embedded.sprites import SpriteBook
from training.scene_drawing import Box, Scene, SceneThing, draw_scene, plan_scene
from training.scene_questions import SceneQuestion
from training.scene_words import kinds_by_name, number_word, sentence, with_article

Event = Literal["stays", "moves left", "moves right", "moves up", "moves down", "appears", "leaves"]
STEPS = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
}
LEAST_ROOM = 0.25  # a thing moves at least this share of the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One thing through a clip."""

    thing: SceneThing  # as it is when it is first seen
    event: Event
    boxes: tuple[Box | None, ...]  # one per frame, None where it is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A planned clip."""

    seed: int
    scene: Scene  # style and backdrop
    tracks: tuple[Track, ...]

    @property
    def n_frames(self) -> int:
        """How many frames it has."""
        return len(self.tracks[0].boxes)


def plan_clip(
    seed: int,
    *,
    book: SpriteBook,
    styles: Sequence[str],
    seen: bool | None = True,
    n_frames: int = 8,
    n_things: tuple[int, int] = (2, 5),
) -> Clip:
    """A clip in which one or two things do something, the same for the same arguments."""
    rng = random.Random(f"clip {seed}")
    scene = _scene_of_single_kinds(seed, book=book, styles=styles, seen=seen, n_things=n_things)
    n_active = min(len(scene.things) - 1, rng.choice((1, 1, 2)))
    active = rng.sample(range(len(scene.things)), n_active)
    events = [_possible_event(scene.things[row], rng) for row in active]
    of_row = dict(zip(active, events, strict=True))
    tracks = tuple(
        _track(thing, of_row.get(row, "stays"), rng, n_frames=n_frames)
        for row, thing in enumerate(scene.things)
    )
    return Clip(seed=seed, scene=scene, tracks=tracks)


def draw_clip(clip: Clip, book: SpriteBook, *, size: int = 224) -> list[Image.Image]:
    """The frames of a clip, RGB, in order."""
    return [draw_scene(scene_at(clip, frame), book, size=size) for frame in range(clip.n_frames)]


def scene_at(clip: Clip, frame: int) -> Scene:
    """The clip's scene at one frame, with its own truth."""
    things = tuple(
        replace(track.thing, box=box)
        for track in clip.tracks
        if (box := track.boxes[frame]) is not None
    )
    return replace(clip.scene, things=things)


def ask_about_clip(clip: Clip, *, seed: int) -> list[SceneQuestion]:
    """Questions that no single frame answers, with their true answers."""
    rng = random.Random(f"clip questions {seed} {clip.seed}")
    asked = []
    for track in clip.tracks:
        if track.event != "stays":
            asked += _ask_event(track, clip, rng)
    asked.append(_ask_count_at_end(clip, rng))
    return asked


def _scene_of_single_kinds(
    seed: int,
    *,
    book: SpriteBook,
    styles: Sequence[str],
    seen: bool | None,
    n_things: tuple[int, int],
) -> Scene:
    """A scene in which every kind occurs once, so that "the dog" is clear."""
    for attempt in range(1000):
        scene = plan_scene(
            seed + attempt * 7_919_000_003, book=book, styles=styles, seen=seen, n_things=n_things
        )
        kinds = [thing.kind for thing in scene.things]
        if len(set(kinds)) == len(kinds) > 1:
            return scene
    raise ValueError(f"no scene of different kinds for seed {seed} with n_things={n_things}")


def _possible_event(thing: SceneThing, rng: random.Random) -> Event:
    """Something the thing has room for."""
    left, top, right, bottom = thing.box
    room: dict[Event, float] = {
        "moves left": left,
        "moves right": 1 - right,
        "moves up": top,
        "moves down": 1 - bottom,
    }
    moves = [event for event, space in room.items() if space >= LEAST_ROOM]
    if moves and rng.random() < 0.6:
        return rng.choice(moves)
    other: tuple[Event, ...] = ("appears", "leaves")
    return rng.choice(other)


def _track(thing: SceneThing, event: Event, rng: random.Random, *, n_frames: int) -> Track:
    boxes: list[Box | None] = [thing.box] * n_frames
    if event in STEPS:
        boxes = list(_moving(thing, STEPS[event], n_frames))
    elif event in ("appears", "leaves"):
        at = rng.randint(max(1, n_frames // 3), max(1, 2 * n_frames // 3))
        there = range(at, n_frames) if event == "appears" else range(at)
        boxes = [thing.box if frame in there else None for frame in range(n_frames)]
    return Track(thing=thing, event=event, boxes=tuple(boxes))


def _moving(thing: SceneThing, step: tuple[int, int], n_frames: int) -> list[Box]:
    """Evenly to the edge of the picture."""
    left, top, right, bottom = thing.box
    room = {(-1, 0): left, (1, 0): 1 - right, (0, -1): top, (0, 1): 1 - bottom}[step]
    boxes = []
    for frame in range(n_frames):
        far = (room - 0.01) * frame / max(1, n_frames - 1)
        across, down = step[0] * far, step[1] * far
        moved = (left + across, top + down, right + across, bottom + down)
        boxes.append(
            (round(moved[0], 4), round(moved[1], 4), round(moved[2], 4), round(moved[3], 4))
        )
    return boxes


def _ask_event(track: Track, clip: Clip, rng: random.Random) -> list[SceneQuestion]:
    name = track.thing.kind
    kind = kinds_by_name()[name]
    others = [other.event for other in clip.tracks if other is not track]
    verb, _, direction = track.event.partition(" ")
    questions = []
    if direction:
        text = rng.choice(
            (f"In which direction does the {name} move?", f"Where does the {name} go?")
        )
        said = direction if direction in ("up", "down") else f"to the {direction}"
        questions.append(
            SceneQuestion(
                text=text,
                answer=sentence(f"the {name} moves {said}"),
                form="motion",
                accepted=(direction,),
                about=(name,),
            )
        )
    if all(event.partition(" ")[0] != verb for event in others):
        text = {
            "moves": "Which thing moves?",
            "appears": "What appears during the clip?",
            "leaves": "What leaves the picture?",
        }[verb]
        questions.append(
            SceneQuestion(
                text=text,
                answer=sentence(with_article(name)),
                form="what",
                accepted=(name, *kind.synonyms),
                about=(name,),
            )
        )
    return questions


def _ask_count_at_end(clip: Clip, rng: random.Random) -> SceneQuestion:
    is_end = rng.random() < 0.6
    count = len(scene_at(clip, clip.n_frames - 1 if is_end else 0).things)
    when = "at the end" if is_end else "at the beginning"
    are = "is" if count == 1 else "are"
    things = "thing" if count == 1 else "things"
    return SceneQuestion(
        text=f"How many things are there {when}?",
        answer=sentence(f"{when} there {are} {number_word(count)} {things}"),
        form="how_many_in_all",
        accepted=(number_word(count), str(count)),
    )
