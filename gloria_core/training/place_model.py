"""A model on the CPU enters; it leaves where it trains, laid out as the memory settings ask."""

import shutil
from pathlib import Path

import torch
from torch import nn

from ..data.cache_index import CachedSource, CacheIndex
from ..model.dit import GloriaDiT
from ..shapes import LatentSize, latent_frames_for, spatial_stride
from .activation_checkpointing import checkpoint_blocks
from .block_stream import stream_blocks
from .config import TrainConfig
from .distributed import Workers
from .memory_plan import Free, MemoryPlan, require_memory
from .quantized_base import quantize_frozen
from .run_folder import RESULTS
from .snapshot import CHECKPOINTS


def check_room(model: GloriaDiT, config: TrainConfig, index: CacheIndex, workers: Workers) -> MemoryPlan:
    """Refuse a run that would end without memory or disk.

    Raises:
        TrainingError: With figures and a remedy.
    """
    import psutil

    has_gpu = workers.device.type == "cuda"
    free = Free(
        device=torch.cuda.mem_get_info(workers.device)[0] if has_gpu else 0,
        host=psutil.virtual_memory().available,
        disk=room_on_disk(Path(config.output)) if workers.is_main else 2**63,
    )
    return require_memory(model, config, largest_tokens(config, index), workers.count, free, has_gpu)


def room_on_disk(run: Path) -> int:
    """What is free, and what a run that goes on holds already of what the plan counts."""
    held = [path for name in (CHECKPOINTS, RESULTS) for path in (run / name).rglob("*") if path.is_file()]
    return shutil.disk_usage(run).free + sum(path.stat().st_size for path in held)


def largest_tokens(config: TrainConfig, index: CacheIndex) -> int:
    """Tokens of the largest sample the dataset can give: the longest window and the most anchors."""
    sources = {source.id: source for source in index.sources}
    longest, stride = latent_frames_for(max(config.data.frames)), spatial_stride(index.latent_channels)
    most = 0
    for clip in index.clips:
        frames = min(clip.num_latents, longest)
        video = LatentSize(index.latent_channels, frames, clip.height // stride, clip.width // stride).grid.count
        most = max(most, video + _anchor_tokens(sources[clip.source], config, index.latent_channels))
    return most


def place_model(model: GloriaDiT, config: TrainConfig, workers: Workers) -> None:
    """Quantise, stream, checkpoint, shard and move, in the order that these need."""
    memory = config.memory
    if config.precision.base == "fp8":
        quantize_frozen(model)
    if memory.streamed_blocks:
        stream_blocks(model, memory.streamed_blocks, workers.device)
    if memory.checkpointing:
        checkpoint_blocks(model, offload=memory.offload_activations, keep_attention=memory.keep_attention)
    if workers.is_sharded:
        shard_model(model, workers.device)
    elif not memory.streamed_blocks:
        model.to(workers.device)
    if memory.compile:
        for block in model.blocks:
            block.compile()


def shard_model(model: GloriaDiT, device: torch.device) -> None:
    """Split weights, gradients and optimizer state over the processes (FSDP2), gathered block by block when used."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Gradients of many samples are summed in float32 whatever the weights' type.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    # The patch embedding is float32 in every model, and a group needs one type.
    parts: list[nn.Module] = [*model.blocks, model.patch_embedding]
    for part in parts:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to(device)


def _anchor_tokens(source: CachedSource, config: TrainConfig, channels: int) -> int:
    def largest(kind: str, count: int) -> int:
        sizes = sorted(
            (LatentSize(channels, 1, *a.latent_size).grid.count for a in source.anchors if a.kind == kind), reverse=True
        )
        return sum(sizes[:count])

    viewpoints = max(stage.max_viewpoints for stage in config.stages)
    expressions = max(stage.max_expressions for stage in config.stages)
    return largest("global", 1) + largest("viewpoint", viewpoints) + largest("expression", expressions)
