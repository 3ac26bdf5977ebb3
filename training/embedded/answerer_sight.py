"""Naming the cells: the tower's last stages and the projector learn to say what stands where.

No language model is in the loop. The token of the cell that holds a thing's centre should lie
where the language model's own embedding of the thing's name lies, with its colour and its place
added; all other cells should lie on that of a full stop. CenterNet's labels (Zhou et al. 2019,
arXiv:1904.07850) with word embeddings for classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.embedded.answerer_features import FROZEN_STAGES, Taught

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from training.embedded.sprites import SpriteBook
    from training.scenes import Scene

GRID = 7
CELLS = GRID * GRID
EMPTY = "."  # what a cell without a centre says
EMPTY_WEIGHT = 0.1  # some 45 empty cells stand beside four things
BORDER = 0.15  # of a cell: a centre so near to a border leaves the next cell unjudged
COSINE_SCALE = 20.0
COLOUR_SHARE = 0.5  # of the name's embedding
PLACE_SHARE = 0.3
COLOUR_WEIGHT = 0.5
NEAR_WEIGHT = 0.5  # of the squared distance from the words themselves
PHOTO_CELL = 0.25  # confidence of the ImageNet head from which a photograph's cell is named

Cell = tuple[int, str, str | None, tuple[float, float]]  # cell, name, colour, centre


class Eyes(nn.Module):
    """The trained half of seeing: from the frozen stages' features to picture tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        tower = model.model.vision_tower.timm_model
        self.stages = nn.ModuleList(tower.blocks[FROZEN_STAGES:])
        self.conv_head, self.bn2 = tower.conv_head, tower.bn2
        self.projector = model.model.multi_modal_projector
        self.float().eval()  # batch statistics stay ImageNet's
        whole: Any = self  # torch's stubs do not know memory_format here
        whole.to(memory_format=torch.channels_last)

    def forward(self, stems: Tensor, *, tower_learns: bool = True) -> Tensor:
        """(B, 49, D) picture tokens for (B, 112, 14, 14) features.

        Args:
            tower_learns: False spares the stages their gradients, and runs them in bfloat16, three
                times as fast; the projector learns alone.
        """
        with (
            torch.set_grad_enabled(tower_learns and torch.is_grad_enabled()),
            torch.autocast(stems.device.type, torch.bfloat16, enabled=not tower_learns),
        ):
            seen = stems.float().contiguous(memory_format=torch.channels_last)
            for stage in self.stages:
                seen = stage(seen)
            seen = self.bn2(self.conv_head(seen))
        tokens: Tensor = self.projector(seen.float().flatten(2).transpose(1, 2))
        return tokens

    def named_tensors(self) -> dict[str, Tensor]:
        """The weights under the names that the whole model gives them."""
        tower = "model.vision_tower.timm_model"
        renamed = {"stages.": f"{tower}.blocks.", "projector.": "model.multi_modal_projector."}
        tensors = {}
        for name, tensor in self.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            first, _, rest = name.partition(".")
            if first == "stages":
                number, _, rest = rest.partition(".")
                tensors[f"{tower}.blocks.{FROZEN_STAGES + int(number)}.{rest}"] = tensor
            else:
                tensors[f"{renamed.get(first + '.', f'{tower}.{first}.')}{rest}"] = tensor
        return tensors

    def load_named(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `named_tensors` gave."""
        own = self.named_tensors()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])


class Words:
    """Where names, colours and places lie among the language model's embeddings."""

    def __init__(
        self,
        names: Sequence[str],
        colours: Sequence[str],
        *,
        tokenizer: "PreTrainedTokenizerBase",
        embeddings: Tensor,
    ) -> None:
        def embed(words: Sequence[str]) -> Tensor:
            rows = [
                embeddings[tokenizer(f" {word}", add_special_tokens=False).input_ids]
                .float()
                .mean(0)
                for word in words
            ]
            return torch.stack(rows)

        self.names = [EMPTY, *dict.fromkeys(names)]
        self.colours = list(dict.fromkeys(colours))
        self.name_vectors = embed(self.names)  # (names, D)
        self.colour_vectors = embed(self.colours)  # (colours, D)
        left, right, top, bottom = embed(["left", "right", "top", "bottom"])
        self.places = torch.stack([right - left, bottom - top])  # (2, D)
        # All names share a direction that a full stop has not (their mean cosine is 0.4); cosines
        # are taken from this middle, or telling names apart has little gradient at first.
        self.middle = self.name_vectors[1:].mean(0)
        self.size = float(self.name_vectors.square().sum(-1).mean())
        self._name_rows = {name: row for row, name in enumerate(self.names)}
        self._colour_rows = {name: row for row, name in enumerate(self.colours)}

    def name_row(self, name: str) -> int:
        """The row of a name; -1 where it is not among them."""
        return self._name_rows.get(name, -1)

    def colour_row(self, colour: str | None) -> int:
        """The row of a colour; -1 for none."""
        return self._colour_rows.get(colour or "", -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTargets:
    """What the cells of B pictures should say. Shapes (B, 49), places (B, 49, 2)."""

    names: Tensor  # rows of Words.names; 0 is an empty cell
    colours: Tensor  # rows of Words.colours; -1 for none
    places: Tensor  # -1 (left, top) to 1 (right, bottom)
    weights: Tensor


def cells_of_scene(scene: "Scene", book: "SpriteBook") -> list[Cell]:
    """The cell of each thing's centre; of two in one cell the one in front."""
    cells = {}
    for thing in scene.things:
        left, top, right, bottom = thing.box
        x, y = (left + right) / 2, (top + bottom) / 2
        colour = thing.colour or book.look(thing.kind, scene.style).colour
        cells[_cell(x, y)] = (_cell(x, y), thing.kind, colour, (x, y))
    return list(cells.values())


def cell_of_shape(pixels: np.ndarray, name: str, colour: str | None) -> list[Cell]:
    """The cell of the one shape on a plain ground.

    Args:
        pixels: the picture, (H, W, 3) of 0 to 255; its corner is ground.
    """
    differs = np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).sum(-1) > 60
    rows, columns = np.nonzero(differs)
    if not len(rows):
        return []
    x = float((columns.min() + columns.max() + 1) / 2 / pixels.shape[1])
    y = float((rows.min() + rows.max() + 1) / 2 / pixels.shape[0])
    return [(_cell(x, y), name, colour, (x, y))]


def cells_of_photograph(taught: Taught) -> list[Cell]:
    """Cells in which the ImageNet head sees the photograph's main thing."""
    if taught.word is None or not taught.cells:
        return []
    floor = max(PHOTO_CELL, 0.5 * max(taught.cells))
    return [
        (cell, taught.word, None, ((cell % GRID + 0.5) / GRID, (cell // GRID + 0.5) / GRID))
        for cell, sure in enumerate(taught.cells)
        if sure >= floor
    ]


def cell_targets(
    pictures: Sequence[Sequence[Cell]],
    words: Words,
    *,
    grounds: Sequence[str | None],
    judge_empty: Sequence[bool],
) -> CellTargets:
    """The targets of B pictures.

    Args:
        pictures: the named cells of each.
        grounds: colour of each picture's background, where it has one.
        judge_empty: False where only the named cells are known.
    """
    shape = (len(pictures), CELLS)
    names, colours = np.zeros(shape, np.int64), np.full(shape, -1)
    places, weights = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    centres = (np.arange(GRID) + 0.5) / GRID
    for row, cells in enumerate(pictures):
        weights[row] = EMPTY_WEIGHT if judge_empty[row] else 0
        colours[row] = words.colour_row(grounds[row])
        for _, _, _, (x, y) in cells:
            reach = np.maximum(np.abs(centres[None, :] - x), np.abs(centres[:, None] - y)) * GRID
            weights[row][(reach < 0.5 + BORDER).ravel()] = 0
        for cell, name, colour, (x, y) in cells:
            found = words.name_row(name)
            if found < 0:
                continue
            names[row, cell], weights[row, cell] = found, 1
            colours[row, cell] = words.colour_row(colour)
            places[row, cell] = 2 * x - 1, 2 * y - 1
    return CellTargets(
        names=torch.from_numpy(names),
        colours=torch.from_numpy(colours),
        places=torch.from_numpy(places),
        weights=torch.from_numpy(weights),
    )


def naming_loss(
    tokens: Tensor, targets: CellTargets, words: Words, *, near_weight: float = NEAR_WEIGHT
) -> dict[str, Tensor]:
    """Losses of (B, 49, D) tokens: which name, which colour, how near; and their sum, "loss"."""
    weights, is_thing = targets.weights, targets.names > 0
    total = weights.sum().clamp(min=1)
    by_name = _name_cosines(tokens, words)
    name = functional.cross_entropy(
        by_name.flatten(0, 1), targets.names.flatten(), reduction="none"
    ).view_as(weights)
    name_loss = (name * weights).sum() / total
    wanted = words.name_vectors[targets.names]
    has_colour = (targets.colours >= 0) & (weights > 0)
    wanted = wanted + COLOUR_SHARE * has_colour[..., None] * words.colour_vectors[targets.colours]
    wanted = wanted + PLACE_SHARE * is_thing[..., None] * (targets.places @ words.places)
    distance = (tokens - wanted).square().sum(-1) / words.size
    near = (distance * weights).sum() / total
    colour_loss = tokens.new_zeros(())
    coloured = has_colour & is_thing
    if coloured.any():
        by_colour = _cosines(tokens[coloured], words.colour_vectors)
        colour_loss = functional.cross_entropy(by_colour, targets.colours[coloured])
    loss = name_loss + COLOUR_WEIGHT * colour_loss + near_weight * near
    return {"loss": loss, "name": name_loss, "colour": colour_loss, "near": near}


def named_right(tokens: Tensor, targets: CellTargets, words: Words) -> dict[str, tuple[int, int]]:
    """(right, of) for things' names, their colours, and empty cells that stay empty."""
    said = _name_cosines(tokens, words).argmax(-1)
    judged = targets.weights > 0
    things, empty = judged & (targets.names > 0), judged & (targets.names == 0)
    coloured = things & (targets.colours >= 0)
    colours = _cosines(tokens, words.colour_vectors).argmax(-1)
    right = said == targets.names
    return {
        "names": (int((right & things).sum()), int(things.sum())),
        "colours": (int(((colours == targets.colours) & coloured).sum()), int(coloured.sum())),
        "empty": (int((right & empty).sum()), int(empty.sum())),
    }


def _name_cosines(tokens: Tensor, words: Words) -> Tensor:
    return _cosines(tokens - words.middle, words.name_vectors - words.middle)


def _cosines(tokens: Tensor, vectors: Tensor) -> Tensor:
    unit = functional.normalize(vectors, dim=-1)
    return COSINE_SCALE * functional.normalize(tokens, dim=-1) @ unit.T


def _cell(x: float, y: float) -> int:
    column, row = (min(GRID - 1, max(0, int(place * GRID))) for place in (x, y))
    return row * GRID + column
