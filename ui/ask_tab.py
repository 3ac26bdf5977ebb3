"""Ask: a picture, what was recognised in it, and a conversation about it."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import gradio as gr

from core.errors import UserError
from core.types import (
    AnswerStep,
    Ballot,
    BlindBattle,
    Evidence,
    GalleryPicture,
    Label,
    Picture,
    Recognition,
    Reveal,
    RowSpec,
    Turn,
)
from ui.errors import shows_user_errors
from ui.markup import gallery_url, label_group, notice, progress, script, sure_in_words
from ui.pair_card import (
    Explain,
    build_pair_card,
    empty_pair,
    finished_pair,
    stopped_pair,
    writing_pair,
)
from ui.picture_input import build_picture_input

N_SAMPLES = 12
SURE_ENOUGH = 0.35  # a question about what is probably not there would mislead
N_LABELS_SHOWN = 5
N_LABELS_FOLDED = 8
MAX_WORDS = 200  # to look for, when the person edits them
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_NOT_FROM_PIXELS = (
    "The small model answers from the labels and the similar pictures that were found, "
    "not from the pixels. It makes mistakes; what it rests on stands under each answer."
)
_CONVERSATION_SKELETON = """
<p class="sl-turns-empty">Choose a picture, then ask. Answers come with what they rest on.</p>
<ol class="sl-turns" aria-live="polite" aria-label="Questions and answers"></ol>
"""
_SAMPLES_SCRIPT = """
const { h } = window.sightloop;
function render() {
  const root = element.querySelector(".sl-samples");
  const samples = props.value ?? [];
  root.replaceChildren(...(samples.length ? [
    h("p", { class: "sl-quiet" }, "Or start with one of these"),
    h("ul", { class: "sl-pick" }, samples.map((sample) => h("li", {},
      h("button", { type: "button", "aria-label": sample.caption, title: sample.caption,
        onclick: () => trigger("pick", { id: sample.id }) },
        h("img", { src: sample.url, alt: "", loading: "lazy" }))))),
  ] : []));
}
render();
watch("value", render);
"""
_ENDINGS = {"cancelled": "Stopped.", "length": "Cut off here: the longest answer allowed."}


class Answers(Protocol):
    """Streams one answer per row."""

    def __call__(
        self,
        question: str,
        *,
        picture: Picture | None,
        history: Sequence[Turn] = (),
        rows: Sequence[RowSpec],
        words: Sequence[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[AnswerStep]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AskActions:
    """What the Ask tab can do; the tab knows no more of the app than this."""

    add_upload: Callable[[str], Picture]
    picture: Callable[[str], Picture]
    picture_from_gallery: Callable[[str], Picture]
    samples: Callable[[int], Sequence[GalleryPicture]]
    recognize: Callable[..., Recognition]
    answer: Answers
    loading_message: Callable[[], str | None]
    live_adapter: Callable[[], str | None]
    previous_adapter: Callable[[], str | None]
    choose_rows: Callable[[str | None, str | None], tuple[RowSpec, RowSpec, Any]]
    open_battle: Callable[..., BlindBattle]
    vote: Callable[[Ballot], Reveal]
    explain: Explain
    sees_pixels: bool  # whether the answerer gets the picture itself, not only words about it
    max_question_chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskTab:
    """What other tabs start here."""

    conversation: gr.HTML  # triggers "verb" with a name and a turn's index
    turns: gr.State
    pair_card: gr.HTML
    show_gallery_picture: Callable[[str], Iterator[Any]]  # gallery id -> values of `outputs`
    outputs: list[gr.Component]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTurn:
    """One question and what the page knows of its answer."""

    question: str
    answer: str = ""
    evidence: Evidence = Evidence()
    has_picture: bool = False
    is_working: bool = False
    is_hidden: bool = False  # its two answers stand in the pair card
    ending: str = ""
    note: str = ""
    options: tuple[str, str] | tuple[()] = ()  # the two answers that were compared


def build_ask_tab(
    actions: AskActions, *, page: gr.Blocks, tab: gr.Tab, voter: gr.Textbox
) -> AskTab:
    """Lay out the tab and wire it.

    Args:
        tab: the tab itself.
        voter: holds the browser's voter token.
    """
    handlers = _Handlers(actions)
    picture_id, turns, edited_words = gr.State(None), gr.State([]), gr.State("")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            image = build_picture_input()
            samples = gr.HTML(
                [],
                html_template='<div class="sl-samples"></div>',
                js_on_load=_SAMPLES_SCRIPT,
                apply_default_css=False,
                elem_id="ask-samples",
            )
            recognised = gr.HTML(apply_default_css=False, elem_id="recognised")
            with gr.Accordion("Look for other words", open=False, visible=False) as words_box:
                words = gr.Textbox(
                    label="Words to look for, separated by commas",
                    info="The picture is compared with each of them.",
                    lines=2,
                    elem_id="ask-words",
                )
                look_again = gr.Button("Look again", size="sm")
        with gr.Column(scale=7, min_width=300):
            if not actions.sees_pixels:
                gr.HTML(notice(_NOT_FROM_PIXELS), apply_default_css=False, elem_id="ask-note")
            conversation = gr.HTML(
                {"turns": []},
                html_template=_CONVERSATION_SKELETON,
                js_on_load=script("conversation.js"),
                apply_default_css=False,
                elem_id="conversation",
            )
            pair_card = build_pair_card(vote=actions.vote, explain=actions.explain)
            message = gr.HTML(apply_default_css=False, elem_id="ask-message")
            with gr.Row(elem_classes="sl-suggestions"):
                suggestions = [
                    gr.Button(question, size="sm") for question in suggested_questions(None)
                ]
            question = gr.Textbox(
                label="Your question",
                show_label=False,
                placeholder="Ask about the picture",
                max_lines=6,
                elem_id="ask-question",
            )
            with gr.Row(elem_classes="sl-actions"):
                ask = gr.Button("Ask", variant="primary", elem_id="ask-button")
                compare = gr.Button("Compare two answers", elem_id="compare-button")
                stop = gr.Button("Stop", interactive=False, elem_id="stop-button")
                forget = gr.Button("Start over", elem_id="forget-button", elem_classes="sl-push")

    seen = [
        picture_id, image, samples, recognised, words_box, words, *suggestions,
        edited_words, turns, conversation, pair_card, message,
    ]  # fmt: skip
    told = [turns, conversation, pair_card, question, message, ask, compare, stop]
    about = [question, picture_id, turns, edited_words]
    looks = shows_user_errors(handlers.on_picture)
    image.input(looks, image, seen, **_PRIVATE)
    image.clear(handlers.on_clear, None, seen, **_PRIVATE)
    samples.pick(handlers.on_pick, None, seen, **_PRIVATE)
    look_again.click(
        shows_user_errors(handlers.on_look_again),
        [picture_id, words],
        [recognised, edited_words, *suggestions],
        **_PRIVATE,
    )
    runs = [
        gr.on([ask.click, question.submit], handlers.on_ask, about, told, **_PRIVATE),
        compare.click(handlers.on_compare, [*about, voter], told, **_PRIVATE),
        conversation.verb(handlers.on_verb, [*about, voter], told, **_PRIVATE),
    ]
    for button in suggestions:
        runs.append(button.click(handlers.on_ask, [button, *about[1:]], told, **_PRIVATE))
    for run in runs:
        run.failure(handlers.on_broken, turns, told, **_PRIVATE)
    pair_card.voted(handlers.on_voted, turns, turns, **_PRIVATE)
    stop.click(handlers.on_stop, None, None, queue=False, **_PRIVATE)
    forget.click(handlers.on_forget, None, told, **_PRIVATE)
    # On select as well: at the first start the gallery is still empty when the page loads.
    gr.on([page.load, tab.select], handlers.on_samples, picture_id, samples, **_PRIVATE)
    return AskTab(
        conversation=conversation,
        turns=turns,
        pair_card=pair_card,
        show_gallery_picture=handlers.shown_gallery_picture,
        outputs=seen,
    )


def suggested_questions(recognition: Recognition | None) -> tuple[str, str, str]:
    """Three questions a person may ask of this picture, made from what was recognised in it."""
    things = _surely(recognition.objects) if recognition else ()
    scenes = _surely(recognition.scenes) if recognition else ()
    return (
        "What is in this picture?",
        f"What colour is the {things[0].text}?" if things else "What could happen next?",
        f"Could this be {_with_article(scenes[0].text)}?" if scenes else "Where could this be?",
    )


def _surely(labels: Sequence[Label]) -> tuple[Label, ...]:
    return tuple(label for label in labels if label.confidence >= SURE_ENOUGH)


def _with_article(noun: str) -> str:
    if noun.startswith(("a ", "an ", "the ")):
        return noun
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def recognised_in_words(recognition: Recognition) -> str:
    """Objects, scene and tags, each with a bar and how sure the recogniser is."""
    groups = (
        ("Objects", recognition.objects),
        ("Scene", recognition.scenes),
        ("Tags", recognition.tags),
    )
    shown = "".join(
        label_group(title, labels[:N_LABELS_SHOWN]) for title, labels in groups if labels
    )
    return f'<div class="sl-recognised">{shown}</div>'


def conversation_value(turns: Sequence[PageTurn]) -> dict[str, Any]:
    """The turns as the page draws them."""
    return {"turns": [_turn_value(turn) for turn in turns]}


@dataclass(slots=True)
class _Handlers:
    actions: AskActions
    running: dict[str, threading.Event] = field(default_factory=dict)  # by session

    def on_samples(self, picture_id: str | None) -> list[dict[str, str]]:
        """Pictures to start with; none beside a picture that was chosen already."""
        if picture_id is not None:
            return []
        return [
            {"id": picture.id, "url": gallery_url(picture), "caption": picture.caption}
            for picture in self.actions.samples(N_SAMPLES)
        ]

    def on_picture(self, upload: str | None) -> Iterator[Any]:
        if upload is None:
            yield self.on_clear()
            return
        yield _seen(recognised=progress("Opening the picture …", None))
        try:
            picture = self.actions.add_upload(upload)
        except UserError as error:
            yield _seen(image=None, recognised=notice(str(error), kind="error"))
            return
        yield from self._looked_at(picture)

    def on_pick(self, event: gr.EventData) -> Iterator[Any]:
        gallery_id = _part(event._data, "id")
        if isinstance(gallery_id, str):
            yield from self.shown_gallery_picture(gallery_id)

    def shown_gallery_picture(self, gallery_id: str) -> Iterator[Any]:
        """Put a gallery picture where the person's own would be, and look at it."""
        try:
            picture = self.actions.picture_from_gallery(gallery_id)
        except UserError as error:
            yield _seen(recognised=notice(str(error), kind="error"))
            return
        yield from self._looked_at(picture)

    def _looked_at(self, picture: Picture) -> Iterator[Any]:
        shown = {"picture_id": picture.id, "image": picture.path, "samples": []}
        fresh = {"turns": [], "conversation": conversation_value([]), "pair_card": empty_pair()}
        waiting = "Looking at the picture …"
        yield _seen(**shown, **fresh, message="", recognised=progress(waiting, None))
        try:
            recognition = self.actions.recognize(picture)
        except UserError as error:
            yield _seen(recognised=notice(str(error), kind="error"))
            return
        zero_shot = [
            label.text
            for label in (*recognition.objects, *recognition.scenes, *recognition.tags)
            if label.source == "zero_shot"
        ]
        yield _seen(
            recognised=recognised_in_words(recognition),
            words_box=gr.Accordion(visible=True),
            words=", ".join(dict.fromkeys(zero_shot)),
            edited_words="",
            suggestions=suggested_questions(recognition),
        )

    def on_look_again(self, picture_id: str | None, words: str) -> Iterator[Any]:
        if picture_id is None:
            raise UserError("There is no picture yet. Choose one, then look again.")
        yield progress("Looking again …", None), *[gr.skip()] * 4
        picture = self.actions.picture(picture_id)
        recognition = self.actions.recognize(picture, words=read_words(words))
        yield recognised_in_words(recognition), words, *suggested_questions(recognition)

    def on_clear(self) -> list[Any]:
        return _seen(
            picture_id=None,
            image=None,
            samples=self.on_samples(None),
            recognised="",
            words_box=gr.Accordion(visible=False),
            words="",
            edited_words="",
            suggestions=suggested_questions(None),
        )

    def on_ask(
        self,
        question: str,
        picture_id: str | None,
        turns: list[PageTurn],
        words: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        earlier = [replace(turn, is_hidden=False) for turn in turns]
        try:
            question = self._checked_question(question)
            yield from self._answered(question, picture_id, earlier, words, request)
        except UserError as error:
            yield _told(turns=earlier, message=notice(str(error), kind="error"), is_idle=True)

    def _answered(
        self,
        question: str,
        picture_id: str | None,
        earlier: list[PageTurn],
        words: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        turn = PageTurn(question=question, is_working=True, has_picture=picture_id is not None)
        yield _told(turns=[*earlier, self._waiting(turn)], pair=empty_pair(), question="")
        rows = (RowSpec(adapter=self.actions.live_adapter(), seed=random.getrandbits(31)),)
        for step in self._steps(question, picture_id, earlier, words, rows, request):
            turn = replace(turn, answer=step.texts[0], evidence=step.evidence)
            if step.candidates is None:
                yield _told(turns=[*earlier, turn])
                continue
            ending = _ENDINGS.get(step.candidates[0].finish_reason, "")
            turn = replace(turn, is_working=False, ending=ending, note=self._note(turn))
        yield _told(turns=[*earlier, replace(turn, is_working=False)], is_idle=True)

    def on_compare(
        self,
        question: str,
        picture_id: str | None,
        turns: list[PageTurn],
        words: str,
        voter: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        """Two answers to a new question or, where none was typed, to the last one again."""
        earlier = [replace(turn, is_hidden=False) for turn in turns]
        replaced = None
        if not question.strip() and earlier:
            *earlier, replaced = earlier
            question = replaced.question
        try:
            question = self._checked_question(question)
            turn = replaced or PageTurn(question=question, has_picture=picture_id is not None)
            yield from self._compared(turn, picture_id, earlier, words, voter, request)
        except UserError as error:
            shown = [*earlier, replaced] if replaced else earlier
            yield _told(
                turns=shown,
                pair=empty_pair(),
                message=notice(str(error), kind="error"),
                is_idle=True,
            )

    def _compared(
        self,
        turn: PageTurn,
        picture_id: str | None,
        earlier: list[PageTurn],
        words: str,
        voter: str,
        request: gr.Request,
    ) -> Iterator[Any]:
        question, hidden = turn.question, [*earlier, replace(turn, is_hidden=True)]
        yield _told(turns=hidden, pair=writing_pair(question, ("", "")), question="")
        left, right, strategy = self.actions.choose_rows(
            self.actions.live_adapter(), self.actions.previous_adapter()
        )
        step = None
        for step in self._steps(question, picture_id, earlier, words, (left, right), request):
            if step.candidates is None:
                yield _told(turns=hidden, pair=writing_pair(question, step.texts))
        if step is None or step.candidates is None or _was_stopped(step):
            texts = step.texts if step else ("", "")
            yield _told(turns=hidden, pair=stopped_pair(question, texts), is_idle=True)
            return
        battle = self.actions.open_battle(
            voter=voter or "page",
            task="answer",
            question=question,
            prompt=step.prompt,
            picture_id=picture_id,
            candidates=step.candidates,
            strategy=strategy,
            evidence=step.evidence,
        )
        turn = replace(turn, evidence=step.evidence, is_hidden=True, note=self._note(turn))
        # Until the vote says which one goes on, the conversation knows both in their order.
        turn = replace(turn, answer=turn.answer or battle.left, options=(battle.left, battle.right))
        yield _told(turns=[*earlier, turn], pair=finished_pair(battle), is_idle=True)

    def on_voted(self, turns: list[PageTurn], event: gr.EventData) -> list[PageTurn]:
        """The conversation goes on from the answer that was chosen."""
        outcome = _part(event._data, "outcome")
        side = {"left": 0, "tie": 0, "right": 1}.get(str(outcome))
        if side is None or not turns or not turns[-1].options:
            return turns
        return [*turns[:-1], replace(turns[-1], answer=turns[-1].options[side])]

    def on_verb(
        self,
        question: str,
        picture_id: str | None,
        turns: list[PageTurn],
        words: str,
        voter: str,
        request: gr.Request,
        event: gr.EventData,
    ) -> Iterator[Any]:
        if _part(event._data, "name") != "compare":
            yield _told()
            return
        yield from self.on_compare("", picture_id, turns, words, voter, request)

    def on_broken(self, turns: list[PageTurn]) -> list[Any]:
        """After an error that is ours: the question comes back, and the buttons work again."""
        whole = [replace(turn, is_hidden=False) for turn in turns if turn.answer]
        asked = turns[-1].question if len(whole) < len(turns) else ""
        why = "Something broke on the server; it was not your doing. Ask once more."
        return _told(
            turns=[replace(turn, is_working=False) for turn in whole],
            pair=empty_pair(),
            question=asked,
            message=notice(why, kind="error"),
            is_idle=True,
        )

    def on_stop(self, request: gr.Request) -> None:
        cancel = self.running.get(request.session_hash or "")
        if cancel is not None:
            cancel.set()

    def on_forget(self) -> list[Any]:
        return _told(turns=[], pair=empty_pair(), question="", message="", is_idle=True)

    def _steps(
        self,
        question: str,
        picture_id: str | None,
        earlier: Sequence[PageTurn],
        words: str,
        rows: Sequence[RowSpec],
        request: gr.Request,
    ) -> Iterator[AnswerStep]:
        session, cancel = request.session_hash or "", threading.Event()
        self.running[session] = cancel
        try:
            yield from self.actions.answer(
                question,
                picture=self.actions.picture(picture_id) if picture_id else None,
                history=[Turn(question=turn.question, answer=turn.answer) for turn in earlier],
                rows=rows,
                words=read_words(words) or None,
                cancel=cancel,
            )
        finally:
            cancel.set()  # the person may have closed the page in the middle
            if self.running.get(session) is cancel:
                del self.running[session]

    def _checked_question(self, question: str) -> str:
        question, limit = question.strip(), self.actions.max_question_chars
        if not question:
            raise UserError("There is no question yet. Type one, or choose one of the three above.")
        if len(question) > limit:
            raise UserError(
                f"The question has {len(question):,} characters and the limit is {limit:,}. "
                "Make it shorter."
            )
        return question

    def _waiting(self, turn: PageTurn) -> PageTurn:
        return replace(turn, note=self.actions.loading_message() or "Thinking …")

    def _note(self, turn: PageTurn) -> str:
        if not turn.has_picture:
            return "No picture is attached: the answer rests on the question alone."
        if self.actions.sees_pixels:
            return "The model saw the picture, and was told this."
        return "The model was told this; it did not see the picture itself."


def _turn_value(turn: PageTurn) -> dict[str, Any]:
    evidence = turn.evidence
    is_known = bool(evidence.labels or evidence.neighbours)
    return {
        "question": turn.question,
        "answer": turn.answer,
        "working": turn.is_working,
        "waiting": turn.note if turn.is_working else "",
        "ending": turn.ending or ("" if is_known or turn.is_working else turn.note),
        "note": turn.note,
        "hidden": turn.is_hidden,
        "evidence": {
            "labels": [_label_value(label) for label in evidence.labels[:N_LABELS_FOLDED]],
            "asked": [_label_value(label) for label in evidence.asked],
            "caption": evidence.caption,
            "colours": list(evidence.colours),
            "neighbours": [
                {"url": gallery_url(hit.picture), "caption": hit.picture.caption}
                for hit in evidence.neighbours
            ],
        },
    }


def _label_value(label: Label) -> dict[str, str]:
    return {"text": label.text, "sure": sure_in_words(label.confidence)}


def _seen(**values: Any) -> list[Any]:
    """Values for the components that show a picture, unchanged where not named."""
    names = ("picture_id", "image", "samples", "recognised", "words_box", "words")
    suggestions = values.get("suggestions", (gr.skip(), gr.skip(), gr.skip()))
    talk = ("edited_words", "turns", "conversation", "pair_card", "message")
    return [
        *(values.get(name, gr.skip()) for name in names),
        *suggestions,
        *(values.get(name, gr.skip()) for name in talk),
    ]


def _told(
    *,
    turns: Sequence[PageTurn] | None = None,
    pair: Mapping[str, object] | None = None,
    question: str | None = None,
    message: str | None = None,
    is_idle: bool = False,
) -> list[Any]:
    """Values for the conversation's components, unchanged where not named."""
    return [
        gr.skip() if turns is None else list(turns),
        gr.skip() if turns is None else conversation_value(turns),
        gr.skip() if pair is None else pair,
        gr.skip() if question is None else question,
        "" if message is None else message,
        gr.Button(interactive=is_idle),
        gr.Button(interactive=is_idle),
        gr.Button(interactive=not is_idle),
    ]


def _was_stopped(step: AnswerStep) -> bool:
    candidates = step.candidates or ()
    return any(candidate.finish_reason == "cancelled" for candidate in candidates)


def read_words(words: str) -> list[str]:
    """Words separated by commas or lines, each once."""
    parts = (part.strip() for part in words.replace("\n", ",").split(","))
    return list(dict.fromkeys(part[:80] for part in parts if part))[:MAX_WORDS]


def _part(payload: object, name: str) -> object:
    return payload.get(name) if isinstance(payload, Mapping) else None
