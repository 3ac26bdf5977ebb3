"""Illustrate, the second half: a picture by a diffusion pipeline, where the preset has one."""

import base64
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import UserError
from core.types import DrawingStep, DrawnPicture
from ui.markup import notice, progress, text

DrawPicture = Callable[..., Iterator[DrawingStep]]  # (prompt, *, seed)

MAX_SEED = 2**31 - 1
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build_picture_half(draw_picture: DrawPicture, wanted: gr.Textbox) -> None:
    """Lay out and wire the fields that draw what stands in `wanted` as a picture."""
    handlers = _Handlers(draw_picture)
    with gr.Row(elem_classes="sl-actions"):
        draw = gr.Button("Draw a picture of it", elem_id="draw-picture-button")
        stop = gr.Button("Stop", interactive=False)
    seed = gr.Number(
        label="Seed",
        info="The same text and seed draw the same picture. Empty: a new one each time.",
        value=None,
        precision=0,
        minimum=0,
        maximum=MAX_SEED,
    )
    picture = gr.HTML(apply_default_css=False, elem_id="drawn-picture")
    file = gr.DownloadButton("Download PNG", size="sm", visible=False)
    shown = [picture, seed, file, stop]
    drawing = draw.click(handlers.on_draw, [wanted, seed], shown, **_PRIVATE)
    drawing.failure(handlers.on_broken, None, [picture, stop], **_PRIVATE)
    stop.click(handlers.on_stop, None, [picture, stop], cancels=[drawing], **_PRIVATE)


@dataclass(frozen=True, slots=True)
class _Handlers:
    draw_picture: DrawPicture

    def on_draw(self, wanted: str, seed: float | None) -> Iterator[list[Any]]:
        busy, idle = gr.Button(interactive=True), gr.Button(interactive=False)
        chosen = random.randrange(MAX_SEED) if seed is None else int(seed)
        try:
            yield [progress("Getting ready to draw …", None), gr.skip(), gr.skip(), busy]
            for step in self.draw_picture(wanted, seed=chosen):
                if step.picture is None:
                    share = step.done / step.total
                    waits = progress(f"Drawing, step {step.done} of {step.total}", share)
                    yield [waits, gr.skip(), gr.skip(), busy]
                else:
                    file = gr.DownloadButton(value=_file(step.picture), visible=True)
                    yield [_markup(step.picture, wanted), chosen, file, idle]
        except UserError as error:
            yield [notice(str(error), kind="error"), gr.skip(), gr.skip(), idle]

    def on_stop(self) -> tuple[str, gr.Button]:
        return notice("Stopped."), gr.Button(interactive=False)

    def on_broken(self) -> tuple[str, gr.Button]:
        why = "Something broke on the server; it was not your doing. Draw once more."
        return notice(why, kind="error"), gr.Button(interactive=False)


def _markup(picture: DrawnPicture, wanted: str) -> str:
    made = picture.candidate
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"
    return (
        f'<figure class="sl-board"><img src="{source}" alt="Picture of: {text(wanted[:200])}">'
        f'<figcaption class="sl-quiet">Drawn by {text(made.model_id)} with seed {made.seed}.'
        "</figcaption></figure>"
    )


def _file(picture: DrawnPicture) -> str:
    # Gradio copies the file into its cache and serves that.
    file = Path(tempfile.mkdtemp(prefix="sightloop-")) / f"picture-{picture.candidate.seed}.png"
    file.write_bytes(picture.png)
    return str(file)
