"""Where a person's picture comes in: nothing decodes it before our own checks do."""

import gradio as gr
from gradio.data_classes import ImageData
from gradio.processing_utils import save_file_to_cache


def build_picture_input() -> gr.Image:
    """An image field that hands over the path of the upload unopened, and shows cleaned copies.

    gr.Image itself opens the file before the handler runs, so a damaged or enormous one would end
    in an error without words. The two methods are replaced on the instance, because Gradio writes
    a .pyi file beside the source of every subclass.
    """
    image = gr.Image(
        label="Your picture",
        show_label=False,
        sources=["upload", "clipboard", "webcam"],
        webcam_options=gr.WebcamOptions(mirror=False),
        type="filepath",
        height=340,
        placeholder="# Drop a picture here\nor press to choose one",
        buttons=["fullscreen"],
        alt_text="The picture you ask about",
        elem_id="ask-picture",
    )
    decoding = image.preprocess

    def path_of_upload(payload: ImageData | None) -> object:
        if payload is None:
            return None
        is_inside = bool(payload.url and payload.url.startswith("data:"))
        return decoding(payload) if is_inside else payload.path  # "data:" is only written to a file

    def copy_to_show(value: object) -> ImageData | None:
        if value is None:
            return None
        return ImageData(path=save_file_to_cache(str(value), cache_dir=image.GRADIO_CACHE))

    setattr(image, "preprocess", path_of_upload)  # noqa: B010  # mypy forbids the assignment
    setattr(image, "postprocess", copy_to_show)  # noqa: B010
    return image
