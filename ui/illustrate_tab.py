"""Illustrate: a text or an answer becomes a plan that can be edited, and the plan a storyboard."""

import base64
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import UserError
from core.types import Storyboard, StoryboardPlan
from ui.markup import notice, progress, text
from ui.picture_half import DrawPicture, build_picture_half

EXAMPLES = (
    "Explain how a black hole forms",
    "Explain the water cycle",
    "First the bread is sliced. Then it is toasted. Finally butter and honey are spread on it.",
)
STRUCTURE_WORDS = {
    "sequence": "one after the other",
    "cycle": "round and round",
    "parts": "parts of a whole",
    "comparison": "two sides compared",
}
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_EMPTY_BOARD = (
    '<div class="sl-board-empty"><p>The drawing appears here: three to seven steps, each with a '
    "pictogram and a short caption. Choose an example or write your own text.</p></div>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is drawn: the person's own text, or the answer to what they asked for."""

    text: str
    source: str = ""  # who says so; empty for the person's own words
    is_finished: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IllustrateActions:
    """What the Illustrate tab can do; the tab knows no more of the app than this."""

    explain: Callable[[str], Iterator[Explanation]]  # a request is answered first; it streams
    plan: Callable[[str, str], StoryboardPlan]  # (explanation, what the person typed)
    recaption: Callable[[StoryboardPlan, Sequence[str]], StoryboardPlan]
    draw: Callable[[StoryboardPlan], Storyboard]
    max_text_chars: int
    draw_picture: DrawPicture | None = None  # None where the preset has no pipeline for it

    def illustrate(self, wanted: str) -> Storyboard:
        """Answer where it is a request, plan and draw, in one go."""
        *_, explained = self.explain(wanted)
        return self.draw(self.plan(explained.text, wanted))


def build_illustrate_tab(actions: IllustrateActions) -> gr.Textbox:
    """Lay out the tab and wire it; returns the text field, which other tabs fill."""
    handlers = _Handlers(actions)
    plan = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=280):
            wanted = gr.Textbox(
                label="What to draw",
                placeholder="A request, such as “Explain how rain forms”, or a text of your own",
                lines=4,
                max_lines=14,
                elem_id="illustrate-text",
            )
            with gr.Row(elem_classes="sl-suggestions"):
                examples = [gr.Button(words, size="sm") for words in EXAMPLES]
            with gr.Row(elem_classes="sl-actions"):
                draw = gr.Button("Draw", variant="primary", elem_id="draw-button")
                stop = gr.Button("Stop", interactive=False)
            explanation = gr.HTML(apply_default_css=False, elem_id="explanation")
            message = gr.HTML(apply_default_css=False, elem_id="illustrate-message")
            with gr.Column(visible=False) as plan_box:
                captions = gr.Textbox(
                    label="The plan: what must be in it",
                    info="One step per line, three to seven. Change, add or remove lines.",
                    lines=5,
                    max_lines=18,
                    elem_id="plan-captions",
                )
                with gr.Row(elem_classes="sl-actions"):
                    redraw = gr.Button("Draw the changed plan", elem_id="redraw-button")
        with gr.Column(scale=7, min_width=300):
            board = gr.HTML(_EMPTY_BOARD, apply_default_css=False, elem_id="storyboard")
            with gr.Row(visible=False, elem_classes="sl-actions") as downloads:
                svg_file = gr.DownloadButton("Download SVG", size="sm", elem_id="download-svg")
                png_file = gr.DownloadButton("Download PNG", size="sm", elem_id="download-png")
            if actions.draw_picture is not None:
                build_picture_half(actions.draw_picture, wanted)

    shown = [explanation, message, plan, captions, plan_box, board, downloads, svg_file, png_file]
    drawings: list[Any] = [
        trigger(handlers.on_draw, wanted, [*shown, stop], **_PRIVATE)
        for trigger in (draw.click, wanted.submit)
    ]
    for button in examples:
        chosen = button.click(lambda words: words, button, wanted, **_PRIVATE)
        drawings.append(chosen.then(handlers.on_draw, wanted, [*shown, stop], **_PRIVATE))
    for run in drawings:
        run.failure(handlers.on_broken, None, [message, stop], **_PRIVATE)
    stop.click(handlers.on_stop, None, [message, stop], cancels=drawings, **_PRIVATE)
    redraw.click(handlers.on_redraw, [plan, captions], shown, **_PRIVATE)
    return wanted


@dataclass(frozen=True, slots=True)
class _Handlers:
    actions: IllustrateActions

    def on_draw(self, wanted: str) -> Iterator[list[Any]]:
        busy, idle = gr.Button(interactive=True), gr.Button(interactive=False)
        try:
            wanted = self._checked(wanted)
            yield [*_shown(message=progress("Reading the text …", None), explanation=""), busy]
            explained = Explanation(text=wanted)
            for explained in self.actions.explain(wanted):
                waits = "" if explained.is_finished else progress("Answering first …", None)
                yield [*_shown(explanation=_explained(explained), message=waits), busy]
            yield [*_shown(message=progress("Planning the steps …", None)), busy]
            plan = self.actions.plan(explained.text, wanted)
            yield [*self._drawn(plan), idle]
        except UserError as error:
            yield [*_shown(message=notice(str(error), kind="error")), idle]

    def on_stop(self) -> tuple[str, gr.Button]:
        return notice("Stopped."), gr.Button(interactive=False)

    def on_broken(self) -> tuple[str, gr.Button]:
        why = "Something broke on the server; it was not your doing. Draw once more."
        return notice(why, kind="error"), gr.Button(interactive=False)

    def on_redraw(self, plan: StoryboardPlan | None, captions: str) -> Iterator[list[Any]]:
        lines = [line.strip() for line in captions.splitlines() if line.strip()]
        try:
            if plan is None:
                raise UserError("There is no plan yet. Draw something first.")
            yield _shown(message=progress("Drawing …", None))
            yield self._drawn(self.actions.recaption(plan, lines))
        except UserError as error:
            yield _shown(message=notice(str(error), kind="error"))

    def _drawn(self, plan: StoryboardPlan) -> list[Any]:
        board = self.actions.draw(plan)
        svg, png = _files(board)
        return _shown(
            message="",
            plan=plan,
            captions="\n".join(step.caption for step in plan.steps),
            plan_box=gr.Column(visible=True),
            board=board_markup(board),
            downloads=gr.Row(visible=True),
            svg_file=gr.DownloadButton(value=svg),
            png_file=gr.DownloadButton(value=png),
        )

    def _checked(self, wanted: str) -> str:
        wanted, limit = wanted.strip(), self.actions.max_text_chars
        if not wanted:
            raise UserError("There is nothing to draw yet. Write a text, or choose an example.")
        if len(wanted) > limit:
            raise UserError(
                f"The text has {len(wanted):,} characters and the limit is {limit:,}. Shorten it."
            )
        return wanted


def board_markup(board: Storyboard) -> str:
    """The drawing as an image: what an SVG may carry besides shapes stays without effect there."""
    plan = board.plan
    credit = f" {text(plan.credit)}." if plan.credit else ""
    return (
        '<figure class="sl-board"><picture>'
        f'<source media="(max-width: 760px)" srcset="{_data_url(board.svg_narrow)}">'
        f'<img src="{_data_url(board.svg)}" alt="{text(board.alt_text)}"></picture>'
        f'<figcaption class="sl-quiet">{len(plan.steps)} steps, '
        f"{STRUCTURE_WORDS[plan.structure]}.{credit}</figcaption></figure>"
    )


def _explained(explained: Explanation) -> str:
    if not explained.source:
        return ""
    caret = "" if explained.is_finished else '<span class="sl-caret" aria-hidden="true"></span>'
    return (
        f'<blockquote class="sl-explanation"><p>{text(explained.text)}{caret}</p>'
        f'<p class="sl-quiet">{text(explained.source)}</p></blockquote>'
    )


def _files(board: Storyboard) -> tuple[str, str]:
    """The drawing as two files with a name a person recognises, where Gradio may serve them."""
    name = re.sub(r"[^a-z0-9]+", "-", board.plan.title.lower()).strip("-")[:60] or "storyboard"
    folder = Path(tempfile.mkdtemp(prefix="sightloop-"))
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    svg.write_text(board.svg, encoding="utf-8")
    png.write_bytes(board.png)
    return str(svg), str(png)


def _data_url(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"


def _shown(**values: Any) -> list[Any]:
    """Values for the components of a drawing, unchanged where not named."""
    names = (
        "explanation", "message", "plan", "captions", "plan_box",
        "board", "downloads", "svg_file", "png_file",
    )  # fmt: skip
    return [values.get(name, gr.skip()) for name in names]
