"""What stands around every tab: header, loop strip, footer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gradio as gr

from core.types import RunProgress, VersionResult
from ui.markup import text

SOURCE = "https://huggingface.co/spaces"
_MARK = (
    '<svg viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.6"'
    ' stroke-linecap="round" aria-hidden="true"><path d="M27.5 12.6A12.4 12.4 0 1 0 28.4 16"/>'
    '<path d="M28.6 6.4v6.4h-6.4"/><circle cx="16" cy="16" r="4.4" fill="currentColor"'
    ' stroke="none"/></svg>'
)
_THEME_SCRIPT = """
const { h, isDark, setDark } = window.sightloop;
const button = element.querySelector("[data-part='theme']");
function name() {
  const [sign, words] = isDark() ? ["☀", " Light"] : ["☾", " Dark"];
  button.replaceChildren(sign, h("span", { class: "sl-wide-only" }, words));
  button.setAttribute("aria-label", `${words.trim()} colours`);
}
button.addEventListener("click", () => { setDark(!isDark()); name(); });
name();
setTimeout(name, 600);
"""
# Gradio opens its documentation of the endpoints by its own button only, which is hidden.
_API_SCRIPT = """
function open() { document.querySelector("footer .show-api")?.click(); }
element.querySelector("[data-part='api']").addEventListener("click", (event) => {
  event.preventDefault();
  open();
});
const address = new URL(location.href);
if (address.searchParams.get("view") === "api") {
  address.searchParams.delete("view");
  history.replaceState(null, "", address);
  setTimeout(() => { open(); open(); }, 500); // Gradio takes it for open already, so twice
}
"""
# Each part of the strip opens its place in Insights.
_STRIP_SCRIPT = """
element.addEventListener("click", (event) => {
  const part = event.target.closest("[data-place]");
  if (!part) return;
  trigger("open", { place: part.dataset.place });
  let tries = 0;
  const look = () => {
    const place = document.getElementById("insights-" + part.dataset.place);
    if (place && place.offsetParent) place.scrollIntoView({ behavior: "smooth", block: "start" });
    else if (++tries < 30) setTimeout(look, 100);
  };
  look();
});
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """Where the loop from votes to a better model stands."""

    votes_today: int
    pairs_missing: int  # until the next night has enough
    night_at: str | None  # "03:00", or None where nights are started by hand
    night: RunProgress | None  # the one that runs now
    live: str | None  # adapter version; None for the base model
    results: Sequence[VersionResult]


def build_header(*, preset_title: str, preset_about: str) -> gr.HTML:
    """Wordmark, claim, preset chip and theme switch, in one line."""
    return gr.HTML(
        f'<header class="sl-header"><h1>{_MARK}Sightloop</h1>'
        '<p class="sl-claim">See, ask, draw, and teach it by choosing</p>'
        '<span class="sl-chip" tabindex="0" aria-describedby="sl-preset-tip">'
        f'{text(preset_title)}<span class="sl-tip" role="tooltip" id="sl-preset-tip">'
        f"{text(preset_about)}</span></span>"
        '<button type="button" class="sl-icon-button" data-part="theme">Theme</button></header>',
        js_on_load=_THEME_SCRIPT,
        apply_default_css=False,
        elem_id="header",
    )


def build_strip(state: Callable[[], LoopState], *, page: gr.Blocks) -> gr.HTML:
    """The loop in one line, read anew while the page is open. Triggers "open" with a place."""
    strip = gr.HTML("", js_on_load=_STRIP_SCRIPT, apply_default_css=False, elem_id="loop-strip")
    timer = gr.Timer(8.0)
    gr.on(
        [page.load, timer.tick],
        lambda: strip_markup(state()),
        None,
        strip,
        api_visibility="private",
        show_progress="hidden",
        queue=False,
    )
    return strip


def build_footer() -> gr.HTML:
    """Privacy in two sentences, and where to find the rest."""
    return gr.HTML(
        '<div class="sl-footer" role="contentinfo"><p>Pictures are kept without their metadata on '
        "the machine that runs this page, questions and answers only when you compare two. "
        "Votes are kept under a random name of this browser, and the model learns from them.</p>"
        '<nav aria-label="About"><a href="?view=api" data-part="api">API</a>'
        '<a href="sightloop/source">Source</a>'
        '<a href="sightloop/licences">Licences</a></nav></div>',
        js_on_load=_API_SCRIPT,
        apply_default_css=False,
    )


def strip_markup(state: LoopState) -> str:
    """The strip's three parts: votes today, what the night still needs, what is live."""
    parts = (
        ("votes", _votes(state)),
        ("nights", _night(state)),
        ("versions", _live(state)),
    )
    return (
        '<ol class="sl-strip" aria-label="How the loop stands">'
        + "".join(
            f'<li><button type="button" data-place="{place}">{words}</button></li>'
            for place, words in parts
        )
        + "</ol>"
    )


def _votes(state: LoopState) -> str:
    if state.votes_today == 0:
        return "<strong>No votes yet</strong> today"
    noun = "vote" if state.votes_today == 1 else "votes"
    return f"<strong>{state.votes_today:,} {noun}</strong> today"


def _night(state: LoopState) -> str:
    if state.night is not None:
        return f"<strong>training now</strong>: {text(state.night.message)}"
    which = "tonight’s training" if state.night_at else "the next training"
    if state.pairs_missing > 0:
        noun = "choice" if state.pairs_missing == 1 else "choices"
        return f"<strong>{state.pairs_missing:,} more {noun}</strong> until {which}"
    when = f" at {text(state.night_at)}" if state.night_at else ""
    return f"<strong>enough choices</strong> for {which}{when}"


def _live(state: LoopState) -> str:
    if state.live is None:
        return "live: <strong>the base model</strong>, not yet taught by votes"
    result = next((found for found in state.results if found.version == state.live), None)
    if result is None or result.win_rate.n == 0:
        return f"live: <strong>{text(state.live)}</strong>, not yet compared with its predecessor"
    rate = round(100 * result.win_rate.estimate)
    against = result.opponent or "the base model"
    return (
        f"live: <strong>{text(state.live)}</strong> "
        f"(won {rate} % of {result.win_rate.n:,} battles against {text(against)})"
    )
