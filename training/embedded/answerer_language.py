"""The answerer's language model with LoRA, written out for training speed on two CPU cores.

The arithmetic is that of transformers' Llama; what differs is what it is spared: q, k and v are
one product, gate and up another (and share one A matrix), frozen weights get no gradients, and
the vocabulary is only scored where an answer stands.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.assembly import LORA_GROUPS, LORA_RANK, LORA_SCALE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where tokens stand and which see which, for rows of length L.

    positions: (B, L), counted within what a token sees.
    allowed: (B, L, L), True where the token of the second axis sees that of the third.
    """

    positions: Tensor
    allowed: Tensor


class LoraPair(nn.Module):
    """B A of one group of matrices; starts at zero."""

    def __init__(self, n_in: int, n_out: int, *, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, n_in))
        self.B = nn.Parameter(torch.zeros(n_out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as peft does


class Layer(nn.Module):
    """One decoder layer: frozen weights as buffers, and a LoRA pair for each of four groups."""

    input_norm: Tensor
    post_norm: Tensor

    def __init__(self, layer: Any, *, rank: int) -> None:
        super().__init__()
        parts = {"attention": layer.self_attn, "mlp": layer.mlp}
        self.lora = nn.ModuleDict()
        for group, names in LORA_GROUPS.items():
            part = parts["mlp" if hasattr(layer.mlp, names[0]) else "attention"]
            weight = torch.cat([getattr(part, name).weight.detach() for name in names])
            self.register_buffer(group, weight)
            self.lora[group] = LoraPair(weight.shape[1], weight.shape[0], rank=rank)
        self.register_buffer("input_norm", layer.input_layernorm.weight.detach())
        self.register_buffer("post_norm", layer.post_attention_layernorm.weight.detach())
        self.eps = layer.input_layernorm.variance_epsilon
        self.head_dim = layer.self_attn.head_dim
        self.n_keys = layer.self_attn.k_proj.weight.shape[0] // self.head_dim
        self.n_queries = layer.self_attn.q_proj.weight.shape[0] // self.head_dim

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        """(B, L, D) from (B, L, D); cos and sin (B, 1, L, head), bias (B, 1, L, L) for scores."""
        hidden = hidden + self._attend(self._norm(hidden, self.input_norm), cos, sin, bias)
        gate, up = self._times("gate_up", self._norm(hidden, self.post_norm)).chunk(2, -1)
        return hidden + self._times("down", functional.silu(gate) * up)

    def _attend(self, hidden: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        batch, length, _ = hidden.shape
        heads = self._times("qkv", hidden).view(batch, length, -1, self.head_dim).transpose(1, 2)
        queries, keys, values = heads.split([self.n_queries, self.n_keys, self.n_keys], dim=1)
        queries, keys = _rotate(queries, cos, sin), _rotate(keys, cos, sin)
        # Queries of one key head side by side: the keys need not be repeated.
        share = self.n_queries // self.n_keys
        queries = queries.reshape(batch, self.n_keys, share * length, self.head_dim)
        scores = queries @ keys.transpose(-1, -2) * self.head_dim**-0.5
        scores = scores.view(batch, self.n_keys, share, length, length) + bias.unsqueeze(2)
        weights = scores.softmax(-1).view(batch, self.n_keys, share * length, length)
        seen = (weights @ values).view(batch, self.n_queries, length, self.head_dim)
        return self._times("o", seen.transpose(1, 2).reshape(batch, length, -1))

    def _times(self, group: str, hidden: Tensor) -> Tensor:
        pair: Any = self.lora[group]
        low = functional.linear(hidden, pair.A.to(hidden.dtype))
        return functional.linear(hidden, getattr(self, group)) + functional.linear(
            low, (LORA_SCALE * pair.B).to(hidden.dtype)
        )

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.eps)


class Speaker(nn.Module):
    """Embeddings in, logits at chosen places out."""

    embeddings: Tensor
    last_norm: Tensor

    def __init__(self, model: "PreTrainedModel", *, rank: int = LORA_RANK) -> None:
        super().__init__()
        language_model: Any = model.get_decoder() if hasattr(model, "get_decoder") else model
        self.rotary = language_model.rotary_emb
        self.layers = nn.ModuleList(Layer(layer, rank=rank) for layer in language_model.layers)
        self.register_buffer("embeddings", language_model.embed_tokens.weight.detach())
        self.register_buffer("last_norm", language_model.norm.weight.detach())
        self.eps = language_model.norm.variance_epsilon

    def embed(self, tokens: Tensor) -> Tensor:
        """(..., D) for (...) token ids."""
        return functional.embedding(tokens, self.embeddings)

    def forward(self, embeds: Tensor, layout: Layout) -> Tensor:
        """(B, L, D) last hidden states for (B, L, D) embeddings."""
        cos, sin = self.rotary(embeds, layout.positions)
        bias = torch.zeros(layout.allowed.shape, dtype=embeds.dtype, device=embeds.device)
        bias = bias.masked_fill(~layout.allowed, torch.finfo(embeds.dtype).min).unsqueeze(1)
        hidden = embeds
        for layer in self.layers:
            hidden = layer(hidden, cos.unsqueeze(1), sin.unsqueeze(1), bias)
        return functional.rms_norm(hidden, self.last_norm.shape, self.last_norm, self.eps)

    def score(self, hidden: Tensor) -> Tensor:
        """(N, V) float32 logits for (N, D) hidden states."""
        return functional.linear(hidden, self.embeddings).float()


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding; Su et al. 2021, arXiv:2104.09864, eq. 34."""
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat((-second, first), -1) * sin
