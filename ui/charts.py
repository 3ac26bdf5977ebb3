"""Plots as plain markup and small SVG shapes: they follow the theme and reflow on a phone.

Words stand in HTML around the shapes, so that they keep their size at any width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from core.types import Interval
from ui.markup import text

MIN_COLUMNS = 10  # so that one day is not as broad as the page
PERCENT_TICKS = ("0 %", "25 %", "50 %", "75 %", "100 %")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The numbers behind a plot."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


def figure(
    title: str,
    *,
    name: str,
    units: str,
    plot: str,
    table: Table | None = None,
    is_wide: bool = False,
) -> str:
    """A plot under a title that says the finding, with its units and n, and its numbers folded.

    Args:
        name: of the place on the page, for links to it.
        plot: markup made by this module.
    """
    folded = (
        f"<details><summary>The numbers</summary>{table_markup(table)}</details>" if table else ""
    )
    return (
        f'<figure class="sl-chart{" sl-wide" if is_wide else ""}" id="insights-{text(name)}">'
        f'<h3>{text(title)}</h3><p class="sl-quiet">{text(units)}</p>{plot}{folded}</figure>'
    )


def table_markup(table: Table) -> str:
    """A table that scrolls sideways where it must."""
    head = "".join(f'<th scope="col">{text(word)}</th>' for word in table.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return (
        '<div class="sl-table-wrap" tabindex="0" role="region" aria-label="Table">'
        f'<table class="sl-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def bars(rows: Sequence[tuple[str, float, str]], *, ticks: Sequence[str] = PERCENT_TICKS) -> str:
    """Horizontal bars: label, share of the axis from 0 to 1, and the value in words."""
    lines = "".join(
        f'<div class="sl-row"><span class="sl-row-name">{text(label)}</span>'
        f'<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="sl-fill-soft" x="0" y="6" width="100" height="4" rx="0.4"/>'
        f'<rect class="sl-fill" x="0" y="2" width="{_percent(share)}" height="12" rx="0.6"/></svg>'
        f'<span class="sl-row-value">{text(words)}</span></div>'
        for label, share, words in rows
    )
    return f'<div class="sl-rows">{lines}{_axis(ticks)}</div>'


def intervals(
    rows: Sequence[tuple[str, Interval, str]], *, even: float = 0.5, ticks: Sequence[str]
) -> str:
    """A forest plot of shares: each estimate as a dot on its 95 % interval, and the even line."""
    lines = "".join(
        f'<div class="sl-row"><span class="sl-row-name">{text(label)}</span>'
        f'<svg viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="sl-even" x1="{_percent(even)}" x2="{_percent(even)}" y1="0" y2="24"/>'
        f'<line class="sl-line" x1="{_percent(value.low)}" x2="{_percent(value.high)}"'
        f' y1="12" y2="12"/>'
        f'<line class="sl-dot" x1="{_percent(value.estimate)}" x2="{_percent(value.estimate)}"'
        f' y1="12" y2="12"/></svg>'
        f'<span class="sl-row-value">{text(words)}</span></div>'
        for label, value, words in rows
    )
    return f'<div class="sl-rows">{lines}{_axis(ticks)}</div>'


def columns(rows: Sequence[tuple[str, int]], *, what: str) -> str:
    """Vertical bars of counts, one for each label, oldest left."""
    top = max((n for _, n in rows), default=0) or 1
    width = 100 / max(len(rows), MIN_COLUMNS)
    shapes = "".join(
        f'<rect class="sl-fill" x="{index * width + width * 0.14:.2f}" width="{width * 0.72:.2f}"'
        f' y="{100 - 100 * n / top:.2f}" height="{100 * n / top:.2f}">'
        f"<title>{text(label)}: {n:,}</title></rect>"
        for index, (label, n) in enumerate(rows)
    )
    few = len(rows) <= 3
    names = [label for label, _ in (rows if few else (rows[0], rows[len(rows) // 2], rows[-1]))]
    return (
        f'<div class="sl-columns"><div class="sl-y"><span>{top:,} {text(what)}</span>'
        f'<span>0</span></div><svg viewBox="0 0 100 100" preserveAspectRatio="none"'
        f' aria-hidden="true"><line class="sl-axis" x1="0" x2="100" y1="100" y2="100"/>'
        f"{shapes}</svg>"
        f'<div class="sl-x{" sl-x-few" if few else ""}">'
        f"{''.join(f'<span>{text(name)}</span>' for name in names)}</div></div>"
    )


def curve(points: Sequence[tuple[float, float]], *, x_words: str, y_words: str) -> str:
    """A line through (x, y), with the even line at y = 0 where it is crossed."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(0.0, *ys), max(ys)
    height, width = (high - low) or 1.0, (max(xs) - min(xs)) or 1.0
    line = " ".join(
        f"{100 * (x - min(xs)) / width:.2f},{100 - 100 * (y - low) / height:.2f}" for x, y in points
    )
    zero = 100 - 100 * (0 - low) / height
    return (
        f'<div class="sl-columns"><div class="sl-y"><span>{high:.2g} {text(y_words)}</span>'
        f'<span>{low:.2g}</span></div><svg viewBox="0 0 100 100" preserveAspectRatio="none"'
        f' aria-hidden="true"><line class="sl-even" x1="0" x2="100" y1="{zero:.2f}"'
        f' y2="{zero:.2f}"/><polyline class="sl-line" points="{line}"/></svg>'
        f'<div class="sl-x"><span>{text(x_words)} {min(xs):g}</span>'
        f"<span>{text(x_words)} {max(xs):g}</span></div></div>"
    )


def _axis(ticks: Sequence[str]) -> str:
    labels = "".join(f"<span>{text(tick)}</span>" for tick in ticks)
    return (
        f'<div class="sl-row sl-row-axis" aria-hidden="true"><span></span>'
        f'<div class="sl-ticks">{labels}</div><span></span></div>'
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}"
