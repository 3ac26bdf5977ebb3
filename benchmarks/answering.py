"""`python -m benchmarks.answering`: what one answer and a pair cost, and what a swap costs.

One run measures all of it, in turn, so that a busy machine slows every row alike.
"""

import argparse
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import write_report
from core.adapters import AdapterShelf, verify
from core.answerer import Answerer, load_answerer
from core.settings import cache_dir, load_settings
from core.types import Candidate, Evidence, Label, RowSpec, Sampling
from tests.tiny_models import make_adapter

QUESTION = "Explain in detail how a black hole forms and what happens near it."
EVIDENCE = Evidence(
    labels=(Label(text="coffee", confidence=0.9, kind="object", source="imagenet"),),
    colours=("brown", "red"),
)
SEEDS = range(1, 60)


@dataclass
class Timing:
    """Seconds of one kind of answer, round by round."""

    first_token: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and write results/answering.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--exact", type=int, default=20, help="pairs compared with their halves")
    arguments = parser.parse_args()
    answerer = load_answerer(load_settings().presets["embedded"], cache=cache_dir())
    with tempfile.TemporaryDirectory() as folder:
        versions, swap_ms = load_adapters(answerer, AdapterShelf(Path(folder)))
    kinds = row_kinds(answerer, versions, n_tokens=arguments.tokens)
    timings = {name: Timing() for name in kinds}
    for _ in range(arguments.rounds + 1):
        for name, rows in kinds.items():
            measure(answerer, rows, timings[name], n_tokens=arguments.tokens)
    rows = [report_row(name, kinds[name], timings[name], arguments.tokens) for name in kinds]
    base = rows[0]["seconds an answer"]
    for row in rows:
        row["times one answer"] = row["seconds an answer"] / base
    same = count_exact(answerer, versions, n_pairs=arguments.exact)
    write_report(
        "answering",
        rows,
        notes=(
            f"{arguments.rounds} rounds of {arguments.tokens} tokens; medians. A pair may cost at "
            f"most 1.25 times one answer of the same length. {same} of {2 * arguments.exact} rows "
            f"of pairs read exactly as alone (bfloat16 rounds otherwise in a batch of two; float32 "
            f"does not). Loading an adapter (rank 16, all linear layers): "
            f"{statistics.median(swap_ms):.0f} ms, slowest {max(swap_ms):.0f} ms."
        ),
    )


def load_adapters(answerer: Answerer, shelf: AdapterShelf) -> tuple[list[str], list[float]]:
    """Two random versions, loaded; and how long loading took, in ms, over ten swaps."""
    versions = [make_adapter(shelf, answerer.base, seed=s, scale=0.02, rank=16) for s in (1, 2)]
    checked = [
        verify(shelf.folder(version), base=answerer.base, layers=answerer.layers)
        for version in versions
    ]
    answerer.load_adapter(checked[0])
    took = []
    for _ in range(10):
        answerer.drop_adapters(keep=versions[:1])
        began = time.perf_counter()
        answerer.load_adapter(checked[1])
        took.append(1000 * (time.perf_counter() - began))
    return versions, took


def row_kinds(
    answerer: Answerer, versions: list[str], *, n_tokens: int
) -> dict[str, list[RowSpec]]:
    """What is compared; every row has a seed whose answer does not end before `n_tokens`."""

    def long_seeds(adapter: str | None) -> list[RowSpec]:
        found = []
        for seed in SEEDS:
            (candidate,) = say(answerer, [RowSpec(adapter=adapter, seed=seed)], n_tokens=n_tokens)
            if candidate.finish_reason == "length":
                found.append(candidate)
            if len(found) == 2:
                return [RowSpec(adapter=c.adapter, seed=c.seed) for c in found]
        raise RuntimeError(
            f"{adapter or 'the base model'} gives no two answers of {n_tokens} tokens"
        )

    base, old, live = (long_seeds(adapter) for adapter in (None, *versions))
    return {
        "one answer, base model": base[:1],
        "pair, two seeds of the base model": base,
        "one answer, adapter": live[:1],
        "pair, two seeds of an adapter": live,
        "pair, adapter and base model": [live[0], base[0]],
        "pair, two adapters": [live[0], old[0]],
    }


def measure(answerer: Answerer, rows: list[RowSpec], timing: Timing, *, n_tokens: int) -> None:
    """One round of one kind, added to its timing."""
    first: list[float] = []
    began = time.perf_counter()
    candidates = say(
        answerer,
        rows,
        n_tokens=n_tokens,
        on_texts=lambda _: first or first.append(time.perf_counter() - began),
    )
    timing.whole.append(time.perf_counter() - began)
    timing.first_token.append(first[0])
    if {candidate.n_tokens for candidate in candidates} != {n_tokens}:
        raise RuntimeError("a row ended early, so the lengths are not the same")


def say(answerer, rows, *, n_tokens, on_texts=lambda _: None) -> tuple[Candidate, ...]:
    """The rows' answers to the benchmark's question."""
    prompt = answerer.fit_prompt(
        QUESTION, evidence=EVIDENCE, history=(), picture=None, max_new_tokens=n_tokens
    )
    return answerer.generate(
        prompt,
        picture=None,
        rows=rows,
        sampling=Sampling(temperature=0.7, max_new_tokens=n_tokens),
        cancel=threading.Event(),
        on_texts=on_texts,
    )


def report_row(name: str, rows: list[RowSpec], timing: Timing, n_tokens: int) -> dict[str, object]:
    """Medians over the rounds; the first round warms up and is left out."""
    whole = statistics.median(timing.whole[1:])
    return {
        "what": name,
        "first token, s": statistics.median(timing.first_token[1:]),
        "seconds an answer": whole,
        "tokens/s together": len(rows) * n_tokens / whole,
        "times one answer": 1.0,
    }


def count_exact(answerer: Answerer, versions: list[str], *, n_pairs: int) -> int:
    """How many rows of pairs read exactly as the same row alone."""
    same = 0
    for number in range(n_pairs):
        rows = [
            RowSpec(adapter=[None, *versions][number % 3], seed=100 + number),
            RowSpec(adapter=[versions[1], None][number % 2], seed=200 + number),
        ]
        pair = say(answerer, rows, n_tokens=24)
        for row, candidate in zip(rows, pair, strict=True):
            (alone,) = say(answerer, [row], n_tokens=24)
            same += alone.content == candidate.content
    return same


if __name__ == "__main__":
    main()
