"""Sizes and files enter, the settings of the shipped trainer's two runs leave: the base, and the paper's stages."""

from typing import Any

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..training.config import TrainConfig, config_from_dict
from .files import DemoFiles
from .sizes import DemoSizes, StageSteps
from .world_cache import frames_of_window

BASE, STAGES = "base", "stages"
NAME = "gloria_demo"
# No anchors and no speech: text, and a first frame in half of the samples.
_BASE_CONDITIONS: dict[str, Any] = {
    "audio": False, "global_anchor": False, "identity_anchors": "none", "prefix_probability": 0.0,
    "start_probability": 0.5,
}  # fmt: skip
# A sample that shows nothing of its clip takes everything from its anchors: what they are for is learned much sooner.
_IDENTITY_CONDITIONS: dict[str, Any] = {
    "prefix_probability": 0.3, "start_probability": 0.3, "max_viewpoints": len(VIEWPOINTS), "max_expressions": 6,
}  # fmt: skip


def base_run(sizes: DemoSizes, files: DemoFiles, device: str) -> TrainConfig:
    """Text- and image-to-video from scratch."""
    stages = [{"name": "base", "steps": sizes.stages.base, **_BASE_CONDITIONS}]
    own = {"name": f"{NAME}_base", "base": str(files.fresh_dit), "audio_branch": False, "stages": stages}
    return config_from_dict({**_common(sizes, files, device, BASE, sizes.stages.lr), **own})


def stages_run(sizes: DemoSizes, files: DemoFiles, device: str, base: str) -> TrainConfig:
    """The paper's curriculum (sec. 4.4) on that base: speech; global anchor and prefix; identity anchors."""
    own = {"name": NAME, "base": base, "audio_branch": True, "stages": paper_stages(sizes.stages)}
    common = _common(sizes, files, device, STAGES, sizes.stages.lr)
    # Ablations of the identity stages start where those do: that checkpoint stays.
    common["checkpoints"]["keep_every"] = sizes.stages.audio + sizes.stages.global_anchor
    return config_from_dict({**common, **own})


def paper_stages(steps: StageSteps) -> list[dict[str, Any]]:
    """The stages of `configs/paper_stages.yaml` with the demo's steps."""
    return [
        {"name": "audio", "steps": steps.audio, "global_anchor": False, "identity_anchors": "none",
         "prefix_probability": 0.0},
        {"name": "global_anchor", "steps": steps.global_anchor, "identity_anchors": "none", "prefix_probability": 0.5},
        # Moods need fewer samples than the marks on four sides.
        {"name": "identity_anchors", "steps": steps.identity, "identity_anchors": "one_type", "viewpoint_share": 0.7,
         **_IDENTITY_CONDITIONS},
        {"name": "both_anchors", "steps": steps.both, "identity_anchors": "both", **_IDENTITY_CONDITIONS},
    ]  # fmt: skip


def _common(sizes: DemoSizes, files: DemoFiles, device: str, stage: str, lr: float) -> dict[str, Any]:
    steps = sizes.stages
    return {
        "output": str(files.run(stage)),
        "data": {
            "cache": str(files.cache(stage)), "frames": [frames_of_window(sizes, stage)],
            # The paper's shares are those of its footage; here every view and face is as frequent as any other.
            "viewpoint_shares": dict.fromkeys(VIEWPOINTS, 1.0), "expression_shares": dict.fromkeys(EXPRESSIONS, 1.0),
        },
        "method": "full",
        # A hundred times what the paper fine-tunes with: there is nothing to preserve.
        "optimizer": {"name": steps.optimizer, "lr": lr, "betas": [0.9, 0.95], "weight_decay": 0.05,
                      "warmup_steps": min(100, steps.base // 3), "schedule": "linear"},
        # Small pictures lose their content at less noise than large ones: Wan's shift of 5 would skip the details.
        "timesteps": {"kind": "logit_normal", "shift": 1.0},
        "precision": {"compute": "bfloat16", "update": "fp32_master"},
        "memory": {"checkpointing": False},
        "batch_size": steps.batch,
        "micro_batch_size": steps.micro_batch,
        "ema_decay": 0.999,
        "seed": sizes.seed,
        "device": device,
        "validation": {"loss_every": steps.loss_every, "levels": 4, "clips_every": 0},
        "checkpoints": {"every": steps.checkpoint_every},
    }  # fmt: skip
