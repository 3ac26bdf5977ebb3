"""The cards of embedder and judge, written from their records and from what was measured.

`python -m training.embedded.embedder_cards`, after the benchmarks embedder_quality and
judge_quality.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.embedder import EMBEDDER_FOLDER, HEADS_CONFIG
from core.judge import CALIBRATION
from core.settings import ROOT

log = logging.getLogger(__name__)

RESULTS = ROOT / "benchmarks" / "results"
EMBEDDER_CARD = """# The embedder's trained heads

Two small heads over frozen towers (EfficientNet-Lite0 and all-MiniLM-L6-v2, both Apache-2.0): one
turns what the image tower's grid sees into a vector of the text space and names what is centred in
each of its 7 x 7 cells, the other bends the text space a little. A picture's vector is the
training-free one (ConSE) and the trained one side by side: a drawing counts {drawing:.0%} on the
former, a photograph {photograph:.0%}; the head itself says which it is. `lexicon.json` translates
German, Spanish and Chinese words in queries before the English text tower reads them.

- Data: pictograms of Noto (Apache-2.0), Twemoji (CC BY 4.0) and Fluent emoji (MIT, 3D and flat),
  single and in scenes of one to nine things; three of four sample photographs, taught by the
  training-free vector; names, keywords and translations from Unicode CLDR (Unicode License V3).
  OpenMoji is never trained on, nor are 15 % of the kinds, by hash of the code point.
- Made by: `python -m training.embedded.lexicon`, then `python -m training.embedded.embedder`
  `features`, `train` and `export`: {step} steps, {samples:,} pictures, {minutes:.0f} minutes.
- Licence of these weights: Apache-2.0, as the project's. Size: {size_mb:.1f} MB.
- On held-out pictures of seen kinds and styles: {measured}.

Measured by `python -m benchmarks.embedder_quality`:

{table}

{notes}

It knows pictograms far better than photographs: on those it is as good as the training-free
vectors, which know ImageNet's 1,000 classes. Words outside CLDR's names are not translated.
"""
JUDGE_CARD = """# The judge's calibration

`calibration.json` is a logistic regression over eight numbers: how probable the picture's cells
(core/cells.py) make the things, counts, colours and places that a text claims (core/claims.py).
Fitted by `python -m training.embedded.judge` on {texts:,} texts about scenes of seen kinds and
styles: true captions, and the same with one word wrong. Licence: Apache-2.0, as the project's.

Measured by `python -m benchmarks.judge_quality` on scenes that no training draws; the plot is
benchmarks/results/judge_reliability.svg:

{table}

{notes}

Photographs are judged by the vectors of picture and text alone, and that score is not calibrated.
"""


def main() -> None:
    """Write the cards whose parts are there."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = EMBEDDER_FOLDER / HEADS_CONFIG
    if config.is_file():
        _write(EMBEDDER_FOLDER / "README.md", embedder_card(_read(config)))
    if CALIBRATION.is_file():
        _write(CALIBRATION.parent / "README.md", judge_card(_read(CALIBRATION)))


def embedder_card(config: Mapping) -> str:
    """The card in Markdown."""
    trained, (drawing, photograph) = config["trained"], config["conse_share"]
    table, notes = _measured("embedder_quality")
    size = sum(file.stat().st_size for file in EMBEDDER_FOLDER.iterdir() if file.is_file())
    return EMBEDDER_CARD.format(
        drawing=drawing,
        photograph=photograph,
        step=trained["step"],
        samples=trained["samples"],
        minutes=trained["seconds"] / 60,
        size_mb=size / 1e6,
        measured=", ".join(f"{name} {value:.3f}" for name, value in trained["measured"].items()),
        table=table,
        notes=notes,
    )


def judge_card(calibration: Mapping) -> str:
    """The card in Markdown."""
    table, notes = _measured("judge_quality")
    return JUDGE_CARD.format(texts=calibration["trained"]["texts"], table=table, notes=notes)


def _measured(name: str) -> tuple[str, str]:
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        return f"(not measured yet: run `python -m benchmarks.{name}`)", ""
    content = _read(file)
    return _markdown(content["rows"]), content["notes"]


def _markdown(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[_shown(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, text: str) -> None:
    pending = file.with_suffix(".new")
    pending.write_text(text, encoding="utf-8")
    os.replace(pending, file)
    log.info("wrote %s", file.relative_to(ROOT))


if __name__ == "__main__":
    main()
