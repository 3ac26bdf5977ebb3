"""Pictures from strangers: opened without trust, kept upright, small and without metadata."""

import errno
import hashlib
import io
import os
import re
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from core.errors import DataFolderError, PictureError
from core.settings import Limits
from core.types import Picture

Format = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
READABLE = "PNG, JPEG, WebP, GIF, BMP or TIFF"
FIRST_FRAME = "Only the first frame of the animation is used."

# What one frame may take while it is decoded: 40 megapixels of RGB, at 4 bytes a pixel in memory.
# JPEG is decoded at a fraction of its size and needs less; the WebP decoder holds copies.
MAX_FRAME_BYTES = 160_000_000
BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "LA": 4}
WEBP_COPIES = 3
MAX_ASPECT_RATIO = 64
MAX_JPEG_SCANS = 64  # progressive files have about ten; each one is a pass over the picture
MAX_COEFFICIENT_BYTES = 80 * 1024**2  # a progressive photograph of 24 megapixels
MAX_EXIF_BYTES = 64 * 1024
KEPT_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
STRIP_PIXELS = 1_000_000  # turned to RGB at a time
LOSSLESS_PIXELS = 256 * 256  # small drawings keep every pixel
WEBP_QUALITY = 92
DECODERS_AT_ONCE = 2
EXIF_ORIENTATION = 0x0112

# Pillow's readers raise nearly anything on damaged bytes; these are the ones its fuzzers list.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
)
UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPicture:
    """A picture that can be trusted, and what the person should know about it."""

    image: Image.Image  # RGB, upright, on white, without metadata
    note: str  # such as "Only the first frame of the animation is used."; mostly empty


def open_untrusted(source: Path | bytes, *, limits: Limits) -> Image.Image:
    """The picture as RGB, upright, on white, without metadata, at most `max_side_px` long.

    Of an animation or a document of several pages it is the first frame.

    Raises:
        PictureError: the bytes are no picture, are damaged, or would take too much memory.
    """
    return open_with_note(source, limits=limits).image


def open_with_note(source: Path | bytes, *, limits: Limits) -> OpenedPicture:
    """As `open_untrusted`, with a note where not everything in the file is used."""
    content = _read(source, limits=limits)
    kind = _sniff(content)
    note = ""
    if kind == "PNG":
        _check_size(*_png_size(content), limits=limits)
        content, is_animation = _plain_png(content)
        note = FIRST_FRAME if is_animation else ""
    if kind == "JPEG":
        _check_jpeg(content)
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as frame:
            _check_frame(frame, kind, limits=limits)
            note = note or _note(frame, kind)
            return OpenedPicture(image=_decode(frame, kind, limits.max_side_px), note=note)
    except Image.DecompressionBombError as error:
        raise PictureError(
            "The picture has more than 178 megapixels and the limit is "
            f"{limits.max_megapixels}. Make it smaller and try again."
        ) from error
    except DAMAGE as error:
        raise PictureError(
            f"The {kind} file is damaged or cut off and cannot be opened. "
            "Save or send the picture again and try once more."
        ) from error


class PictureFolder:
    """Cleaned pictures on disk, each under the SHA-256 of its own bytes."""

    def __init__(self, root: Path, *, limits: Limits) -> None:
        self.root = root
        self._limits = limits
        # Pictures are decoded a few at a time, so that many uploads at once stay within memory.
        self._decoding = threading.BoundedSemaphore(DECODERS_AT_ONCE)

    def add(self, source: Path | bytes) -> Picture:
        """The cleaned copy of `source`; the same one when it was added before.

        Raises:
            PictureError: `source` cannot be opened safely.
            DataFolderError: the copy cannot be written.
        """
        with self._decoding:
            opened = open_with_note(source, limits=self._limits)
            webp = _encode(opened.image)
        picture_id = hashlib.sha256(webp).hexdigest()
        path = self._path(picture_id)
        if not path.exists():
            _write_once(path, webp)
        width, height = opened.image.size
        return Picture(id=picture_id, path=path, width=width, height=height, note=opened.note)

    def get(self, picture_id: str) -> Picture:
        """The picture added earlier under this id.

        Raises:
            PictureError: there is none.
        """
        path = self._path(picture_id)
        try:
            with Image.open(path, formats=["WEBP"]) as image:
                width, height = image.size
        except OSError as error:
            raise _unknown_picture(picture_id) from error
        return Picture(id=picture_id, path=path, width=width, height=height)

    def open(self, picture: Picture) -> Image.Image:
        """The picture's pixels as RGB.

        Raises:
            PictureError: its file is gone or damaged.
        """
        try:
            with Image.open(self._path(picture.id), formats=["WEBP"]) as image:
                pixels = image.convert("RGB")
        except OSError as error:
            raise _unknown_picture(picture.id) from error
        pixels.info = {}  # the WebP reader notes a frame's duration and background
        return pixels

    def _path(self, picture_id: str) -> Path:
        # An id comes from outside: anything but a hash could name a file elsewhere.
        if not re.fullmatch(r"[0-9a-f]{64}", picture_id):
            raise _unknown_picture(picture_id)
        return self.root / picture_id[:2] / f"{picture_id}.webp"


def _unknown_picture(picture_id: str) -> PictureError:
    return PictureError(
        f"No picture is kept under the id {picture_id[:16]!r}. Upload the picture again."
    )


def _read(source: Path | bytes, *, limits: Limits) -> bytes:
    most = limits.max_upload_mb * 1_000_000
    if isinstance(source, bytes):
        content = source
    else:
        try:
            if not source.is_file():
                raise PictureError(
                    f"{source.name} is not a file, or is gone. Choose the picture again."
                )
            with open(source, "rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            raise PictureError(
                f"{source.name} cannot be read ({error.strerror}). Choose another picture."
            ) from error
    if not content:
        raise PictureError("The file is empty (0 bytes). Send the picture again.")
    if len(content) > most:
        raise PictureError(
            f"The file is larger than {limits.max_upload_mb} MB, which is the limit. "
            "Make the picture smaller or save it as JPEG, and try again."
        )
    return content


def _sniff(content: bytes) -> Format:
    """The format by the file's first bytes; its name says nothing."""
    starts: tuple[tuple[bytes, Format], ...] = (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"BM", "BMP"),
        (b"II*\x00", "TIFF"),
        (b"MM\x00*", "TIFF"),
    )
    for start, kind in starts:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    raise PictureError(
        f"This file is {_other_kind(content)}, whatever its name says. "
        f"Save the picture as {READABLE} and try again."
    )


def _other_kind(content: bytes) -> str:
    head = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing, which is a program more than a picture"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<script", b"<body")):
        return "a web page (HTML) and not a picture"
    if head.startswith(b"%pdf"):
        return "a PDF document and not a picture"
    if head[4:8] == b"ftyp":
        is_heic = head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif")
        return "a HEIC or AVIF photo, which cannot be read here" if is_heic else "a film"
    return "not a picture that can be read here"


def _png_size(content: bytes) -> tuple[int, int]:
    if len(content) < 24 or content[12:16] != b"IHDR":
        raise PictureError("The PNG file is cut off. Send the picture again and try once more.")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def _plain_png(content: bytes) -> tuple[bytes, bool]:
    """The PNG without the chunks that are not pixels, and whether it is an animation.

    Pillow unpacks text and colour profiles when it opens a file: a few kilobytes become hundreds
    of megabytes. They would be thrown away afterwards in any case.
    """
    view = memoryview(content)
    parts: list[bytes | memoryview] = [view[:8]]
    at, is_animation = 8, False
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        name = content[at + 4 : at + 8]
        end = at + 12 + length
        is_small = name != b"eXIf" or length <= MAX_EXIF_BYTES
        if name in KEPT_PNG_CHUNKS and is_small:
            parts.append(view[at:end])
        is_animation = is_animation or name == b"acTL"
        if name == b"IEND":
            break
        at = end
    return b"".join(parts), is_animation


def _check_jpeg(content: bytes) -> None:
    is_endless = content.count(b"\xff\xda") > MAX_JPEG_SCANS
    if is_endless or _coefficient_bytes(content) > MAX_COEFFICIENT_BYTES:
        raise PictureError(
            "This JPEG is progressive, stored in several passes, and too large to be opened that "
            "way. Save it as an ordinary (baseline) JPEG and try again."
        )


def _coefficient_bytes(content: bytes) -> int:
    """What a decoder keeps of a JPEG whose first scan is not all of it: two bytes a sample.

    An ordinary JPEG is decoded line by line and gives 0. ITU T.81, B.2.2 and B.2.3.
    """
    at, samples, components, is_progressive = 2, 0, 0, False
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        body = content[at + 4 : at + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2) and len(body) > 5 and len(body) >= 6 + 3 * body[5]:
            components, is_progressive = body[5], marker == 0xC2
            sampling = [(body[7 + 3 * i] >> 4) * (body[7 + 3 * i] & 15) for i in range(components)]
            pixels = int.from_bytes(body[1:3]) * int.from_bytes(body[3:5])
            samples = pixels * sum(sampling) // max([1, *sampling])
        if marker == 0xDA:
            is_split = bool(body) and body[0] < components
            return 2 * samples if is_progressive or is_split else 0
        at += 2 + length
    return 0


def _check_frame(frame: Image.Image, kind: Format, *, limits: Limits) -> None:
    width, height = frame.size
    _check_size(width, height, limits=limits)
    if kind == "JPEG":
        return
    copies = WEBP_COPIES if kind == "WEBP" else 1
    frame_bytes = width * height * BYTES_PER_PIXEL.get(frame.mode, 4) * copies
    if frame_bytes > MAX_FRAME_BYTES:
        most = MAX_FRAME_BYTES * width * height / frame_bytes / 1e6
        raise PictureError(
            f"The picture is {width} x {height}, {width * height / 1e6:.0f} megapixels, and the "
            f"limit for this kind of {kind} is {most:.0f}. "
            "Make it smaller, or save it as JPEG, and try again."
        )


def _check_size(width: int, height: int, *, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise PictureError("The picture has no pixels. Send another one.")
    megapixels = width * height / 1e6
    if megapixels > limits.max_megapixels:
        raise PictureError(
            f"The picture is {width} x {height}, {megapixels:.0f} megapixels, and the limit is "
            f"{limits.max_megapixels}. Make it smaller and try again."
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PictureError(
            f"The picture is {width} x {height}, too narrow to see anything in. "
            "Crop it and try again."
        )


def _note(frame: Image.Image, kind: Format) -> str:
    if kind == "TIFF":
        has_more = bool(getattr(frame, "tag_v2", None) and frame.tag_v2.next)  # type: ignore[attr-defined]
        return "Only the first page of the file is used." if has_more else ""
    is_animation = kind in ("GIF", "WEBP") and getattr(frame, "is_animated", False)
    return FIRST_FRAME if is_animation else ""


def _decode(frame: Image.Image, kind: Format, max_side_px: int) -> Image.Image:
    if kind == "JPEG":
        # Decodes at 1/2, 1/4 or 1/8, whatever still covers the size that is kept.
        shorter = max(1, max_side_px * min(frame.size) // max(frame.size))
        wide = frame.width >= frame.height
        frame.draft(None, (max_side_px, shorter) if wide else (shorter, max_side_px))
    frame.load()
    orientation = _orientation(frame)  # only now: Pillow turns a TIFF while loading it
    picture = _on_white(frame, max_side_px)
    frame.close()  # its pixels are no longer needed, and scaling down takes memory again
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    for step in UPRIGHT.get(orientation, ()):
        picture = picture.transpose(step)
    return picture


def _orientation(frame: Image.Image) -> int:
    try:
        return int(frame.getexif().get(EXIF_ORIENTATION, 1))
    except DAMAGE:  # damaged EXIF is no reason to refuse the pixels
        return 1


def _on_white(frame: Image.Image, max_side_px: int) -> Image.Image:
    """The frame as RGB, on white, averaged down by a whole number in strips.

    Strips, because a second copy of a large frame would double the memory.
    """
    factor = max(1, max(frame.size) // max_side_px)
    width, height = (-(-side // factor) for side in frame.size)
    picture = Image.new("RGB", (width, height), "white")
    low, high = _value_range(frame)
    rows = max(1, STRIP_PIXELS // (frame.width * factor)) * factor
    for top in range(0, frame.height, rows):
        strip = frame.crop((0, top, frame.width, min(frame.height, top + rows)))
        strip = _strip_on_white(strip, frame, low=low, high=high)
        picture.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return picture


def _value_range(frame: Image.Image) -> tuple[float, float]:
    """The values that become black and white in pictures of more than 8 bits."""
    if frame.mode.startswith("I;16"):
        return 0.0, 65535.0
    if frame.mode not in ("I", "F"):
        return 0.0, 255.0
    low, high = frame.getextrema()
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise ValueError("a grey picture with more than one band")
    is_finite = float("-inf") < low <= high < float("inf")
    if not is_finite:
        raise ValueError("a picture with endless values")
    return float(low), float(high)


def _strip_on_white(
    strip: Image.Image, frame: Image.Image, *, low: float, high: float
) -> Image.Image:
    if strip.mode in ("I", "F") or strip.mode.startswith("I;16"):
        scale = 255.0 / (high - low) if high > low else 1.0
        grey = strip.convert("F").point(lambda value: value * scale - low * scale)
        return grey.convert("L").convert("RGB")
    if "transparency" in frame.info and strip.mode in ("1", "L", "P", "RGB"):
        strip.info["transparency"] = frame.info["transparency"]
        strip = strip.convert("RGBA")
    if strip.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        return Image.alpha_composite(white, strip).convert("RGB")
    return strip.convert("RGB")


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    lossless = image.width * image.height <= LOSSLESS_PIXELS
    image.save(file, "WEBP", lossless=lossless, quality=WEBP_QUALITY, method=4)
    return file.getvalue()


def _write_once(path: Path, content: bytes) -> None:
    """Write aside and rename, so that a file under its final name is always complete."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataFolderError(
                f"The picture cannot be kept: the disk of {path.parent.parent} is full. "
                "Free some space, or start with --data-dir on another disk."
            ) from error
        raise DataFolderError(
            f"The picture cannot be kept in {path.parent.parent} ({error.strerror or error}). "
            "Make that folder writable, or start with --data-dir set to one that is."
        ) from error
