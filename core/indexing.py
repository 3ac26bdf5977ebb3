"""One indexing run at a time, in the background, with a state to look at and a way to stop."""

import logging
import threading
from collections.abc import Callable

from core.errors import UserError
from core.types import IndexProgress

log = logging.getLogger(__name__)


class BackgroundIndexing:
    """A thread that fills the gallery while the app is already being used."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self._state: IndexProgress | None = None
        self._problem: str | None = None
        self._thread: threading.Thread | None = None
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._starting = threading.Lock()

    @property
    def state(self) -> IndexProgress | None:
        """How far the run is; None when none is running."""
        return self._state

    @property
    def problem(self) -> str | None:
        """Why the last run ended early, in words for the page; None if it did not."""
        return self._problem

    def note(self, progress: IndexProgress) -> None:
        """Remember how far the run is."""
        self._state = progress

    def start(self, index: Callable[[], None], *, then: Callable[[], None] | None = None) -> None:
        """Run `index` on its own thread, unless a run is going on already; `then` comes after it.

        While `then` runs, nothing counts as being indexed any more.
        """
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                return
            self._problem = None
            self._is_idle.clear()
            self._state = IndexProgress(done=0, total=0, current="")
            self._thread = threading.Thread(
                target=self._run, args=(index, then), name="indexing", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ask the run to end after its present batch, and wait for it; not for what comes then."""
        self.cancel.set()
        self._is_idle.wait(30)

    def _run(self, index: Callable[[], None], then: Callable[[], None] | None) -> None:
        try:
            index()
        except UserError as error:
            self._problem = str(error)
            log.warning("indexing stopped: %s", error)
            return
        finally:
            self._state = None
            self._is_idle.set()
        if then is not None and not self.cancel.is_set():
            then()
