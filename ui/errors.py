"""How a tab speaks to a person whose input cannot be used."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from core.errors import UserError


def shows_user_errors(handler: Callable) -> Callable:
    """Turn a UserError into the red message Gradio shows; let everything else surface in the log.

    Works for plain handlers and for generators; functools.wraps keeps Gradio's injection of
    gr.Request and gr.EventData working.
    """
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def streamed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from handler(*args, **kwargs)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return streamed

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped
