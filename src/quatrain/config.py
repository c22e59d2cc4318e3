"""Config: every setting of a run, in frozen sections with documented fields.

A Config checks its own rules and reports all problems at once. Not for finding and merging recipes
(recipe.py), nor for the field names of Hugging Face (model/hf_config.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from quatrain.decoding import GenerateConfig as GenerateConfig
from quatrain.division import ParallelConfig
from quatrain.files import at_home
from quatrain.rules import Broken
from quatrain.sections import Place, Section, parts, seconds, sources
from quatrain.words import Sentence

_WIDEST, _MOST, _LARGEST = 2**20, 2**12, 2**40
"""Bounds on widths, counts and lengths. Within them, no tensor reaches 2^63 bytes."""

MOST_EXPERTS = _MOST

Quantised = Literal["nf4", "int8"]
"""The kinds in which matrices are held or stored in fewer bits."""

TokenId = Annotated[int, Field(ge=-1, le=_LARGEST)]


class RopeScaling(Section):
    """Frequency scaling of RoPE as in Llama 3, which Scout uses (docs/llama4.md section 1.2)."""

    factor: float = Field(16.0, ge=1, le=_LARGEST)
    low_freq_factor: float = Field(1.0, gt=0)
    high_freq_factor: float = Field(1.0, gt=0)
    original_max_position_embeddings: int = Field(8192, gt=0, le=_LARGEST)


def _default_rope_layers(data: dict[str, Any]) -> tuple[int, ...]:
    interval = data["no_rope_layer_interval"]
    return tuple(int((layer + 1) % interval != 0) for layer in range(data["n_layers"]))


def _default_moe_layers(data: dict[str, Any]) -> tuple[int, ...]:
    step = data["interleave_moe_layer_step"]
    return tuple(range(step - 1, data["n_layers"], step)) if step else ()


class ModelConfig(Section):
    """The architecture (Llama4TextConfig, with the names of the papers) and the initial weights."""

    init: Place | None = None
    """The model to start from, and its architecture: a directory, a run, a GGUF file, a Hub id."""
    preset: str | None = None
    """A shipped architecture, with random weights."""
    quantize: Quantised | None = None
    """With adapters: hold the base's matrices in 4 or 8 bits. A GGUF file's blocks stay."""
    offload: Literal["auto", "none", "host", "disk"] = "auto"
    """With adapters: where the base's stored matrices stay; auto takes the first that fits."""

    vocab_size: int = Field(8192, ge=2, le=_WIDEST)
    d_model: int = Field(256, ge=1, le=_WIDEST)
    n_layers: int = Field(4, ge=1, le=1024)
    n_heads: int = Field(8, ge=1, le=_MOST)
    n_kv_heads: int = Field(default_factory=lambda data: data["n_heads"], ge=1, le=_MOST)
    """Key and value heads; each serves n_heads / n_kv_heads query heads."""
    d_k: int = Field(
        default_factory=lambda data: data["d_model"] // data["n_heads"], ge=2, le=_MOST
    )
    """Width of a head. In Llama 4, n_heads x d_k may differ from d_model."""

    num_local_experts: int = Field(8, ge=1, le=_MOST)
    num_experts_per_tok: int = Field(1, ge=1, le=_MOST)
    intermediate_size_expert: int = Field(
        default_factory=lambda data: 2 * data["d_model"], ge=1, le=_WIDEST
    )
    """Inner width of each routed expert."""
    intermediate_size_shared: int = Field(
        default_factory=lambda data: data["intermediate_size_expert"], ge=1, le=_WIDEST
    )
    """Inner width of the shared expert. In Llama 4, it equals that of a routed expert."""
    intermediate_size_mlp: int = Field(
        default_factory=lambda data: 4 * data["d_model"], ge=1, le=_WIDEST
    )
    """Inner width of the feed-forward network in layers without experts."""
    interleave_moe_layer_step: int = Field(1, ge=0, le=_MOST)
    """Every n-th layer has experts; 0 for none."""

    no_rope_layer_interval: int = Field(4, ge=1, le=_MOST)
    rope_layers: tuple[int, ...] = Field(default_factory=_default_rope_layers)
    """For each layer: 1 for RoPE and chunked attention, 0 for NoPE and global attention."""
    moe_layers: tuple[int, ...] = Field(default_factory=_default_moe_layers)
    """Indices of the layers with experts."""

    max_position_embeddings: int = Field(8192, ge=1, le=_LARGEST)
    """The longest context, in tokens."""
    rms_norm_eps: float = Field(1e-5, gt=0, lt=1)
    rope_theta: float = Field(500000.0, gt=0, le=_LARGEST)
    rope_scaling: RopeScaling | None = None
    use_qk_norm: bool = True
    attention_chunk_size: int | None = Field(8192, ge=1, le=_LARGEST)
    attn_temperature_tuning: bool = True
    floor_scale: int = Field(8192, ge=1, le=_LARGEST)
    attn_scale: float = 0.1
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = Field(0.02, gt=0)

    bos_token_id: TokenId | None = None
    eos_token_ids: tuple[TokenId, ...] = ()
    pad_token_id: TokenId | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    """Fields of config.json that the model does not use. They are saved unchanged."""

    def problems(self) -> list[Sentence]:
        """See Section."""
        found = []
        leaves = self.d_model % self.n_heads
        if "d_k" not in self.model_fields_set and leaves:
            better = self.d_model + self.n_heads - leaves
            found.append(
                Sentence.of("rules.heads", width=self.d_model, heads=self.n_heads, left=leaves,
                            better=better)
            )  # fmt: skip
        elif self.d_k % 2:
            found.append(Sentence.of("rules.d_k", d_k=self.d_k))
        if self.n_heads % self.n_kv_heads:
            found.append(Sentence.of("rules.kv_heads", heads=self.n_heads, kv=self.n_kv_heads))
        chosen, experts = self.num_experts_per_tok, self.num_local_experts
        if chosen > experts:
            found.append(Sentence.of("rules.experts_per_tok", chosen=chosen, experts=experts))
        shared, routed = self.intermediate_size_shared, self.intermediate_size_expert
        if shared != routed:
            found.append(Sentence.of("rules.shared", shared=shared, routed=routed))
        rope, moe, layers = list(self.rope_layers), list(self.moe_layers), self.n_layers
        if len(rope) != layers or set(rope) - {0, 1}:
            found.append(Sentence.of("rules.rope_layers", layers=layers, given=rope))
        if any(not 0 <= layer < layers for layer in moe):
            found.append(Sentence.of("rules.moe_layers", last=layers - 1, given=moe))
        return found


class TokenizerConfig(Section):
    """The tokenizer for a model with random weights; ignored when model.init has one."""

    path: Place | None = None
    """A directory with tokenizer.json or Meta's tokenizer.model. By default, one is trained on the
    data."""
    kind: Literal["bpe", "char"] = "bpe"
    elisions: bool = False
    """Split elisions such as l'|eau before merging. Such a tokenizer cannot be exported to GGUF."""


DEFAULT_ROW = 512


class DataConfig(Section):
    """Which data is read, and how it is packed into rows."""

    train: tuple[str, ...] = ("AIffl/Alpaca_french_mixtral",)
    """Training data: files, folders or datasets on the Hub."""
    eval: tuple[str, ...] = ()
    """Held-out data to evaluate on. Without it and with holdout=0, nothing is evaluated. On the
    command line, it replaces the holdout of the recipe."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """The fraction of the training data to hold out. Records with the same context or question stay
    together."""
    shape: Literal["auto", "alpaca", "messages", "sharegpt", "squad", "text"] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    """Column names of the file, by meaning: question, context, answer, answers, messages, text,
    system, history."""
    tools: Literal["refuse", "text"] = "refuse"
    """How to treat records with tool calls: `refuse` rejects them, `text` learns the calls as the
    text of turns."""
    hub_split: str = "train"
    encoding: str | None = None
    """The encoding of text files that are not Unicode, such as cp1252, mac-roman or cp850."""
    sheet: str | None = None
    """The sheet of a workbook to read. By default, the first that is neither hidden nor empty."""
    sheet_language: Literal["fr", "en"] | None = None
    """The language in which a workbook displays numbers and dates. By default, its own."""
    document: Literal["file", "line"] = "file"
    """For plain text: whether each file or each line is a document."""
    limit: int | None = Field(None, ge=1)
    """Use only the first training records, up to this number."""
    block_size: int | None = Field(None, ge=8)
    """Tokens per row. By default 512; with model.init, as many as the longest conversation
    needs."""
    packing: Literal["best_fit", "padded"] = "best_fit"
    no_answer: str = "Sans réponse dans le texte."
    """The text to learn and expect as the answer to a question that has none. If empty, such
    questions are rejected."""
    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    """The fraction of unusable records above which training refuses to start. Up to three are
    always left out, unless this is 0 or they are most of the records."""
    max_cut_fraction: float = Field(0.05, ge=0, le=1)
    """The fraction of conversations longer than a row above which training refuses to start."""

    @field_validator("train", "eval", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return sources(value)

    @field_validator("encoding")
    @classmethod
    def _know_encoding(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                "".encode(value)
        except LookupError:
            raise Broken([Sentence.of("rules.encoding", given=value)]) from None
        return value

    def problems(self) -> list[Sentence]:
        """See Section."""
        if self.eval and self.holdout:
            files = ",".join(self.eval)
            return [Sentence.of("rules.judged_twice", files=files, holdout=self.holdout)]
        return []


class TrainConfig(Section):
    """How to train. A field left at None is chosen from the data and recorded."""

    task: Literal["sft", "pretrain"] = "sft"
    adapter: Literal["lora"] | None = None
    """What to train: by default all weights. `lora` trains low-rank adapters on frozen weights."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training data."""
    max_steps: int | None = Field(None, ge=1)
    budget: str | None = None
    """A time limit such as 20m or 1h30m. It is converted once, into a number of steps."""
    batch_size: int | None = Field(None, ge=1)
    """Rows per step. By default a 32nd of all rows, from 1 to 32; with model.init, at least as many
    as hold eight conversations."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows per forward pass. Gradients are accumulated over the micro-batches of a step."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """The peak learning rate. By default 0.256 / d_model; with model.init twice this value, 0.7
    times in pretraining, and 4 times for adapters."""
    min_learning_rate_ratio: float = Field(0.05, ge=0, le=1)
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    decay_ratio: float = Field(0.2, ge=0, le=1)
    """The fraction of steps in which the learning rate decays, with the wsd schedule."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    balance_loss_coef: float | None = Field(None, ge=0)
    """Weight of the load-balancing loss. By default 0.01 in pretraining, 0 in fine-tuning."""
    weights: Literal["float32", "bf16"] = "float32"
    """How weights and moments are kept that all learn: 12 bytes a parameter, or 6."""
    precision: Literal["fp32", "bf16"] | None = None
    """With bf16, computation uses autocast. By default bf16 if model.init is large and the CPU
    supports bf16 natively, otherwise fp32."""
    activation_checkpointing: bool = False
    loss_chunk_size: int = Field(1024, ge=1)
    """How many positions have their logits in memory at the same time."""
    eval_interval: int | None = Field(None, ge=1)
    """Steps between evaluations."""
    save_interval: int | None = Field(None, ge=1)
    """Steps between checkpoints. Each evaluation also saves one."""
    keep_last: int = Field(2, ge=2)
    log_interval: int = Field(1, ge=1)
    sinks: tuple[Literal["tensorboard", "trackio"], ...] = ()
    """Where to send metrics besides metrics.jsonl. Install both with the extra `log`."""
    early_stop: int | None = Field(None, ge=1)
    """Stop after this many evaluations without improvement."""
    seed: int = Field(0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)

    @field_validator("sinks", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return parts(value)

    @field_validator("budget")
    @classmethod
    def _read_budget(cls, value: str | None) -> str | None:
        if value is not None:
            seconds(value)
        return value

    def problems(self) -> list[Sentence]:
        """See Section."""
        found, batch, micro = [], self.batch_size, self.micro_batch_size
        if batch and micro and (left := batch % micro):
            found.append(Sentence.of("rules.micro_batch", batch=batch, micro=micro, left=left))
        if self.weights == "bf16" and self.adapter:
            found.append(Sentence.of("rules.weights", adapter=self.adapter))
        return found


LORA_GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "shared": ("gate_proj", "up_proj", "down_proj"),
    "dense": ("gate_proj", "up_proj", "down_proj"),
    "experts": ("gate_up_proj", "down_proj"),
    "router": ("router",),
}
"""Groups of weights that can get adapters; `dense` are feed-forwards of layers without experts."""


class LoraConfig(Section):
    """The low-rank adapters of `train.adapter=lora`. All other weights are frozen."""

    targets: tuple[str, ...] | None = None
    """Which weights get adapters: groups (attention, shared, dense, experts, router), projections
    (q_proj), or a projection of one group (shared.up_proj). By default, all groups of the model
    except the router."""
    rank: int = Field(16, ge=1, le=_MOST)
    alpha: float = Field(default_factory=lambda data: 2.0 * data["rank"], gt=0, le=_MOST)
    """The output of an adapter is scaled by alpha / rank, with the rank of its group."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """The fraction of the inputs of an adapter that is dropped in training."""
    ranks: dict[str, Annotated[int, Field(ge=1, le=_MOST)]] = Field(default_factory=dict)
    """Ranks of single groups, such as `lora.ranks.experts=4`."""
    dropouts: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    """Dropouts of single groups."""
    train_router: bool = False
    """Whether the router gets adapters too, in addition to the targets."""

    @field_validator("targets", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return parts(value)

    def problems(self) -> list[Sentence]:
        """See Section."""
        known = [*LORA_GROUPS, *dict.fromkeys(p for of in LORA_GROUPS.values() for p in of)]
        allowed = {*known, *(f"{group}.{p}" for group, of in LORA_GROUPS.items() for p in of)}
        found = [
            Sentence.of("rules.lora_target", target=target, known=", ".join(known))
            for target in self.targets or ()
            if target not in allowed
        ]
        if self.targets == ():
            found.append(Sentence.of("rules.lora_empty"))
        for name in ("ranks", "dropouts"):
            strange = getattr(self, name).keys() - LORA_GROUPS.keys()
            found += [
                Sentence.of(
                    "rules.lora_group", name=name, group=group, known=", ".join(LORA_GROUPS)
                )
                for group in sorted(strange)
            ]
        return found


class EvalConfig(Section):
    """How answers are evaluated during training."""

    questions: int | None = Field(None, ge=0)
    """Held-out questions to answer at each evaluation. By default 200; with model.init, as many as
    fit in a fifth of the training time."""
    rows: int | None = Field(None, ge=1)
    """Held-out rows to measure the loss on. By default all; with model.init, fewer if need be."""
    samples: int = Field(5, ge=0)
    """Answers to write to samples.jsonl at each evaluation."""


class Config(Section):
    """A run: its directory and its sections."""

    run_dir: Path = Path("runs/run")
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    lora: LoraConfig = LoraConfig()
    evaluate: EvalConfig = EvalConfig()
    generate: GenerateConfig = GenerateConfig()
    parallel: ParallelConfig = ParallelConfig()

    @field_validator("run_dir", mode="before")
    @classmethod
    def _settle_run_dir(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "":
            raise Broken([Sentence.of("rules.run_dir")])
        return at_home(value) if isinstance(value, str) else value

    @property
    def row_length(self) -> int:
        """Tokens per row; the default for a model with random weights while block_size is None."""
        return self.data.block_size or DEFAULT_ROW

    def problems(self) -> list[Sentence]:
        """See Section."""
        found = []
        row, context = self.row_length, self.model.max_position_embeddings
        if row > context and self.model.init is None:
            found.append(Sentence.of("rules.block_size", row=row, context=context))
        if self.train.adapter and self.model.init is None:
            found.append(Sentence.of("rules.adapter_init", adapter=self.train.adapter))
        if self.model.quantize and self.train.adapter is None:
            found.append(Sentence.of("rules.quantize", kind=self.model.quantize))
        if self.model.offload != "auto" and self.train.adapter is None:
            found.append(Sentence.of("rules.offload", where=self.model.offload))
        if self.train.adapter is None and self.lora != LoraConfig():
            found.append(Sentence.of("rules.lora_fields"))
        return found
