"""Insights: how people vote, what the nights made of it, and what answers now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import gradio as gr

from core.errors import UserError
from core.types import (
    AdapterCard,
    DayVotes,
    Outcome,
    ReasonCount,
    RunProgress,
    RunReport,
    SideBalance,
    VersionResult,
)
from ui.charts import PERCENT_TICKS, Table, bars, columns, curve, figure, intervals, table_markup
from ui.errors import shows_user_errors
from ui.markup import notice, progress, text
from ui.pair_card import REASONS

OUTCOME_WORDS: dict[Outcome, str] = {
    "left": "A is better",
    "right": "B is better",
    "tie": "Same",
    "both_bad": "Both bad",
    "skip": "Skipped",
}
STAGE_WORDS = {
    "collecting": "Collecting the votes",
    "loading": "Loading the model",
    "training": "Training",
    "testing": "Testing against the live version",
    "publishing": "Publishing",
}
DECISION_WORDS = {
    "published": "published",
    "refused": "not published",
    "skipped": "skipped",
    "failed": "failed",
}
N_NIGHTS_SHOWN = 5
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_OWNER_ONLY = (
    "Only the owner of this app can do this. Open the page on its machine, or give the key."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsightsActions:
    """What the Insights tab can read and do; the tab knows no more of the app than this."""

    votes_per_day: Callable[[], Sequence[DayVotes]]
    votes_today: Callable[[], int]
    outcomes: Callable[[], Mapping[Outcome, int]]
    side_balance: Callable[[], SideBalance]
    version_results: Callable[[], Sequence[VersionResult]]
    reason_counts: Callable[[], Sequence[ReasonCount]]
    pairs_missing: Callable[[], int]
    min_pairs: int
    adapters: Callable[[], Sequence[AdapterCard]]
    adapter_problems: Callable[[], Mapping[str, str]]
    live_adapter: Callable[[], str | None]
    previous_adapter: Callable[[], str | None]
    roll_back: Callable[[], str | None]
    start_night: Callable[[], str]
    stop_night: Callable[[], bool]
    is_night_running: Callable[[], bool]
    night_progress: Callable[[], RunProgress | None]
    night_reports: Callable[[], Sequence[RunReport]]
    next_night: Callable[[], datetime | None]
    is_owner: Callable[[gr.Request, str], bool]
    has_owner_key: bool  # whether a key was set that a person could give


def build_insights_tab(
    actions: InsightsActions, *, page: gr.Blocks, tab: gr.Tab, owner_key: gr.Textbox
) -> None:
    """Lay out the tab and wire it.

    Args:
        tab: the tab itself; its numbers are read when it is opened.
        owner_key: holds the owner's key where one was given.
    """
    handlers = _Handlers(actions)
    facts = gr.HTML(apply_default_css=False, elem_id="insights-facts")
    with gr.Row(visible=False, elem_classes="sl-actions") as owner_row:
        run_now = gr.Button("Run tonight’s training now", variant="primary", elem_id="run-night")
        stop_night = gr.Button("Stop the training", interactive=False, elem_id="stop-night")
        roll_back = gr.Button("Roll back", elem_id="roll-back")
    message = gr.HTML(apply_default_css=False, elem_id="insights-message")
    night = gr.HTML(apply_default_css=False, elem_id="night-progress")
    charts = gr.HTML(apply_default_css=False, elem_id="insights-charts")
    with gr.Accordion("I am the owner", open=False, visible=actions.has_owner_key) as key_box:
        key = gr.Textbox(label="Owner’s key", type="password", max_lines=1, elem_id="owner-key")
        give_key = gr.Button("Unlock", size="sm")

    outputs = [facts, charts, night, run_now, stop_night, roll_back]
    gr.on(
        [page.load, owner_key.change],
        handlers.on_owner,
        owner_key,
        [owner_row, key_box],
        **_PRIVATE,
    )
    give_key.click(
        shows_user_errors(handlers.on_key), key, [owner_key, key], queue=False, **_PRIVATE
    )
    gr.on([tab.select, page.load], handlers.shown, None, outputs, **_PRIVATE)
    for button, handler in (
        (run_now, handlers.on_run),
        (stop_night, handlers.on_stop),
        (roll_back, handlers.on_roll_back),
    ):
        button.click(handler, owner_key, [message, *outputs], **_PRIVATE)
    timer = gr.Timer(2.0)
    timer.tick(handlers.on_tick, night, outputs, **_PRIVATE)


@dataclass(frozen=True, slots=True)
class _Handlers:
    actions: InsightsActions

    def shown(self) -> list[Any]:
        is_running = self.actions.is_night_running()
        live, previous = self.actions.live_adapter(), self.actions.previous_adapter()
        return [
            facts_markup(self.actions),
            charts_markup(self.actions),
            night_markup(self.actions.night_progress(), is_running=is_running),
            gr.Button(interactive=not is_running),
            gr.Button(interactive=is_running),
            gr.Button(
                f"Roll back to {previous or 'the base model'}" if live else "Roll back",
                interactive=live is not None,
            ),
        ]

    def on_tick(self, night: str) -> list[Any]:
        """Only what moves while a night runs, and everything once when it has ended."""
        is_running = self.actions.is_night_running()
        if not is_running:
            return self.shown() if night else [gr.skip()] * 6
        now = night_markup(self.actions.night_progress(), is_running=True)
        return [gr.skip(), gr.skip(), now, *[gr.skip()] * 3]

    def on_owner(self, key: str, request: gr.Request) -> tuple[gr.Row, gr.Accordion]:
        is_owner = self.actions.is_owner(request, key)
        return (
            gr.Row(visible=is_owner),
            gr.Accordion(visible=self.actions.has_owner_key and not is_owner),
        )

    def on_key(self, key: str, request: gr.Request) -> tuple[str, str]:
        if not self.actions.is_owner(request, key):
            raise UserError("This is not the owner’s key. Check it and give it again.")
        return key, ""

    def on_run(self, key: str, request: gr.Request) -> list[Any]:
        return self._as_owner(key, request, self._start)

    def on_stop(self, key: str, request: gr.Request) -> list[Any]:
        return self._as_owner(key, request, self._stop)

    def on_roll_back(self, key: str, request: gr.Request) -> list[Any]:
        return self._as_owner(key, request, self._roll_back)

    def _as_owner(self, key: str, request: gr.Request, act: Callable[[], str]) -> list[Any]:
        # The buttons are hidden from others, but anyone can call the handler behind them.
        try:
            if not self.actions.is_owner(request, key):
                raise UserError(_OWNER_ONLY)
            done = notice(act())
        except UserError as error:
            done = notice(str(error), kind="error")
        return [done, *self.shown()]

    def _start(self) -> str:
        self.actions.start_night()
        return "The training has begun. The page can be used meanwhile; the report appears below."

    def _stop(self) -> str:
        stopped = self.actions.stop_night()
        return "Stopped; nothing of it is published." if stopped else "No training is running."

    def _roll_back(self) -> str:
        version = self.actions.roll_back()
        return f"Rolled back. {version or 'The base model'} answers from now on."


def facts_markup(actions: InsightsActions) -> str:
    """The top row: votes, what the night needs, what is live, when the next night is."""
    total = sum(n for outcome, n in actions.outcomes().items() if outcome != "skip")
    missing, live = actions.pairs_missing(), actions.live_adapter()
    next_night = actions.next_night()
    facts = (
        (f"{total:,}", f"votes in all, {actions.votes_today():,} today"),
        (
            f"{missing:,}" if missing else "enough",
            f"more choices until a training ({actions.min_pairs:,} needed)"
            if missing
            else "choices for the next training",
        ),
        (live or "base model", "answers now"),
        (
            f"{next_night:%H:%M}" if next_night else "by hand",
            "is when the next training starts" if next_night else "is how a training starts here",
        ),
    )
    cells = "".join(
        f"<li><strong>{text(value)}</strong><span>{text(words)}</span></li>"
        for value, words in facts
    )
    return f'<ul class="sl-facts">{cells}</ul>'


def charts_markup(actions: InsightsActions) -> str:
    """Every plot, each under its finding."""
    live = actions.live_adapter()
    return (
        '<div class="sl-charts">'
        + versions_figure(actions.version_results())
        + days_figure(actions.votes_per_day())
        + outcomes_figure(actions.outcomes())
        + sides_figure(actions.side_balance())
        + reasons_figure(actions.reason_counts())
        + adapters_figure(actions.adapters(), live=live, problems=actions.adapter_problems())
        + nights_figure(actions.night_reports())
        + "</div>"
    )


def versions_figure(results: Sequence[VersionResult]) -> str:
    """Win rate of each version over an older one, with 95 % intervals."""
    if not results:
        title, plot, table = "No two versions have met in a blind comparison yet", _nothing(), None
    else:
        newest = results[-1]
        title = _versions_finding(newest)
        plot = intervals(
            [
                (
                    f"{result.version} over {result.opponent or 'base'}",
                    result.win_rate,
                    f"{_share(result.win_rate.estimate)} of {result.win_rate.n:,}",
                )
                for result in results
            ],
            ticks=PERCENT_TICKS,
        )
        table = Table(
            head=("Version", "Against", "Won", "Lost", "Same or both bad", "95 % interval"),
            rows=[
                (
                    result.version,
                    result.opponent or "base model",
                    result.wins,
                    result.losses,
                    result.ties,
                    f"{_share(result.win_rate.low)} to {_share(result.win_rate.high)}",
                )
                for result in results
            ],
        )
    n = sum(result.win_rate.n for result in results)
    units = f"Share of blind comparisons won, a tie is half a win; dashed: even. n = {n:,}"
    return figure(title, name="winrate", units=units, plot=plot, table=table, is_wide=True)


def days_figure(days: Sequence[DayVotes]) -> str:
    """Votes per day."""
    if not days:
        return figure("No votes yet", name="votes", units="Votes per day", plot=_nothing())
    busiest = max(days, key=lambda day: day.n)
    noun = "vote" if busiest.n == 1 else "votes"
    finding = (
        f"The busiest day was {_day(busiest.day)}, with {busiest.n:,} {noun}"
        if len(days) > 1
        else f"{busiest.n:,} {noun} on {_day(busiest.day)}, the first day"
    )
    return figure(
        finding,
        name="votes",
        units=f"Votes per day without skips. n = {sum(day.n for day in days):,}",
        plot=columns(
            [(_day(day.day), day.n) for day in days], what="vote" if busiest.n == 1 else "votes"
        ),
        table=Table(head=("Day", "Votes"), rows=[(_day(day.day), f"{day.n:,}") for day in days]),
    )


def outcomes_figure(outcomes: Mapping[Outcome, int]) -> str:
    """How often each choice was made."""
    n = sum(outcomes.values())
    if n == 0:
        return figure(
            "No choices yet", name="outcomes", units="Share of the choices", plot=_nothing()
        )
    chosen = (outcomes["left"] + outcomes["right"]) / n
    return figure(
        f"One answer was better in {_share(chosen)} of the pairs",
        name="outcomes",
        units=f"Share of the choices made. n = {n:,}",
        plot=bars(
            [
                (words, outcomes[outcome] / n, f"{outcomes[outcome]:,}")
                for outcome, words in OUTCOME_WORDS.items()
            ]
        ),
        table=Table(
            head=("Choice", "Votes", "Share"),
            rows=[
                (words, f"{outcomes[outcome]:,}", _share(outcomes[outcome] / n))
                for outcome, words in OUTCOME_WORDS.items()
            ],
        ),
    )


def sides_figure(balance: SideBalance) -> str:
    """Whether people favour a side, whatever stands there."""
    n, share = balance.left + balance.right, balance.share_left
    if n == 0:
        return figure("No side was chosen yet", name="sides", units="Share of A", plot=_nothing())
    if balance.p_value >= 0.05:
        title = "Neither side is favoured beyond chance"
    else:
        title = f"People choose side {'A' if share.estimate > 0.5 else 'B'} more often than chance"
    return figure(
        title,
        name="sides",
        units=f"Share of A among choices of a side; which answer is A is random. n = {n:,}",
        plot=intervals(
            [("A chosen", share, _share(share.estimate))],
            ticks=PERCENT_TICKS,
        ),
        table=Table(
            head=("A chosen", "B chosen", "95 % interval for A", "p (exact test)"),
            rows=[
                (
                    f"{balance.left:,}",
                    f"{balance.right:,}",
                    f"{_share(share.low)} to {_share(share.high)}",
                    f"{balance.p_value:.2g}",
                )
            ],
        ),
    )


def reasons_figure(reasons: Sequence[ReasonCount]) -> str:
    """Why people chose as they did."""
    words = dict(REASONS)
    known = [(words.get(reason.reason, reason.reason), reason.n) for reason in reasons]
    if not known:
        return figure("No reasons were given yet", name="reasons", units="Votes", plot=_nothing())
    top = known[0][1]
    return figure(
        f"The most frequent reason: {known[0][0].lower()}",
        name="reasons",
        units=f"Votes that gave the reason. n = {sum(n for _, n in known):,}",
        plot=bars([(name, n / top, f"{n:,}") for name, n in known], ticks=("0", f"{top:,} votes")),
        table=Table(head=("Reason", "Votes"), rows=[(name, f"{n:,}") for name, n in known]),
    )


def adapters_figure(
    cards: Sequence[AdapterCard], *, live: str | None, problems: Mapping[str, str]
) -> str:
    """Every version with its training numbers, newest first, and which one is live."""
    title = f"{live or 'The base model'} answers now"
    if not cards:
        return figure(
            title,
            name="versions",
            units="No version has been trained yet; the first night that learns enough makes one.",
            plot="",
            is_wide=True,
        )
    head = (
        "Version",
        "Made",
        "From",
        "Pairs",
        "Held-out votes agreed",
        "Questions right",
        "Words per answer",
        "Loss",
    )
    rows = [
        (
            f"{card.version} · live" if card.version == live else card.version,
            _moment(card.created_at),
            card.parent or "base model",
            f"{card.n_pairs:,}",
            *_measured(card.metrics),
        )
        for card in reversed(cards)
    ]
    refused = "".join(
        notice(f"{version} is not served: {why}", kind="error") for version, why in problems.items()
    )
    return figure(
        title,
        name="versions",
        units=f"Adapter versions with their training numbers. n = {len(cards):,}",
        plot=table_markup(Table(head=head, rows=rows)) + refused,
        is_wide=True,
    )


def _measured(metrics: Mapping[str, float]) -> tuple[str, str, str, str]:
    """What the night measured of a version, each in words; empty where it did not."""

    def told(words: str, *names: str) -> str:
        known = [metrics.get(name) for name in names]
        return "" if None in known else words.format(*known)

    agreed = told("{:.0%} of {:.0f}", "held_out_agreement", "held_out_n")
    return (
        agreed.replace("%", " %"),
        told(
            "{:.0f} of {:.0f}, {:.0f} before",
            "questions_right_after",
            "questions_n",
            "questions_right_before",
        ),
        told("{:.0f}, {:.0f} before", "words_after", "words_before"),
        told("{:.2f}, {:.2f} at first", "last_loss", "first_loss"),
    )


def nights_figure(reports: Sequence[RunReport]) -> str:
    """The last nights in plain words, with the training curve of each."""
    if not reports:
        return figure(
            "No night has run yet",
            name="nights",
            units="A night trains on the choices, tests the result, and publishes it if better.",
            plot="",
            is_wide=True,
        )
    newest = reports[0]
    shown = "".join(
        _night_markup(report, is_open=report is newest) for report in reports[:N_NIGHTS_SHOWN]
    )
    return figure(
        f"The last night was {DECISION_WORDS[newest.decision]}",
        name="nights",
        units=f"Newest first. n = {len(reports):,}",
        plot=shown,
        is_wide=True,
    )


def night_markup(now: RunProgress | None, *, is_running: bool) -> str:
    """How far the night is that runs now; empty when none does."""
    if not is_running:
        return ""
    if now is None:
        return progress("The training is starting …", None)
    left = "" if now.eta_s is None else f", {_duration(now.eta_s)} left"
    return progress(f"{STAGE_WORDS[now.stage]}: {now.message}{left}", now.fraction)


def _night_markup(report: RunReport, *, is_open: bool) -> str:
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in report.reasons)
    key = next((name for name in ("margin", "accuracy", "loss") if _has(report, name)), None)
    drawn = ""
    if key is not None:
        points = [(point["step"], point[key]) for point in report.curve if key in point]
        drawn = f'<p class="sl-quiet">{text(_metric_name(key))} by training step</p>' + curve(
            points, x_words="step", y_words="nats" if key == "margin" else key
        )
    samples = (
        table_markup(
            Table(
                head=("Question", "Before", "After"),
                rows=[
                    (sample.get("question", ""), sample.get("before", ""), sample.get("after", ""))
                    for sample in report.samples[:3]
                ],
            )
        )
        if report.samples
        else ""
    )
    return (
        f'<details class="sl-night"{" open" if is_open else ""}><summary>'
        f"{text(_moment(report.started_at))}: {text(report.summary)}</summary>"
        f'<ul class="sl-report">{reasons}</ul>{drawn}{samples}</details>'
    )


def _has(report: RunReport, name: str) -> bool:
    return sum("step" in point and name in point for point in report.curve) >= 2


def _versions_finding(result: VersionResult) -> str:
    other, rate = result.opponent or "the base model", result.win_rate
    if rate.low > 0.5:
        return f"People prefer {result.version} to {other}: it won {_share(rate.estimate)}"
    if rate.high < 0.5:
        return f"People prefer {other} to {result.version}, which won {_share(rate.estimate)}"
    return f"It is not settled yet whether {result.version} is better than {other}"


def _nothing() -> str:
    return (
        '<p class="sl-quiet">Nothing to draw yet. '
        "Compare two answers in Ask, and it starts here.</p>"
    )


def _share(value: float) -> str:
    return f"{round(100 * value)} %"


def _metric_name(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _day(iso: str) -> str:
    day = date.fromisoformat(iso)
    return f"{day.day} {day:%b}"


def _moment(iso: str) -> str:
    try:
        moment = datetime.fromisoformat(iso).astimezone()
    except ValueError:
        return iso
    return f"{moment.day} {moment:%b %H:%M}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(round(seconds / 10) * 10, 10):.0f} s"
    return f"about {seconds / 60:.0f} min"
