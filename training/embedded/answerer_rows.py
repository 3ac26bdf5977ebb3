"""Training rows of the answerer: one picture, and as many questions about it as fit.

Every question is its own branch: it sees the rules, the picture and itself, at the positions it
would have if it were asked alone. So one pass over the picture teaches ten questions, and each
looks exactly as `core.prompts` asks it in serving.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.prompts import build_prompt, chat_text, harmless
from core.types import Evidence, Turn
from training.embedded.answerer_language import Layout

if TYPE_CHECKING:
    from transformers import ProcessorMixin

IMAGE = "<image>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One question with its answer, and what is told beside the picture."""

    question: str
    answer: str
    evidence: Evidence = Evidence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Tokens of one question and answer, from behind the picture to the end mark."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What all branches see, with the picture's tokens at its end, and the branches."""

    prefix: tuple[int, ...]  # empty for text without a picture
    branches: tuple[Branch, ...]
    weight: float = 1.0  # of its answers' tokens in the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B rows of length L on one device."""

    tokens: Tensor  # (B, L)
    is_picture: Tensor  # (B, L), where picture tokens go, row by row
    layout: Layout
    places: Tensor  # (N, 2): row and column from which an answer's token is predicted
    targets: Tensor  # (N,)
    weights: Tensor  # (N,)


class RowMaker:
    """Turns lessons into rows with the tokenizer and the prompts of serving."""

    def __init__(self, processor: "ProcessorMixin", *, n_picture_tokens: int) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._image = int(self._tokenizer.convert_tokens_to_ids(IMAGE))
        self._n_picture_tokens = n_picture_tokens
        self._prefix = lru_cache(maxsize=512)(self._encode_prefix)

    @property
    def image_token(self) -> int:
        """The id that stands for one picture token."""
        return self._image

    def row(
        self,
        lessons: Sequence[Lesson],
        *,
        history: Sequence[Turn] = (),
        max_tokens: int,
        weight: float = 1.0,
    ) -> Row:
        """The lessons about one picture that fit into `max_tokens`, in their order.

        Raises:
            ValueError: not even one fits.
        """
        prefix: tuple[int, ...] = ()
        branches: list[Branch] = []
        left = max_tokens
        for lesson in lessons:
            head, branch = self._split(lesson, history)
            if not prefix:
                prefix = self._prefix(head)
                left -= len(prefix)
            if len(branch) <= left:
                branches.append(branch)
                left -= len(branch)
        if not branches:
            raise ValueError(f"No lesson fits into {max_tokens} tokens")
        return Row(prefix=prefix, branches=tuple(branches), weight=weight)

    def text_row(self, samples: Sequence[Branch], *, max_tokens: int, weight: float) -> Row:
        """Samples of text without a picture that fit into `max_tokens`; long ones are cut."""
        chosen: list[Branch] = []
        left = max_tokens
        for sample in samples:
            room = left - len(sample.prompt)
            if room < 8:
                break
            chosen.append(Branch(prompt=sample.prompt, answer=sample.answer[:room]))
            left -= len(chosen[-1])
        return Row(prefix=(), branches=tuple(chosen), weight=weight)

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The answer's tokens with the end mark."""
        tokens = self._tokenizer(
            harmless(answer, self._processor), add_special_tokens=False
        ).input_ids
        return (*tokens, int(self._tokenizer.eos_token_id))

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Tokens of text that may hold special tokens."""
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _split(self, lesson: Lesson, history: Sequence[Turn]) -> tuple[str, Branch]:
        messages = build_prompt(
            lesson.question, evidence=lesson.evidence, history=history, has_picture=True
        )
        head, rest = chat_text(messages, self._processor).split(IMAGE)
        return head, Branch(prompt=self.encode_text(rest), answer=self.answer_tokens(lesson.answer))

    def _encode_prefix(self, head: str) -> tuple[int, ...]:
        return (*self.encode_text(head), *([self._image] * self._n_picture_tokens))


def join_rows(rows: Sequence[Row], *, image_token: int, pad_token: int) -> Batch:
    """Rows padded on the right, with who sees whom and which tokens are to be predicted."""
    length = max(_length(row) for row in rows)
    shape = (len(rows), length)
    tokens = torch.full(shape, pad_token)
    positions = torch.zeros(shape, dtype=torch.long)
    groups = torch.full(shape, -1)  # -1 padding, 0 prefix, 1.. branches
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    weights: list[float] = []
    for number, row in enumerate(rows):
        start = len(row.prefix)
        tokens[number, :start] = torch.tensor(row.prefix, dtype=torch.long)
        positions[number, :start] = torch.arange(start)
        groups[number, :start] = 0
        for group, branch in enumerate(row.branches, start=1):
            end = start + len(branch)
            tokens[number, start:end] = torch.tensor(branch.prompt + branch.answer)
            positions[number, start:end] = len(row.prefix) + torch.arange(len(branch))
            groups[number, start:end] = group
            first = start + len(branch.prompt) - 1
            places += [(number, first + n) for n in range(len(branch.answer))]
            targets += branch.answer
            weights += [row.weight] * len(branch.answer)
            start = end
    order = torch.arange(length)
    same = groups[:, :, None] == groups[:, None, :]
    sees = same | (groups[:, None, :] == 0)
    return Batch(
        tokens=tokens,
        is_picture=tokens == image_token,
        layout=Layout(positions=positions, allowed=sees & (order[:, None] >= order[None, :])),
        places=torch.tensor(places),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights),
    )


def draw_weighted(
    lessons: Sequence[tuple[str, Lesson]],
    shares: Mapping[str, float],
    *,
    generator: random.Random,
) -> list[Lesson]:
    """All lessons in a random order in which forms with a larger share tend to come first.

    Weighted sampling without replacement: Efraimidis and Spirakis 2006, algorithm A.
    """

    def key(entry: tuple[str, Lesson]) -> float:
        share = shares.get(entry[0], 1.0)
        return generator.random() ** (1 / share) if share > 0 else -1.0

    keyed = sorted(((key(entry), entry[1]) for entry in lessons), key=lambda pair: -pair[0])
    return [lesson for sort_key, lesson in keyed if sort_key >= 0]


def _length(row: Row) -> int:
    return len(row.prefix) + sum(len(branch) for branch in row.branches)
