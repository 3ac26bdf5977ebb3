"""The model worker: order, batches, limits and failures as a caller sees them."""

import threading

import pytest

from core.errors import Busy
from core.worker import ModelWorker


@pytest.fixture
def worker():
    worker = ModelWorker(max_waiting=8)
    yield worker
    worker.close()


@pytest.fixture
def gate(worker):
    """Holds the worker inside a job until it is opened, so that the others queue up behind it."""
    opened, entered = threading.Event(), threading.Event()

    def hold():
        entered.set()
        opened.wait(10)

    worker.submit(hold)
    assert entered.wait(10)
    yield opened
    opened.set()


def test_everything_runs_on_one_thread(worker):
    futures = [worker.submit(threading.get_ident) for _ in range(8)]
    assert len({future.result(10) for future in futures}) == 1
    assert futures[0].result() != threading.get_ident()


def test_jobs_waiting_with_one_key_run_as_one_batch(worker, gate):
    seen = []

    def double(numbers):
        seen.append(list(numbers))
        return [2 * number for number in numbers]

    futures = [worker.submit_batched("double", n, double, max_batch=3) for n in range(5)]
    other = worker.submit(lambda: "alone")
    gate.set()
    assert [future.result(10) for future in futures] == [0, 2, 4, 6, 8]
    assert other.result(10) == "alone"
    assert seen == [[0, 1, 2], [3, 4]]


def test_a_failing_item_fails_alone(worker, gate):
    def invert(numbers):
        return [1 / number for number in numbers]

    futures = [worker.submit_batched("invert", n, invert) for n in (1, 0, 2)]
    gate.set()
    assert futures[0].result(10) == 1
    assert isinstance(futures[1].exception(10), ZeroDivisionError)
    assert futures[2].result(10) == 0.5


def test_a_full_queue_says_busy_and_the_apps_own_work_still_enters(worker, gate):
    for _ in range(8):
        worker.submit(lambda: None)
    with pytest.raises(Busy, match="8 requests are waiting"):
        worker.submit(lambda: None)
    swap = worker.submit(lambda: "swapped", is_request=False)
    gate.set()
    assert swap.result(10) == "swapped"


def test_quick_jobs_run_between_the_tokens_of_a_long_one(worker):
    order = []
    queued, entered = threading.Event(), threading.Event()

    def long_job():
        order.append("token 1")
        entered.set()
        queued.wait(10)
        worker.run_quick()
        order.append("token 2")

    long = worker.submit(long_job)
    assert entered.wait(10)
    slow = worker.submit(lambda: order.append("slow"))
    worker.submit(lambda: order.append("quick"), is_quick=True)
    queued.set()
    long.result(10), slow.result(10)
    assert order == ["token 1", "quick", "token 2", "slow"]


def test_a_cancelled_job_never_runs(worker, gate):
    ran = []
    future = worker.submit(lambda: ran.append(1))
    assert future.cancel()
    gate.set()
    worker.submit(lambda: None).result(10)
    assert ran == []


def test_closing_turns_away_what_waits():
    worker = ModelWorker(max_waiting=4)
    opened = threading.Event()
    running = worker.submit(lambda: opened.wait(10))
    waiting = worker.submit(lambda: None)
    opened.set() if waiting.cancel() else None
    worker.close()
    assert running.done()
    with pytest.raises(Busy, match="stopping"):
        worker.submit(lambda: None)
