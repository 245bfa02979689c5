"""Stages as written and a dataset enter, stages with every choice made leave."""

from dataclasses import replace

from ..data.cache_index import CacheIndex
from .config import StageConfig, TrainConfig


def resolve_stages(config: TrainConfig, index: CacheIndex) -> TrainConfig:
    """`identity_anchors: auto` becomes `one_type` when any training source has viewpoint or expression anchors."""
    training = {clip.source for clip in index.clips if clip.split == "train"}
    has_identity = any(
        anchor.kind != "global" for source in index.sources if source.id in training for anchor in source.anchors
    )

    def resolved(stage: StageConfig) -> StageConfig:
        if stage.identity_anchors != "auto":
            return stage
        return replace(stage, identity_anchors="one_type" if has_identity else "none")

    return replace(config, stages=tuple(resolved(stage) for stage in config.stages))
