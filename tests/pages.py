"""Starts the real page on a free port, around a small room of sight, for tests."""

import socket
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.nights import NightRunner
from core.settings import Settings, load_settings
from feedback.comparison import ComparisonDesk
from feedback.insights import Insights
from feedback.store import FeedbackStore
from tests.small_rooms import SmallSight
from ui.page import Facts, Rooms, build_page
from ui.rooms import Sight
from ui.server import launch


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningPage:
    """A served page and the rooms behind it."""

    address: str
    store: FeedbackStore
    numbers: Insights
    sight: Sight


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_page(
    root: Path,
    *,
    sight: Sight | None = None,
    settings: Settings | None = None,
    owner_key: str = "",
    is_shared: bool = False,
    port: int | None = None,
) -> Iterator[RunningPage]:
    """The page with real votes and nights in `root`, and a small sight unless another is given."""
    settings = settings or load_settings()
    sight = sight or SmallSight(root, limits=settings.limits)
    with ExitStack() as stack:
        store = stack.enter_context(FeedbackStore(root / "feedback.db"))
        desk = ComparisonDesk(store, secret=b"s" * 32, preset=settings.comparison)
        nights = stack.enter_context(closing(NightRunner(root, settings=settings)))
        numbers = Insights(store.path)
        rooms = Rooms(sight=sight, votes=desk, behaviour=store, numbers=numbers, nights=nights)
        facts = Facts.of(settings, is_shared=is_shared, owner_key=owner_key)
        page = build_page(rooms, facts)
        stack.callback(page.close, verbose=False)
        where = Namespace(host="127.0.0.1", port=port or free_port(), share=False)
        address = launch(page, sight, where, limits=settings.limits, private_dir=root)
        yield RunningPage(address=address, store=store, numbers=numbers, sight=sight)
