"""Small pieces of HTML made on the server. Every text that is not ours passes through `text()`.

Gradio's templates are spliced into JavaScript source, where even an escaped `{{x}}` may carry
`${...}` into an evaluated string. So no text of a person or a model stands in a template: it is
escaped here and handed over as `${value}`, which is not evaluated again, or it is set by our own
scripts with textContent.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from core.types import GalleryPicture, Label, Picture

HERE = Path(__file__).resolve().parent


def text(value: object) -> str:
    """`value` as it may stand between tags or inside a quoted attribute."""
    return escape(str(value), quote=True)


def script(name: str) -> str:
    """One of our scripts, for `js_on_load`."""
    return (HERE / name).read_text(encoding="utf-8")


def picture_url(picture: Picture) -> str:
    """Where the page finds a person's cleaned picture; relative, so that any root path works."""
    return f"sightloop/pictures/{quote(picture.id, safe='')}"


def gallery_url(picture: GalleryPicture) -> str:
    """Where the page finds an indexed picture."""
    return f"sightloop/gallery/{quote(picture.id, safe='')}"


def sure_in_words(confidence: float) -> str:
    """A probability as people say it."""
    if confidence >= 0.7:
        return "sure"
    if confidence >= 0.35:
        return "likely"
    if confidence >= 0.12:
        return "perhaps"
    return "a guess"


def label_group(title: str, labels: Iterable[Label]) -> str:
    """A titled list of labels, each with a thin bar and how sure the recogniser is."""
    rows = "".join(
        f'<li><span class="sl-label-word">{text(label.text)}</span>'
        f'<meter class="sl-meter" min="0" max="1" value="{label.confidence:.3f}"'
        f' aria-label="{text(label.text)}: {sure_in_words(label.confidence)}"></meter>'
        f'<span class="sl-quiet">{sure_in_words(label.confidence)}</span></li>'
        for label in labels
    )
    return f'<section class="sl-labels"><h3>{text(title)}</h3><ul>{rows}</ul></section>'


def notice(message: str, *, kind: str = "note") -> str:
    """One sentence set apart: kind is "note", "working" or "error"."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="sl-notice sl-{text(kind)}" role="{role}">{text(message)}</p>'


def progress(message: str, fraction: float | None) -> str:
    """What is being done, with a bar; a fraction of None is a bar that only moves."""
    value = "" if fraction is None else f' value="{min(max(fraction, 0.0), 1.0):.3f}"'
    return (
        f'<div class="sl-progress" role="status"><span>{text(message)}</span>'
        f'<progress max="1"{value} aria-label="{text(message)}"></progress></div>'
    )
