"""`python -m benchmarks.swapping`: adapter swaps under load, every answer checked word by word.

Four clients ask for pairs without pause while the live adapter changes 200 times. Each text must
equal what its adapter says alone with the same seed; anything else is a mixture.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import write_report
from core.adapters import AdapterShelf
from core.assembly import prepare_base
from core.engine import Engine
from core.settings import cache_dir, load_settings
from core.types import RowSpec, Sampling
from tests.tiny_models import make_adapter

SEED = 7


@dataclass
class SwapReport:
    """What happened while adapters were swapped under load."""

    n_answers: int = 0
    mixed: list[tuple[str, tuple[str | None, ...]]] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    asked: set[tuple[str | None, ...]] = field(default_factory=set)
    swap_s: list[float] = field(default_factory=list)


def main() -> None:
    """Measure with the embedded models and write results/swapping.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=12)
    arguments = parser.parse_args()
    settings = load_settings(preset="embedded")
    base = prepare_base(settings.active.answerer, cache=cache_dir())
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(settings, data_dir=Path(folder), cache=cache_dir())
        shelf = AdapterShelf(Path(folder) / "adapters" / "answerer")
        versions = [make_adapter(shelf, base, seed=n, scale=0.05, rank=16) for n in range(3)]
        report = swap_under_load(
            engine,
            shelf,
            versions,
            questions=["Why is the sky blue?", "What is tea?", "Name a fish.", "Who are you?"],
            n_swaps=arguments.swaps,
            sampling=Sampling(max_new_tokens=arguments.tokens),
        )
        engine.close()
    write_report(
        "swapping",
        [
            {
                "swaps": len(report.swap_s),
                "clients": 4,
                "answers (pairs)": report.n_answers,
                "mixed": len(report.mixed),
                "failed": len(report.failed),
                "swap p50, s": statistics.median(report.swap_s),
                "swap p99, s": sorted(report.swap_s)[int(0.99 * len(report.swap_s))],
            }
        ],
        notes="A swap waits in the queue behind the answers asked for before it.",
    )


def swap_under_load(
    engine: Engine,
    shelf: AdapterShelf,
    versions: Sequence[str],
    *,
    questions: Sequence[str],
    n_swaps: int,
    sampling: Sampling,
) -> SwapReport:
    """One client per question asks for live and previous side by side while versions change.

    Raises:
        ValueError: two versions say the same alone, so a mixture could go unseen.
    """

    def ask(question: str, adapters: Sequence[str | None]) -> tuple[str, ...]:
        rows = [RowSpec(adapter=adapter, seed=SEED) for adapter in adapters]
        *_, last = engine.answer(question, picture=None, rows=rows, sampling=sampling)
        return last.texts

    # Two rows here as well: in bfloat16 a batch of one may round a close call the other way.
    alone = {
        (question, version): ask(question, [version, version])[0]
        for question in questions
        for version in (None, *versions)
    }
    for question in questions:
        if len({alone[question, version] for version in (None, *versions)}) <= len(versions):
            raise ValueError(f"Two versions answer {question!r} alike; take other seeds")
    report, done = SwapReport(), threading.Event()

    def client(question: str) -> None:
        while not done.is_set():
            adapters = (engine.live_adapter(), engine.previous_adapter())
            try:
                texts = ask(question, adapters)
            except BaseException as error:  # every kind of failure counts
                report.failed.append(error)
                return
            if texts != tuple(alone[question, adapter] for adapter in adapters):
                report.mixed.append((question, adapters))
            report.asked.add(adapters)
            report.n_answers += 1

    clients = [threading.Thread(target=client, args=(question,)) for question in questions]
    for thread in clients:
        thread.start()
    for number in range(n_swaps):
        before = report.n_answers
        began = time.perf_counter()
        shelf.publish(versions[number % len(versions)])
        engine.follow_shelf()
        report.swap_s.append(time.perf_counter() - began)
        while report.n_answers == before and any(thread.is_alive() for thread in clients):
            time.sleep(0.002)  # every swap falls among answers being given
    done.set()
    for thread in clients:
        thread.join()
    return report


if __name__ == "__main__":
    main()
