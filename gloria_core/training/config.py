"""Plain values enter, the checked settings of a whole training run leave; the node, the command and tests share them.

Defaults are the paper's (sec. 4.4, supplement); what the paper does not say is marked "ours".
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..errors import ConfigError
from ..shapes import TEMPORAL_STRIDE
from ..strict import parse

SCHEMA = 1
# Supplement tables 1 and 2, in percent.
PAPER_VIEWPOINT_SHARES = {"front": 29.6, "back": 17.3, "left": 27.9, "right": 25.2}
PAPER_EXPRESSION_SHARES = {
    "surprise": 15.0, "angry": 8.2, "disgust": 13.7, "fear": 10.1, "contempt": 13.6, "neutral": 8.1, "happy": 14.6,
    "sad": 16.7,
}  # fmt: skip


def _check(is_good: bool, message: str) -> None:
    if not is_good:
        raise ConfigError(message)


def _check_probability(**values: float) -> None:
    for name, value in values.items():
        _check(0 <= value <= 1, f"{name} is {value}, expected 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on linear layers of the blocks (ours; the paper trains all weights)."""

    rank: int = 32
    """Width of the adapters: more can learn more, and copies the footage sooner."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that are zeroed in training."""
    targets: tuple[Literal["self_attn", "cross_attn", "ffn"], ...] = ("self_attn", "cross_attn", "ffn")
    """Layers of every block that get adapters."""

    def __post_init__(self) -> None:
        _check(self.rank >= 1, f"rank is {self.rank}, expected at least 1.")
        _check(self.alpha > 0, f"alpha is {self.alpha}, expected above 0.")
        _check_probability(dropout=self.dropout)
        _check(len(self.targets) > 0, "targets is empty: name at least one of self_attn, cross_attn, ffn.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The paper says "Adam" with weight decay .1: `adam` adds decay to the gradient (L2), `adamw` to the weight.

    `muon` is for training from scratch (ours): orthogonal steps for the matrices of the blocks, of the size that
    AdamW's would have, and AdamW for the rest.
    """

    name: Literal["adamw", "adam", "adamw8bit", "muon"] = "adamw"
    """`adamw8bit` keeps its moments in 8 bits and needs bitsandbytes."""
    lr: float = 1e-5
    """The paper's rate is for all weights; a LoRA takes about ten times as much."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moments."""
    eps: float = 1e-8
    """Added to the running deviation."""
    weight_decay: float = 0.1
    """How strongly weights are pulled to zero."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off (ours)."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate over each stage, to 0 for `linear` and `cosine`."""
    warmup_steps: int = 0
    """Steps at the start of each stage over which the rate rises from 0."""

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"lr is {self.lr}, expected above 0.")
        _check(all(0 <= beta < 1 for beta in self.betas), f"betas are {self.betas}, expected 0 to below 1.")
        _check(self.clip_norm >= 0 and self.warmup_steps >= 0, "clip_norm and warmup_steps may not be negative.")


@dataclass(frozen=True, kw_only=True)
class TimestepConfig:
    """Noise level sigma of a sample, 0 data to 1 noise (ours; the paper does not say)."""

    kind: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution before the shift."""
    mean: float = 0.0
    """Mean of `logit_normal`."""
    std: float = 1.0
    """Deviation of `logit_normal`."""
    shift: float = 5.0
    """Wan's shift towards noise: 5 as in sampling, 3 at 480p, 1 changes nothing."""
    min: float = 0.0
    """Lowest sigma; the high-noise expert of Wan2.2 A14B trains from .9 (I2V) or .875 (T2V) on, the other below."""
    max: float = 1.0
    """Highest sigma."""
    stratified: bool = True
    """Each sample of a batch draws from its own slice of the distribution, so that the loss varies less."""

    def __post_init__(self) -> None:
        _check(0 <= self.min < self.max <= 1, f"min {self.min} and max {self.max}: expected 0 <= min < max <= 1.")
        _check(self.shift > 0 and self.std > 0, "shift and std must be above 0.")


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Data types, one per class of tensor; nothing is cast behind the scenes."""

    compute: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of activations and of trained weights as the forward pass sees them."""
    update: Literal["fp32_master", "kahan", "stochastic"] = "fp32_master"
    """How small updates survive bfloat16 weights; without effect when `compute` is float32."""
    base: Literal["compute", "fp8"] = "compute"
    """Storage of frozen weights: `fp8` halves them (LoRA only)."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What trades speed for memory."""

    checkpointing: bool = True
    """Recompute each block in the backward pass and keep its input only."""
    keep_attention: bool = False
    """Keep the result of self-attention too, the dearest part to recompute in long clips: twice the kept memory (needs
    `checkpointing`)."""
    offload_activations: bool = False
    """Keep those inputs in host memory (needs `checkpointing`)."""
    streamed_blocks: int = 0
    """Frozen blocks, counted from the end, that stay in host memory and come to the GPU when needed (LoRA only)."""
    compile: bool = False
    """torch.compile each block: the first steps are slow, the rest faster."""

    def __post_init__(self) -> None:
        _check(self.checkpointing or not self.offload_activations, "offload_activations needs checkpointing.")
        _check(self.checkpointing or not self.keep_attention, "keep_attention needs checkpointing.")
        _check(self.checkpointing or not self.streamed_blocks, "streamed_blocks needs checkpointing.")
        _check(self.streamed_blocks >= 0, f"streamed_blocks is {self.streamed_blocks}, expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of the paper's curriculum (sec. 4.4)."""

    name: str
    """Shown in the log and the status."""
    steps: int
    """Optimizer steps."""
    train: Literal["all", "audio", "lora"] = "all"
    """`all`: what the method trains (LoRA and audio branch, or everything). `audio`: the audio branch alone. `lora`:
    the adapters alone, which on a 14B base spares the optimizer 0.7 B weights of the audio branch."""
    audio: bool = True
    """Whether speech conditions the samples."""
    global_anchor: bool = True
    """From stage II on the global anchor is always there (supplement 1.2)."""
    identity_anchors: Literal["auto", "none", "one_type", "both"] = "one_type"
    """Viewpoint and expression anchors: none, one of the two kinds per batch (stage III), or both (its last steps).
    `auto` takes what the dataset has; `training/stages.py` replaces it before the run."""
    viewpoint_share: float = 0.5
    """`one_type`: share of the batches with viewpoint anchors."""
    max_viewpoints: int = 3
    """A batch has evenly 1 to so many viewpoint labels."""
    max_expressions: int = 4
    """The same of expressions."""
    inside_ratio: float = 0.5
    """Superset anchoring: share of the anchors taken from inside the clip, the rest from the whole source video.
    Where a label has candidates on one side only, those are taken."""
    superset: bool = True
    """False, for ablations: only what lies inside of the clip is a candidate (`inside_ratio` must be 1), and a sample
    goes without the anchors that its clip does not show. `anchors` in metrics.jsonl counts those of a step."""
    prefix_probability: float = 0.5
    """Share of the samples that continue a chunk: cut mid-stream, with four clean latents as prefix."""
    start_probability: float = 1.0
    """Share of the other samples whose first frame is given; must be 1 for image-to-video bases."""
    text_dropout: float = 0.1
    """Share of the samples without their caption, for CFG."""
    audio_dropout: float = 0.1
    """Share of the samples without their speech, for CFG; drawn apart from the text's."""
    lr: float | None = None
    """Learning rate of this stage; null takes the optimizer's."""

    def __post_init__(self) -> None:
        _check(bool(self.name) and self.steps >= 1, f"stage {self.name!r} has {self.steps} steps, expected 1 or more.")
        _check_probability(
            viewpoint_share=self.viewpoint_share,
            inside_ratio=self.inside_ratio,
            prefix_probability=self.prefix_probability,
            start_probability=self.start_probability,
            text_dropout=self.text_dropout,
            audio_dropout=self.audio_dropout,
        )
        _check(
            self.superset or self.inside_ratio == 1,
            f"superset false takes anchors from inside of the clip alone, but inside_ratio is {self.inside_ratio}: set "
            "it to 1.",
        )
        _check(1 <= self.max_viewpoints <= len(VIEWPOINTS), f"max_viewpoints is {self.max_viewpoints}, expected 1..4.")
        _check(1 <= self.max_expressions <= len(EXPRESSIONS), f"max_expressions is {self.max_expressions}, not 1..8.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the samples are drawn from."""

    cache: str
    """Folder of a dataset cache (`python -m gloria_core.data.build`)."""
    frames: tuple[int, ...] = (81,)
    """Window lengths in pixel frames (4n + 1); a clip takes the longest that fits it."""
    viewpoint_shares: dict[str, float] = field(default_factory=lambda: dict(PAPER_VIEWPOINT_SHARES))
    """How often each viewpoint is drawn, among those a source has (supplement table 1)."""
    expression_shares: dict[str, float] = field(default_factory=lambda: dict(PAPER_EXPRESSION_SHARES))
    """The same of expressions (supplement table 2)."""
    max_bad_entries: int = 10
    """Damaged or missing cache entries that are skipped, each named in the log, before the run stops."""

    def __post_init__(self) -> None:
        _check(len(self.frames) > 0, "frames is empty: name at least one window length, for example [81].")
        for frames in self.frames:
            _check(
                frames >= 1 and (frames - 1) % TEMPORAL_STRIDE == 0, f"frames {frames}: Wan makes 4n + 1 frames (81)."
            )
        for name, shares, labels in (
            ("viewpoint_shares", self.viewpoint_shares, VIEWPOINTS),
            ("expression_shares", self.expression_shares, EXPRESSIONS),
        ):
            _check(set(shares) == set(labels), f"{name} needs exactly the labels {', '.join(labels)}.")
            _check(all(share > 0 for share in shares.values()), f"{name} must be above 0.")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What shows whether training works: held-out loss at fixed noise, clips, and one long roll-out."""

    loss_every: int = 100
    """Steps between held-out losses; 0 turns them off."""
    levels: int = 8
    """Fixed noise levels, the midpoints of equal parts of the timestep distribution."""
    clips_every: int = 0
    """Steps between sampled clips; 0 turns them off."""
    num_clips: int = 1
    """Held-out clips that are sampled again each time; without any, clips that are trained on."""
    rollout_latents: int = 0
    """Length of the long roll-out in latent frames; 0 turns it off."""
    steps: int = 30
    """Denoising steps of a clip."""
    cfg: float = 3.5
    """Guidance of a clip, on text and speech together."""
    shift: float = 5.0
    """Shift of a clip's noise levels."""
    seed: int = 0
    """The same for every clip of the run, so that clips differ by the training alone."""
    vae: str | None = None
    """Folder of a diffusers AutoencoderKLWan, to write clips as video; null saves their latents only."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to go on from."""

    every: int = 250
    """Steps between checkpoints; the end of a stage and a stop save too."""
    keep_last: int = 2
    """The newest ones that are kept, at least 2."""
    keep_every: int = 0
    """Checkpoints at multiples of this many steps stay for good, with results made of them; 0: none."""

    def __post_init__(self) -> None:
        _check(self.every >= 1, f"every is {self.every}, expected at least 1.")
        _check(self.keep_last >= 2, f"keep_last is {self.keep_last}: keep at least 2, the newest may be damaged.")
        _check(self.keep_every >= 0, f"keep_every is {self.keep_every}, expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run. Relative paths are read from the folder of the YAML file."""

    schema: int = SCHEMA
    """Version of this file format."""
    name: str
    """Plain name, part of the result's file names."""
    base: str
    """Wan base (or merged Gloria file), safetensors."""
    gloria: str | None = None
    """Gloria weights to start from; null starts with a fresh, silent audio branch."""
    output: str
    """Folder of the run: metrics, checkpoints, samples, results."""
    data: DataConfig
    method: Literal["lora", "full"] = "lora"
    """`lora`: adapters on a frozen base, the audio branch in full beside them. `full`: all weights."""
    audio_branch: bool = True
    """Whether fresh Gloria weights get an audio branch, and whether a branch is trained in full beside a LoRA."""
    anchor_attention: Literal["joint", "one_way"] = "joint"
    """For fresh Gloria weights; loaded ones keep their own."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    stages: tuple[StageConfig, ...]
    """One after the other; optimizer and averages go on."""
    batch_size: int = 1
    """Samples per optimizer step, over all processes."""
    micro_batch_size: int = 1
    """Samples per forward pass and process; the rest is accumulated."""
    ema_decay: float = 0.0
    """Moving average of trained weights that validation and results use; 0 turns it off.

    In step t, from 0 on, the decay is at most (1 + t) / (10 + t): a short run does not keep what it began with.
    """
    max_bad_steps: int = 5
    """Steps in a row with NaN or infinite loss or gradient that are skipped before the run stops."""
    seed: int = 0
    """Decides every draw: equal seeds, settings and data give equal runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is a GPU."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        _check(self.schema == SCHEMA, f"schema is {self.schema}, this version reads {SCHEMA}. Update Gloria.")
        _check(
            self.name.replace("-", "").replace("_", "").isalnum() and self.name.isascii() and len(self.name) <= 64,
            f"name is {self.name!r}, expected up to 64 letters, digits, '-' and '_'.",
        )
        _check(len(self.stages) > 0, "stages is empty: a run has at least one stage.")
        names = [stage.name for stage in self.stages]
        _check(len(set(names)) == len(names), f"two stages have the same name: {', '.join(names)}.")
        _check(self.batch_size >= 1 and self.micro_batch_size >= 1, "batch_size and micro_batch_size start at 1.")
        _check(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}, expected 0 to below 1.")
        _check(self.max_bad_steps >= 1, f"max_bad_steps is {self.max_bad_steps}, expected at least 1.")
        if self.method == "full":
            _check(self.precision.base == "compute", "precision.base fp8 is for frozen weights: use method lora.")
            _check(self.memory.streamed_blocks == 0, "memory.streamed_blocks is for frozen blocks: use method lora.")
        if self.optimizer.name == "muon":
            _check(self.method == "full", "optimizer muon is for whole weights: set method full, or use adamw.")
            is_precise = self.precision.compute == "float32" or self.precision.update == "fp32_master"
            _check(is_precise, "optimizer muon needs precise weights: set precision.update fp32_master.")
        for stage in self.stages:
            is_possible = self.method == "lora" or stage.train != "lora"
            _check(is_possible, f"stage {stage.name!r} trains a LoRA, but method is full: set method lora.")
            wants_audio = stage.audio or stage.train == "audio"
            _check(
                self.audio_branch or not wants_audio,
                f"stage {stage.name!r} wants speech, but audio_branch is false: set the stage's audio to false.",
            )

    @property
    def trains_audio(self) -> bool:
        """Whether any stage trains the audio branch."""
        return self.audio_branch and any(stage.train != "lora" for stage in self.stages)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Index of the stage that the 0-based global `step` belongs to, and the step's number in it."""
        for stage_idx, stage in enumerate(self.stages):
            if step < stage.steps:
                return stage_idx, step
            step -= stage.steps
        raise ConfigError(f"Step {step + self.total_steps} is past the end of the run ({self.total_steps} steps).")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON hold them."""
        return _plain(asdict(self))


def config_from_dict(content: Any, where: str = "config") -> TrainConfig:
    """Strictly checked settings.

    Raises:
        ConfigError: Naming the field, what arrived and what was expected.
    """
    return parse(TrainConfig, content, where, ConfigError)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"A value is {value}, expected a finite number.")
    return value
