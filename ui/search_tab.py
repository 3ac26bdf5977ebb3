"""Search: words or a picture in, pictures out; one picture large, with what can be done with it."""

import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from core.errors import UserError
from core.types import (
    GalleryPicture,
    IndexProgress,
    IndexReport,
    Picture,
    SearchHit,
    TextHit,
)
from ui.errors import shows_user_errors
from ui.markup import gallery_url, notice, picture_url, progress, script, text

EXAMPLES = ("a cat", "something to drink", "a rocket launch", "flowers", "an old coin", "weather")
# A hit fits when it reaches this share of the best score, and this score at least; the others stand
# below the divider as "more that may". Chosen by eye on eight searches of the shipped gallery.
FITS_SHARE, FITS_SCORE = 0.63, 0.35
LIMIT = 24
N_SAMPLES = 18  # pictures to look at before the first search
NEAREST_TEXTS = 12
_VERBS = {"ask": "ask_about", "similar": "find_similar", "illustrate": "illustrate"}
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class RecordBehaviour(Protocol):
    """Keeps what was done in a search, if the voter agreed; whether it was kept."""

    def __call__(
        self,
        voter: str,
        kind: Any,
        *,
        search_id: str | None = None,
        query: str | None = None,
        picture_id: str | None = None,
        position: int | None = None,
        shown: Sequence[str] = (),
    ) -> bool: ...


class RecordConsent(Protocol):
    """Keeps that a voter agreed, and to which wording."""

    def __call__(self, voter: str, *, version: str, is_given: bool) -> None: ...


class AddFolder(Protocol):
    """Indexes a folder of the person's own."""

    def __call__(
        self,
        folder: Path,
        *,
        progress: Callable[[IndexProgress], None],
        cancel: threading.Event,
    ) -> IndexReport: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchActions:
    """What the Search tab can do; the tab knows no more of the app than this."""

    search_text: Callable[..., list[SearchHit]]
    search_picture: Callable[..., list[SearchHit]]
    nearest_texts: Callable[..., list[TextHit]]
    samples: Callable[[int], Sequence[GalleryPicture]]
    add_upload: Callable[[str], Picture]
    picture_from_gallery: Callable[[str], Picture]
    gallery_picture: Callable[[str], GalleryPicture]
    gallery_size: Callable[[], int]
    index_state: Callable[[], IndexProgress | None]
    add_folder: AddFolder
    record_behaviour: RecordBehaviour
    record_consent: RecordConsent
    is_owner: Callable[[gr.Request, str], bool]
    consent_version: str
    max_words_chars: int


def build_search_tab(
    actions: SearchActions, *, page: gr.Blocks, voter: gr.Textbox, owner_key: gr.Textbox
) -> gr.HTML:
    """Lay out the tab and wire it. The results component triggers "verb" with a name and an id.

    Args:
        voter: holds the browser's voter token.
        owner_key: holds the owner's key where one was given.
    """
    handlers = _Handlers(actions)

    def record_thumb(payload: object) -> dict[str, object]:
        return handlers.record_thumb(payload)

    def record_open(payload: object) -> dict[str, object]:
        return handlers.record_open(payload)

    query = gr.MultimodalTextbox(
        label="Search",
        show_label=False,
        placeholder="Search with words, or paste or drop a picture",
        sources=["upload"],
        file_types=["image"],
        submit_btn="Search",
        max_plain_text_length=actions.max_words_chars,
        max_lines=3,
        elem_id="search-query",
    )
    indexing = gr.HTML(apply_default_css=False, elem_id="index-progress")
    results = gr.HTML(
        {"state": "empty"},
        html_template='<div class="sl-search"></div>',
        js_on_load=script("search.js"),
        apply_default_css=False,
        server_functions=[record_thumb, record_open],
        elem_id="search-results",
    )
    for run in (
        query.submit(handlers.on_search, [query, voter], [query, results], **_PRIVATE),
        results.example(handlers.on_example, voter, [query, results], **_PRIVATE),
        results.verb(handlers.on_verb, voter, [query, results], **_PRIVATE),
    ):
        run.failure(handlers.on_broken, None, results, **_PRIVATE)
    timer = gr.Timer(1.0, active=False)
    timer.tick(handlers.on_tick, results, [indexing, timer, results], **_PRIVATE)
    page.load(handlers.on_load, None, [timer, results], **_PRIVATE)
    _build_own_folder(handlers, page=page, owner_key=owner_key, timer=timer)
    return results


def _build_own_folder(
    handlers: "_Handlers", *, page: gr.Blocks, owner_key: gr.Textbox, timer: gr.Timer
) -> None:
    with gr.Accordion("Add a folder of your own pictures", open=False, visible=False) as own:
        folder = gr.Textbox(
            label="Folder on this machine",
            info="Every picture in it and below it is read, cleaned and indexed; nothing leaves "
            "this machine. Run it again to add what is new and remove what is gone.",
            placeholder="/home/me/Pictures",
            max_lines=1,
            elem_id="own-folder",
        )
        with gr.Row(elem_classes="sl-actions"):
            index_button = gr.Button("Index this folder", variant="primary")
            cancel_button = gr.Button("Stop", interactive=False)
        state = gr.HTML(apply_default_css=False, elem_id="own-folder-state")
    index_button.click(
        shows_user_errors(handlers.on_index),
        [folder, owner_key],
        [state, index_button, cancel_button],
        concurrency_limit=1,
        **_PRIVATE,
    )
    cancel_button.click(handlers.on_cancel, owner_key, None, queue=False, **_PRIVATE)
    gr.on([page.load, owner_key.change], handlers.on_owner, owner_key, own, **_PRIVATE)


@dataclass(frozen=True, slots=True)
class _Handlers:
    actions: SearchActions
    folder_runs: dict[str, threading.Event] = field(default_factory=dict)  # at most one: "running"

    def on_search(self, query: object, voter: str) -> Iterator[Any]:
        words, files = _read_query(query)
        if not words and not files:
            yield gr.skip(), self._start_page()
            return
        # An upload is deleted once it is cleaned, so the field must not point to it any more.
        yield {"text": words, "files": []}, {"state": "working", "sentence": "Looking …"}
        try:
            if files:
                picture = self.actions.add_upload(files[0])
                value = self._by_picture(picture, picture_url(picture))
            else:
                value = self._by_words(words)
            yield gr.skip(), self._remembered(value, voter)
        except UserError as error:
            yield gr.skip(), _failed(str(error))

    def on_example(self, voter: str, event: gr.EventData) -> Iterator[Any]:
        words = str(_part(event._data, "words") or "")
        yield from self.on_search({"text": words}, voter)

    def on_verb(self, voter: str, event: gr.EventData) -> Iterator[Any]:
        try:
            name, gallery_id = read_verb(event)
            picture = self.actions.gallery_picture(gallery_id)
            self.actions.record_behaviour(voter or "page", _VERBS[name], picture_id=picture.id)
            if name != "similar":
                yield gr.skip(), gr.skip()
                return
            yield {"text": "", "files": []}, {"state": "working", "sentence": "Looking …"}
            stored = self.actions.picture_from_gallery(picture.id)
            value = self._by_picture(stored, gallery_url(picture))
            yield gr.skip(), self._remembered(value, voter)
        except UserError as error:
            yield gr.skip(), _failed(str(error))

    def on_broken(self) -> dict[str, Any]:
        return _failed("Something broke on the server; it was not your doing. Search once more.")

    def on_load(self) -> tuple[gr.Timer, dict[str, Any]]:
        return gr.Timer(active=self._is_preparing()), self._start_page()

    def on_tick(self, results: object) -> Any:
        state = self.actions.index_state()
        if state is not None:
            message = f"Preparing the gallery: {state.done:,} of {state.total:,} pictures"
            share = state.done / state.total if state.total else None
            return progress(message, share), gr.skip(), gr.skip()
        if self._is_preparing():
            return progress("Opening the gallery …", None), gr.skip(), gr.skip()
        is_untouched = _part(results, "state") == "empty"
        start_page = self._start_page() if is_untouched else gr.skip()
        return "", gr.Timer(active=False), start_page

    def on_owner(self, key: str, request: gr.Request) -> gr.Accordion:
        return gr.Accordion(visible=self.actions.is_owner(request, key))

    def on_index(self, folder: str, key: str, request: gr.Request) -> Iterator[Any]:
        self._check_owner(key, request)
        idle = gr.Button(interactive=True), gr.Button(interactive=False)
        busy = gr.Button(interactive=False), gr.Button(interactive=True)
        if not folder.strip():
            yield notice("No folder was given. Type the path of one.", kind="error"), *idle
            return
        cancel = self.folder_runs["running"] = threading.Event()
        yield progress("Reading the folder …", None), *busy
        try:
            for state in self._indexed(Path(folder.strip()).expanduser(), cancel):
                yield state, *busy
            yield gr.skip(), *idle
        except UserError as error:
            yield notice(str(error), kind="error"), *idle
        finally:
            cancel.set()  # a closed page must not leave an hour of work behind

    def on_cancel(self, key: str, request: gr.Request) -> None:
        self._check_owner(key, request)
        if "running" in self.folder_runs:
            self.folder_runs["running"].set()

    def record_thumb(self, payload: object) -> dict[str, object]:
        kind = "thumb_up" if _part(payload, "up") is True else "thumb_down"
        try:
            about = self._about(payload)
            if _part(payload, "agrees") is True:
                self.actions.record_consent(
                    about["voter"], version=self.actions.consent_version, is_given=True
                )
            is_kept = self.actions.record_behaviour(kind=kind, **about)
        except UserError as error:
            return {"kept": False, "ask": False, "why": str(error)}
        return {"kept": is_kept, "ask": not is_kept}

    def record_open(self, payload: object) -> dict[str, object]:
        try:
            return {"kept": self.actions.record_behaviour(kind="click", **self._about(payload))}
        except UserError:
            return {"kept": False}  # opening a picture must work without it

    def _by_words(self, words: str) -> dict[str, Any]:
        limit = self.actions.max_words_chars
        if len(words) > limit:
            raise UserError(
                f"The search has {len(words):,} characters and the limit is {limit:,}. "
                "Use fewer words."
            )
        return found(self.actions.search_text(words, limit=LIMIT), query=words)

    def _by_picture(self, picture: Picture, url: str) -> dict[str, Any]:
        hits = self.actions.search_picture(picture, limit=LIMIT)
        near = self.actions.nearest_texts(picture, limit=NEAREST_TEXTS)
        return found(hits, query="", words=near, picture=url)

    def _remembered(self, value: dict[str, Any], voter: str) -> dict[str, Any]:
        self.actions.record_behaviour(
            voter or "page",
            "impression",
            search_id=value["search_id"],
            query=value["query"],
            shown=[hit["id"] for hit in (*value["fits"], *value["more"])],
        )
        return value

    def _indexed(self, folder: Path, cancel: threading.Event) -> Iterator[str]:
        """The run's progress as it comes, then its report."""
        steps: queue.SimpleQueue[IndexProgress | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(max_workers=1) as pool:
            run = pool.submit(self.actions.add_folder, folder, progress=steps.put, cancel=cancel)
            run.add_done_callback(lambda _: steps.put(None))
            try:
                while (step := steps.get()) is not None:
                    words = f"{step.done:,} of {step.total:,}: {step.current}"
                    yield progress(words, step.done / step.total if step.total else None)
            finally:
                cancel.set()
            yield report_in_words(run.result())

    def _about(self, payload: object) -> dict[str, Any]:
        voter, picture_id = _part(payload, "voter"), _part(payload, "id")
        if not isinstance(voter, str) or not 1 <= len(voter) <= 200:
            raise UserError("This was not kept: the page sent no voter. Load the page again.")
        picture = self.actions.gallery_picture(str(picture_id))
        position, search_id = _part(payload, "position"), _part(payload, "search_id")
        return {
            "voter": voter,
            "picture_id": picture.id,
            "position": position if isinstance(position, int) and position >= 0 else None,
            "search_id": search_id[:64] if isinstance(search_id, str) else None,
            "query": str(_part(payload, "query") or "")[: self.actions.max_words_chars],
        }

    def _check_owner(self, key: str, request: gr.Request) -> None:
        if not self.actions.is_owner(request, key):
            raise UserError("Only the owner of this machine can index a folder of it.")

    def _is_preparing(self) -> bool:
        return self.actions.index_state() is not None or self.actions.gallery_size() == 0

    def _start_page(self) -> dict[str, Any]:
        size = self.actions.gallery_size()
        shown = [
            _picture_value(picture, position)
            for position, picture in enumerate(self.actions.samples(N_SAMPLES))
        ]
        if size:
            sentence = f"{size:,} pictures, found by meaning, not by exact words."
        else:
            sentence = "The gallery is being prepared; the first pictures appear in a moment."
        return {"state": "empty", "sentence": sentence, "examples": list(EXAMPLES), "fits": shown}


def found(
    hits: Sequence[SearchHit],
    *,
    query: str,
    words: Sequence[TextHit] = (),
    picture: str | None = None,
) -> dict[str, Any]:
    """What the page shows of a search: those that fit, a divider, and more that may."""
    best = max((hit.score for hit in hits), default=0.0)
    values = [_hit_value(hit, position, best) for position, hit in enumerate(hits)]
    least = max(FITS_SHARE * best, FITS_SCORE)
    n_fit = sum(hit.score >= least for hit in hits)
    return {
        "state": "result",
        "sentence": _result_line(n_fit, query),
        "search_id": uuid.uuid4().hex,
        "query": query,
        "picture": picture,
        "words": [{"text": near.text, "kind": near.kind} for near in words],
        "fits": values[:n_fit],
        "more": values[n_fit:],
        "examples": [] if n_fit else list(EXAMPLES),
    }


def report_in_words(report: IndexReport) -> str:
    """What an indexing run did, with the files it could not read by name."""
    sentence = (
        f"{'Stopped. ' if report.was_cancelled else ''}{report.added:,} added, "
        f"{report.unchanged:,} already there, {report.removed:,} removed."
    )
    if not report.unreadable:
        return notice(sentence)
    rows = "".join(
        f"<tr><td>{text(name)}</td><td>{text(why)}</td></tr>" for name, why in report.unreadable
    )
    return (
        notice(f"{sentence} {len(report.unreadable):,} could not be read:")
        + f'<div class="sl-table-wrap"><table class="sl-table"><thead><tr><th>File</th><th>Why</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def read_verb(event: gr.EventData) -> tuple[str, str]:
    """The verb pressed on a picture and the picture's id; anyone may send anything here."""
    name, gallery_id = _part(event._data, "name"), _part(event._data, "id")
    if name not in _VERBS or not isinstance(gallery_id, str):
        raise UserError("The page sent something unexpected. Load it again.")
    return str(name), gallery_id


def _failed(why: str) -> dict[str, Any]:
    return {"state": "error", "sentence": why, "examples": list(EXAMPLES)}


def _result_line(n_fit: int, query: str) -> str:
    about = f"“{query if len(query) <= 80 else query[:79] + '…'}”" if query else "this picture"
    if n_fit == 0:
        return f"Nothing fits {about} well. Say it in other words, or try one of these."
    return f"{n_fit} that {'fits' if n_fit == 1 else 'fit'} {about}"


def _hit_value(hit: SearchHit, position: int, best: float) -> dict[str, object]:
    # The bar compares the results with each other; a cosine says little to a person.
    share = round(max(hit.score, 0.0) / best, 3) if best > 0 else 0.0
    return {**_picture_value(hit.picture, position), "score": share}


def _picture_value(picture: GalleryPicture, position: int) -> dict[str, object]:
    return {
        "id": picture.id,
        "url": gallery_url(picture),
        "caption": picture.caption,
        "labels": list(picture.labels),
        "album": picture.album,
        "credit": picture.credit,
        "position": position,
    }


def _read_query(query: object) -> tuple[str, list[str]]:
    words, files = _part(query, "text"), _part(query, "files")
    return (
        words.strip() if isinstance(words, str) else "",
        [file for file in files if isinstance(file, str)] if isinstance(files, list) else [],
    )


def _part(payload: object, name: str) -> object:
    return payload.get(name) if isinstance(payload, Mapping) else None
