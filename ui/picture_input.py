"""Where a person's picture comes in: nothing decodes it before our own checks do."""

from abc import ABCMeta

import gradio as gr
from gradio.component_meta import ComponentMeta
from gradio.data_classes import ImageData
from gradio.processing_utils import save_file_to_cache


def build_picture_input() -> gr.Image:
    """An image field that hands over the path of the upload unopened, and shows cleaned copies."""
    picture: gr.Image = PictureInput(
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
    return picture


def _path_of_upload(field: gr.Image, payload: ImageData | None) -> object:
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):
        return gr.Image.preprocess(field, payload)  # these bytes are only written to a file
    return payload.path


def _copy_to_show(field: gr.Image, value: object) -> ImageData | None:
    if value is None:
        return None
    return ImageData(path=save_file_to_cache(str(value), cache_dir=field.GRADIO_CACHE))


# gr.Image itself opens the file before the handler runs, so a damaged or enormous one would end in
# an error without words. Made past ComponentMeta.__new__, which writes a .pyi file beside the
# source of every subclass.
PictureInput = ABCMeta.__new__(
    ComponentMeta,
    "PictureInput",
    (gr.Image,),
    {
        "__doc__": "gr.Image that opens nothing.",
        "__module__": __name__,
        "is_template": True,
        "preprocess": _path_of_upload,
        "postprocess": _copy_to_show,
    },
)
