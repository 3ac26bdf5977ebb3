"""How many preference pairs a night trains on per second: `python -m benchmarks.dpo_speed`.

The embedded answerer, text prompts with evidence, answers of 15 and of 60 tokens; stock TRL beside
ours, which scores the answers' positions only. Same losses, so only the time differs.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from PIL import Image

from benchmarks.report import write_report
from core.answerer import load_base
from core.assembly import BaseModel, prepare_base
from core.prompts import build_prompt
from core.settings import cache_dir, load_settings
from core.types import Evidence, Label, PreferencePair
from training import dpo

LABELS = ("tabby cat", "window shade", "sofa", "curtain")
SHORT = "It is a tabby cat that sits by the window."
LONG = " ".join(["The picture shows a cat that may be sitting near a window with curtains."] * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="per row of the table")
    arguments = parser.parse_args()
    settings = load_settings()
    base = prepare_base(settings.active.answerer, cache=cache_dir())
    rows = [
        _measure(base, batch_size=batch_size, steps=arguments.steps, is_stock=is_stock)
        for batch_size, is_stock in ((4, True), (4, False), (8, False))
    ]
    write_report(
        "dpo_speed", rows, notes="One pair is a chosen and a rejected answer, policy and reference."
    )


def _measure(base: BaseModel, *, batch_size: int, steps: int, is_stock: bool) -> dict[str, object]:
    settings = load_settings()
    model, processor = load_base(base, device=settings.active.device, dtype=settings.active.dtype)
    pairs = [_pair(n) for n in range(batch_size * steps)]
    tokens = dpo.PairCollator(processor, open_picture=_no_picture, dtype=model.dtype).batch(
        pairs[:1]
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        _stock() if is_stock else contextlib.nullcontext(),
    ):
        record = dpo.train_adapter(
            model,
            processor,
            pairs,
            preset=settings.nightly.model_copy(update={"batch_size": batch_size, "epochs": 1}),
            open_picture=_no_picture,
            folder=Path(folder) / "adapter",
            work=Path(folder) / "work",
        )
    return {
        "head": "all positions (stock TRL)" if is_stock else "answers only",
        "batch": batch_size,
        "tokens, chosen row": int(tokens["attention_mask"][0].sum()),
        "tokens, rejected row": int(tokens["attention_mask"][1].sum()),
        "pairs/s": round(record.pairs_per_s, 3),
        "first loss": round(record.first_loss, 4),
        "last loss": round(record.last_loss, 4),
    }


@contextlib.contextmanager
def _stock() -> Iterator[None]:
    with mock.patch.object(dpo, "_head_on_answers_only", contextlib.nullcontext):
        yield


def _pair(n: int) -> PreferencePair:
    labels = tuple(
        Label(text=text, confidence=0.6 - 0.15 * place, kind="object", source="imagenet")
        for place, text in enumerate(LABELS)
    )
    return PreferencePair(
        prompt=build_prompt(
            f"What is in picture {n}?",
            evidence=Evidence(labels=labels),
            has_picture=True,
            picture_tokens=False,
        ),
        chosen=SHORT,
        rejected=LONG,
        picture_id=None,
        weight=1.0,
        split="train",
        vote_ids=(str(n),),
    )


def _no_picture(picture_id: str) -> Image.Image:
    raise ValueError(f"These prompts hold no picture, and {picture_id} was asked for")


if __name__ == "__main__":
    main()
