"""The named endpoints for programs. Each docstring here is the endpoint's documentation."""

import base64
import binascii
import inspect
import random
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.errors import PictureError, UserError
from core.types import (
    Evidence,
    Label,
    Picture,
    Recognition,
    RowSpec,
    SearchHit,
    Storyboard,
    TextHit,
    Turn,
)
from ui.ask_tab import AskActions, read_words
from ui.errors import shows_user_errors
from ui.markup import gallery_url
from ui.pair_card import read_ballot, read_reasons
from ui.search_tab import SearchActions

MAX_LIMIT = 100
MAX_TURNS = 20
WAITING = 16  # calls that may wait for the model worker at once; it batches what fits together
_PICTURE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiActions:
    """What programs can do."""

    search: SearchActions
    ask: AskActions
    add_picture: Callable[[bytes], Picture]
    illustrate: Callable[[str], Storyboard]


def build_api(actions: ApiActions) -> None:
    """Add the endpoints to the page that is being built."""
    endpoints = _Endpoints(actions)
    for endpoint in (
        endpoints.search_by_text,
        endpoints.search_by_picture,
        endpoints.recognise,
        endpoints.ask,
        endpoints.ask_pair,
        endpoints.illustrate,
        endpoints.gallery_status,
    ):
        gr.api(
            shows_user_errors(endpoint),
            api_name=endpoint.__name__,
            api_description=_documentation(endpoint),
            concurrency_limit=WAITING,
            concurrency_id="programs",
        )
    gr.api(
        shows_user_errors(endpoints.recognise),
        api_name="recognize",
        api_visibility="undocumented",
        concurrency_limit=WAITING,
    )
    # Votes do not wait in a queue: they are acknowledged within milliseconds of being on disk.
    for voting in (endpoints.vote, endpoints.explain_vote):
        gr.api(
            shows_user_errors(voting),
            api_name=voting.__name__,
            api_description=_documentation(voting),
            queue=False,
        )


def _documentation(endpoint: Callable) -> str:
    # The whole docstring; Gradio by itself would publish its first line only.
    return inspect.getdoc(endpoint) or ""


@dataclass(frozen=True, slots=True)
class _Endpoints:
    actions: ApiActions

    def search_by_text(self, words: str, limit: int = 24) -> list[dict]:
        """Pictures of the gallery that fit the words, best first.

        Args:
            words: what to look for, such as "a cat asleep".
            limit: how many at most, 1 to 100.

        Returns:
            For each picture: id, caption, labels, album, credit, score (cosine similarity, -1 to
            1), url (relative to the app's address).
        """
        hits = self.actions.search.search_text(_text(words, "words"), limit=_limit(limit))
        return [_hit(hit) for hit in hits]

    def search_by_picture(self, picture: str, limit: int = 24) -> dict:
        """Pictures of the gallery like this one, and the captions and labels nearest to it.

        Args:
            picture: the file in base64, or a picture_id of an earlier call, or "gallery:" and the
                id of a gallery picture.
            limit: how many at most, 1 to 100.

        Returns:
            picture_id; pictures, as search_by_text returns them; texts, each with text, kind
            ("caption" or "label") and score.
        """
        opened, limit = self._picture(picture), _limit(limit)
        hits = self.actions.search.search_picture(opened, limit=limit)
        texts = self.actions.search.nearest_texts(opened, limit=min(limit, 24))
        return {
            "picture_id": opened.id,
            "pictures": [_hit(hit) for hit in hits],
            "texts": [_near(near) for near in texts],
        }

    def recognise(self, picture: str, words: list[str] | None = None) -> dict:
        """What is in a picture: objects, scenes and tags with confidences.

        Args:
            picture: as for search_by_picture.
            words: your own words to look for in place of the built-in tags.

        Returns:
            picture_id; objects, scenes and tags, each a list of text, confidence (0 to 1, within
            its kind) and source.
        """
        opened = self._picture(picture)
        own = read_words(",".join(map(str, words))) if words else None
        return _recognition(self.actions.ask.recognize(opened, words=own))

    def ask(
        self, question: str, picture: str | None = None, history: list[dict] | None = None
    ) -> Iterator[dict]:
        """Answer a question, about a picture where one is given. Streams; the last value is whole.

        Args:
            question: what you want to know.
            picture: as for search_by_picture; leave it out to ask without a picture.
            history: earlier turns, oldest first, each {"question": ..., "answer": ...}.

        Returns:
            answer, is_finished, finish_reason, picture_id, what the answer rests on (labels, asked,
            caption, colours, neighbours), and adapter (the version that answered; null for the base
            model).
        """
        opened = self._picture(picture) if picture else None
        row = RowSpec(adapter=self.actions.ask.live_adapter(), seed=random.getrandbits(31))
        steps = self.actions.ask.answer(
            _text(question, "question"), picture=opened, history=_history(history), rows=(row,)
        )
        for step in steps:
            candidate = step.candidates[0] if step.candidates else None
            yield {
                "answer": step.texts[0],
                "is_finished": candidate is not None,
                "finish_reason": candidate.finish_reason if candidate else None,
                "picture_id": opened.id if opened else None,
                **_evidence(step.evidence),
                "adapter": candidate.adapter if candidate else None,
            }

    def ask_pair(
        self,
        question: str,
        voter: str,
        picture: str | None = None,
        history: list[dict] | None = None,
    ) -> dict:
        """Two answers to one question, without saying who wrote which, and a ticket to vote with.

        Args:
            question: what you want to know.
            voter: a random name of your own for the one who votes, 1 to 200 characters; the same
                must be given with the vote.
            picture: as for search_by_picture; leave it out to ask without a picture.
            history: earlier turns, oldest first, each {"question": ..., "answer": ...}.

        Returns:
            battle_id, ticket, question, left, right, picture_id.
        """
        if not 1 <= len(_text(voter, "voter")) <= 200:
            raise UserError("The voter is not usable. Send a random name of 1 to 200 characters.")
        opened, ask = self._picture(picture) if picture else None, self.actions.ask
        left, right, strategy = ask.choose_rows(ask.live_adapter(), ask.previous_adapter())
        *_, step = ask.answer(
            _text(question, "question"),
            picture=opened,
            history=_history(history),
            rows=(left, right),
        )
        if step.candidates is None:
            raise UserError("The answers were not finished. Ask again.")
        battle = ask.open_battle(
            voter=voter,
            task="answer",
            question=question.strip(),
            prompt=step.prompt,
            picture_id=opened.id if opened else None,
            candidates=step.candidates,
            strategy=strategy,
            evidence=step.evidence,
        )
        return {
            "battle_id": battle.battle_id,
            "ticket": battle.ticket,
            "question": battle.question,
            "left": battle.left,
            "right": battle.right,
            "picture_id": opened.id if opened else None,
        }

    def vote(
        self,
        ticket: str,
        outcome: str,
        voter: str,
        ballot_id: str | None = None,
        reasons: list[str] | None = None,
        comment: str | None = None,
        dwell_ms: int | None = None,
    ) -> dict:
        """Vote on a pair. Answers only after the vote is on disk.

        Args:
            ticket: as ask_pair gave it.
            outcome: "left", "right", "tie", "both_bad" or "skip".
            voter: the name given to ask_pair.
            ballot_id: a UUID of your own for this vote; send the same again when you retry, and it
                is stored once. Without one, a retry is refused as a second vote.
            reasons: why, in a few words each (optional).
            comment: why, in your own words (optional).
            dwell_ms: time between seeing both answers and voting (optional).

        Returns:
            vote_id, battle_id, outcome, left and right (who wrote which), is_new (false when this
            very ballot had been stored before).
        """
        ballot = read_ballot(
            {
                "id": uuid.uuid4().hex if ballot_id is None else ballot_id,
                "ticket": ticket,
                "outcome": outcome,
                "voter": voter,
                "dwell_ms": dwell_ms,
                "input_device": "api",
                "reasons": reasons or [],
                "comment": comment or "",
            }
        )
        reveal = self.actions.ask.vote(ballot)
        return {
            "vote_id": reveal.vote_id,
            "battle_id": reveal.battle_id,
            "outcome": reveal.outcome,
            "left": reveal.left,
            "right": reveal.right,
            "is_new": reveal.is_new,
        }

    def explain_vote(
        self, vote_id: str, voter: str, reasons: list[str] | None = None, comment: str = ""
    ) -> dict:
        """Say afterwards why you voted so.

        Args:
            vote_id: as vote gave it.
            voter: the name that the vote was given under.
            reasons: in a few words each.
            comment: in your own words.

        Returns:
            vote_id.
        """
        kept, words = read_reasons({"reasons": reasons or [], "comment": comment})
        self.actions.ask.explain(
            vote_id=_text(vote_id, "vote_id"),
            voter=_text(voter, "voter"),
            reasons=kept,
            comment=words,
        )
        return {"vote_id": vote_id}

    def illustrate(self, text: str) -> dict:
        """A storyboard of a text or of a request such as "Explain how a black hole forms".

        Args:
            text: what to draw.

        Returns:
            title, structure ("sequence", "cycle", "parts" or "comparison"), steps (caption,
            sentence, pictogram), credit (where the words are from, when not from you), alt_text,
            svg, and png (base64).
        """
        board = self.actions.illustrate(_text(text, "text"))
        return {
            "title": board.plan.title,
            "structure": board.plan.structure,
            "steps": [
                {
                    "caption": step.caption,
                    "sentence": step.sentence,
                    "pictogram": step.pictogram_name or None,
                }
                for step in board.plan.steps
            ],
            "credit": board.plan.credit,
            "alt_text": board.alt_text,
            "svg": board.svg,
            "png": base64.b64encode(board.png).decode("ascii"),
        }

    def gallery_status(self) -> dict:
        """How many pictures can be found, and how far indexing is.

        Returns:
            pictures; indexing (true or false); done and total of the indexing that runs, else 0.
        """
        state = self.actions.search.index_state()
        return {
            "pictures": self.actions.search.gallery_size(),
            "indexing": state is not None,
            "done": state.done if state else 0,
            "total": state.total if state else 0,
        }

    def _picture(self, given: str) -> Picture:
        given = _text(given, "picture").strip()
        if given.startswith("gallery:"):
            return self.actions.ask.picture_from_gallery(given.removeprefix("gallery:"))
        if _PICTURE_ID.fullmatch(given):
            return self.actions.ask.picture(given)
        encoded = given.partition(",")[2] if given.startswith("data:") else given
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise PictureError(
                "The picture is not base64. Send the file's bytes in base64, a picture_id of an "
                'earlier call, or "gallery:" and an id.'
            ) from error
        return self.actions.add_picture(content)


def _text(value: object, name: str) -> str:
    """What a caller sent, if it is text; the types in the signature are not enforced on the way."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be text. Send a string.")
    return value


def _limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise UserError(f"limit is {value!r}; send a whole number from 1 to {MAX_LIMIT}.")
    return value


def _history(value: object) -> list[Turn]:
    turns = value or []
    if not isinstance(turns, list) or len(turns) > MAX_TURNS:
        raise UserError(f"history must be a list of at most {MAX_TURNS} turns. Send the last ones.")
    for turn in turns:
        if not isinstance(turn, Mapping) or not all(
            isinstance(turn.get(name), str) for name in ("question", "answer")
        ):
            raise UserError('Each turn of history must be {"question": text, "answer": text}.')
    return [Turn(question=turn["question"], answer=turn["answer"]) for turn in turns]


def _hit(hit: SearchHit) -> dict[str, Any]:
    picture = hit.picture
    return {
        "id": picture.id,
        "caption": picture.caption,
        "labels": list(picture.labels),
        "album": picture.album,
        "credit": picture.credit,
        "score": round(float(hit.score), 4),
        "url": gallery_url(picture),
    }


def _near(near: TextHit) -> dict[str, Any]:
    return {"text": near.text, "kind": near.kind, "score": round(float(near.score), 4)}


def _labels(labels: Sequence[Label]) -> list[dict[str, Any]]:
    return [
        {
            "text": label.text,
            "confidence": round(float(label.confidence), 4),
            "source": label.source,
        }
        for label in labels
    ]


def _recognition(recognition: Recognition) -> dict[str, Any]:
    return {
        "picture_id": recognition.picture_id,
        "objects": _labels(recognition.objects),
        "scenes": _labels(recognition.scenes),
        "tags": _labels(recognition.tags),
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {
        "labels": _labels(evidence.labels),
        "asked": _labels(evidence.asked),
        "caption": evidence.caption,
        "colours": list(evidence.colours),
        "neighbours": [_hit(hit) for hit in evidence.neighbours],
    }
