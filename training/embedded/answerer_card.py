"""The card of the shipped answerer: what it was taught with, by which command, what it can do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.settings import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "answerer_quality.json"

HEAD = """# The embedded answerer's trained weights

{size:.1f} MB in {count} files, bfloat16, merged by `core/assembly.py` into the base that it puts
together from SmolLM2-135M-Instruct and EfficientNet-Lite0 (base `{base}`; another base leaves them
out). They are the tower's last two stages with its head convolution, the projector, and LoRA of
rank {rank} on all matrices of the language model.

## How they were made

```
python -m training.embedded.answerer features --minutes 12
python -m training.embedded.answerer words --minutes 4
python -m training.embedded.answerer project --minutes 12
python -m training.embedded.answerer tune --minutes 60
python -m training.embedded.answerer export
```

- **Naming the cells** (`project`): {project}. The token of the cell that holds a thing's centre
  learns to lie on the language model's embedding of its name, colour and place; other cells on that
  of a full stop. No language model runs.
- **Reading them** (`tune`): {tune}. Questions about one picture share its tokens; each is asked in
  the very words of serving, one in eight with the recogniser's evidence beside it.

## Data

- Pictogram scenes (`training/scenes.py`): Noto emoji (Apache-2.0), Twemoji (CC BY 4.0), Fluent
  emoji 3D and flat (MIT). OpenMoji and about 15 % of the kinds were held back to be measured on.
- easy-vqa 1.0 (MIT), training split.
- The sample photographs that the repository carries, cropped and relit, named by the tower's own
  ImageNet head; so what it says about photographs is the head's knowledge.
- SmolLM2's own answers to several hundred plain questions, to keep its language.

The weights are Apache-2.0, like both towers.
"""


def card_text(config: Mapping[str, Any], *, size_mb: float, results: Path = RESULTS) -> str:
    """The card in Markdown; with the benchmark's table where one was measured."""
    text = HEAD.format(
        size=size_mb,
        count=len(config["files"]),
        base=config["base"],
        rank=config["rank"],
        project=_course(config["project"]),
        tune=_course(config["tune"]),
    )
    return text + _numbers(results)


def _course(summary: Mapping[str, Any]) -> str:
    if not summary:
        return "not recorded"
    losses = ", ".join(f"{name} loss {value:.3f}" for name, value in summary["last"].items())
    checked = ", ".join(f"{name} {value:.1%}" for name, value in summary["checked"].items())
    held_out = f"; right on held-out scenes: {checked}" if checked else ""
    return f"{summary['step']:,} steps, {summary['seconds'] / 60:.0f} minutes ({losses}{held_out})"


def _numbers(results: Path) -> str:
    try:
        report = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "\n## Numbers\n\nNot measured yet: `python -m benchmarks.answerer_quality`.\n"
    measured = f"{report['measured_at'][:10]}: {report['notes']}"
    lines = [
        "",
        "## Numbers",
        "",
        f"`python -m benchmarks.answerer_quality`, {measured}. "
        "Exact match by the scenes' own checker, 95 % intervals (Wilson).",
        "",
        "| where | question | n | right | interval |",
        "| --- | --- | --- | --- | --- |",
        *(_line(row) for row in _sorted(report["rows"])),
        "",
        "Not covered: text in pictures, people's names, more than nine things, photographs of "
        "things that ImageNet does not name.",
        "",
    ]
    return "\n".join(lines)


def _sorted(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    parts = list(dict.fromkeys(row["part"] for row in rows))
    return sorted(rows, key=lambda row: parts.index(row["part"]))


def _line(row: Mapping[str, Any]) -> str:
    interval = f"{row['low']:.1%} to {row['high']:.1%}"
    return f"| {row['part']} | {row['form']} | {row['n']} | {row['right']:.1%} | {interval} |"
