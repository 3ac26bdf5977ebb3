"""Adapter versions on disk: what is live, what was before, and which may be served at all."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.assembly import BaseModel
from core.errors import AdapterRefused, DataFolderError, UserError
from core.types import AdapterCard

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor
    from torch.nn import Module

CARD = "card.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NEEDED = frozenset({CARD, CONFIG, WEIGHTS})
ALLOWED = NEEDED | {"README.md"}  # peft writes a README beside every adapter
VERSION = re.compile(r"^v\d{4,}$")

MAX_RANK = 128
MAX_SCALING = 64.0  # alpha / rank; 1 to 4 in practice
# Root mean square of what an adapter adds to one weight matrix. Trained adapters lie under 0.01,
# base weights around 0.05: a change this large is noise, not learning.
MAX_CHANGE = 0.5
# Settings that may differ from peft's defaults; any other would need code that is not served here.
FREE_SETTINGS = frozenset(
    "peft_type task_type base_model_name_or_path revision r lora_alpha lora_dropout "
    "target_modules use_rslora inference_mode init_lora_weights peft_version auto_mapping".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLayers:
    """Where an adapter may attach: the base model's modules and its language model's matrices."""

    linear: Mapping[str, tuple[int, int]]  # module name -> (out, in)
    modules: frozenset[str]  # every module name, to see what a target pattern would reach


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAdapter:
    """An adapter that was read once and passed every check; these very tensors are served."""

    version: str
    config: "LoraConfig"
    tensors: "Mapping[str, Tensor]"
    card: AdapterCard


class AdapterShelf:
    """Numbered adapter folders and a pointer to the live one. Safe to share between processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[str]:
        """Finished versions, oldest first."""
        if not self.root.is_dir():
            return []
        found = [
            folder.name
            for folder in self.root.iterdir()
            if VERSION.match(folder.name) and (folder / CARD).is_file()
        ]
        return sorted(found, key=_number)

    def cards(self) -> list[AdapterCard]:
        """The cards of the finished versions, oldest first; unreadable ones are left out."""
        found = []
        for version in self.versions():
            try:
                found.append(self.card(version))
            except AdapterRefused:
                continue
        return found

    def card(self, version: str) -> AdapterCard:
        """What is known about a version.

        Raises:
            AdapterRefused: there is no readable card.
        """
        return read_card(self.folder(version))

    def folder(self, version: str) -> Path:
        """Where a version lies.

        Raises:
            ValueError: this is not a version's name.
        """
        if not VERSION.match(version):
            raise ValueError(f"Unknown adapter version {version!r}, expected one like 'v0001'")
        return self.root / version

    def current(self) -> str | None:
        """The live version; None for the base model."""
        line = self._pointer()
        return line[0] if line else None

    def previous(self) -> str | None:
        """What was live before; None for the base model."""
        line = self._pointer()
        return line[1] if len(line) > 1 else None

    def history(self) -> list[str]:
        """The live version, then the ones that were live before it, most recent first."""
        return self._pointer()

    def new_folder(self) -> Path:
        """An empty folder for the next version; it counts once `finish` has written its card."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            taken = [_number(f.name) for f in self.root.iterdir() if VERSION.match(f.name)]
            number = max(taken, default=0) + 1
            while True:
                folder = self.root / f"v{number:04d}"
                try:
                    folder.mkdir()
                except FileExistsError:  # another process took this number meanwhile
                    number += 1
                else:
                    return folder
        except OSError as error:
            raise _cannot_write(self.root, error) from error

    def publish(self, version: str) -> None:
        """Make a finished version live. Readers see the old or the new one, never half.

        Raises:
            AdapterRefused: the version is not finished.
        """
        read_card(self.folder(version))
        line = self._pointer()
        if line[:1] != [version]:
            self._point([version, *line])

    def roll_back(self) -> str | None:
        """Make the version before the live one live again; None means the base model.

        Raises:
            UserError: the base model is live already.
        """
        line = self._pointer()
        if not line:
            raise UserError(
                "The base model is live, and nothing comes before it. "
                "There is nothing to roll back."
            )
        self._point(line[1:])
        return self.current()

    def _pointer(self) -> list[str]:
        """The live version, then the ones before it, most recent first."""
        try:
            text = (self.root / "CURRENT").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [name for name in text.split() if VERSION.match(name)]

    def _point(self, line: list[str]) -> None:
        pending = self.root / f"CURRENT.{os.getpid()}.new"
        try:
            with pending.open("w", encoding="utf-8") as file:
                file.write("\n".join(line))
                file.flush()
                os.fsync(file.fileno())
            os.replace(pending, self.root / "CURRENT")
        except OSError as error:
            raise _cannot_write(self.root, error) from error


def finish(
    folder: Path,
    *,
    base: BaseModel,
    parent: str | None,
    n_pairs: int,
    decision: str,
    metrics: Mapping[str, float] | None = None,
) -> AdapterCard:
    """The card of a trained adapter, written last beside what `save_pretrained` left in `folder`.

    The base model is named in the adapter's own configuration by id and revision, because peft
    writes the local path it was loaded from.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.id, "revision": base.revision}
    _write_json(folder / CONFIG, config)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form, with that path in it
    card = AdapterCard(
        version=folder.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parent=parent,
        base_model_id=base.id,
        base_revision=base.revision,
        n_pairs=n_pairs,
        decision=decision,
        metrics=dict(metrics or {}),
        files={file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.name != CARD},
    )
    _write_json(folder / CARD, asdict(card))
    return card


def read_card(folder: Path) -> AdapterCard:
    """The card in an adapter's folder.

    Raises:
        AdapterRefused: it is missing or not a card.
    """
    try:
        content = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return AdapterCard(**content)
    except (OSError, ValueError, TypeError) as error:
        raise _refused(folder, "its card.json is missing or cannot be read") from error


def base_layers(model: "Module") -> BaseLayers:
    """Where adapters may attach to a loaded, unadapted vision-language model."""
    from torch import nn

    linear = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "language_model" in name.split(".")
    }
    return BaseLayers(linear=linear, modules=frozenset(name for name, _ in model.named_modules()))


def verify(folder: Path, *, base: BaseModel, layers: BaseLayers) -> CheckedAdapter:
    """The adapter in `folder`, read once and found fit for this base model.

    Raises:
        AdapterRefused: anything at all is unexpected; the message says what.
    """
    _check_files(folder)
    card = read_card(folder)
    if card.version != folder.name:
        raise _refused(folder, f"its card is that of {card.version}")
    _check_sums(folder, card)
    config = _read_config(folder, base)
    expected = _expected_shapes(folder, config, layers)
    tensors = _read_tensors(folder)
    _check_shapes(folder, tensors, expected)
    _check_values(folder, tensors, scaling=_scaling(config))
    return CheckedAdapter(version=card.version, config=config, tensors=tensors, card=card)


def _check_files(folder: Path) -> None:
    try:
        kinds = {entry.name: entry.lstat().st_mode for entry in folder.iterdir()}
    except OSError as error:
        raise _refused(folder, f"its folder cannot be read ({error.strerror})") from error
    if folder.is_symlink():
        raise _refused(folder, "its folder is a link to another place")
    for name, mode in sorted(kinds.items()):
        if not stat.S_ISREG(mode):
            raise _refused(folder, f"{name} is not a plain file")
        if name not in ALLOWED:
            raise _refused(folder, f"{name} does not belong in it; only safetensors are read")
    missing = sorted(NEEDED - set(kinds))
    if missing:
        raise _refused(folder, f"{' and '.join(missing)} is missing")


def _check_sums(folder: Path, card: AdapterCard) -> None:
    present = {file.name for file in folder.iterdir()} - {CARD, "README.md"}
    if not present <= set(card.files):
        raise _refused(folder, "its card does not list every file")
    for name, expected in card.files.items():
        if name not in present or _sha256(folder / name) != expected:
            raise _refused(folder, f"{name} is not the file its card was written for (checksum)")


def _read_config(folder: Path, base: BaseModel) -> "LoraConfig":
    from peft import LoraConfig

    try:
        content: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(folder, f"{CONFIG} is not JSON") from error
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        raise _refused(folder, "it is not a LoRA adapter")
    named = (content.get("base_model_name_or_path"), content.get("revision"))
    if named != (base.id, base.revision):
        raise _refused(
            folder,
            f"it was made for {named[0]} at {named[1]}, not for {base.id} at {base.revision}",
        )
    _check_unusual(folder, content)
    _check_rank(folder, content)
    known = {field.name for field in fields(LoraConfig)}
    try:
        return LoraConfig(
            **{k: v for k, v in content.items() if k in known & FREE_SETTINGS - {"peft_type"}}
        )
    except (TypeError, ValueError) as error:
        raise _refused(folder, f"peft does not take its configuration: {error}") from error


def _check_unusual(folder: Path, content: Mapping[str, Any]) -> None:
    from peft import LoraConfig

    usual = json.loads(json.dumps(LoraConfig().to_dict(), default=str))
    for key, value in content.items():
        if key not in FREE_SETTINGS and (value or None) != (usual.get(key) or None):
            raise _refused(folder, f"its setting {key} = {value!r} is not one that is served")
    if content.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise _refused(folder, "its initialisation would change the base model")


def _check_rank(folder: Path, content: Mapping[str, Any]) -> None:
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _refused(folder, f"its rank is {rank}, and 1 to {MAX_RANK} is served")
    if not isinstance(alpha, int | float) or not 0 < alpha <= MAX_SCALING * rank:
        raise _refused(folder, f"its lora_alpha is {alpha}, out of bounds for rank {rank}")


def _expected_shapes(
    folder: Path, config: "LoraConfig", layers: BaseLayers
) -> dict[str, tuple[int, int]]:
    """Every key the weights must hold, and its shape."""
    from peft.tuners.tuners_utils import check_target_module_exists

    targets = [name for name in layers.modules if name and check_target_module_exists(config, name)]
    outside = sorted(set(targets) - set(layers.linear))
    if outside:
        raise _refused(folder, f"it reaches {outside[0]}, outside the language model's matrices")
    if not targets:
        raise _refused(folder, "its target modules are not in the base model")
    shapes: dict[str, tuple[int, int]] = {}
    for name in targets:
        rows, columns = layers.linear[name]
        shapes[f"base_model.model.{name}.lora_A.weight"] = (config.r, columns)
        shapes[f"base_model.model.{name}.lora_B.weight"] = (rows, config.r)
    return shapes


def _read_tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _refused(folder, f"{WEIGHTS} is damaged ({error})") from error


def _check_shapes(
    folder: Path, tensors: "Mapping[str, Tensor]", expected: Mapping[str, tuple[int, int]]
) -> None:
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing:
        raise _refused(folder, f"{len(missing)} tensors are missing, {missing[0]} first")
    if extra:
        raise _refused(folder, f"{len(extra)} tensors are too many, {extra[0]} first")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise _refused(
                folder, f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}"
            )
        if not tensors[name].is_floating_point():
            raise _refused(folder, f"{name} holds {tensors[name].dtype}, expected real numbers")


def _check_values(folder: Path, tensors: "Mapping[str, Tensor]", *, scaling: float) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise _refused(folder, f"{name} holds NaN or infinite numbers")
    changes = []
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            up = tensors[name.replace("lora_A", "lora_B")]
            change = scaling * _product_rms(up.double(), down.double())
            if not change <= MAX_CHANGE:
                raise _refused(
                    folder,
                    f"{name.removesuffix('.lora_A.weight')} would change by {change:.3g} "
                    f"(root mean square), at most {MAX_CHANGE} is served",
                )
            changes.append(change)
    if not any(changes):
        raise _refused(folder, "it is all zeros and would change nothing")


def _product_rms(up: "Tensor", down: "Tensor") -> float:
    """Root mean square of the entries of up @ down, without forming the product."""
    squared = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
    return float((squared / (up.shape[0] * down.shape[1])).sqrt())


def _scaling(config: "LoraConfig") -> float:
    return float(config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r))


def _number(version: str) -> int:
    return int(version[1:])


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    pending = file.with_name(file.name + ".new")
    with pending.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(pending, file)


def _refused(folder: Path, why: str) -> AdapterRefused:
    return AdapterRefused(
        f"The adapter {folder.name} is not served: {why}. "
        "The version that was live goes on; train or publish again."
    )


def _cannot_write(root: Path, error: OSError) -> DataFolderError:
    return DataFolderError(
        f"The adapter folder {root} cannot be written ({error.strerror}). "
        "Free some space or correct its permissions and try again."
    )
