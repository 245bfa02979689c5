"""An ablation and a trained demo folder enter, the same model trained another way from its identity anchors on leaves.

An arm starts from the full model's weights at the end of the run `global`; every later draw and setting is the full
model's, so the two differ by the arm's change alone.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..durable_files import write_safetensors
from ..errors import TrainingError
from ..model.checkpoint import SETTINGS_KEY, read_safetensors, settings_from_tensor, settings_to_tensor
from ..train import train
from ..training.config import TrainConfig
from .export import export_models
from .files import GLOBAL, IDENTITY, PICTURES, DemoFiles
from .runs import NAME, curriculum_run
from .sizes import DemoSizes

logger = logging.getLogger(__name__)

# That of the global anchor, which an arm's start already knows.
ONE_POSITION = {"global_offset": 600, "viewpoint_offset": 600, "expression_offset": 600, "label_step": 0}
ARM_RUNS = (PICTURES, IDENTITY)


@dataclass(frozen=True, kw_only=True)
class TrainedArm:
    """What an ablation changes where identity anchors are trained.

    Args:
        benchmark: what `python -m benchmarks.toyworld --arm-model` calls it.
        settings: changed `GloriaSettings`.
        stage: changed settings of those stages.
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
        output: gets `run_<arm>_pictures`, `run_<arm>_identity` and `models_<arm>`.

    Raises:
        TrainingError: That training has not come to the end of `global`.
    """
    own = DemoFiles(output)
    start = output / f"start_{arm.name}.safetensors"
    _write_start(sizes, arm, files, start)
    for run in ARM_RUNS:
        if not train(arm_run(sizes, arm, files, own, run, start, device)):
            return False
        start = own.result(_name(arm, run))
    exported = export_models(files, start, output / f"models_{arm.name}")
    logger.info(
        "measure it: python -m benchmarks.toyworld --model %s --scale %s --arm-model %s=%s --output results.json",
        files.export, sizes.name, arm.benchmark, exported.dit,
    )  # fmt: skip
    return True


def arm_run(
    sizes: DemoSizes, arm: TrainedArm, files: DemoFiles, own: DemoFiles, run: str, start: Path, device: str
) -> TrainConfig:
    """One of the full model's runs with the arm's change."""
    full = curriculum_run(sizes, files, device, run, str(start))
    return replace(
        full, name=f"{full.name}_{arm.name}", output=str(own.run(_name(arm, run))),
        stages=tuple(replace(stage, **arm.stage) for stage in full.stages),
        anchor_attention=arm.settings.get("anchor_attention", full.anchor_attention),
    )  # fmt: skip


def _name(arm: TrainedArm, run: str) -> str:
    return f"{arm.name}_{run}"


def _write_start(sizes: DemoSizes, arm: TrainedArm, files: DemoFiles, path: Path) -> None:
    """The whole model at the branch under the arm's settings."""
    step = sizes.stages.audio + sizes.stages.global_anchor
    source = files.run(GLOBAL) / "results" / f"{NAME}_step{step:06d}_merged.safetensors"
    if not source.exists():
        raise TrainingError(
            f"The arm '{arm.name}' starts at the end of the run '{GLOBAL}', but {source} is missing. Run python -m "
            f"gloria_core.demo.train --scale {sizes.name} --output {files.root} until that run is done."
        )
    weights = read_safetensors(source)
    settings = replace(settings_from_tensor(weights[SETTINGS_KEY]), **arm.settings)
    write_safetensors(path, {**weights, SETTINGS_KEY: settings_to_tensor(settings)}, {"format": "pt"})
