"""Two answers side by side, blind, with a vote that is either saved or says that it is not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import gradio as gr

from core.errors import UserError, VoteError
from core.types import Ballot, BlindBattle, Outcome, Reveal
from ui.markup import script

REASONS = (
    ("more_correct", "More correct"),
    ("clearer", "Clearer"),
    ("more_useful", "More useful"),
    ("shorter", "Shorter"),
    ("more_detail", "More detail"),
    ("fits_the_picture", "Fits the picture"),
    ("other_made_things_up", "The other made things up"),
)
_REASON_IDS = {reason for reason, _ in REASONS}
MAX_COMMENT_CHARS = 1000

_SKELETON = """
<section class="sl-pair" aria-label="Two answers to compare" hidden>
  <p class="sl-pair-question" data-part="question"></p>
  <div class="sl-sides">
    <article class="sl-side" aria-label="Answer A">
      <h3>A <span class="sl-who" data-part="who-left"></span></h3><p data-part="left"></p>
    </article>
    <article class="sl-side" aria-label="Answer B">
      <h3>B <span class="sl-who" data-part="who-right"></span></h3><p data-part="right"></p>
    </article>
  </div>
  <div class="sl-vote-bar">
    <div class="sl-votes" role="group" aria-label="Your choice" data-part="votes"></div>
  </div>
  <div class="sl-pair-foot">
    <p class="sl-pair-status" role="status" aria-live="polite" data-part="status"></p>
    <button type="button" class="sl-button" data-part="retry" hidden>Try again</button>
    <span data-part="skip"></span>
    <label class="sl-keys"><input type="checkbox" data-part="keys"> Keys 1 to 4 vote</label>
  </div>
  <div class="sl-after" data-part="after" hidden></div>
</section>
"""


class Explain(Protocol):
    """Keeps why a voter voted so."""

    def __call__(
        self, *, vote_id: str, voter: str, reasons: Sequence[str] = (), comment: str = ""
    ) -> None: ...


def build_pair_card(*, vote: Callable[[Ballot], Reveal], explain: Explain) -> gr.HTML:
    """The card; its value comes from `empty_pair`, `writing_pair`, `finished_pair`.

    Triggers "voted" with the outcome after the vote is stored, and "revealed" after the reveal.
    """

    def cast_vote(payload: object) -> dict[str, object]:
        # Nothing of the reveal goes back here: the person first has the chance to say why.
        try:
            vote(read_ballot(payload))
        except VoteError as error:
            return {"saved": False, "retry": False, "why": str(error)}
        except UserError as error:
            return {"saved": False, "retry": True, "why": str(error)}
        return {"saved": True}

    def reveal(payload: object) -> dict[str, object]:
        # Showing the stored ballot again proves that this person voted; it is stored once only.
        try:
            reasons, comment = read_reasons(payload)
            ballot = read_ballot({**_fields(payload), "reasons": [], "comment": ""})
            shown = vote(ballot)
            if reasons or comment:
                explain(vote_id=shown.vote_id, voter=ballot.voter, reasons=reasons, comment=comment)
        except UserError as error:
            return {"shown": False, "why": str(error)}
        return {"shown": True, "left": shown.left, "right": shown.right}

    return gr.HTML(
        empty_pair(),
        html_template=_SKELETON,
        js_on_load=script("pair_card.js"),
        apply_default_css=False,
        server_functions=[cast_vote, reveal],
    )


def empty_pair() -> dict[str, object]:
    """Nothing to compare; the card is not shown."""
    return {"state": "empty", "reasons": []}


def writing_pair(question: str, texts: Sequence[str]) -> dict[str, object]:
    """Both answers so far, left and right."""
    left, right = texts
    return {"state": "working", "question": question, "left": left, "right": right, "reasons": []}


def finished_pair(battle: BlindBattle) -> dict[str, object]:
    """Both answers are whole; the vote may come."""
    return {
        "state": "ready",
        "question": battle.question,
        "left": battle.left,
        "right": battle.right,
        "ticket": battle.ticket,
        "reasons": [{"id": reason, "words": words} for reason, words in REASONS],
    }


def stopped_pair(question: str, texts: Sequence[str]) -> dict[str, object]:
    """The person stopped before both were finished; there is nothing to vote on."""
    message = "Stopped before both were finished, so there is nothing to choose yet."
    return {**writing_pair(question, texts), "state": "stopped", "message": message}


def read_ballot(payload: object) -> Ballot:
    """The ballot in a message from the page; anyone may send anything here.

    Raises:
        VoteError: a part is missing or of another type. The desk checks the rest.
    """
    fields = _fields(payload)
    texts = [fields.get(name) for name in ("id", "ticket", "outcome", "voter", "input_device")]
    if not all(isinstance(value, str) for value in texts):
        raise VoteError("The vote was not counted: a part of it is missing. Ask for a new pair.")
    ballot_id, ticket, outcome, voter, device = cast(list[str], texts)
    dwell_ms, comment = fields.get("dwell_ms"), fields.get("comment")
    is_number = isinstance(dwell_ms, int) and not isinstance(dwell_ms, bool)
    reasons = fields.get("reasons")
    return Ballot(
        id=ballot_id,
        ticket=ticket,
        outcome=cast(Outcome, outcome),
        voter=voter,
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        comment=comment if isinstance(comment, str) else "",
        dwell_ms=cast(int, dwell_ms) if is_number else None,
        input_device=cast(object, device),  # type: ignore[arg-type]
    )


def read_reasons(payload: object) -> tuple[tuple[str, ...], str]:
    """The known reasons and the comment in a message from the page."""
    fields = _fields(payload)
    given = fields.get("reasons")
    reasons = given if isinstance(given, list) else []
    comment = fields.get("comment")
    return (
        tuple(reason for reason in reasons if isinstance(reason, str) and reason in _REASON_IDS),
        comment[:MAX_COMMENT_CHARS].strip() if isinstance(comment, str) else "",
    )


def _fields(payload: object) -> Mapping[str, object]:
    return payload if isinstance(payload, Mapping) else {}
