"""The prompt in words, and how it becomes the model's input; serving and training share both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from core.types import Evidence, Label, Message, SearchHit, Turn

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature, ProcessorMixin

SURE = 0.45  # confidence from which a label is said without hedging
LIKELY = 0.15
ABSENT = 0.02  # a thing asked for is said to be missing below it
MAX_GUESSES = 1
NEAR = 0.75  # cosine similarity from which a gallery picture's caption is worth telling

UNCOUNTED = frozenset(("coffee", "espresso", "food", "water", "grass", "ice", "fire", "sky", "sea"))

RULES = (
    "You are a helpful assistant who looks at a picture together with a person. "
    "Answer the question in one or two short sentences."
)
# Nothing about pictures: told that there is none, the small model answers just that to "How many
# days are in a week?" (7 of 12 plain questions right instead of 10).
RULES_IN_WORDS_ONLY = "You are a helpful assistant. Answer clearly and correctly."
RULES_WITHOUT_A_PICTURE = (
    "You are a helpful assistant. The person asks about a picture and has shown none."
)
RULES_ABOUT_A_THING = "You are a helpful assistant. Answer in one or two short sentences."

# A small model without picture tokens answers what it is told only when it is told little else and
# shown one answer of the same kind: alone, SmolLM2-135M got 0 of 6 "is there" questions right.
# So each kind of question has its own facts and its own worked example.
Fact = Literal["shown", "place", "theme", "colours", "near", "asked", "identity"]
_Example = tuple[str, str, str]  # told, question, answer
_Examples = tuple[_Example, ...]
ALL_FACTS: tuple[Fact, ...] = ("shown", "place", "theme", "colours", "near", "asked")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of question: how it is recognised, what is told for it, how it is answered."""

    pattern: re.Pattern[str]
    facts: tuple[Fact, ...]
    examples: _Examples


def _kind(pattern: str, facts: tuple[Fact, ...], *examples: _Example) -> _Kind:
    return _Kind(re.compile(pattern, re.IGNORECASE), facts, examples)


_IS_SEEN = ("The picture shows a car. There is a car.", "Is there a car?", "Yes, there is a car.")
_IS_NOT_SEEN = (
    "The picture shows a house. There is no horse.",
    "Is there a horse?",
    "No, I see no horse in the picture.",
)
_MAY_BE_SEEN = (
    "The picture shows a garden. There may be a bird.",
    "Is there a bird?",
    "There may be a bird, but I am not sure.",
)
_SPEAKS_OF_A_PICTURE = re.compile(
    r"\b(this|the|my) (picture|photo|photograph|image)\b|\b(do|can) (you|i|we) see\b"
    r"|^\W*(what|who|where)('s| is| are|\W+colou?r (is|are)) (this|that|it|these|those|here)\W*$",
    re.IGNORECASE,
)
_ADD_ONE = "I see no picture here. Please add one and ask again."
_IS_MISSING = (
    ("", "Describe the photo.", _ADD_ONE),
    ("", "Is there a horse in this picture?", _ADD_ONE),
)
_PRESENCE = _kind(r"^\W*(is|are) there\b|^\W*(do|can) (you|i|we) see\b", ("shown", "asked"))
_IS_IT = (
    "The picture shows a car. This is a car.",
    "Is this a car?",
    "Yes, this is a car.",
)
_IS_NOT_IT = (
    "The picture shows a house. This is no horse.",
    "Is this a horse?",
    "No, this is a house, not a horse.",
)
_MAY_BE_IT = (
    "The picture probably shows a boat or a bridge. This may be a bridge.",
    "Is this a bridge?",
    "It may be a bridge, but I am not sure.",
)
_NATURE = _kind(r"^\W*(is|are) (this|that|it|these|those)\b", ("shown", "identity"))
_IS_KNOWN = (
    "The picture shows this: A brown dog on a beach.",
    "What is this?",
    "This is a brown dog on a beach.",
)
_IS_RECOGNISED = (
    "The picture shows a dog (maybe a beagle).",
    "What is this?",
    "This is a dog, maybe a beagle.",
)
_IS_RECOGNISED_SOMEWHERE = (
    "The picture shows a dog (maybe a beagle). The place is probably a garden.",
    "What is this?",
    "This is a dog, maybe a beagle, in a garden.",
)
_IS_GUESSED = (
    "The picture probably shows a boat or a bridge.",
    "What is this?",
    "It is probably a boat, but it could be a bridge.",
)
_IDENTITY = _kind(
    r"^\W*what('s| is| are)? (this|that|it|these|those|shown|seen|in the (picture|photo|image))"
    r"\W*$|\bdescribe\b|\bwhat (do|can) (you|i|we) see\b"
    r"|\bwhat (is|does) .{0,30}(picture|photo|image)",
    ("shown", "place", "near"),
)
_KINDS = (
    _kind(
        r"\bcolou?rs?\b",
        ("shown", "colours"),
        (
            "The picture shows a car. The colours are red and grey.",
            "What colour is it?",
            "It is mostly red, with some grey.",
        ),
    ),
    _kind(
        r"\bhow many\b|\bcount\b",
        ("shown",),
        (
            "The picture shows people.",
            "How many people are there?",
            "I cannot tell how many there are.",
        ),
    ),
    _PRESENCE,
    _NATURE,
    _kind(
        r"^\W*where\b|\bwhat (kind of )?place\b",
        ("shown", "place"),
        (
            "The picture shows a dog. The place is probably a garden.",
            "Where is this?",
            "It is probably in a garden.",
        ),
    ),
    _IDENTITY,
)


def build_prompt(
    question: str,
    *,
    evidence: Evidence,
    history: Sequence[Turn] = (),
    has_picture: bool,
    picture_tokens: bool = True,
) -> tuple[Message, ...]:
    """The messages the model is given: rules, earlier turns, then evidence and question.

    Args:
        question: as the person typed it.
        evidence: what was recognised; told in words before the question.
        history: earlier turns, oldest first.
        has_picture: whether the person's question comes with a picture.
        picture_tokens: whether the model gets the picture itself besides the words about it.
    """
    examples: _Examples
    if not has_picture:
        is_missed = not history and _SPEAKS_OF_A_PICTURE.search(question)
        rules, told = RULES_WITHOUT_A_PICTURE if is_missed else RULES_IN_WORDS_ONLY, ""
        examples = _IS_MISSING if is_missed else ()
    elif picture_tokens:
        rules, told, examples = RULES, describe(evidence), ()
    else:
        rules, told, examples = _told_to_the_blind(question, evidence)
    turns = [(_with_evidence(fact, asked), answer) for fact, asked, answer in examples]
    if history:
        turns = [(turn.question, turn.answer) for turn in history]
    earlier = [
        message
        for asked, answered in turns
        for message in (
            Message(role="user", content=asked),
            Message(role="assistant", content=answered),
        )
    ]
    return (
        Message(role="system", content=rules),
        *earlier,
        Message(
            role="user",
            content=_with_evidence(told, question),
            has_picture=has_picture and picture_tokens,
        ),
    )


def describe(evidence: Evidence, facts: Sequence[Fact] = ALL_FACTS) -> str:
    """The evidence in plain words; empty when there is none worth telling."""
    sentences: dict[Fact, str] = {
        "shown": _shown(evidence),
        "place": _place(evidence),
        "theme": _theme(evidence.labels),
        "colours": (
            f"The colours are {_joined(evidence.colours, 'and')}." if evidence.colours else ""
        ),
        "near": _near(evidence),
        "asked": " ".join(_presence(label, "There") for label in evidence.asked),
        "identity": " ".join(_presence(label, "This") for label in evidence.asked),
    }
    return " ".join(sentences[fact] for fact in facts if sentences[fact])


def conversation(messages: Sequence[Message], processor: "ProcessorMixin") -> list[dict[str, Any]]:
    """The messages as a chat template takes them, with the model's own marks made harmless.

    Someone's "<|im_end|>" or "<image>" must stay text, so every special token inside a content is
    broken by a space. TRL's conversational rows take the same list.
    """
    return [
        {
            "role": message.role,
            "content": [
                *([{"type": "image"}] if message.has_picture else []),
                {"type": "text", "text": harmless(message.content, processor)},
            ],
        }
        for message in messages
    ]


def harmless(text: str, processor: "ProcessorMixin") -> str:
    """The text with a space inside whatever the tokenizer would read as a special token."""
    tokens = sorted(processor.tokenizer.get_added_vocab(), key=len, reverse=True)
    for token in tokens:
        if len(token.strip()) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def chat_text(messages: Sequence[Message], processor: "ProcessorMixin") -> str:
    """The prompt as one string, up to where the answer begins."""
    text: str = processor.apply_chat_template(
        conversation(messages, processor), tokenize=False, add_generation_prompt=True
    )
    return text


def encode(
    messages: Sequence[Message],
    processor: "ProcessorMixin",
    *,
    picture: "Image.Image | None" = None,
    rows: int = 1,
) -> "BatchFeature":
    """The model's inputs for one prompt, `rows` times over: input_ids of shape (rows, length) etc.

    Raises:
        ValueError: a message speaks of a picture and none is given, or the other way round.
    """
    n_pictures = sum(message.has_picture for message in messages)
    if n_pictures != (picture is not None):
        raise ValueError(
            f"The messages hold {n_pictures} pictures, {int(picture is not None)} given"
        )
    text = [chat_text(messages, processor)] * rows
    pictures = {} if picture is None else {"images": [[picture]] * rows}
    return processor(text=text, **pictures, return_tensors="pt", add_special_tokens=False)


def _told_to_the_blind(question: str, evidence: Evidence) -> tuple[str, str, _Examples]:
    """Rules, facts and worked examples for a model that does not get the picture itself."""
    kind = next((kind for kind in _KINDS if kind.pattern.search(question)), None)
    if kind is None:
        return RULES_ABOUT_A_THING, _topic(evidence), ()
    examples = kind.examples
    if kind is _PRESENCE:
        examples = _by_presence(evidence, _IS_SEEN, _MAY_BE_SEEN, _IS_NOT_SEEN)
    elif kind is _NATURE:
        examples = _by_presence(evidence, _IS_IT, _MAY_BE_IT, _IS_NOT_IT)
    elif kind is _IDENTITY:
        examples = _identity_examples(evidence)
    return RULES, describe(evidence, kind.facts), examples


def _by_presence(
    evidence: Evidence, seen: _Example, maybe: _Example, unseen: _Example
) -> _Examples:
    """The example whose answer the evidence asks for; both plain ones when it says nothing."""
    if not evidence.asked:
        return (seen, unseen)
    confidence = max(label.confidence for label in evidence.asked)
    if confidence >= LIKELY:
        return (seen,)
    return (maybe,) if confidence >= ABSENT else (unseen,)


def _identity_examples(evidence: Evidence) -> _Examples:
    """An example that is as sure as the evidence and tells of a place only where one is known."""
    if evidence.caption:
        return (_IS_KNOWN,)
    if not any(label.kind == "object" and label.confidence >= SURE for label in evidence.labels):
        return (_IS_GUESSED,)
    return (_IS_RECOGNISED_SOMEWHERE,) if _place(evidence) else (_IS_RECOGNISED,)


def _topic(evidence: Evidence) -> str:
    """What "this" is, for questions about the thing rather than about the picture."""
    if evidence.caption:
        return f"About {_lowered(evidence.caption.rstrip('.'))}:"
    things = [label for label in evidence.labels if label.kind == "object"]
    return f"About {_with_article(things[0].text)}:" if things else ""


def _with_evidence(told: str, question: str) -> str:
    if not told:
        return question
    return f"{told} {question}" if told.endswith(":") else f"{told}\n{question}"


def _shown(evidence: Evidence) -> str:
    if evidence.caption:
        return f"The picture shows this: {evidence.caption.rstrip('.')}."
    things = [label for label in evidence.labels if label.kind == "object"]
    if not things:
        return ""
    guesses = [_with_article(label.text) for label in things[1:] if label.confidence >= LIKELY][
        :MAX_GUESSES
    ]
    if things[0].confidence >= SURE:
        maybe = f" (maybe {_joined(guesses, 'or')})" if guesses else ""
        return f"The picture shows {_with_article(things[0].text)}{maybe}."
    if things[0].confidence >= LIKELY:
        named = [_with_article(things[0].text), *guesses]
        return f"The picture probably shows {_joined(named, 'or')}."
    return f"It is hard to tell what the picture shows, maybe {_with_article(things[0].text)}."


def _place(evidence: Evidence) -> str:
    if evidence.caption:  # it says more, and more surely
        return ""
    labels = evidence.labels
    places = [label for label in labels if label.kind == "scene" and label.confidence >= 2 * LIKELY]
    return f"The place is probably {_with_article(places[0].text)}." if places else ""


def _theme(labels: Sequence[Label]) -> str:
    themes = [label.text for label in labels if label.kind == "tag" and label.confidence >= SURE]
    return f"It has to do with {_joined(themes[:2], 'and')}." if themes else ""


def _near(evidence: Evidence) -> str:
    """Captions of a person's own pictures nearby; a pictogram's says no more than the labels."""
    captions = [
        hit.picture.caption
        for hit in evidence.neighbours
        if _is_telling(hit) and hit.picture.caption != evidence.caption
    ]
    told = list(dict.fromkeys(caption for caption in captions if caption))[:2]
    return f"A similar picture is called: {'; '.join(told)}." if told else ""


def _is_telling(hit: SearchHit) -> bool:
    return hit.score >= NEAR and hit.picture.album not in ("pictograms", "photographs")


def _presence(label: Label, what: Literal["There", "This"]) -> str:
    if label.confidence >= LIKELY:
        return f"{what} is {_with_article(label.text)}."
    if label.confidence >= ABSENT:
        return f"{what} may be {_with_article(label.text)}."
    return f"{what} is no {label.text}."


def _with_article(text: str) -> str:
    if text.endswith("s") or text in UNCOUNTED:
        return text
    return f"{'an' if text[:1].lower() in 'aeiou' else 'a'} {text}"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _joined(parts: Sequence[str], word: str) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
