"""Keeps the served adapter at what the shelf says, without a restart or a failed request."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
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
        self._pinning = threading.Lock()
        self._pins: Counter[str] = Counter()
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

    @contextmanager
    def pinned(self, versions: Iterable[str | None]) -> Iterator[None]:
        """Keep versions loaded through swaps while a request that asked for them is answered."""
        asked = Counter(version for version in versions if version is not None)
        with self._pinning:
            self._pins += asked
        try:
            yield
        finally:
            with self._pinning:
                self._pins -= asked

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
                version = self._version = self._first_sound()
        return version

    def follow(self) -> None:
        """Bring the live version to where the shelf points, now; returns when it answers.

        A bad version is refused and logged, and what was live before it goes on.
        """
        with self._changing:
            while (wanted := self._first_sound()) != self._version:
                answerer = self._loaded_answerer()
                if answerer is None:
                    self._set(wanted)
                elif wanted is None or wanted in answerer.adapters:
                    # Nothing to load: a roll-back need not wait for the answer being given.
                    self._set(wanted)
                    self._worker.submit(partial(self._free, answerer), is_request=False)
                else:
                    with suppress(AdapterRefused):
                        self._swap(answerer, self._check(answerer, wanted))

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

    def _swap(self, answerer: "Answerer", adapter: CheckedAdapter) -> None:
        """Load a version and free those that are neither live nor previous, between batches."""

        def swap() -> None:
            answerer.load_adapter(adapter)
            self._set(adapter.version)
            self._free(answerer)

        self._worker.submit(swap, is_request=False).result(SWAP_TIMEOUT_S)

    def _free(self, answerer: "Answerer") -> None:
        with self._pinning:
            pinned = list(self._pins)
        answerer.drop_adapters(keep=[*self._sound()[:2], *pinned])  # live, previous, asked for

    def _first_sound(self) -> str | None:
        return next(iter(self._sound()), None)

    def _sound(self) -> list[str]:
        """The shelf's versions, live one first, without those that were refused."""
        return [version for version in self._shelf.history() if version not in self._refused]

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self.follow()
            except Exception:  # whatever went wrong with one swap, the next must still be seen
                log.exception("the adapter that the shelf points to could not be made live")
