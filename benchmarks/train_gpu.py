"""LoRA steps at the public sizes on one GPU: seconds, memory and useful FLOP utilisation. Run by `train_step.py --gpu`.

`python benchmarks/train_gpu.py` runs the same code on the CPU at toy size, to see that it works; the numbers of that
say nothing.
"""

import statistics
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))

import torch  # noqa: E402

from gloria_core.data.batch import Batch, SampleDraw  # noqa: E402
from gloria_core.model.dit import GloriaDiT  # noqa: E402
from gloria_core.model.presets import TOY_TI2V, WAN21_T2V_1_3B, WAN22_TI2V_5B, DiTConfig  # noqa: E402
from gloria_core.sampling.cost import DiTShape  # noqa: E402
from gloria_core.shapes import LatentSize  # noqa: E402
from gloria_core.training.activation_checkpointing import checkpoint_blocks  # noqa: E402
from gloria_core.training.config import LoraConfig, OptimizerConfig, PrecisionConfig  # noqa: E402
from gloria_core.training.cost import flop_utilisation, useful_flops  # noqa: E402
from gloria_core.training.lora import add_lora  # noqa: E402
from gloria_core.training.objective import batch_loss  # noqa: E402
from gloria_core.training.optimizer import TrainingOptimizer, build_optimizer  # noqa: E402

RANK, TEXT_TOKENS, WARM_UP = 32, 512, 2
PRESETS = {"1.3B": WAN21_T2V_1_3B, "5B": WAN22_TI2V_5B}
MODES = {
    "checkpointing": {"offload": False, "keep_attention": False},
    "checkpointing, self-attention kept": {"offload": False, "keep_attention": True},
    "no checkpointing": None,
}


def measure_presets(device: torch.device, peak_flops: float, repeats: int) -> None:
    """Every preset in every mode, at 832x480 and 81 frames."""
    for name, dit in PRESETS.items():
        for mode, options in MODES.items():
            try:
                measure(f"{name}, {mode}", dit, (81, 480, 832), options, device, peak_flops, repeats)
            except torch.OutOfMemoryError:
                print(f"{name}, {mode}: does not fit", flush=True)


def measure(
    title: str,
    dit: DiTConfig,
    clip: tuple[int, int, int],
    checkpointing: dict[str, bool] | None,
    device: torch.device,
    peak_flops: float,
    repeats: int,
) -> None:
    """Random bfloat16 weights, one clip of (frames, height, width) pixels, batch 1."""
    size = LatentSize.from_pixels(dit.out_dim, *clip)
    model, optimizer = build(dit, checkpointing, device)
    batch = random_batch(dit, size).to(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = [timed_step(model, optimizer, batch, idx, device) for idx in range(repeats + WARM_UP)]
    seconds = statistics.median(times[WARM_UP:])
    shape = DiTShape(dit.dim, dit.ffn_dim, dit.num_layers, TEXT_TOKENS)
    share = flop_utilisation(useful_flops(shape, size.grid.count, trains_base=False), seconds, peak_flops)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    print(
        f"{title}: {size.grid.count} tokens, {seconds:.3f} s per step, {memory:.1f} GiB, useful FLOP utilisation "
        f"{share:.1%} of {peak_flops / 1e12:.0f} TFLOP/s",
        flush=True,
    )


def build(
    dit: DiTConfig, checkpointing: dict[str, bool] | None, device: torch.device
) -> tuple[GloriaDiT, TrainingOptimizer]:
    """A frozen base with adapters, made on the device, and their optimizer."""
    model = GloriaDiT(dit, device=device, dtype=torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.requires_grad_(False)
    add_lora(model, LoraConfig(rank=RANK, alpha=RANK))
    model.to(device)
    if checkpointing is not None:
        checkpoint_blocks(model, **checkpointing)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return model, build_optimizer(trained, OptimizerConfig(), PrecisionConfig(), seed=0)


def random_batch(dit: DiTConfig, size: LatentSize) -> Batch:
    """One clip with text, no anchors and no speech."""
    draw = SampleDraw(
        clip_idx=0, num_latents=size.frames, first_latent=0, num_known=0, anchors=(), drop_text=False,
        drop_audio=False, noise_seed=0, sigma=0.5,
    )  # fmt: skip
    return Batch(
        latents_BCTHW=torch.randn(1, size.channels, size.frames, size.height, size.width),
        known_BT=torch.zeros(1, size.frames, dtype=torch.bool), image_BCTHW=None,
        text_BLD=torch.randn(1, TEXT_TOKENS, dit.text_dim), audio_BNWLC=None, clip_BSD=None, anchors=(),
        anchor_slots=(), draws=(draw,),
    )  # fmt: skip


def timed_step(
    model: GloriaDiT, optimizer: TrainingOptimizer, batch: Batch, step: int, device: torch.device
) -> float:
    """Seconds of one step, all kernels finished."""
    started = time.perf_counter()
    batch_loss(model, model.config, batch, torch.bfloat16).sum().backward()
    optimizer.clip_gradients(1.0)
    optimizer.step(OptimizerConfig().lr, step)
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    for mode, options in MODES.items():
        measure(f"toy, {mode}", TOY_TI2V, (9, 64, 64), options, torch.device("cpu"), 1e12, 2)
