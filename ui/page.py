"""The whole page: frame and tabs, each handed what it can do and nothing else."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from core.types import GalleryPicture, Picture, RowSpec
from ui.api import ApiActions, build_api
from ui.ask_tab import AskActions, PageTurn, build_ask_tab
from ui.frame import LoopState, build_footer, build_header, build_strip
from ui.illustrate_tab import Explanation, IllustrateActions, build_illustrate_tab
from ui.insights_tab import InsightsActions, build_insights_tab
from ui.rooms import (
    Behaviour,
    ComparisonFacts,
    LimitFacts,
    NightlyFacts,
    Nights,
    Numbers,
    PresetFacts,
    SettingsFacts,
    Sight,
    Votes,
)
from ui.search_tab import SearchActions, build_search_tab, read_verb
from ui.server import owner_check

NOTE_SOURCE = "From Sightloop’s reference notes, written and checked by hand."
MODEL_SOURCE = "Written by the language model just now. Check it before you teach it."
# The first pictures a visitor sees: the nearest one to each of these, from the shipped albums.
SAMPLE_SEARCHES = (
    ("a tabby cat", "photographs"), ("an orange flower", "photographs"),
    ("a rocket before launch", "photographs"), ("a cup of coffee", "photographs"),
    ("an astronaut", "photographs"), ("galaxies", "photographs"),
    ("lighthouse or temple building", "photographs"), ("colour wheel", "photographs"),
    ("old coins", "photographs"), ("bricks", "photographs"),
    ("horse", "photographs"), ("stained tissue", "photographs"),
    ("volcano", "pictograms"), ("octopus", "pictograms"), ("lighthouse", "pictograms"),
    ("watermelon", "pictograms"), ("sailboat", "pictograms"), ("parrot", "pictograms"),
)  # fmt: skip
KEPT_FOR_S = 3600  # uploads and copies in Gradio's cache
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the pages say and keep to: sections of the settings, and how the app was started."""

    preset: PresetFacts
    limits: LimitFacts
    comparison: ComparisonFacts
    nightly: NightlyFacts
    is_shared: bool = False  # through a tunnel, whose visitors all seem to come from this machine
    owner_key: str = ""  # empty where the owner is only whoever sits at the machine

    @classmethod
    def of(cls, settings: SettingsFacts, *, is_shared: bool, owner_key: str) -> "Facts":
        """The facts of the settings and of how the app was started."""
        return cls(
            preset=settings.active,
            limits=settings.limits,
            comparison=settings.comparison,
            nightly=settings.nightly,
            is_shared=is_shared,
            owner_key=owner_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The rooms the pages open."""

    sight: Sight
    votes: Votes
    behaviour: Behaviour
    numbers: Numbers
    nights: Nights


def build_page(rooms: Rooms, facts: Facts) -> gr.Blocks:
    """Every tab, wired; `ui.server.launch` serves it."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read at many places besides Blocks
    search, ask = _search_actions(rooms, facts), _ask_actions(rooms, facts)
    illustrate = _illustrate_actions(rooms, facts)
    with gr.Blocks(
        title="Sightloop", analytics_enabled=False, delete_cache=(KEPT_FOR_S, KEPT_FOR_S)
    ) as page:
        voter = gr.Textbox(visible=False)
        owner_key = gr.Textbox(visible=False)
        page.load(None, None, voter, js="() => window.sightloop.voter()", **_PRIVATE)
        build_header(preset_title=facts.preset.title, preset_about=facts.preset.about)
        strip = build_strip(partial(_loop_state, rooms, facts), page=page)
        with gr.Tabs(selected="search", elem_id="tabs") as tabs:
            with gr.Tab("Search", id="search"):
                results = build_search_tab(search, page=page, voter=voter, owner_key=owner_key)
            with gr.Tab("Ask", id="ask", render_children=True) as ask_tab:
                asked = build_ask_tab(ask, page=page, tab=ask_tab, voter=voter)
            with gr.Tab("Illustrate", id="illustrate", render_children=True):
                illustrated = build_illustrate_tab(illustrate)
            with gr.Tab("Insights", id="insights") as insights_tab:
                build_insights_tab(
                    _insights_actions(rooms, facts),
                    page=page,
                    tab=insights_tab,
                    owner_key=owner_key,
                )
        build_footer()

        def on_picture_verb(event: gr.EventData) -> Iterator[Any]:
            name, gallery_id = read_verb(event)
            unchanged = [gr.skip()] * len(asked.outputs)
            if name == "ask":
                for values in asked.show_gallery_picture(gallery_id):
                    yield gr.Tabs(selected="ask"), *values, gr.skip()
            elif name == "illustrate":
                caption = rooms.sight.gallery_picture(gallery_id).caption
                yield gr.Tabs(selected="illustrate"), *unchanged, caption
            else:
                yield gr.skip(), *unchanged, gr.skip()

        def on_answer_verb(turns: list[PageTurn], event: gr.EventData) -> tuple[Any, Any]:
            """An answer, drawn: its text goes where the person can still change it."""
            name, index = event._data.get("name"), event._data.get("index")
            if name != "illustrate" or not isinstance(index, int) or index >= len(turns):
                return gr.skip(), gr.skip()
            return gr.Tabs(selected="illustrate"), turns[index].answer

        results.verb(on_picture_verb, None, [tabs, *asked.outputs, illustrated], **_PRIVATE)
        asked.conversation.verb(on_answer_verb, asked.turns, [tabs, illustrated], **_PRIVATE)
        strip.open(lambda: gr.Tabs(selected="insights"), None, tabs, **_PRIVATE)
        build_api(
            ApiActions(
                search=search,
                ask=ask,
                add_picture=rooms.sight.add_picture,
                illustrate=illustrate.illustrate,
            )
        )
    page.queue(api_open=False, default_concurrency_limit=16, max_size=256)
    return page


def _search_actions(rooms: Rooms, facts: Facts) -> SearchActions:
    sight, behaviour = rooms.sight, rooms.behaviour
    return SearchActions(
        samples=_Samples(sight),
        search_text=sight.search_text,
        search_picture=sight.search_picture,
        nearest_texts=sight.nearest_texts,
        add_upload=partial(add_upload, sight.add_picture),
        picture_from_gallery=sight.picture_from_gallery,
        gallery_picture=sight.gallery_picture,
        gallery_size=sight.gallery_size,
        index_state=sight.index_state,
        add_folder=sight.add_folder,
        record_behaviour=behaviour.record_behaviour,
        record_consent=behaviour.record_consent,
        is_owner=owner_check(owner_key=facts.owner_key, is_shared=facts.is_shared),
        consent_version=facts.comparison.consent_version,
        max_words_chars=facts.limits.max_question_chars,
    )


def _ask_actions(rooms: Rooms, facts: Facts) -> AskActions:
    sight, votes = rooms.sight, rooms.votes
    return AskActions(
        add_upload=partial(add_upload, sight.add_picture),
        picture=sight.picture,
        picture_from_gallery=sight.picture_from_gallery,
        samples=_Samples(sight),
        recognize=sight.recognize,
        answer=sight.answer,
        loading_message=sight.loading_message,
        live_adapter=sight.live_adapter,
        previous_adapter=sight.previous_adapter,
        choose_rows=votes.choose_rows,
        open_battle=votes.open_battle,
        vote=votes.vote,
        explain=votes.explain,
        sees_pixels=sight.sees_picture,
        max_question_chars=facts.limits.max_question_chars,
    )


def _illustrate_actions(rooms: Rooms, facts: Facts) -> IllustrateActions:
    sight = rooms.sight
    return IllustrateActions(
        explain=partial(_explain, sight),
        plan=lambda text, request: sight.plan_storyboard(text, request=request),
        recaption=sight.replan_storyboard,
        draw=sight.draw_storyboard,
        max_text_chars=facts.limits.max_text_chars,
        draw_picture=sight.draw_picture if sight.can_draw_pictures else None,
    )


def _explain(sight: Sight, wanted: str) -> Iterator[Explanation]:
    """What is to be drawn: a text as it is; for a request first the answer, with who says so."""
    if not sight.is_request(wanted):
        yield Explanation(text=wanted)
        return
    note = sight.note_for(wanted)
    if note is not None:
        yield Explanation(text=note.text, source=NOTE_SOURCE)
        return
    row = RowSpec(adapter=sight.live_adapter(), seed=random.getrandbits(31))
    for step in sight.answer(wanted, picture=None, rows=(row,)):
        yield Explanation(
            text=step.texts[0],
            source=MODEL_SOURCE,
            is_finished=step.candidates is not None,
        )


def _insights_actions(rooms: Rooms, facts: Facts) -> InsightsActions:
    sight, numbers, nights = rooms.sight, rooms.numbers, rooms.nights
    return InsightsActions(
        votes_per_day=numbers.votes_per_day,
        votes_today=numbers.votes_today,
        outcomes=numbers.outcomes,
        side_balance=numbers.side_balance,
        version_results=numbers.version_results,
        reason_counts=numbers.reason_counts,
        pairs_missing=partial(_pairs_missing, rooms, facts),
        min_pairs=facts.nightly.min_pairs,
        adapters=sight.adapters,
        adapter_problems=sight.adapter_problems,
        live_adapter=sight.live_adapter,
        previous_adapter=sight.previous_adapter,
        roll_back=sight.roll_back,
        start_night=nights.start,
        stop_night=nights.stop,
        is_night_running=nights.is_running,
        night_progress=nights.progress,
        night_reports=nights.reports,
        next_night=nights.next_at,
        is_owner=owner_check(owner_key=facts.owner_key, is_shared=facts.is_shared),
        has_owner_key=bool(facts.owner_key),
    )


def _loop_state(rooms: Rooms, facts: Facts) -> LoopState:
    return LoopState(
        votes_today=rooms.numbers.votes_today(),
        pairs_missing=_pairs_missing(rooms, facts),
        night_at=facts.nightly.at,
        night=rooms.nights.progress(),
        live=rooms.sight.live_adapter(),
        results=rooms.numbers.version_results(),
    )


def _pairs_missing(rooms: Rooms, facts: Facts) -> int:
    learned = (
        report.manifest.get("watermark")
        for report in rooms.nights.reports()
        if report.decision in ("published", "refused")
    )
    watermark = next(learned, None)  # the newest vote of the last night that trained
    since = watermark if isinstance(watermark, int) else None
    return rooms.numbers.pairs_missing(min_pairs=facts.nightly.min_pairs, since=since)


@dataclass(slots=True)
class _Samples:
    """A few gallery pictures to start with; none while the gallery is still empty."""

    sight: Sight
    found_at: int = 0  # size of the gallery they were found in
    found: tuple[GalleryPicture, ...] = ()

    def __call__(self, n: int) -> Sequence[GalleryPicture]:
        size = self.sight.gallery_size()
        if size != self.found_at:
            nearest = {
                hit.picture.id: hit.picture
                for words, album in SAMPLE_SEARCHES
                for hit in self.sight.search_text(words, limit=1, album=album)
            }
            self.found, self.found_at = tuple(nearest.values()), size
        return self.found[:n]


def add_upload(add_picture: Callable[[Path], Picture], upload: str) -> Picture:
    """The cleaned copy of an upload. The upload itself goes, for it may carry a place and a name.

    Raises:
        PictureError: it cannot be opened safely.
    """
    path = Path(upload).resolve()
    try:
        return add_picture(path)
    finally:
        if path.is_relative_to(Path(get_upload_folder()).resolve()):
            path.unlink(missing_ok=True)
