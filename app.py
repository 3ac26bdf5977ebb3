"""Composition root: read the settings, build the rooms, serve the page."""

import signal
import sys
import threading
from argparse import Namespace
from contextlib import ExitStack, closing

from core.errors import UserError
from core.settings import cache_dir, default_data_dir, load_settings
from ui.arguments import read_arguments


def main() -> None:
    """Serve until stopped; exit with 1 where the app cannot start, and say why in one line."""
    arguments = read_arguments(data_dir=default_data_dir())
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with ExitStack() as stack:
            print(f"Sightloop is at {start(arguments, stack)}", flush=True)
            stop.wait()
    except UserError as error:
        sys.exit(str(error))


def start(arguments: Namespace, stack: ExitStack) -> str:
    """Build every room and serve the page; its address. The stack closes what was opened."""
    from core.engine import Engine
    from core.nights import NightRunner
    from feedback.comparison import ComparisonDesk, load_or_make_secret
    from feedback.insights import Insights
    from feedback.store import FeedbackStore
    from ui.page import Facts, Rooms, build_page
    from ui.server import launch, refuse_taken

    settings, data_dir = load_settings(preset=arguments.preset), arguments.data_dir.expanduser()
    refuse_taken(arguments.host, arguments.port)
    engine = stack.enter_context(closing(Engine(settings, data_dir=data_dir, cache=cache_dir())))
    store = stack.enter_context(FeedbackStore(data_dir / "feedback.db"))
    secret = load_or_make_secret(data_dir / "secret.key")
    votes = ComparisonDesk(store, secret=secret, preset=settings.comparison)
    nights = stack.enter_context(closing(NightRunner(data_dir, settings=settings)))
    numbers = Insights(store.path)
    rooms = Rooms(sight=engine, votes=votes, behaviour=store, numbers=numbers, nights=nights)
    facts = Facts.of(settings, is_shared=arguments.share, owner_key=arguments.owner_key)
    page = build_page(rooms, facts)
    stack.callback(page.close, verbose=False)
    engine.start_indexing()
    nights.start_schedule()
    return launch(page, engine, arguments, limits=settings.limits, private_dir=data_dir)


if __name__ == "__main__":
    main()
