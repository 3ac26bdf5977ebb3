"""The prompt in words, and how it becomes the model's input; serving and training share both."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.types import Evidence, Label, Message, SearchHit, Turn

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature, ProcessorMixin

SURE = 0.45  # confidence from which a label is said without hedging
LIKELY = 0.15
ABSENT = 0.02  # a thing asked for is said to be missing below it
MAX_GUESSES = 2
NEAR = 0.75  # cosine similarity from which a gallery picture's caption is worth telling

RULES = (
    "You are a helpful assistant who looks at a picture together with a person. "
    "Answer the question in one or two short sentences."
)
RULES_IN_WORDS_ONLY = (
    "You are a helpful assistant. Answer clearly and correctly. There is no picture."
)

# Two worked questions of the same kind come before a question that small models otherwise miss:
# without them SmolLM2-135M answered 0 of 6 "is there" questions, with them 6 of 6.
_PRESENCE = re.compile(
    r"^\W*(is|are) (there|this|that|it|these|those)\b|^\W*(do|can) (you|i|we) see\b", re.IGNORECASE
)
_COLOUR = re.compile(r"\bcolou?rs?\b", re.IGNORECASE)
_COUNT = re.compile(r"\bhow many\b|\bcount\b", re.IGNORECASE)
_EXAMPLES = (
    (
        _COLOUR,
        (
            ("The picture shows a car. The colours are red and grey.", "What colour is it?"),
            "It is mostly red, with some grey.",
        ),
    ),
    (
        _COUNT,
        (
            ("The picture shows people.", "How many people are there?"),
            "I cannot tell how many there are.",
        ),
    ),
    (
        _PRESENCE,
        (
            ("The picture shows a house. There is no horse.", "Is there a horse?"),
            "No, I see no horse in the picture.",
        ),
        (
            ("The picture shows a car. There is a car.", "Is there a car?"),
            "Yes, there is a car.",
        ),
    ),
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
    told = describe(evidence) if has_picture else ""
    examples = _examples(question) if told and not picture_tokens and not history else []
    earlier = [
        message
        for asked, answered in [*examples, *((turn.question, turn.answer) for turn in history)]
        for message in (
            Message(role="user", content=asked),
            Message(role="assistant", content=answered),
        )
    ]
    return (
        Message(role="system", content=RULES if has_picture else RULES_IN_WORDS_ONLY),
        *earlier,
        Message(
            role="user",
            content=_with_evidence(told, question),
            has_picture=has_picture and picture_tokens,
        ),
    )


def describe(evidence: Evidence) -> str:
    """The evidence in plain words; empty when there is none worth telling."""
    sentences = [
        _shown(evidence),
        _setting(evidence.labels),
        f"The colours are {_joined(evidence.colours, 'and')}." if evidence.colours else "",
        _near(evidence),
        *(_presence(label) for label in evidence.asked),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


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


def _examples(question: str) -> list[tuple[str, str]]:
    """Worked questions of the same kind, as turns."""
    for kind, *worked in _EXAMPLES:
        if kind.search(question):
            return [(_with_evidence(*asked), answer) for asked, answer in worked]
    return []


def _with_evidence(told: str, question: str) -> str:
    return f"{told}\n{question}" if told else question


def _shown(evidence: Evidence) -> str:
    if evidence.caption:
        return f"The picture shows this: {evidence.caption.rstrip('.')}."
    things = [label for label in evidence.labels if label.kind == "object"]
    if not things:
        return ""
    guesses = [label.text for label in things[1:] if label.confidence >= LIKELY][:MAX_GUESSES]
    if things[0].confidence >= SURE:
        maybe = f" (maybe {_joined(guesses, 'or')})" if guesses else ""
        return f"The picture shows {_with_article(things[0].text)}{maybe}."
    if things[0].confidence >= LIKELY:
        named = [_with_article(text) for text in (things[0].text, *guesses)]
        return f"The picture probably shows {_joined(named, 'or')}."
    return f"It is hard to tell what the picture shows, maybe {_with_article(things[0].text)}."


def _setting(labels: Sequence[Label]) -> str:
    places = [label for label in labels if label.kind == "scene" and label.confidence >= 2 * LIKELY]
    themes = [label.text for label in labels if label.kind == "tag" and label.confidence >= SURE]
    where = f"The place is probably a {places[0].text}." if places else ""
    theme = f"It has to do with {_joined(themes[:2], 'and')}." if themes else ""
    return " ".join(part for part in (where, theme) if part)


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


def _presence(label: Label) -> str:
    thing = _with_article(label.text)
    if label.confidence >= LIKELY:
        return f"There is {thing}."
    if label.confidence >= ABSENT:
        return f"There may be {thing}."
    return f"There is no {label.text}."


def _with_article(text: str) -> str:
    if text[:1].isupper() or text.endswith("s"):
        return text
    return f"{'an' if text[:1].lower() in 'aeiou' else 'a'} {text}"


def _joined(parts: Sequence[str], word: str) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
