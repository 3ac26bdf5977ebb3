"""Can the judge tell a true caption from one with a word wrong? `-m benchmarks.judge_quality`.

Held-out scenes: seen kinds in seen styles, in the style that was never trained on, and kinds that
were never trained on. AUC by the word that is wrong, ECE, and a reliability plot (SVG).
"""

import argparse
from collections.abc import Sequence

import numpy as np

from benchmarks.report import RESULTS, Row, write_report
from core.judge import load_calibration
from training.embedded.judge import JudgedTexts, embedded_cells, judge_scenes
from training.embedded.sprites import SEEN_STYLES, UNSEEN_STYLE, load_sprites

FIRST_SEED = 1_000_000  # no training draws scenes from here on
BINS = 10
SPLITS: dict[str, tuple[Sequence[str], bool]] = {
    "same style": (SEEN_STYLES, True),
    "unseen style": ((UNSEEN_STYLE,), True),
    "unseen kinds": (SEEN_STYLES, False),
}
PLOT_PX = 320


def main() -> None:
    """Measure and write benchmarks/results/judge_quality.json and judge_reliability.svg."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge_quality")
    parser.add_argument("--scenes", type=int, default=1000, help="of each split")
    arguments = parser.parse_args()
    calibration = load_calibration()
    if calibration is None:
        raise SystemExit("The judge is not calibrated: run `python -m training.embedded.judge`.")
    reader, book = embedded_cells(), load_sprites()
    rows: list[Row] = []
    curves: dict[str, list[tuple[float, float, int]]] = {}
    for split, (styles, seen) in SPLITS.items():
        seeds = range(FIRST_SEED, FIRST_SEED + arguments.scenes)
        judged = judge_scenes(reader, book, seeds=seeds, styles=styles, seen=seen)
        scores = np.array([calibration.score(row) for row in judged.features])
        rows += rows_of(split, judged, scores)
        one_wrong = np.array([change != "swap" for change in judged.change])
        curves[split] = reliability(scores[one_wrong], judged.is_true[one_wrong])
    (RESULTS / "judge_reliability.svg").write_text(plot(curves), encoding="utf-8")
    write_report(
        "judge_quality",
        rows,
        notes="Bars: AUC of true against altered captions at least .90, ECE at most .08. 95 % "
        "intervals by Hanley and McNeil's formula. Reliability: judge_reliability.svg.",
    )


def rows_of(split: str, judged: JudgedTexts, scores: np.ndarray) -> list[Row]:
    """One row per kind of wrong word, and one for all of them with the calibration's error."""
    changes = np.array(judged.change)
    altered = changes != "swap"
    chosen = {"one word wrong": altered}
    chosen |= {f"wrong {change}": changes == change for change in sorted(set(changes[altered]))}
    chosen["another scene's caption"] = judged.is_true | ~altered
    rows = []
    for name, mask in chosen.items():
        area, half = auc(scores[mask], judged.is_true[mask])
        rows.append(
            {
                "split": split,
                "captions": name,
                "n": int(mask.sum()),
                "AUC": area,
                "95 % interval": f"{area - half:.3f} to {min(1.0, area + half):.3f}",
                "ECE": expected_calibration_error(scores[mask], judged.is_true[mask])
                if name == "one word wrong"
                else "",
            }
        )
    return rows


def auc(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Chance that a true text scores above a false one, ties counting half, and its 95 % margin.

    Source: Hanley and McNeil 1982, Radiology 143, eq. 2 for the standard error.
    """
    true, false = np.sort(scores[truth]), np.sort(scores[~truth])
    below = np.searchsorted(false, true, side="left")
    up_to = np.searchsorted(false, true, side="right")
    area = float((below + up_to).mean() / 2 / len(false))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (len(true) - 1) * (q1 - area**2)
    variance += (len(false) - 1) * (q2 - area**2)
    return area, 1.96 * max(0.0, variance / (len(true) * len(false))) ** 0.5


def reliability(scores: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean score, share true, texts) of each tenth of the scale that holds any."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        (float(scores[bins == n].mean()), float(truth[bins == n].mean()), int((bins == n).sum()))
        for n in range(BINS)
        if (bins == n).any()
    ]


def expected_calibration_error(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance between score and share true over ten bins, weighted by texts.

    Source: Naeini et al. 2015, eq. 3 of Guo et al. 2017, arXiv:1706.04599.
    """
    return sum(
        abs(score - share) * count for score, share, count in reliability(scores, truth)
    ) / len(scores)


def plot(curves: dict[str, list[tuple[float, float, int]]]) -> str:
    """A reliability plot: score across, share of true texts up; the diagonal is right."""
    colours = ("#0b57d0", "#b3261e", "#146c2e")
    lines, words = [], []
    for n, ((name, curve), colour) in enumerate(zip(curves.items(), colours, strict=False)):
        points = " ".join(f"{x * PLOT_PX:.1f},{(1 - y) * PLOT_PX:.1f}" for x, y, _ in curve)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        words.append(f'<text x="12" y="{20 + 18 * n}" fill="{colour}">{name}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-44 -8 {PLOT_PX + 60} {PLOT_PX + 48}" '
        'font-family="sans-serif" font-size="13">'
        f'<rect x="-44" y="-8" width="{PLOT_PX + 60}" height="{PLOT_PX + 48}" fill="white"/>'
        f'<rect width="{PLOT_PX}" height="{PLOT_PX}" fill="none" stroke="#999"/>'
        f'<line x1="0" y1="{PLOT_PX}" x2="{PLOT_PX}" y2="0" stroke="#bbb" stroke-dasharray="4"/>'
        f"{''.join(lines)}{''.join(words)}"
        f'<text x="{PLOT_PX / 2}" y="{PLOT_PX + 32}" text-anchor="middle">score, 0 to 1</text>'
        f'<text transform="translate(-28 {PLOT_PX / 2}) rotate(-90)" text-anchor="middle">'
        "share of texts that are true</text></svg>\n"
    )


if __name__ == "__main__":
    main()
