"""Pictures by a diffusers pipeline: any text-to-image folder, with LoRA adapters that come and go.

Everything here runs on the model worker's thread; nothing in it is safe to call from two.
"""

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.errors import AdapterRefused, UserError, WeightsError
from core.pictogram_diffusion import TEXT_TOWER, PictogramPipeline, register_pipeline
from core.settings import FolderRef, HubRef, IllustratorPreset, ModelRef
from core.types import Candidate
from core.weights import Progress, local_folder

log = logging.getLogger(__name__)

LORA_FILE = "pytorch_lora_weights.safetensors"  # as `save_lora_weights` names it
MAX_PICTURES = 4  # of one call: more than a card of 24 GB holds at 1024 px

OnStep = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One picture and everything needed to draw it again; its candidate names no file yet."""

    image: Image.Image
    prompt: str
    candidate: Candidate


class Illustrator:
    """A loaded pipeline and the adapters that are ready to draw."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        preset: IllustratorPreset,
        model_id: str,
        revision: str,
    ) -> None:
        self.model_id = model_id
        self.revision = revision
        # Calling and LoRA methods come from each pipeline class and its mixins.
        self._pipeline: Any = pipeline
        self._preset = preset
        self._adapter: str | None = None

    @property
    def adapter(self) -> str | None:
        """The version that draws now; None for the base model."""
        return self._adapter

    def draw(
        self,
        prompt: str,
        *,
        n: int = 1,
        seed: int,
        steps: int | None = None,
        guidance: float | None = None,
        size_px: int | None = None,
        on_step: OnStep | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Drawing]:
        """`n` pictures of the prompt with the seeds seed, seed + 1, ...; none when cancelled.

        Each has its own generator, so a picture does not depend on how many are drawn with it,
        up to the rounding of the device's batched kernels.

        Raises:
            UserError: there is no prompt.
        """
        if not prompt.strip():
            raise UserError("There is no text to draw. Describe the picture and try again.")
        if not 1 <= n <= MAX_PICTURES:
            raise ValueError(f"n must be 1 to {MAX_PICTURES}, got {n}")
        steps = self._preset.num_inference_steps if steps is None else steps
        guidance = self._preset.guidance_scale if guidance is None else guidance
        size_px = self._preset.size_px if size_px is None else size_px
        started = time.monotonic()
        try:
            with torch.inference_mode():
                images = self._pipeline(
                    prompt=prompt,
                    num_images_per_prompt=n,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    height=size_px,
                    width=size_px,
                    generator=[_generator(seed + i) for i in range(n)],
                    callback_on_step_end=_watcher(steps, on_step, cancel),
                ).images
        except _Cancelled:
            return []
        latency_ms = round((time.monotonic() - started) * 1000)
        parameters: dict[str, float | int | str] = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "size_px": size_px,
            "pipeline": type(self._pipeline).__name__,
        }
        return [
            Drawing(
                image=image.convert("RGB"),
                prompt=prompt,
                candidate=Candidate(
                    content="",
                    model_id=self.model_id,
                    revision=self.revision,
                    adapter=self._adapter,
                    seed=seed + i,
                    parameters=parameters,
                    latency_ms=latency_ms,
                ),
            )
            for i, image in enumerate(images)
        ]

    def use_adapter(self, version: str | None, *, folder: Path | None = None) -> None:
        """Draw with another adapter from now on; None draws as the base model does.

        The one before is taken out completely, so that the base's matrices are what they were.

        Args:
            folder: where `save_lora_weights` wrote the version; needed unless version is None.

        Raises:
            AdapterRefused: the file is missing, damaged, not finite or made for another base; the
                pipeline then draws as before.
        """
        if version == self._adapter:
            return
        if version is None:
            self._take_out()
            return
        if folder is None:
            raise ValueError("an adapter needs its folder")
        if not hasattr(self._pipeline, "load_lora_weights"):
            raise AdapterRefused(
                f"{type(self._pipeline).__name__} takes no adapters. Choose another illustrator."
            )
        tensors = _checked_tensors(folder, version)
        before = self._adapter
        name = f"lora_{hashlib.sha256(version.encode()).hexdigest()[:12]}"
        try:
            self._pipeline.load_lora_weights(dict(tensors), adapter_name=name)
            self._refuse_unless_whole(name, tensors, version)
        # What diffusers and peft raise for keys and shapes that do not fit the base.
        except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            self._delete(name)
            raise AdapterRefused(
                f"The adapter {version} does not fit {self.model_id} ({error}). "
                "Train one on this model, or go back to the one before."
            ) from error
        except AdapterRefused:
            self._delete(name)
            raise
        if before is not None:
            self._delete(f"lora_{hashlib.sha256(before.encode()).hexdigest()[:12]}")
        self._pipeline.set_adapters([name])
        self._adapter = version

    def _take_out(self) -> None:
        self._pipeline.unload_lora_weights()
        self._adapter = None

    def _delete(self, name: str) -> None:
        if any(name in names for names in self._pipeline.get_list_adapters().values()):
            self._pipeline.delete_adapters(name)
        if self._adapter is None:
            self._pipeline.unload_lora_weights()

    def _refuse_unless_whole(
        self, name: str, tensors: dict[str, torch.Tensor], version: str
    ) -> None:
        # diffusers only warns of keys it has no place for; a half-applied adapter must not serve.
        applied = sum(
            name in getattr(module, part)
            for component in self._pipeline.components.values()
            if isinstance(component, torch.nn.Module)
            for module in component.modules()
            for part in ("lora_A", "lora_B")
            if isinstance(getattr(module, part, None), torch.nn.ModuleDict)
        )
        expected = sum("alpha" not in key.rsplit(".", 1)[-1] for key in tensors)
        if applied != expected:
            raise AdapterRefused(
                f"The adapter {version} has {expected} matrices and {applied} of them have a place "
                f"in {self.model_id}. Train one on this model, or go back to the one before."
            )


def load_illustrator(
    preset: IllustratorPreset,
    *,
    device: Literal["cpu", "cuda"],
    dtype: Literal["float32", "bfloat16"],
    cache: Path,
    progress: Progress | None = None,
) -> Illustrator:
    """The preset's pipeline on `device`, its weights fetched into `cache` first when missing.

    Raises:
        WeightsError: the weights cannot be had, or are no text-to-image pipeline.
    """
    folder = local_folder(preset.model, cache=cache, progress=progress)
    options = {"torch_dtype": getattr(torch, dtype), "local_files_only": True}
    model_id, revision = _origin(preset.model)
    register_pipeline()
    try:
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(
                folder, use_safetensors=True, **options
            )
        except ValueError:  # a pipeline that the automatic choice does not know yet
            pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **options)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise WeightsError(
            f"{model_id} cannot be loaded as a text-to-image pipeline ({error}). "
            "Check the illustrator's model in spaces.yaml."
        ) from error
    if isinstance(pipeline, PictogramPipeline) and pipeline.text_encoder is None:
        pipeline.use_text_tower(local_folder(TEXT_TOWER, cache=cache, progress=progress))
    pipeline.set_progress_bar_config(disable=True)
    return Illustrator(pipeline.to(device), preset=preset, model_id=model_id, revision=revision)


def png_with_origin(drawing: Drawing) -> bytes:
    """The picture as PNG that says how it was made; the prompt only as a digest."""
    made = drawing.candidate
    origin = PngInfo()
    origin.add_text("Software", "Sightloop")
    origin.add_text("Sightloop-Model", f"{made.model_id}@{made.revision}")
    origin.add_text("Sightloop-Adapter", made.adapter or "none")
    origin.add_text("Sightloop-Seed", str(made.seed))
    origin.add_text("Sightloop-Prompt-SHA256", hashlib.sha256(drawing.prompt.encode()).hexdigest())
    for name, value in sorted(made.parameters.items()):
        origin.add_text(f"Sightloop-{name}", str(value))
    file = io.BytesIO()
    drawing.image.save(file, "PNG", pnginfo=origin)
    return file.getvalue()


def clean_png(image: Image.Image) -> bytes:
    """The picture as PNG that says nothing of how it was made, for a blind comparison."""
    bare = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
    file = io.BytesIO()
    bare.save(file, "PNG")
    return file.getvalue()


class _Cancelled(Exception):
    """Leaves the pipeline's loop; never leaves this file."""


def _watcher(
    steps: int, on_step: OnStep | None, cancel: threading.Event | None
) -> Callable[[DiffusionPipeline, int, int, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def after_step(
        _pipeline: DiffusionPipeline, step: int, _timestep: int, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if cancel is not None and cancel.is_set():
            raise _Cancelled
        if on_step is not None:
            on_step(step + 1, steps)
        return tensors

    return after_step


def _generator(seed: int) -> torch.Generator:
    # On the CPU whatever the device, so that a seed gives the same noise everywhere.
    return torch.Generator("cpu").manual_seed(seed)


def _checked_tensors(folder: Path, version: str) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(folder / LORA_FILE)
    except (OSError, SafetensorError) as error:
        raise AdapterRefused(
            f"The adapter {version} cannot be read ({error}). Train it again, or remove its folder."
        ) from error
    if not tensors:
        raise AdapterRefused(f"The adapter {version} is empty. Train it again.")
    if bad := next((key for key, value in tensors.items() if not value.isfinite().all()), None):
        raise AdapterRefused(
            f"The adapter {version} holds numbers that are not finite (in {bad}). Train it again."
        )
    return tensors


def _origin(model: ModelRef) -> tuple[str, str]:
    if isinstance(model, HubRef):
        return model.repo, model.revision
    if isinstance(model, FolderRef):
        return model.folder.name, "local"
    name, _, version = model.wheel.partition("==")
    return name, version
