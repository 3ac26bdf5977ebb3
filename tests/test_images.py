"""core.images: what strangers send becomes a small upright RGB picture or a clear message."""

import errno
import io
import resource
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from core.errors import DataFolderError, PictureError
from core.images import PictureFolder, open_untrusted, open_with_note
from core.settings import Limits

LIMITS = Limits()
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SECRET = b"Secret-Serial-4711"


def quadrants(size: int = 64) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture = Image.new("RGB", (size, size), "white")
    half = size // 2
    picture.paste("red", (0, 0, half, half))
    picture.paste((0, 128, 0), (half, 0, size, half))
    picture.paste("blue", (0, half, half, size))
    return picture


def noise(width: int, height: int, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def flat_png(width: int, height: int, *extra: bytes) -> bytes:
    """A black grey-level PNG, a few kilobytes whatever its size."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = header + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def shown_at(picture: Image.Image, corner: str) -> str:
    x, y = {"top left": (0.25, 0.25), "top right": (0.75, 0.25), "bottom left": (0.25, 0.75)}[
        corner
    ]
    pixel = np.array(picture.getpixel((int(picture.width * x), int(picture.height * y))))
    colours = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255,) * 3}
    return min(colours, key=lambda name: np.abs(pixel - colours[name]).sum())


def refusal(source: bytes | Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(PictureError) as caught:
        open_untrusted(source, limits=limits)
    return str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_opens_with_its_colours(kind: str) -> None:
    picture = open_untrusted(encoded(quadrants(), kind), limits=LIMITS)
    assert picture.mode == "RGB" and picture.size == (64, 64)
    assert [shown_at(picture, corner) for corner in ("top left", "top right", "bottom left")] == [
        "red",
        "green",
        "blue",
    ]


@pytest.mark.parametrize(
    "content",
    [
        encoded(quadrants().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        encoded(quadrants().convert("P"), "GIF"),
        encoded(quadrants().convert("CMYK"), "JPEG"),
        encoded(quadrants().convert("CMYK"), "TIFF"),
        encoded(quadrants().convert("RGBA"), "PNG"),
        encoded(quadrants().convert("RGBA"), "TIFF", compression="tiff_lzw"),
        encoded(quadrants(), "JPEG", progressive=True, quality=95),
        encoded(quadrants(), "WEBP", lossless=True),
    ],
    ids="png-palette gif jpeg-cmyk tiff-cmyk rgba tiff-lzw progressive lossless".split(),
)
def test_other_colour_models_show_the_same_picture(content: bytes) -> None:
    picture = np.asarray(open_untrusted(content, limits=LIMITS), dtype=float)
    vector, plain = picture.ravel(), np.asarray(quadrants(), dtype=float).ravel()
    cosine = vector @ plain / np.linalg.norm(vector) / np.linalg.norm(plain)
    assert cosine > 0.98


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert open_untrusted(encoded(clear, "PNG"), limits=LIMITS).getpixel((5, 5)) == (255, 255, 255)


def test_transparent_palette_colour_lies_on_white() -> None:
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    content = encoded(picture, "PNG", transparency=0)
    assert open_untrusted(content, limits=LIMITS).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_middle(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    picture = np.asarray(open_untrusted(encoded(Image.fromarray(ramp), kind), limits=LIMITS))
    assert picture[0, 0, 0] == 0 and picture[0, -1, 0] == 255
    assert abs(int(picture[0, 32, 0]) - 129) <= 2  # 255 * 32 / 63 = 129.5


def test_float_tiff_is_stretched_between_its_own_extremes() -> None:
    ramp = np.tile(np.linspace(-3.0, 5.0, 64, dtype=np.float32), (64, 1))
    picture = np.asarray(open_untrusted(encoded(Image.fromarray(ramp), "TIFF"), limits=LIMITS))
    assert picture[0, 0, 0] == 0 and picture[0, -1, 0] == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_come_out_upright(kind: str, orientation: int) -> None:
    # What the camera stored is the upright picture with the inverse of the orientation applied.
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = quadrants().resize((64, 32))
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_untrusted(encoded(stored, kind, exif=exif), limits=LIMITS)
    assert picture.size == (64, 32)
    assert [shown_at(picture, corner) for corner in ("top left", "top right", "bottom left")] == [
        "red",
        "green",
        "blue",
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_large_pictures_shrink_to_the_longest_side(kind: str) -> None:
    limits = Limits(max_side_px=100)
    picture = open_untrusted(encoded(quadrants(400).resize((400, 200)), kind), limits=limits)
    assert picture.size == (100, 50)
    assert shown_at(picture, "bottom left") == "blue"


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(encoded(quadrants(), "JPEG"))
    assert open_untrusted(file, limits=LIMITS).size == (64, 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg onload='alert(1)'/>", "SVG"),
        (b"<!DOCTYPE html><script>alert(1)</script>", "HTML"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "film"),
        (b"just some text", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (b"\x89PNG\r\n\x1a\n<html>", "cut off"),
        (b"GIF89a", "damaged"),
        (b"II*\x00\xff\xff\xff\xff", "damaged"),
        (b"BM" + bytes(60), "BMP"),
    ],
)
def test_what_is_no_picture_is_named(content: bytes, words: str) -> None:
    assert words in refusal(content)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    content = encoded(noise(120, 90), kind)
    refusal(content[: int(share * len(content))])


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "not a file" in refusal(tmp_path)
    assert "gone" in refusal(tmp_path / "nothing.png")


def test_an_upload_over_the_limit_is_refused() -> None:
    assert "1 MB" in refusal(b"\xff\xd8\xff" + bytes(1_000_001), Limits(max_upload_mb=1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (flat_png(13300, 13300), "13300 x 13300, 177 megapixels, and the limit is 40"),
        (flat_png(1, 1_000_000), "too narrow"),
        (flat_png(20, 20).replace(struct.pack(">II", 20, 20), bytes(8)), "no pixels"),
        (encoded(Image.new("RGB", (4000, 4000)), "WEBP"), "save it as JPEG"),
        (b"GIF89a" + b"\xff" * 4 + encoded(quadrants(), "GIF")[10:], "megapixels"),
    ],
    ids=["13300", "strip", "zero", "16-megapixel-webp", "gif-screen"],
)
def test_bombs_are_refused_at_once_and_cost_no_memory(content: bytes, words: str) -> None:
    before = peak_mb()
    assert words in refusal(content)
    assert peak_mb() - before < 20


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 60,
        chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(60_000_000))),
        chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(60_000_000))),
    ],
    ids=["ztxt", "iccp", "itxt"],
)
def test_packed_text_in_a_png_is_never_unpacked(extra: bytes) -> None:
    content = flat_png(64, 64, extra)
    before = peak_mb()
    assert open_untrusted(content, limits=LIMITS).size == (64, 64)
    assert peak_mb() - before < 20


def test_a_jpeg_of_endless_passes_is_refused() -> None:
    content = encoded(quadrants(), "JPEG", progressive=True)
    assert "progressive" in refusal(content[:-2] + b"\xff\xda\x00\x02" * 100 + content[-2:])


@pytest.mark.parametrize(("kind", "frames"), [("GIF", 500), ("WEBP", 3), ("PNG", 3)])
def test_animations_show_their_first_frame_and_say_so(kind: str, frames: int) -> None:
    rest = [Image.new("RGB", (64, 64), (i % 256, 9, 9)) for i in range(frames - 1)]
    content = encoded(quadrants(), kind, save_all=True, append_images=rest)
    opened = open_with_note(content, limits=LIMITS)
    assert shown_at(opened.image, "top left") == "red"
    assert opened.note == "Only the first frame of the animation is used."


def test_a_tiff_of_several_pages_shows_the_first_and_says_so() -> None:
    content = encoded(quadrants(), "TIFF", save_all=True, append_images=[noise(64, 64)])
    opened = open_with_note(content, limits=LIMITS)
    assert shown_at(opened.image, "top left") == "red"
    assert opened.note == "Only the first page of the file is used."


@pytest.mark.parametrize("kind", FORMATS)
def test_a_still_picture_has_no_note(kind: str) -> None:
    assert open_with_note(encoded(quadrants(), kind), limits=LIMITS).note == ""


def mutants(content: bytes, *, seed: int, n: int) -> Iterator[bytes]:
    """Copies with a few bytes changed, a part cut out or a part repeated."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 6)):
            changed[rng.integers(0, len(changed))] = rng.integers(0, 256)
        start, end = sorted(rng.integers(0, len(changed), 2))
        match rng.integers(0, 4):
            case 0:
                del changed[start : start + (end - start) // 8]
            case 1:
                changed[start:start] = changed[start : start + (end - start) // 8]
        yield bytes(changed)


def check_mutants(n: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    small = noise(48, 40)
    animated = {"save_all": True, "append_images": [noise(48, 40, seed=1)]}
    seeds = [
        encoded(small, "PNG", exif=exif),
        encoded(small.convert("P"), "PNG", transparency=3),
        encoded(small, "PNG", **animated),
        encoded(small, "JPEG", exif=exif),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "WEBP", exif=exif, **animated),
        encoded(small, "GIF", **animated),
        encoded(small, "BMP"),
        encoded(small, "TIFF", compression="tiff_lzw", exif=exif),
        encoded(small.convert("L"), "TIFF", compression="tiff_deflate"),
        encoded(Image.fromarray(np.zeros((20, 20), np.uint16)), "TIFF"),
    ]
    before = peak_mb()
    opened = 0
    for index, content in enumerate(seeds):
        for mutant in mutants(content, seed=index, n=n // len(seeds)):
            try:
                opened += open_untrusted(mutant, limits=LIMITS).mode == "RGB"
            except PictureError:
                continue
    assert opened > 0
    assert peak_mb() - before < 200  # a changed header may ask for one frame of 160 MB


@pytest.mark.filterwarnings("ignore")  # Pillow warns of the damage it finds
def test_thousands_of_damaged_files_give_a_picture_or_a_picture_error() -> None:
    check_mutants(6_000)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def folder(tmp_path: Path) -> PictureFolder:
    return PictureFolder(tmp_path / "pictures", limits=LIMITS)


def with_metadata(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = SECRET.decode()
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET.decode())
    options: dict[str, object] = {"exif": exif}
    if kind != "GIF":
        options["icc_profile"] = SECRET
    if kind == "PNG":
        options["pnginfo"] = text
    if kind in ("JPEG", "GIF"):
        options["comment"] = SECRET
    if kind in ("JPEG", "WEBP"):
        options["xmp"] = SECRET
    return encoded(noise(80, 80), kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_stored_pictures_carry_no_metadata(folder: PictureFolder, kind: str) -> None:
    content = with_metadata(kind)
    assert SECRET in content
    picture = folder.add(content)
    stored = picture.path.read_bytes()
    assert SECRET not in stored
    assert not any(mark in stored for mark in (b"EXIF", b"XMP ", b"ICCP", b"Exif"))
    with Image.open(picture.path) as reopened:
        assert set(reopened.info) <= {"loop", "background", "timestamp", "duration"}
    assert not folder.open(picture).info


def test_a_picture_is_found_again_by_its_id(folder: PictureFolder) -> None:
    picture = folder.add(encoded(quadrants().resize((64, 32)), "PNG"))
    again = PictureFolder(folder.root, limits=LIMITS).get(picture.id)
    assert again == picture
    assert (again.width, again.height) == (64, 32)
    assert again.path == folder.root / picture.id[:2] / f"{picture.id}.webp"


def test_the_same_picture_is_kept_once(folder: PictureFolder) -> None:
    first = folder.add(encoded(quadrants(), "PNG"))
    second = folder.add(encoded(quadrants(), "BMP"))
    assert first == second
    assert [path.name for path in folder.root.rglob("*.*")] == [f"{first.id}.webp"]


def test_small_pictures_are_kept_without_loss(folder: PictureFolder) -> None:
    picture = folder.add(encoded(noise(200, 200), "PNG"))
    assert np.array_equal(np.asarray(folder.open(picture)), np.asarray(noise(200, 200)))


@pytest.mark.parametrize(
    "picture_id",
    ["", "..", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "/" * 64, "a" * 64],
)
def test_ids_that_name_no_kept_picture_are_refused(folder: PictureFolder, picture_id: str) -> None:
    with pytest.raises(PictureError, match="No picture is kept"):
        folder.get(picture_id)


def test_a_damaged_copy_is_reported(folder: PictureFolder) -> None:
    picture = folder.add(encoded(noise(80, 80), "PNG"))
    picture.path.write_bytes(picture.path.read_bytes()[:200])
    with pytest.raises(PictureError):
        folder.open(picture)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = PictureFolder(tmp_path / "file" / "pictures", limits=LIMITS)
    with pytest.raises(DataFolderError, match="--data-dir"):
        folder.add(encoded(quadrants(), "PNG"))


def test_a_full_disk_is_reported_and_leaves_nothing_behind(folder: PictureFolder) -> None:
    content = encoded(noise(300, 300), "PNG")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (8192, hard)
    )  # writes beyond it fail like a full disk
    try:
        with pytest.raises(DataFolderError, match="full") as caught:
            folder.add(content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert not [path for path in folder.root.rglob("*") if path.is_file()]


def test_many_at_once_keep_the_same_picture_whole(folder: PictureFolder) -> None:
    content = encoded(noise(300, 300), "PNG")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(folder.add(content).id)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert folder.open(folder.get(found[0])).size == (300, 300)
