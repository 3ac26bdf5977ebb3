"""How the pages are served: addresses of pictures, headers, limits, and who is the owner."""

import hmac
import ipaddress
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import UserError
from core.types import GalleryPicture, Picture
from ui.markup import HERE
from ui.rooms import LimitFacts
from ui.theme import build_theme

ROOT = HERE.parent
_FORWARDED = ("x-forwarded-for", "x-forwarded-host", "forwarded", "cf-connecting-ip", "x-real-ip")
_HEADERS = {
    # The frame header is for Spaces, whose page shows the app inside huggingface.co. Gradio's
    # components are made from templates with Function(), hence unsafe-eval.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob: https://huggingface.co; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


class HasRequest(Protocol):
    """The parts of gr.Request that tell where a request came from."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def client(self) -> object: ...


class HasPictures(Protocol):
    """Where the pictures are that the page shows."""

    def picture(self, picture_id: str) -> Picture: ...
    def gallery_picture(self, gallery_id: str) -> GalleryPicture: ...


class Address(Protocol):
    """Where to serve, as given on the command line."""

    host: str
    port: int
    share: bool


def is_local(request: HasRequest) -> bool:
    """Whether the page was opened on this very machine, by its loopback address.

    The host is checked as well as the client: a proxy's or a tunnel's connection comes from
    loopback too, and so does a foreign page whose name was made to point here.
    """
    client = getattr(request.client, "host", None)
    hosts = [request.headers.get("host", "")]
    origin = request.headers.get("origin")
    if origin:
        hosts.append(origin.split("://", 1)[-1])
    is_forwarded = any(name in request.headers for name in _FORWARDED)
    return (
        not is_forwarded
        and _is_loopback(client or "")
        and all(_is_loopback(host) for host in hosts)
    )


def owner_check(*, owner_key: str, is_shared: bool) -> Callable[[HasRequest, str], bool]:
    """Who may train, roll back and index folders: whoever sits at the machine or has the key.

    Args:
        owner_key: the owner's secret; empty where none is set, and then no key is right.
        is_shared: through a tunnel, whose visitors all seem to come from this machine.
    """

    def is_owner(request: HasRequest, given: object) -> bool:
        key = given if isinstance(given, str) else ""
        same = hmac.compare_digest(key.encode("utf-8", "replace"), owner_key.encode())
        return (bool(owner_key) and same) or (not is_shared and is_local(request))

    return is_owner


def _is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 or "]:" in host else host
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """Adds the security headers, and refuses bodies larger than any upload may be."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._max:
            response = PlainTextResponse(
                f"This is larger than {self._max // 2**20} MB, the most that can be sent. "
                "Send less.",
                status_code=413,
            )
            await response(scope, receive, _with_headers(send))
            return
        receive = _limited(receive, self._max)
        if scope["path"].endswith("/run/vote"):
            receive = _in_a_session(receive)
        await self._app(scope, receive, _with_headers(send))


def _limited(receive: Receive, max_bytes: int) -> Receive:
    got = 0

    async def limited() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > max_bytes:  # a chunked body that never said how long it is
            return {"type": "http.disconnect"}
        return message

    return limited


def _in_a_session(receive: Receive) -> Receive:
    """A call that names no session joins one that all such calls share.

    Gradio builds a session of the whole page for each call without one, 30 ms in which nobody else
    is served (benchmarks/votes.py). A vote neither reads nor writes anything in its session.
    """

    async def joined() -> Message:
        message = await receive()
        body = bytearray(message.get("body", b""))
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        if message["type"] != "http.request":
            return message
        try:
            sent = json.loads(body)
        except ValueError:
            sent = None
        if isinstance(sent, dict) and not sent.get("session_hash"):
            body = bytearray(json.dumps(sent | {"session_hash": "without-a-session"}).encode())
        return {**message, "body": bytes(body), "more_body": False}

    return joined


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            have = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (name.encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.encode() not in have
                ),
            ]
        await send(message)

    return sending


def picture_routes(pictures: HasPictures) -> list[Route]:
    """Addresses under which the page finds pictures; they name no folder of this machine."""

    def serve(find: Callable[[str], Picture | GalleryPicture]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            try:
                path = find(request.path_params["picture_id"]).path
            except (UserError, LookupError, ValueError):
                return PlainTextResponse("There is no such picture.", status_code=404)
            # The name under an id never changes its content.
            kept = {"cache-control": "private, max-age=31536000, immutable"}
            return FileResponse(path, headers=kept, content_disposition_type="inline")

        return endpoint

    return [
        Route("/sightloop/pictures/{picture_id}", serve(pictures.picture), methods=["GET"]),
        Route(
            "/sightloop/gallery/{picture_id:path}", serve(pictures.gallery_picture), methods=["GET"]
        ),
        Route("/sightloop/source", _source, methods=["GET"]),
        Route("/sightloop/licences", _licences, methods=["GET"]),
    ]


def _source(_: Request) -> Response:
    space = os.environ.get("SPACE_ID")
    if space:
        return RedirectResponse(f"https://huggingface.co/spaces/{space}/tree/main")
    return PlainTextResponse((ROOT / "README.md").read_text(encoding="utf-8"))


def _licences(_: Request) -> Response:
    files = [file for file in (ROOT / "NOTICE", ROOT / "LICENSE") if file.exists()]
    return PlainTextResponse("\n\n".join(file.read_text(encoding="utf-8") for file in files))


def launch(
    page: gr.Blocks,
    pictures: HasPictures,
    address: Address,
    *,
    limits: LimitFacts,
    private_dir: Path,
) -> str:
    """Serve the page in threads of this process, until `page.close()`; the address it is at.

    Args:
        private_dir: nothing of it is ever served by its path.
    """
    Image.MAX_IMAGE_PIXELS = limits.max_megapixels * 1_000_000  # Gradio opens headers as well
    # A picture inside JSON is a third larger than its file.
    guard = Middleware(Guard, max_body_bytes=int(limits.max_upload_mb * 2**20 * 1.4) + 2**20)
    _, local, shared = page.launch(
        server_name=address.host,
        server_port=address.port,
        share=address.share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        footer_links=["api"],  # Gradio opens /?view=api only then; its own footer is hidden
        max_file_size=limits.max_upload_mb * 2**20,
        blocked_paths=[str(private_dir)],
        app_kwargs={"routes": picture_routes(pictures), "middleware": [guard]},
        theme=build_theme(),
        head=_head(),
        js=_ON_LOAD,
    )
    return shared or local


def _head() -> str:
    # Not launch(css=...): it rewrites the selectors, and then the rules for phones lose.
    style = (HERE / "style.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return f"<style>{style}</style><script>{script}</script>"


_ON_LOAD = """() => {
  const { applyTheme, nameIconButtons } = window.sightloop;
  applyTheme();
  nameIconButtons();
  let due = 0;
  new MutationObserver(() => {
    clearTimeout(due);
    due = setTimeout(nameIconButtons, 200);
  }).observe(document.body, { childList: true, subtree: true });
}"""


def refuse_taken(host: str, port: int) -> None:
    """Find out before anything heavy is loaded.

    Raises:
        UserError: the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise UserError(
                f"Port {port} on {host} cannot be used ({error.strerror}). "
                f"Stop what uses it, or start with another: --port {port + 1}."
            ) from error
