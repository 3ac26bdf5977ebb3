"""One thread owns every forward pass and every adapter swap of the process."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from core.errors import Busy

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Something to run, and the futures it answers: one alone, or several as one batch."""

    run: Callable[[list[Any]], Sequence[Any]]
    item: Any
    future: "Future[Any]"
    batch_key: Hashable | None  # jobs waiting with the same key run together; None runs alone
    max_batch: int
    is_quick: bool


class ModelWorker:
    """A bounded queue in front of one daemon thread.

    peft's adapter switches and most pipelines are not safe to call from two threads, and Gradio's
    plain HTTP route runs handlers in parallel whatever its queue says. So requests wait here.
    """

    def __init__(self, *, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="model-worker", daemon=True)
        self._thread.start()

    def submit(
        self, run: Callable[[], Result], *, is_quick: bool = False, is_request: bool = True
    ) -> "Future[Result]":
        """A future of what `run` returns, or raises.

        Args:
            run: called once on the worker's thread.
            is_quick: may run between two tokens of a running answer; it must leave the answerer
                alone.
            is_request: someone waits for it, so it counts towards `max_waiting`; False for the
                app's own work, which is never turned away.

        Raises:
            Busy: too much is waiting.
        """
        return self._enqueue(
            _Job(
                run=lambda _: [run()],
                item=None,
                future=Future(),
                batch_key=None,
                max_batch=1,
                is_quick=is_quick,
            ),
            is_request=is_request,
        )

    def submit_batched(
        self,
        batch_key: Hashable,
        item: Item,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int = 32,
        is_quick: bool = False,
    ) -> "Future[Result]":
        """A future of this item's result; items waiting with the same key run as one batch.

        Args:
            batch_key: what fits together, such as ("embed text", model id).
            item: this request's part of the batch.
            run: from a list of items to their results in the same order.
            max_batch: how many items one call of `run` takes.
            is_quick: as in `submit`.

        Raises:
            Busy: too much is waiting.
        """
        return self._enqueue(
            _Job(
                run=run,
                item=item,
                future=Future(),
                batch_key=batch_key,
                max_batch=max_batch,
                is_quick=is_quick,
            ),
            is_request=True,
        )

    def run_quick(self) -> None:
        """Run the quick jobs that wait now; for a long job to call, on the worker's own thread.

        Raises:
            RuntimeError: called on another thread.
        """
        if not self.is_current_thread():
            raise RuntimeError("run_quick belongs to the worker's own thread")
        while batch := self._take(only_quick=True):
            _run_batch(batch)

    def is_current_thread(self) -> bool:
        """Whether the caller is the worker itself."""
        return threading.current_thread() is self._thread

    def waiting(self) -> int:
        """How many jobs have not begun."""
        with self._changed:
            return len(self._waiting)

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Turn away what waits, let the running job end, and stop."""
        with self._changed:
            self._is_closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in left:
            job.future.cancel()
        if not self.is_current_thread():
            self._thread.join(timeout_s)

    def _enqueue(self, job: _Job, *, is_request: bool) -> "Future[Any]":
        with self._changed:
            if self._is_closed:
                raise Busy("The app is stopping and takes no new work. Start it again.")
            if is_request and len(self._waiting) >= self._max_waiting:
                raise Busy(
                    f"{len(self._waiting)} requests are waiting already, and that is as many as "
                    "this machine takes. Try again in a minute."
                )
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
            _run_batch(self._take(only_quick=False))

    def _take(self, *, only_quick: bool) -> list[_Job]:
        """The first job that may run and those waiting that fit into its batch."""
        with self._changed:
            first = next((job for job in self._waiting if job.is_quick or not only_quick), None)
            if first is None:
                return []
            batch = [first]
            if first.batch_key is not None:
                batch = [job for job in self._waiting if job.batch_key == first.batch_key]
                batch = batch[: first.max_batch]
            for job in batch:
                self._waiting.remove(job)
        return [job for job in batch if job.future.set_running_or_notify_cancel()]


def _run_batch(jobs: list[_Job]) -> None:
    """Answer every job's future; a batch that fails is run again one by one.

    So a job that fails takes no other with it.
    """
    if not jobs:
        return
    try:
        results = jobs[0].run([job.item for job in jobs])
    except BaseException as error:  # whatever it is belongs to the caller, as in concurrent.futures
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            return
        for job in jobs:
            _run_batch([job])
        return
    for job, result in zip(jobs, results, strict=True):
        job.future.set_result(result)
