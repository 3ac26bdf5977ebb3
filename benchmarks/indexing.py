"""How fast is indexing, against the bare tower? `python -m benchmarks.indexing`.

In one run, on the same pictures: forward passes of the image tower alone, on tensors made before;
the tower with reading and scaling; the default gallery, whole; a folder of photographs, whole.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.report import Row, write_report
from core.embedder import IMAGE_BATCH, ConseModel, load_embedder
from core.filling import index_folder, index_pack
from core.gallery import Gallery
from core.pack import read_pack
from core.settings import cache_dir, load_settings

FORWARDS = 8
PHOTOGRAPHS = 128
PHOTOGRAPH_PX = (1600, 1200)


def main() -> None:
    preset = load_settings().active
    embedder = load_embedder(
        preset.embedder, device=preset.device, dtype=preset.dtype, cache=cache_dir()
    )
    if not isinstance(embedder, ConseModel):
        raise SystemExit("This benchmark measures the embedded preset: --preset embedded")

    def embed(pictures: list[Image.Image], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return embedder.embed_images(pictures), embedder.embed_texts(texts)

    pictures = [picture.image() for picture in list(read_pack())[: FORWARDS * IMAGE_BATCH]]
    embedder.embed_images(pictures[:IMAGE_BATCH])  # the first pass plans its convolutions
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        photographs = _make_photographs(root / "photographs")
        gallery = Gallery(
            root / "gallery", model_id=embedder.model_id, dimension=embedder.dimension
        )
        rows.append(_timed("tower alone, tensors", len(pictures), _forwards(embedder)))
        rows.append(
            _timed("tower with scaling", len(pictures), lambda: embedder.embed_images(pictures))
        )
        count = sum(1 for _ in read_pack())
        rows.append(_timed("default gallery, whole", count, lambda: index_pack(gallery, embed)))
        rows.append(
            _timed(
                "folder of 2-megapixel JPEGs, whole",
                PHOTOGRAPHS,
                lambda: index_folder(gallery, photographs, embed),
            )
        )
        rows.append(
            _timed(
                "the same folder again, unchanged",
                PHOTOGRAPHS,
                lambda: index_folder(gallery, photographs, embed),
            )
        )
        rows.append(_timed("tower alone, again", len(pictures), _forwards(embedder)))
        gallery.close()
    write_report(
        "indexing",
        rows,
        notes=f"{torch.get_num_threads()} threads. Bar: the default gallery in under two minutes "
        "on two cores. A default picture also has two texts embedded and a thumbnail written.",
    )


def _forwards(embedder: ConseModel) -> Callable[[], None]:
    tensors = torch.rand(IMAGE_BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(FORWARDS):
                embedder._model.encode_image(tensors)

    return run


def _timed(name: str, count: int, run: Callable[[], object]) -> Row:
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    return {
        "what": name,
        "pictures": count,
        "seconds": round(seconds, 1),
        "pictures/s": round(count / seconds, 1),
    }


def _make_photographs(folder: Path) -> Path:
    """Files as large as a phone's, with detail everywhere, so that decoding costs what it does."""
    folder.mkdir()
    chooser = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        small = chooser.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize(PHOTOGRAPH_PX, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
