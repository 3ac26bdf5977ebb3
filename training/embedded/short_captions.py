"""Short captions of scenes for contrastive training, each with a twin that has one word wrong."""

import random
from collections import Counter
from collections.abc import Sequence

from training.scene_words import counted, joined, kinds_by_name
from training.scenes import PAINTS, Scene

MOST_COUNTED = 9
FORMS = (
    "{}",
    "a picture of {}",
    "{} on a {} background",
    "there is {}",
    "{}, nothing else",
)
Entry = tuple[str, int, str | None]  # kind, count, paint


def caption_pair(scene: Scene, *, seed: int, kinds: Sequence[str]) -> tuple[str, str]:
    """A true caption of the scene and the same one with a count, kind or colour changed.

    Args:
        kinds: what a wrong caption may name instead; none of the scene's own is taken.
    """
    rng = random.Random(f"short caption {seed}")
    counts = Counter((thing.kind, thing.colour) for thing in scene.things)
    entries: list[Entry] = [(kind, count, paint) for (kind, paint), count in counts.items()]
    rng.shuffle(entries)
    form, backdrop = rng.choice(FORMS), scene.background.colour
    said = joined([_said(entry) for entry in entries])
    place = rng.randrange(len(entries))
    entries[place] = _changed(entries[place], rng, kinds, {thing.kind for thing in scene.things})
    wrong = joined([_said(entry) for entry in entries])
    return form.format(said, backdrop), form.format(wrong, backdrop)


def _said(entry: Entry) -> str:
    kind, count, paint = entry
    return counted(kinds_by_name()[kind], count, colour=paint)


def _changed(entry: Entry, rng: random.Random, kinds: Sequence[str], there: set[str]) -> Entry:
    kind, count, paint = entry
    what = rng.choice(("kind", "count", "colour") if paint else ("kind", "count"))
    if what == "colour":
        return kind, count, rng.choice([name for name in PAINTS if name != paint])
    if what == "count":
        near = [n for n in range(count - 2, count + 3) if 1 <= n <= MOST_COUNTED and n != count]
        return kind, rng.choice(near), paint
    return rng.choice([name for name in kinds if name not in there]), count, paint
