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
from quatrain.model.cache import Cache, LayerCache, Step
from quatrain.model.few_tokens import MOST_ROWS, FewTokens
from quatrain.model.frozen import Frozen
from quatrain.model.layout import Layout, Segments
from quatrain.model.moe import ExpertMLP, MoE, Router, Routing, SharedMLP
from quatrain.model.norm import RMSNorm
from quatrain.model.rope import RotaryPositionalEmbedding
from quatrain.model.store import Store
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
        if cache is not None:
            return self._continue(ids_BT, segments, cache)
        chunk = self.config.attention_chunk_size
        rows, length = ids_BT.shape
        layout = Layout.of((rows, length), segments, chunk, ids_BT.device)
        rotation, routings = self.rotary_emb(layout.positions), {}
        x_BTH = self._embedded(ids_BT)
        for index, layer in enumerate(self.layers):
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BTH, routing = checkpoint(
                    layer, x_BTH, rotation, layout, None, balance,
                    use_reentrant=False, preserve_rng_state=False,  # dropout has its own
                )  # fmt: skip
            else:
                x_BTH, routing = layer(x_BTH, rotation, layout, None, balance)
            if routing is not None:
                routings[index] = routing
        return Hidden(self.norm(x_BTH), routings)

    def _continue(self, ids_BT: Tensor, segments: Segments | None, cache: Cache) -> Hidden:
        """Map new tokens of the cache's sequences to hidden states; see LlamaModel.forward."""
        rows, length = ids_BT.shape
        counts = [length] * rows if segments is None else list(segments[0])
        if segments is not None and (rows, sum(counts)) != (1, length):
            raise ValueError(
                f"with a cache, segments divide one row among sequences; there are {rows} rows, "
                f"and {length} ids for {counts}"
            )
        step = cache.step(counts, ids_BT.device)
        layout = step.layout(self.config.attention_chunk_size)
        rotation = self.rotary_emb(layout.positions)
        x_1nH, routings = self._embedded(ids_BT.reshape(1, -1)), {}
        if self._takes_few(x_1nH, step, cache):
            x_nH = cache.few_tokens(x_1nH[0].float().contiguous(), rotation, step)
            x_1nH = x_nH[None].to(x_1nH.dtype)
        else:
            for index, layer in enumerate(self.layers):
                x_1nH, routing = layer(x_1nH, rotation, layout, step.layer(index))
                if routing is not None:
                    routings[index] = routing
        step.finish()
        return Hidden(self.norm(x_1nH).view(rows, length, -1), routings)

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        x_BTH: Tensor = self.embed_tokens(ids_BT)
        return x_BTH.to(self.states_dtype or x_BTH.dtype)

    def _takes_few(self, x_1nH: Tensor, step: Step, cache: Cache) -> bool:
        """Whether compiled code computes these tokens; what can is chosen once for a cache."""
        few = x_1nH.shape[1] <= MOST_ROWS and not step.is_fresh
        if not few or x_1nH.device.type != "cpu" or torch.is_grad_enabled():
            return False
        if torch.is_autocast_enabled("cpu"):
            return False
        if cache.few_tokens is None:
            cache.few_tokens = FewTokens.of(list(self.layers)) or False
        return bool(cache.few_tokens)


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
            cache: from `new_cache`; it is filled, and the next call's ids continue its sequences.
                Each row is one, or each segment of the only row, as many new tokens as it says.

        Raises:
            ValueError: when segments do not fit the ids, or the cache's sequences.
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
        return Cache(Store(self.config))

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
