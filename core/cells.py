"""Which things stand where in a picture, read off the cells of the image tower's grid.

A small head (PictureHead) looks at the tower's 7 x 7 grid twice: once as a whole, for the vector
by which the picture is found, and once cell by cell, for the things in it: is one centred here,
what is it called, in what colour, and how large. Names are vectors of the text space, so a thing
can be looked for by any word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GRID = 7  # cells a side, at 224 px
CELLS = GRID * GRID
POOLED_WIDTH = 1280
MID_STAGE = 4  # of timm's EfficientNet-Lite0: 112 channels at 14 x 14, where shapes still show
TOKEN_WIDTH = 320 + 4 * 112  # last stage, and the four finer cells that lie under each cell
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "turquoise",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
)
SAME_THING = 1.5  # cells: two findings of one name nearer than this, centre to centre, are one


@dataclass(frozen=True, slots=True)
class TowerSight:
    """What the image tower saw in N pictures."""

    tokens: Tensor  # (N, 49, 768), row by row from the top left
    pooled: Tensor  # (N, 1280)


@dataclass(frozen=True, slots=True)
class HeadSight:
    """What the head makes of it."""

    vectors: Tensor  # (N, D), unit rows, in the projected text space
    presence: Tensor  # (N, 49) logits: the centre of a thing lies in this cell
    names: Tensor  # (N, 49, D), unit rows, of the thing in the cell
    colours: Tensor  # (N, 49, 12) logits over COLOURS
    boxes: Tensor  # (N, 49, 4): centre x, y, width, height; fractions of the picture
    drawing: Tensor  # (N,) logits: a drawing, not a photograph


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSight:
    """The cells of one picture, for looking things up in them."""

    presence: np.ndarray  # (49,) probabilities
    names: np.ndarray  # (49, D), unit rows
    colours: np.ndarray  # (49, 12) probabilities over COLOURS
    boxes: np.ndarray  # (49, 4): left, top, right, bottom; fractions of the picture
    drawing: float = 1.0  # probability of a drawing, which the cells were trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundThing:
    """A thing that the cells name."""

    name: str
    confidence: float  # 0 to 1: there is a thing, and it is called so
    colour: str
    colour_confidence: float
    box: tuple[float, float, float, float]  # left, top, right, bottom; fractions of the picture


def look_through(trunk: nn.Module, pixels: Tensor) -> TowerSight:
    """The grid and the pooled features of timm's EfficientNet-Lite0, in one pass.

    Args:
        trunk: timm's model without classifier.
        pixels: (N, 3, 224, 224), normalised as the tower expects.
    """
    tower: Any = trunk
    grid = tower.bn1(tower.conv_stem(pixels))
    middle = grid
    for number, stage in enumerate(tower.blocks):
        grid = stage(grid)
        if number == MID_STAGE:
            middle = grid
    pooled = tower.global_pool(tower.bn2(tower.conv_head(grid)))
    cells = torch.cat([grid, nn.functional.pixel_unshuffle(middle, 2)], dim=1)
    return TowerSight(cells.flatten(2).transpose(1, 2), pooled)


class PictureHead(nn.Module):
    """From what the tower saw to a vector and to things in cells: 2 million weights."""

    token_mean: Tensor
    token_spread: Tensor
    pooled_mean: Tensor
    pooled_spread: Tensor

    def __init__(
        self,
        *,
        width: int = 256,
        layers: int = 2,
        dimension: int = 384,
        dropout: float = 0.1,
        token_width: int = TOKEN_WIDTH,
        pooled_width: int = POOLED_WIDTH,
    ) -> None:
        super().__init__()
        self.register_buffer("token_mean", torch.zeros(token_width))
        self.register_buffer("token_spread", torch.ones(token_width))
        self.register_buffer("pooled_mean", torch.zeros(pooled_width))
        self.register_buffer("pooled_spread", torch.ones(pooled_width))
        self.enter = nn.Linear(token_width, width)
        self.places = nn.Parameter(0.02 * torch.randn(CELLS, width))
        block = nn.TransformerEncoderLayer(
            width,
            nhead=4,
            dim_feedforward=3 * width,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.leave = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 1)
        self.whole = nn.Linear(width, dimension)
        self.whole_pooled = nn.Sequential(
            nn.Dropout(2 * dropout), nn.Linear(pooled_width, dimension)
        )
        self.cells = nn.Linear(width, dimension + 1 + len(COLOURS) + 4)
        self.drawing = nn.Linear(pooled_width, 1)
        self.dimension = dimension

    def forward(self, sight: TowerSight) -> HeadSight:
        """Vectors and cells of N pictures."""
        tokens = (sight.tokens.float() - self.token_mean) / self.token_spread
        pooled = (sight.pooled.float() - self.pooled_mean) / self.pooled_spread
        inner = self.leave(self.blocks(self.enter(tokens) + self.places))
        shares = self.attention(inner).softmax(dim=1)
        whole = self.whole((shares * inner).sum(dim=1)) + self.whole_pooled(pooled)
        presence, names, colours, boxes = self.cells(inner).split(
            [1, self.dimension, len(COLOURS), 4], dim=-1
        )
        return HeadSight(
            vectors=nn.functional.normalize(whole, dim=-1),
            presence=presence.squeeze(-1),
            names=nn.functional.normalize(names, dim=-1),
            colours=colours,
            boxes=_placed(boxes),
            drawing=self.drawing(pooled).squeeze(-1),
        )

    def learn_scale(self, tokens: Tensor, pooled: Tensor) -> None:
        """Take mean and spread of each input from a sample, (N, 49, 768) and (N, 1280)."""
        flat = tokens.float().flatten(0, 1)
        self.token_mean.copy_(flat.mean(0))
        self.token_spread.copy_(flat.std(0).clamp_min(1e-3))
        self.pooled_mean.copy_(pooled.float().mean(0))
        self.pooled_spread.copy_(pooled.float().std(0).clamp_min(1e-3))


class TextHead(nn.Module):
    """Bends the text tower's space a little; before training it changes nothing."""

    def __init__(self, *, dimension: int = 384, width: int = 384) -> None:
        super().__init__()
        self.enter = nn.Linear(dimension, width)
        self.leave = nn.Linear(width, dimension)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) unit rows from (N, D) unit rows."""
        bent = self.leave(nn.functional.gelu(self.enter(vectors)))
        return nn.functional.normalize(vectors + bent, dim=-1)


def _placed(raw: Tensor) -> Tensor:
    """Boxes from what each cell says of its own: centre within a cell's reach, size of 0 to 1."""
    steps = torch.arange(GRID, device=raw.device, dtype=raw.dtype)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    corners = torch.stack([columns, rows], dim=-1).reshape(CELLS, 2)
    # One and a half cells beyond the own one: centres near a border may be seen from next door.
    centres = (corners + 2 * raw[..., :2].sigmoid() - 0.5) / GRID
    return torch.cat([centres, raw[..., 2:].sigmoid()], dim=-1)


def cells_of(sight: HeadSight) -> list[CellSight]:
    """The cells of each picture as arrays."""
    presence = sight.presence.sigmoid().float().cpu().numpy()
    names = sight.names.float().cpu().numpy()
    colours = sight.colours.softmax(dim=-1).float().cpu().numpy()
    boxes = _corners(sight.boxes.float().cpu().numpy())
    drawing = sight.drawing.sigmoid().float().cpu().numpy()
    return [
        CellSight(presence=p, names=n, colours=c, boxes=b, drawing=float(d))
        for p, n, c, b, d in zip(presence, names, colours, boxes, drawing, strict=True)
    ]


def _corners(boxes: np.ndarray) -> np.ndarray:
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1).clip(0, 1)


def find_things(
    cells: CellSight,
    *,
    names: Sequence[str],
    vectors: np.ndarray,
    scale: float,
    threshold: float = 0.5,
) -> list[FoundThing]:
    """Every thing whose centre a cell reports, called by the nearest of `names`, surest first.

    Args:
        cells: of one picture.
        names: what things may be called.
        vectors: their vectors. Shape (K, D), unit rows.
        scale: the factor on cosines before the softmax over names, as in training.
        threshold: cells with a lower probability of a thing are passed over.
    """
    shares = name_shares(cells, vectors, scale=scale)
    best = shares.argmax(axis=1)
    found: list[FoundThing] = []
    for cell in np.argsort(-cells.presence):
        if cells.presence[cell] < threshold:
            break
        thing = FoundThing(
            name=names[best[cell]],
            confidence=float(cells.presence[cell] * shares[cell, best[cell]]),
            colour=COLOURS[int(cells.colours[cell].argmax())],
            colour_confidence=float(cells.colours[cell].max()),
            box=_as_box(cells.boxes[cell]),
        )
        if not any(other.name == thing.name and _is_same(other, thing) for other in found):
            found.append(thing)
    return sorted(found, key=lambda thing: -thing.confidence)


def name_shares(cells: CellSight, vectors: np.ndarray, *, scale: float) -> np.ndarray:
    """(49, K) probabilities of the names in each cell, given that a thing is there."""
    logits = scale * (cells.names @ vectors.T)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _as_box(row: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in row)
    return left, top, right, bottom


def _is_same(first: FoundThing, second: FoundThing) -> bool:
    """Whether two findings lie so near each other that they are one thing seen from two cells."""
    (x, y), (other_x, other_y) = centre(first.box), centre(second.box)
    size = min(_size(first), _size(second))
    # Small things may stand side by side in neighbouring cells; large ones cannot.
    reach = max(0.6 / GRID, min(SAME_THING / GRID, 0.5 * size))
    return float(np.hypot(x - other_x, y - other_y)) < reach


def centre(box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _size(thing: FoundThing) -> float:
    left, top, right, bottom = thing.box
    return min(right - left, bottom - top)
