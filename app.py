"""Composition root: read the settings, build the rooms, serve the page."""

import os
import signal
import sys
import threading
from argparse import Namespace
from contextlib import ExitStack, closing

from core.errors import UserError
from core.settings import cache_dir, default_data_dir, load_settings
from ui.arguments import read_arguments


def main() -> int:
    """Serve until stopped; 1 where the app cannot start, after saying why in one line."""
    arguments = read_arguments(data_dir=default_data_dir())
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # Gradio reads it when imported
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with ExitStack() as stack:
            print(f"Sightloop is at {start(arguments, stack)}", flush=True)
            stop.wait()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def start(arguments: Namespace, stack: ExitStack) -> str:
    """Build every room and serve the page; its address. The stack closes what was opened."""
    from core.engine import Engine
    from core.nights import NightRunner
    from feedback.comparison import ComparisonDesk, load_or_make_secret
    from feedback.insights import Insights
    from feedback.store import FeedbackStore
    from ui.page import Facts, Rooms, build_page
    from ui.server import launch, refuse_taken

    host, port, data_dir = arguments.host, arguments.port, arguments.data_dir.expanduser()
    settings = load_settings(preset=arguments.preset)
    refuse_taken(host, port)
    engine = stack.enter_context(closing(Engine(settings, data_dir=data_dir, cache=cache_dir())))
    store = stack.enter_context(FeedbackStore(data_dir / "feedback.db"))
    secret = load_or_make_secret(data_dir / "secret.key")
    desk = ComparisonDesk(store, secret=secret, preset=settings.comparison)
    nights = stack.enter_context(closing(NightRunner(data_dir, settings=settings)))
    numbers = Insights(store.path)
    rooms = Rooms(sight=engine, votes=desk, behaviour=store, numbers=numbers, nights=nights)
    facts = Facts(
        preset=settings.active,
        limits=settings.limits,
        comparison=settings.comparison,
        nightly=settings.nightly,
        is_shared=arguments.share,
        owner_key=os.environ.get("SIGHTLOOP_OWNER_KEY", ""),
    )
    page = build_page(rooms, facts)
    stack.callback(page.close)
    engine.start_indexing()
    nights.start_schedule()
    return launch(page, engine, arguments, limits=settings.limits, private_dir=data_dir)


if __name__ == "__main__":
    sys.exit(main())
