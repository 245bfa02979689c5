"""Sizes and files enter, the settings of the shipped trainer's runs leave: the base, and the curriculum on it."""

from typing import Any

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..training.config import TrainConfig, config_from_dict
from .files import BASE, DATASETS, GLOBAL, IDENTITY, PICTURES, DemoFiles
from .sizes import DemoSizes, StageSteps
from .world_cache import frames_of_window

NAME = "gloria_demo"
# No anchors and no speech: text, and a first frame in half of the samples.
_BASE_CONDITIONS: dict[str, Any] = {
    "audio": False, "global_anchor": False, "identity_anchors": "none", "prefix_probability": 0.0,
    "start_probability": 0.5,
}  # fmt: skip
# A sample that shows nothing of its clip takes everything from its anchors: what they are for is learned much sooner.
_MANY_ANCHORS: dict[str, Any] = {"max_viewpoints": len(VIEWPOINTS), "max_expressions": 6}
_IDENTITY_CONDITIONS: dict[str, Any] = {"prefix_probability": 0.3, "start_probability": 0.3, **_MANY_ANCHORS}


def base_run(sizes: DemoSizes, files: DemoFiles, device: str) -> TrainConfig:
    """Text- and image-to-video from scratch."""
    stages = [{"name": "base", "steps": sizes.stages.base, **_BASE_CONDITIONS}]
    own = {"name": f"{NAME}_base", "base": str(files.fresh_dit), "audio_branch": False, "stages": stages}
    return config_from_dict({**_common(sizes, files, device, BASE), **own})


def curriculum_run(sizes: DemoSizes, files: DemoFiles, device: str, run: str, base: str) -> TrainConfig:
    """One run of the curriculum: the paper's (sec. 4.4), with single pictures before the identity anchors' windows.

    Args:
        run: `global`: speech, then the global anchor and the prefix; `pictures`; or `identity`: the identity anchors.
        base: weights that it starts from.
    """
    own = {"name": NAME, "base": base, "audio_branch": True, "stages": curriculum_stages(sizes.stages, run)}
    return config_from_dict({**_common(sizes, files, device, run), **own})


def curriculum_stages(steps: StageSteps, run: str) -> list[dict[str, Any]]:
    """The stages of a run; those of windows are `configs/paper_stages.yaml` with the demo's steps."""
    return {
        GLOBAL: [
            {"name": "audio", "steps": steps.audio, "global_anchor": False, "identity_anchors": "none",
             "prefix_probability": 0.0},
            {"name": "global_anchor", "steps": steps.global_anchor, "identity_anchors": "none",
             "prefix_probability": 0.5},
        ],
        # A picture made from anchors alone has a ninth of a window's tokens and nothing else to look at.
        PICTURES: [
            {"name": "pictures", "steps": steps.pictures, "identity_anchors": "one_type", "viewpoint_share": 0.8,
             "prefix_probability": 0.0, "start_probability": 0.0, **_MANY_ANCHORS},
        ],
        IDENTITY: [
            # Moods need fewer samples than the marks on four sides.
            {"name": "identity_anchors", "steps": steps.identity, "identity_anchors": "one_type",
             "viewpoint_share": 0.7, **_IDENTITY_CONDITIONS},
            {"name": "both_anchors", "steps": steps.both, "identity_anchors": "both", **_IDENTITY_CONDITIONS},
        ],
    }[run]  # fmt: skip


def _common(sizes: DemoSizes, files: DemoFiles, device: str, run: str) -> dict[str, Any]:
    steps, dataset = sizes.stages, DATASETS[run]
    batch = steps.pictures_batch if run == PICTURES else steps.batch
    return {
        "output": str(files.run(run)),
        "data": {
            "cache": str(files.cache(dataset)), "frames": [frames_of_window(sizes, dataset)],
            # The paper's shares are those of its footage; here every view and face is as frequent as any other.
            "viewpoint_shares": dict.fromkeys(VIEWPOINTS, 1.0), "expression_shares": dict.fromkeys(EXPRESSIONS, 1.0),
        },
        "method": "full",
        # A hundred times what the paper fine-tunes with: there is nothing to preserve.
        "optimizer": {"name": steps.optimizer, "lr": steps.lr, "betas": [0.9, 0.95], "weight_decay": 0.05,
                      "warmup_steps": min(100, steps.base // 3), "schedule": "linear"},
        # Small pictures lose their content at less noise than large ones: Wan's shift of 5 would skip the details.
        "timesteps": {"kind": "logit_normal", "shift": 1.0},
        "precision": {"compute": "bfloat16", "update": "fp32_master"},
        "memory": {"checkpointing": False},
        "batch_size": batch,
        "micro_batch_size": batch,
        "ema_decay": 0.999,
        "seed": sizes.seed,
        "device": device,
        "validation": {"loss_every": steps.loss_every, "levels": 4, "clips_every": 0},
        "checkpoints": {"every": steps.checkpoint_every},
    }  # fmt: skip
