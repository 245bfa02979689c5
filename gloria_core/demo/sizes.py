"""How large the demo model is and how long each part of it trains: one preset for each kind of machine."""

from dataclasses import dataclass, field, replace
from typing import Literal

HEAD_DIM = 128


@dataclass(frozen=True, kw_only=True)
class WorldSizes:
    """The clips."""

    fps: float = 8.0
    """The paper's is 24; fewer frames a second make the same motion in fewer tokens."""
    side: int = 64
    seconds: float = 24.0
    num_sources: int
    """Videos that the cache is made of, each of another character."""
    num_held_out: int = 8
    window_latents: int = 9
    """Latent frames of one chunk; 9 are 33 frames."""


@dataclass(frozen=True, kw_only=True)
class VaePhase:
    """A stretch of the autoencoder's training."""

    steps: int
    num_frames: int
    """1: images of all kinds; 4n + 1: clips."""
    batch: int


@dataclass(frozen=True, kw_only=True)
class VaeSizes:
    """The video autoencoder."""

    width: int
    phases: tuple[VaePhase, ...]
    lr: float = 5e-3
    report_every: int = 100
    """Steps between held-out figures, each with a snapshot."""

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)


@dataclass(frozen=True, kw_only=True)
class EncoderSizes:
    """The text and the speech encoder."""

    text_width: int = 128
    text_layers: int = 2
    text_steps: int
    audio_width: int = 64
    audio_channels: int = 64
    """Channels of the convolutions that read the sound."""
    audio_layers: int = 2
    audio_steps: int


@dataclass(frozen=True, kw_only=True)
class DitSizes:
    """The diffusion transformer; its width is a multiple of 128."""

    width: int
    ffn_width: int
    num_layers: int

    @property
    def num_heads(self) -> int:
        """Heads of 128, as in every Wan model."""
        return self.width // HEAD_DIM


@dataclass(frozen=True, kw_only=True)
class StageSteps:
    """Optimizer steps of the base and of the stages on it."""

    base: int
    audio: int
    global_anchor: int
    pictures: int
    identity: int
    both: int
    base_latents: int = 5
    """The base sees shorter windows: most is learned from few frames, and they are cheap."""
    batch: int
    pictures_batch: int
    """A picture has the tokens of one latent."""
    picture_videos: int
    """Videos that the pictures are taken from, each of another character: from few, dolls are learned by heart."""
    lr: float = 1e-3
    """Of every run: most of what each learns is new."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """On a CPU Muon's own work makes a small step a third longer (docs/demo_model.md)."""
    loss_every: int = 250
    checkpoint_every: int = 100


@dataclass(frozen=True, kw_only=True)
class DemoSizes:
    """The whole demo model."""

    name: str
    world: WorldSizes
    vae: VaeSizes
    encoders: EncoderSizes
    dit: DitSizes
    stages: StageSteps
    device: str = "auto"
    seed: int = 0
    text_tokens: int = field(default=32, init=False)
    """Tokens that a shorter prompt is filled up to."""


GPU = DemoSizes(
    name="gpu",
    world=WorldSizes(num_sources=3000),
    vae=VaeSizes(
        width=16,
        phases=(
            VaePhase(steps=4000, num_frames=1, batch=128),
            VaePhase(steps=6000, num_frames=9, batch=32),
        ),
    ),
    encoders=EncoderSizes(text_steps=1500, audio_steps=3000),
    dit=DitSizes(width=256, ffn_width=1024, num_layers=10),
    stages=StageSteps(
        base=10000, audio=3000, global_anchor=6000, pictures=10000, identity=6000, both=2000, batch=128,
        pictures_batch=512, picture_videos=12000, loss_every=500, checkpoint_every=500,
    ),
)  # fmt: skip

CPU = replace(
    GPU,
    name="cpu",
    world=WorldSizes(num_sources=500),
    vae=VaeSizes(
        width=12,
        phases=(
            VaePhase(steps=2400, num_frames=1, batch=12),
            VaePhase(steps=1800, num_frames=5, batch=3),
            VaePhase(steps=800, num_frames=9, batch=2),
        ),
    ),
    encoders=EncoderSizes(text_steps=600, audio_steps=600),
    dit=DitSizes(width=256, ffn_width=768, num_layers=8),
    stages=StageSteps(
        base=4000, audio=600, global_anchor=1400, pictures=4000, identity=1500, both=500, batch=16, pictures_batch=64,
        picture_videos=2000,
        optimizer="adamw",
    ),
    device="cpu",
)

TINY = replace(
    CPU,
    name="tiny",
    world=WorldSizes(num_sources=3, num_held_out=1, seconds=6.0, window_latents=6),
    vae=VaeSizes(
        width=4,
        phases=(VaePhase(steps=3, num_frames=1, batch=2), VaePhase(steps=3, num_frames=5, batch=1)),
        report_every=2,
    ),
    encoders=EncoderSizes(
        text_width=16, text_layers=1, text_steps=3, audio_width=16, audio_channels=8, audio_layers=1, audio_steps=2
    ),
    dit=DitSizes(width=128, ffn_width=128, num_layers=2),
    stages=StageSteps(
        base=3, audio=2, global_anchor=2, pictures=2, identity=2, both=2, base_latents=2, batch=2, pictures_batch=4,
        picture_videos=4, loss_every=3,
        checkpoint_every=2,
    ),
)  # fmt: skip

SIZES = {sizes.name: sizes for sizes in (TINY, CPU, GPU)}
