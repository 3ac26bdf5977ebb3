"""Keeps the served adapter at what the shelf says, without a restart or a failed request."""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.adapters import AdapterShelf, CheckedAdapter, verify
from core.errors import AdapterRefused
from core.worker import ModelWorker

if TYPE_CHECKING:
    from core.answerer import Answerer

log = logging.getLogger(__name__)

POLL_S = 1.0
SWAP_TIMEOUT_S = 120.0  # a swap waits for the answer that is being given


class LiveAdapter:
    """Which version answers now; follows the shelf's pointer and refuses bad versions."""

    def __init__(
        self,
        shelf: AdapterShelf,
        worker: ModelWorker,
        *,
        loaded_answerer: "Callable[[], Answerer | None]",
        poll_s: float = POLL_S,
    ) -> None:
        """Starts watching at once.

        Args:
            shelf: where versions lie and which is current.
            worker: swaps are jobs between its batches.
            loaded_answerer: the answerer, or None while nothing has needed it.
            poll_s: how often the pointer is read.
        """
        self._shelf = shelf
        self._worker = worker
        self._loaded_answerer = loaded_answerer
        self._poll_s = poll_s
        self._changing = threading.Lock()
        self._refused: dict[str, str] = {}
        # Unchecked until the answerer is there to check it against; `make_ready` sees to it.
        self._version = shelf.current()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="adapter-watcher", daemon=True)
        self._watcher.start()

    @property
    def version(self) -> str | None:
        """What the next answer is given with; None for the base model."""
        return self._version

    def problems(self) -> dict[str, str]:
        """Why versions were refused since the start, by version."""
        return dict(self._refused)

    def make_ready(self, answerer: "Answerer", version: str | None) -> str | None:
        """The version to answer with, loaded: the one asked for, as long as it is sound.

        For the worker's thread. When the live version itself turns out bad, what was live before
        takes its place.

        Raises:
            AdapterRefused: another than the live version was asked for, and it is bad or gone.
        """
        while version is not None and version not in answerer.adapters:
            try:
                answerer.load_adapter(self._check(answerer, version))
            except AdapterRefused:
                if version != self._version:
                    raise
                version = self._version = self._before(version)
        return version

    def follow(self) -> None:
        """Bring the live version to where the shelf points, now; returns when it answers.

        A bad version is refused and logged, and the one that was live goes on.
        """
        with self._changing:
            wanted, answerer = self._shelf.current(), self._loaded_answerer()
            if wanted == self._version or wanted in self._refused:
                return
            if answerer is None or wanted is None or wanted in answerer.adapters:
                self._set(wanted)
                return
            try:
                adapter = self._check(answerer, wanted)
            except AdapterRefused:
                return
            ready = answerer

            def swap() -> None:
                ready.load_adapter(adapter)
                self._set(wanted)
                keep = (wanted, self._shelf.previous())
                ready.drop_adapters(keep=[version for version in keep if version])

            self._worker.submit(swap, is_request=False).result(SWAP_TIMEOUT_S)

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._watcher.join(5)

    def _set(self, version: str | None) -> None:
        log.info("live: %s (before: %s)", version or "base model", self._version or "base model")
        self._version = version

    def _check(self, answerer: "Answerer", version: str) -> CheckedAdapter:
        try:
            return verify(self._shelf.folder(version), base=answerer.base, layers=answerer.layers)
        except AdapterRefused as error:
            self._refused[version] = str(error)
            log.warning("%s", error)
            raise

    def _before(self, version: str) -> str | None:
        """What was live before a version that turned out bad; None for the base model."""
        earlier = self._shelf.history()
        after = earlier[earlier.index(version) + 1 :] if version in earlier else []
        return next((name for name in after if name not in self._refused), None)

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self.follow()
            except Exception:  # whatever went wrong with one swap, the next must still be seen
                log.exception("the adapter that the shelf points to could not be made live")
