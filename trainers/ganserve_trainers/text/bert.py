"""A sentence encoder on BERT: token ids and their mask → one vector a text.

The network is that of Devlin et al., 2019 (BERT), whose layers are those of Vaswani et al., 2017, with the normalization behind each
half; the vector is the mean of its outputs (Reimers & Gurevych, 2019, section 3). There is no dropout: it is used frozen.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONFIG = "text_encoder"
"""Its entry, a :class:`Layout`, in the configuration of a bundle that has one."""

GRAPH = "text"
"""What its graph is called, and the encoder among the networks of an export."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of an encoder, by the names that its ``config.json`` has for them, and whether its vectors are of length 1.

    What else stands in that file is passed over.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    unit: bool = False


class Layer(nn.Module):
    """Self-attention and two linear layers over features ``[n * length, size]``, each added to its input and normalized (figure 1, left)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        size, inner = layout.hidden_size, layout.intermediate_size
        self.heads = layout.num_attention_heads
        self.query, self.key, self.value, self.project = (nn.Linear(size, size) for _ in range(4))
        self.attended = nn.LayerNorm(size, layout.layer_norm_eps)
        self.widen, self.narrow = nn.Linear(size, inner), nn.Linear(inner, size)
        self.norm = nn.LayerNorm(size, layout.layer_norm_eps)

    def forward(self, features: Tensor, bias: Tensor) -> Tensor:
        """The next features; ``bias`` ``[n, 1, 1, length]`` is added to what every place finds in the others."""
        # Places of all texts are the rows of plain matrices, which exporters keep as they are.
        rows, length = bias.shape[0], bias.shape[3]
        query, key, value = (
            linear(features).reshape(rows, length, self.heads, -1).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        # Vaswani et al., eq. 1.
        found = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + bias
        attention = (found.softmax(3) @ value).transpose(1, 2).reshape(rows * length, -1)
        features = self.attended(features + self.project(attention))
        normalized: Tensor = self.norm(features + self.narrow(F.gelu(self.widen(features))))
        return normalized


class SentenceEncoder(nn.Module):
    """Token ids and mask, int64 ``[n, length]`` → vectors ``[n, size]``: the mean over what is not masked, of length 1 if the layout says so."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.words = nn.Embedding(layout.vocab_size, layout.hidden_size)
        self.places = nn.Embedding(layout.max_position_embeddings, layout.hidden_size)
        # A single text is all of kind 0 (Devlin et al., section 3).
        self.kind = nn.Parameter(torch.zeros(layout.hidden_size))
        self.norm = nn.LayerNorm(layout.hidden_size, layout.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(layout) for _ in range(layout.num_hidden_layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The vectors of the texts ``ids``, of which those with ``mask`` 1 count."""
        places = torch.arange(ids.shape[1], device=ids.device)
        features = self.norm(self.words(ids) + self.places(places) + self.kind).flatten(0, 1)
        seen = mask.to(features.dtype)
        bias = (1 - seen)[:, None, None] * MASKED
        for layer in self.layers:
            features = layer(features, bias)
        # The mean as a product of matrices: engines sum up the places of a text in one order then, whatever else is in the batch.
        total = seen[:, None] @ features.reshape(*ids.shape, -1)
        vectors: Tensor = total[:, 0] / seen.sum(1, keepdim=True).clamp_min(1)  # no tokens, no NaN
        return F.normalize(vectors) if self.layout.unit else vectors


MASKED = -1e9
"""Added to what is found at a masked place: its share of the attention is then exactly 0."""


def text_of(config: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The module of the graph ``text``, by that name: the one among ``networks``, or a fresh one; none if ``config`` has none."""
    if GRAPH in networks:
        return {GRAPH: networks[GRAPH]}
    return {GRAPH: SentenceEncoder(msgspec.convert(config[CONFIG], Layout))} if CONFIG in config else {}
