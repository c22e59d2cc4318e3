"""LlamaModel: embeddings, blocks of attention and feed-forward, and a head over the vocabulary.

Its state dict is the Hugging Face one of Llama4ForCausalLM, name for name. Not for reading and
writing directories (io.py), nor for losses (evaluate/loss.py).

Shapes: B rows, T tokens, H model width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quatrain.config import ModelConfig
from quatrain.model.attention import Attention
from quatrain.model.cache import Cache, LayerCache
from quatrain.model.frozen import Frozen
from quatrain.model.layout import Layout, Segments
from quatrain.model.moe import ExpertMLP, MoE, Router, Routing, SharedMLP
from quatrain.model.norm import RMSNorm
from quatrain.model.one_token import MOST_ROWS, OneToken
from quatrain.model.rope import RotaryPositionalEmbedding
from quatrain.model.targets import Adapters
from quatrain.model.weights import Embedding, Linear


class Hidden(NamedTuple):
    """The last hidden states, before the head, and what each layer's router did."""

    states: Tensor
    """[B, T, H], normalised."""
    routing: dict[int, Routing]
    """By layer index, for layers with experts."""


class TransformerBlock(nn.Module):
    """One layer: two residual steps."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.feed_forward = (
            MoE(config)
            if layer in config.moe_layers
            else SharedMLP(config.d_model, config.intermediate_size_mlp)
        )

    def forward(
        self,
        x_BTH: Tensor,
        rotation: Tensor,
        layout: Layout,
        cache: LayerCache | None = None,
        balance: bool = False,
    ) -> tuple[Tensor, Routing | None]:
        """Map [B, T, H] to [B, T, H]; the routing is None in a layer without experts."""
        h_BTH = x_BTH + self.self_attn(self.input_layernorm(x_BTH), rotation, layout, cache)
        normalised = self.post_attention_layernorm(h_BTH)
        if isinstance(self.feed_forward, MoE):
            out_BTH, routing = self.feed_forward(normalised, layout.real, balance)
            return h_BTH + out_BTH, routing
        return h_BTH + self.feed_forward(normalised), None


class Decoder(nn.Module):
    """Everything below the head; `model.` in the state dict."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.states_dtype: torch.dtype | None = None
        """Of the states between layers; None takes that of the embeddings."""
        undrawn = torch.empty(config.vocab_size, config.d_model)  # drawing imports torch.compile
        self.embed_tokens = Embedding.from_pretrained(undrawn, freeze=False)
        self.layers = nn.ModuleList(TransformerBlock(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.rotary_emb = RotaryPositionalEmbedding(
            config.d_k, config.rope_theta, config.rope_scaling
        )

    def forward(
        self,
        ids_BT: Tensor,
        segments: Segments | None = None,
        cache: Cache | None = None,
        balance: bool = False,
    ) -> Hidden:
        """Map ids [B, T] to hidden states [B, T, H]; `balance` asks for Routing.balance."""
        layout = self._layout(ids_BT, segments, cache)
        rotation = self.rotary_emb(layout.positions)
        x_BTH = self.embed_tokens(ids_BT)
        x_BTH = x_BTH.to(self.states_dtype or x_BTH.dtype)
        if cache is not None and layout.documents is None and self._continues_by_one(x_BTH, cache):
            states_BH = x_BTH[:, 0].float().contiguous()
            states_BH = cache.one_token(states_BH, rotation, layout.positions, cache)
            return Hidden(self.norm(states_BH[:, None].to(x_BTH.dtype)), {})
        routings = {}
        for index, layer in enumerate(self.layers):
            layer_cache = None if cache is None else cache.layers[index]
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTH, routing = checkpoint(
                    layer, x_BTH, rotation, layout, None, balance,
                    use_reentrant=False, preserve_rng_state=False,  # dropout has its own
                )  # fmt: skip
            else:
                x_BTH, routing = layer(x_BTH, rotation, layout, layer_cache, balance)
            if routing is not None:
                routings[index] = routing
        return Hidden(self.norm(x_BTH), routings)

    def _continues_by_one(self, x_BTH: Tensor, cache: Cache) -> bool:
        """Whether compiled code computes this token; decided once for a cache."""
        rows, length = x_BTH.shape[:2]
        if length != 1 or rows > MOST_ROWS or x_BTH.device.type != "cpu" or torch.is_grad_enabled():
            return False
        if torch.is_autocast_enabled("cpu"):
            return False
        if cache.one_token is None:
            cache.one_token = OneToken.of(list(self.layers)) or False
        return bool(cache.one_token)

    def _layout(self, ids_BT: Tensor, segments: Segments | None, cache: Cache | None) -> Layout:
        """Derive positions and runs, and record them in the cache."""
        length = ids_BT.shape[1]
        if cache is not None and cache.next_position is not None:
            if segments is not None:
                raise ValueError("segments start documents; a cache that holds one continues it")
            layout = Layout(cache.positions(length), documents=None, chunks=None)
            cache.advance(length)
            return layout
        chunk = self.config.attention_chunk_size
        layout = Layout.of((len(ids_BT), length), segments, chunk, ids_BT.device)
        if cache is not None:
            if layout.real is not None:
                raise ValueError(
                    "with a cache, rows of different lengths are padded on the left, as a segment "
                    f"of its own; these segments leave padding on the right: {segments}"
                )
            cache.next_position = layout.last_document_positions[:, -1] + 1
        return layout


class LlamaModel(nn.Module):
    """Llama 4 for text. `LlamaModel(config)` is random; `from_pretrained` reads a directory."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.adapters: Adapters = {}
        """What lora.py added, by the weight that it was added to."""
        self.base: str | None = None
        """Where an adapted model's own weights lie: a directory, a GGUF file or a Hub id."""
        self.quantised: str | None = None
        """The kind in which its frozen weights are held, if the file has them in another one."""
        self.model = Decoder(config)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        if not self.lm_head.weight.is_meta:
            self.initialise(torch.Generator(self.lm_head.weight.device).manual_seed(0))

    def forward(
        self, ids_BT: Tensor, segments: Segments | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Compute logits [B, T, V].

        Args:
            ids_BT: token ids, int64.
            segments: document lengths of each row; what they leave of a row is padding. None
                means that each row is one document.
            cache: from `new_cache`; it is filled, and the next call's ids continue each row's
                last document. Rows of different lengths are padded on the left, as a segment.

        Raises:
            ValueError: when segments do not fit the ids.
        """
        logits: Tensor = self.lm_head(self.model(ids_BT, segments, cache).states)
        return logits

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.norm.weight.device

    @property
    def num_weights(self) -> int:
        """Count the numbers of all weights, those of adapters and frozen ones included."""
        frozen = (one.shape.numel() for one in self.modules() if isinstance(one, Frozen))
        return sum(p.numel() for p in self.parameters()) + sum(frozen)

    def new_cache(self) -> Cache:
        """Make an empty cache for this model's layers."""
        chunk = self.config.attention_chunk_size
        return Cache([chunk if rope else None for rope in self.config.rope_layers])

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every weight from a normal of initializer_range; norms are 1, biases 0."""
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Router):
                module.weight.normal_(0, std, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, ExpertMLP):
                module.gate_up_proj.normal_(0, std, generator=generator)
                module.down_proj.normal_(0, std, generator=generator)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> LlamaModel:
        """Read a model directory; see model/io.py for what it accepts and raises."""
        from quatrain.model.io import load_model

        return load_model(Path(directory), dtype, device)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a model directory, or an adapter's where there are adapters; see model/io.py."""
        from quatrain.model.io import save_model

        save_model(self, Path(directory))
