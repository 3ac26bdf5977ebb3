"""The prompt in words, and how it becomes the model's input; serving and training share both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.types import Evidence, Label, Message, SearchHit, Turn

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature, ProcessorMixin

SURE = 0.5  # confidence from which a label is said without hedging
LIKELY = 0.2
POSSIBLE = 0.08  # below it a label misleads more often than it helps
MAX_LABELS = 4
NEAR = 0.35  # cosine similarity from which a gallery picture's caption is worth telling


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
    earlier = [
        message
        for turn in history
        for message in (
            Message(role="user", content=turn.question),
            Message(role="assistant", content=turn.answer),
        )
    ]
    told = describe(evidence) if has_picture else ""
    return (
        Message(role="system", content=_rules(has_picture=has_picture)),
        *earlier,
        Message(
            role="user",
            content=f"{told}\n\n{question}" if told else question,
            has_picture=has_picture and picture_tokens,
        ),
    )


def describe(evidence: Evidence) -> str:
    """The evidence in plain words; empty when there is none worth telling."""
    sentences = [_objects(evidence.labels), _setting(evidence.labels), _near(evidence.neighbours)]
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


def _rules(*, has_picture: bool) -> str:
    if has_picture:
        return (
            "You answer questions about one picture. An image recogniser has looked at it, and "
            "its notes are all you know about the picture. Answer in one or two short, plain "
            "sentences. If the notes do not say, say that you cannot tell."
        )
    return (
        "You are a helpful assistant. Answer clearly and correctly in a few plain sentences. "
        "There is no picture."
    )


def _objects(labels: Sequence[Label]) -> str:
    things = [label for label in labels if label.kind == "object"]
    told = _hedged([label for label in things if label.confidence >= POSSIBLE][:MAX_LABELS])
    if told:
        return f"The picture shows {told}."
    return f"The picture may show {things[0].text}, but this is only a guess." if things else ""


def _hedged(labels: Sequence[Label]) -> str:
    sure = [label.text for label in labels if label.confidence >= SURE]
    likely = [label.text for label in labels if LIKELY <= label.confidence < SURE]
    possible = [label.text for label in labels if label.confidence < LIKELY]
    parts = [
        ", ".join(sure),
        "probably " + " or ".join(likely) if likely else "",
        "perhaps " + " or ".join(possible) if possible else "",
    ]
    return ", ".join(part for part in parts if part)


def _setting(labels: Sequence[Label]) -> str:
    scenes = [label for label in labels if label.kind == "scene" and label.confidence >= LIKELY]
    tags = [label.text for label in labels if label.kind == "tag" and label.confidence >= POSSIBLE]
    where = f"The setting looks like {scenes[0].text}." if scenes else ""
    also = f"Words that fit: {', '.join(tags[:MAX_LABELS])}." if tags else ""
    return " ".join(part for part in (where, also) if part)


def _near(neighbours: Sequence[SearchHit]) -> str:
    captions = [hit.picture.caption for hit in neighbours if hit.score >= NEAR]
    told = list(dict.fromkeys(caption for caption in captions if caption))
    return f"Similar pictures are called: {'; '.join(told)}." if told else ""
