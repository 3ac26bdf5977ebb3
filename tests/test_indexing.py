"""Indexing in the background: what comes after it, and stopping."""

import threading

from core.errors import UserError
from core.indexing import BackgroundIndexing
from core.types import IndexProgress


def test_what_comes_then_runs_after_the_indexing_and_no_longer_counts_as_it() -> None:
    indexing, seen = BackgroundIndexing(), []
    done = threading.Event()

    def index() -> None:
        indexing.note(IndexProgress(done=1, total=2, current="a.png"))
        seen.append(indexing.state)

    def then() -> None:
        seen.append(indexing.state)
        done.set()

    indexing.start(index, then=then)
    assert done.wait(10)
    assert seen == [IndexProgress(done=1, total=2, current="a.png"), None]


def test_nothing_comes_after_an_indexing_that_failed() -> None:
    indexing, ran = BackgroundIndexing(), threading.Event()

    def index() -> None:
        raise UserError("The disk is full.")

    indexing.start(index, then=ran.set)
    indexing.stop()
    assert indexing.problem == "The disk is full."
    assert not ran.wait(0.2)


def test_stopping_waits_for_the_indexing_and_not_for_what_comes_then() -> None:
    indexing = BackgroundIndexing()
    has_begun, may_go = threading.Event(), threading.Event()
    indexing.start(has_begun.set, then=may_go.wait)
    assert has_begun.wait(10)
    indexing.stop()
    assert indexing.state is None
    may_go.set()
