"""What a Gloria DiT is made of: sizes of the public Wan bases, and the settings that Gloria adds to them.

Everything the paper leaves open is a field of `GloriaSettings`; a checkpoint carries it, so another
reading of the paper is one value away and an old checkpoint keeps its meaning.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..errors import CheckpointError

AnchorAttention = Literal["joint", "one_way"]
HEAD_DIM = 128  # the same in every public Wan model; ComfyUI's detection relies on it too


@dataclass(frozen=True, kw_only=True)
class GloriaSettings:
    """Gloria's additions to a Wan DiT; defaults are the paper's values (sec. 4.1, 4.2, eq. 1)."""

    global_offset: int = 600
    """Temporal RoPE offset o_l of the global anchor."""
    viewpoint_offset: int = 200
    """Temporal RoPE offset o_v of viewpoint anchors."""
    expression_offset: int = 400
    """Temporal RoPE offset o_e of expression anchors."""
    viewpoints: tuple[str, ...] = VIEWPOINTS
    """Viewpoint labels; the index of a label times `label_step` is its sub-offset so_j."""
    expressions: tuple[str, ...] = EXPRESSIONS
    """Expression labels, likewise."""
    label_step: int = 1
    """Distance between the sub-offsets of neighbouring labels; 0 puts all labels of a kind at one position."""
    anchor_attention: AnchorAttention = "joint"
    """`joint`: full attention, as in the paper. `one_way`: anchors attend to anchors only."""
    audio_layers: int = 0
    """Hidden states of wav2vec2 that are mixed (12 layers give 13 of them); 0 means no audio branch."""
    audio_channels: int = 768
    """Width of one wav2vec2 hidden state."""
    audio_dim: int = 768
    """Width of the projected feature F_a, one per video frame."""
    audio_blocks: tuple[int, ...] = ()
    """Indices of the blocks with an audio branch."""
    fps: float = 24.0
    """Frame rate the model was trained at."""

    @property
    def has_audio(self) -> bool:
        """Whether the model has an audio branch."""
        return self.audio_layers > 0

    def to_json(self) -> str:
        """The settings as the JSON text stored in checkpoints."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "GloriaSettings":
        """Settings from the JSON text of a checkpoint.

        Raises:
            CheckpointError: The text is not JSON, or has keys this version does not know.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"The Gloria settings inside the checkpoint are not valid JSON: {error}.") from error
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "GloriaSettings":
        """Settings from a plain mapping; unknown keys are errors, missing ones take the defaults."""
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(
                f"The checkpoint has Gloria settings this version does not know: {', '.join(unknown)}. "
                "It was written by a newer version: update the pack."
            )
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of a Wan DiT plus the Gloria settings; names follow Wan's own config."""

    model_type: Literal["t2v", "i2v"] = "t2v"
    """`i2v` adds the CLIP image cross-attention of Wan2.1-I2V."""
    in_dim: int = 16
    """Input channels: 16 (T2V), 36 (I2V: 16 noisy + 4 mask + 16 image) or 48 (TI2V-5B)."""
    out_dim: int = 16
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int = 4096
    image_dim: int = 1280
    image_position_tokens: int | None = None
    """Length of the learned position table of first-last-frame I2V models; None for all others."""
    freq_dim: int = 256
    eps: float = 1e-6
    gloria: GloriaSettings = field(default_factory=GloriaSettings)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def takes_image_channels(self) -> bool:
        """Whether the base expects mask and image channels beside the noisy latent."""
        return self.in_dim != self.out_dim

    def with_audio(self, audio_layers: int = 13, audio_channels: int = 768) -> "DiTConfig":
        """The same model with an audio branch in its even blocks (half of them, paper sec. 5)."""
        blocks = tuple(range(0, self.num_layers, 2))
        settings = replace(
            self.gloria, audio_layers=audio_layers, audio_channels=audio_channels, audio_blocks=blocks
        )
        return replace(self, gloria=settings)


WAN21_T2V_1_3B = DiTConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
WAN21_T2V_14B = DiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)
WAN21_I2V_14B = replace(WAN21_T2V_14B, model_type="i2v", in_dim=36)
WAN22_T2V_A14B = WAN21_T2V_14B
WAN22_I2V_A14B = replace(WAN21_T2V_14B, in_dim=36)  # no CLIP image cross-attention, unlike Wan 2.1
WAN22_TI2V_5B = DiTConfig(in_dim=48, out_dim=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30)
TOY_T2V = DiTConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=4, text_dim=768)
TOY_I2V = replace(TOY_T2V, model_type="i2v", in_dim=36)
TOY_TI2V = replace(TOY_T2V, in_dim=48, out_dim=48)

PRESETS = {
    "wan2.1-t2v-1.3b": WAN21_T2V_1_3B,
    "wan2.1-t2v-14b": WAN21_T2V_14B,
    "wan2.1-i2v-14b": WAN21_I2V_14B,
    "wan2.2-t2v-a14b": WAN22_T2V_A14B,
    "wan2.2-i2v-a14b": WAN22_I2V_A14B,
    "wan2.2-ti2v-5b": WAN22_TI2V_5B,
    "toy-t2v": TOY_T2V,
    "toy-i2v": TOY_I2V,
    "toy-ti2v": TOY_TI2V,
}
