"""An ablation and a trained demo folder enter, the same model whose identity stages were trained another way leaves.

An arm goes on from the checkpoint at the end of `global_anchor`: weights, optimizer, averages and every later draw are
those of the full model, so the two differ by the arm's change alone.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.cache_index import read_index
from ..durable_files import write_safetensors
from ..errors import TrainingError
from ..model.checkpoint import SETTINGS_KEY, read_safetensors, settings_from_tensor, settings_to_tensor
from ..train import train
from ..training.config import TrainConfig
from ..training.resume import describe_run
from ..training.snapshot import find_latest, find_step, save_snapshot
from .export import export_models
from .files import DemoFiles
from .runs import NAME, STAGES, stages_run
from .sizes import DemoSizes

logger = logging.getLogger(__name__)

# That of the global anchor, which an arm's start already knows.
ONE_POSITION = {"global_offset": 600, "viewpoint_offset": 600, "expression_offset": 600, "label_step": 0}
IDENTITY_STAGES = ("identity_anchors", "both_anchors")


@dataclass(frozen=True, kw_only=True)
class TrainedArm:
    """What an ablation changes in the identity stages.

    Args:
        benchmark: what `python -m benchmarks.toyworld --arm-model` calls it.
        settings: changed `GloriaSettings`.
        stage: changed settings of both identity stages.
    """

    name: str
    benchmark: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] = field(default_factory=dict)


ARMS = {
    arm.name: arm
    for arm in (
        TrainedArm(name="no_superset", benchmark="no_superset", stage={"inside_ratio": 1.0, "superset": False}),
        TrainedArm(name="no_offsets", benchmark="no_offsets", settings=ONE_POSITION),
        TrainedArm(name="one_way", benchmark="one_way_trained", settings={"anchor_attention": "one_way"}),
    )
}


def train_arm(sizes: DemoSizes, arm: TrainedArm, files: DemoFiles, output: Path, device: str) -> bool:
    """Train an arm until its end (True), or until the trainer is asked to stop (False); again goes on.

    Args:
        files: of the training that it branches off, which is only read.
        output: gets `run_<arm>` and `models_<arm>`.

    Raises:
        TrainingError: That training has not come to the end of `global_anchor`.
    """
    own = DemoFiles(output)
    start = own.run(arm.name) / "start.safetensors"
    _write_start(sizes, arm, files, start)
    config = arm_run(sizes, arm, files, own.run(arm.name), start, device)
    if find_latest(own.run(arm.name)) is None:
        _branch_off(sizes, files, config)
    if not train(config):
        return False
    exported = export_models(files, own.result(arm.name), output / f"models_{arm.name}")
    logger.info(
        "measure it: python -m benchmarks.toyworld --model %s --scale %s --arm-model %s=%s --output results.json",
        files.export, sizes.name, arm.benchmark, exported.dit,
    )  # fmt: skip
    return True


def arm_run(
    sizes: DemoSizes, arm: TrainedArm, files: DemoFiles, run: Path, start: Path, device: str
) -> TrainConfig:
    """The run of the stages, with the arm's change in those that are still to come."""
    full = stages_run(sizes, files, device, str(start))
    stages = tuple(replace(stage, **arm.stage) if stage.name in IDENTITY_STAGES else stage for stage in full.stages)
    return replace(
        full, name=f"{full.name}_{arm.name}", output=str(run), stages=stages,
        anchor_attention=arm.settings.get("anchor_attention", full.anchor_attention),
        checkpoints=replace(full.checkpoints, keep_every=0),
    )  # fmt: skip


def _write_start(sizes: DemoSizes, arm: TrainedArm, files: DemoFiles, path: Path) -> None:
    """The whole model at the branch under the arm's settings; its weights make way for the checkpoint's."""
    step = sizes.stages.audio + sizes.stages.global_anchor
    source = files.run(STAGES) / "results" / f"{NAME}_step{step:06d}_merged.safetensors"
    if not source.exists():
        raise TrainingError(
            f"The arm '{arm.name}' starts at the end of the stage global_anchor, but {source} is missing. Run python "
            f"-m gloria_core.demo.train --scale {sizes.name} --output {files.root} until step {step} of its stages."
        )
    weights = read_safetensors(source)
    settings = replace(settings_from_tensor(weights[SETTINGS_KEY]), **arm.settings)
    write_safetensors(path, {**weights, SETTINGS_KEY: settings_to_tensor(settings)}, {"format": "pt"})


def _branch_off(sizes: DemoSizes, files: DemoFiles, config: TrainConfig) -> None:
    """The full model's checkpoint becomes the first one of the arm's own run."""
    snapshot = find_step(files.run(STAGES), sizes.stages.audio + sizes.stages.global_anchor)
    run = describe_run(config, read_index(Path(config.data.cache)), world_size=1)
    groups = {name: snapshot.load(name) for name in snapshot.state["sha256"]}
    save_snapshot(Path(config.output), snapshot.step, groups, {**snapshot.state, "run": run, "elapsed_seconds": 0.0})
