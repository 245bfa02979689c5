"""One LoRA training step of our trainer against ComfyUI's TrainLoraNode: seconds and peak memory, in turns.

Run inside the environment of `python quickstart.py`:
    COMFYUI_PATH=<ComfyUI> OMP_NUM_THREADS=1 python benchmarks/train_step.py [--dtype float32|bfloat16] [--repeats 5]
    python benchmarks/train_step.py --gpu [--peak-tflops 989]

Each trainer runs whole in a process of its own: ours with its cache, draws and optimizer, theirs as the node itself.
All get the same base file (Wan's format, random weights), latents, text, rank and batch. One process makes a step while
the others wait, in an order that turns every round; the first step of each is not counted. Ratios are medians over the
rounds, of seconds on the clock and of processor seconds, which other work on the machine disturbs less.

Memory is measured in a second round of processes: the largest resident set from the first step on minus the one before
it, with an allocator that gives freed tensors back at once, so that the figure is what is in use and not what glibc
hoards (the hoard is printed too: it is the same figure of the first round).

With --gpu only our trainer runs, on random bfloat16 weights of the public sizes at 480p and 81 frames.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))
sys.path.append(str(REPO / "benchmarks"))

import torch  # noqa: E402
from train_gpu import measure_presets  # noqa: E402
from train_sides import RANK, Side  # noqa: E402

from gloria_core.model.presets import TOY_T2V, DiTConfig  # noqa: E402
from gloria_core.sampling.cost import DiTShape  # noqa: E402
from gloria_core.training.cost import flop_utilisation, useful_flops  # noqa: E402

NUM_CLIPS, TEXT_TOKENS = 4, 512
MEMORY_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """The base and the clips."""

    dim: int = 1024
    ffn_dim: int = 4096
    num_layers: int = 8
    frames: int = 4
    height: int = 30
    width: int = 52

    @property
    def config(self) -> DiTConfig:
        heads = self.dim // TOY_T2V.head_dim
        sizes = {"dim": self.dim, "ffn_dim": self.ffn_dim, "num_layers": self.num_layers, "num_heads": heads}
        return replace(TOY_T2V, **sizes, text_dim=4096)

    @property
    def tokens(self) -> int:
        return self.frames * (self.height // 2) * (self.width // 2)


OURS = Side(trainer="ours")
PLAIN = replace(OURS, checkpointing=False)
STOCK = Side(trainer="stock")
BLOCKS = replace(STOCK, depth=2)
STOCK_PLAIN = replace(STOCK, checkpointing=False)
# The first of each group is what the others are compared with.
GROUPS = {
    "recomputing": {
        "ours": OURS,
        "ours, self-attention kept": replace(OURS, keep_attention=True),
        "stock as it comes (depth 1)": STOCK,
        "stock, depth 2 (blocks)": BLOCKS,
        "stock, depth 2, bypass mode": replace(BLOCKS, bypass=True),
    },
    "recomputing nothing": {
        "ours": PLAIN,
        "stock": STOCK_PLAIN,
        "stock, bypass mode": replace(STOCK_PLAIN, bypass=True),
    },
    "stock limited to our layers": {
        "ours": OURS,
        "stock, depth 2 (blocks)": replace(BLOCKS, only_our_layers=True),
        "stock, depth 2, bypass mode": replace(BLOCKS, bypass=True, only_our_layers=True),
    },
    "ours": {
        "checkpointing": OURS,
        "no checkpointing": PLAIN,
        "all blocks streamed": replace(OURS, streamed=True),
        "matrix products alone": Side(trainer="matrix"),
    },
}


class Process:
    """One side, waiting for leave to make a step."""

    def __init__(self, side: Side, folder: Path, dtype: str, size: Size, **environment: str) -> None:
        job = {"side": asdict(side), "folder": str(folder), "dtype": dtype, "size": asdict(size), "tokens": size.tokens}
        self._side = side
        self._log = tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".log", delete=False)  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(REPO / "benchmarks" / "train_sides.py"), json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=os.environ | environment,
        )  # fmt: skip

    def step(self) -> dict[str, float]:
        """Let one step through; its report."""
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            status = self._process.wait()
            raise SystemExit(f"{self._side} ended early with status {status}:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def run_rounds(sides: dict[str, Side], folder: Path, dtype: str, size: Size, repeats: int) -> dict[str, list]:
    """Reports of every side, one per round; the order turns by one place and swaps direction every round."""
    reports: dict[str, list] = {name: [] for name in sides}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, side in sides.items():
            processes[name] = Process(side, folder, dtype, size)
            stack.callback(processes[name].close)
            processes[name].step()
        for idx in range(repeats):
            order = list(processes)[idx % len(processes) :] + list(processes)[: idx % len(processes)]
            for name in order if idx % 2 == 0 else order[::-1]:
                reports[name].append(processes[name].step())
    return reports


def peak_memory(side: Side, folder: Path, dtype: str, size: Size) -> float:
    """MiB above what was resident before the first step, nothing hoarded."""
    process = Process(side, folder, dtype, size, MALLOC_MMAP_THRESHOLD_="65536")
    reports = [process.step() for _ in range(MEMORY_STEPS)]
    process.close()
    return reports[-1]["peak_mib"]


def measure_group(title: str, folder: Path, dtype: str, size: Size, repeats: int) -> None:
    """One table."""
    sides = GROUPS[title]
    print(f"\n{title} ({dtype})", flush=True)
    reports = run_rounds(sides, folder, dtype, size, repeats)
    first = next(iter(sides))
    memory = {name: peak_memory(side, folder, dtype, size) for name, side in sides.items() if side.trainer != "matrix"}
    for name in memory:
        clock, processor = (ratio(reports[first], reports[name], key) for key in ("seconds", "processor_seconds"))
        seconds = statistics.median(report["processor_seconds"] for report in reports[name])
        hoard = reports[name][-1]["peak_mib"]
        print(
            f"  {name}: {first} / this = {clock} by the clock, {processor} by processor time; {seconds:.2f} processor "
            f"s per step; peak memory {memory[name]:.0f} MiB ({hoard:.0f} hoarded)",
            flush=True,
        )
    matrix = next((name for name, side in sides.items() if side.trainer == "matrix"), None)
    if matrix is not None:
        print_limit(reports, matrix, size)


def ratio(first: list[dict[str, float]], second: list[dict[str, float]], key: str) -> str:
    """Median and range over the rounds."""
    values = [ours[key] / theirs[key] for ours, theirs in zip(first, second, strict=True)]
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def print_limit(reports: dict[str, list], matrix: str, size: Size) -> None:
    """How near each comes to the time that its useful operations take at the rate of plain matrix products."""
    shape = DiTShape(size.dim, size.ffn_dim, size.num_layers, TEXT_TOKENS)
    useful = useful_flops(shape, size.tokens, trains_base=False)
    rates = [report["flops"] / report["processor_seconds"] for report in reports[matrix]]
    print(f"  matrix products: {statistics.median(rates) / 1e9:.0f} GFLOP/s; a step needs {useful / 1e9:.0f} GFLOP")
    for name in reports.keys() - {matrix}:
        seconds = [report["processor_seconds"] for report in reports[name]]
        shares = [flop_utilisation(useful, *pair) for pair in zip(seconds, rates, strict=True)]
        print(f"  {name}: {statistics.median(shares):.0%} of that limit")


def write_inputs(folder: Path, size: Size, dtype: str) -> None:
    """The base, and the clips both as a dataset cache and as one file."""
    from safetensors.torch import save_file

    from gloria_core.data.cache import CacheStore
    from gloria_core.data.cache_index import CachedClip, CachedSource, CacheIndex, write_index
    from gloria_core.toy_weights import write_toy_dit

    write_toy_dit(folder / "base.safetensors", size.config, dtype=getattr(torch, dtype))
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_CLIPS, size.config.out_dim, size.frames, size.height, size.width)
    latents = torch.randn(shape, generator=generator).half()
    text = torch.randn((NUM_CLIPS, TEXT_TOKENS, size.config.text_dim), generator=generator).half()
    save_file({"latents": latents, "text": text}, folder / "data.safetensors")
    store = CacheStore(folder / "cache")
    store.put("empty", {"text": torch.zeros_like(text[0])}, kind="text")
    clips = []
    for idx in range(NUM_CLIPS):
        store.put(f"clip_{idx}", {"latents": latents[idx]}, kind="latents")
        store.put(f"text_{idx}", {"text": text[idx]}, kind="text")
        clips.append(CachedClip(
            id=f"s/{idx}", source="s", start=0.0, height=size.height * 8, width=size.width * 8,
            num_latents=size.frames, latents=f"clip_{idx}", start_video=None, text=f"text_{idx}", audio=None,
            clip_vision=None, split="train",
        ))  # fmt: skip
    write_index(folder / "cache", CacheIndex(
        fps=24.0, latent_channels=size.config.out_dim, empty_text="empty", encoders={}, audio_shape=None,
        sources=(CachedSource(id="s", anchors=()),), clips=tuple(clips),
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=Size.num_layers)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--gpu", action="store_true", help="our trainer alone, at the public sizes, on a CUDA GPU")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bfloat16 rate of the GPU")
    args = parser.parse_args()
    if args.gpu:
        if not torch.cuda.is_available():
            raise SystemExit("--gpu needs a CUDA GPU, and PyTorch sees none.")
        print(torch.cuda.get_device_name())
        measure_presets(torch.device("cuda"), args.peak_tflops * 1e12, args.repeats)
        return
    size = Size(num_layers=args.blocks)
    print(f"{size}, {size.tokens} tokens, rank {RANK}, {torch.get_num_threads()} thread(s), load {os.getloadavg()}")
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name), size, args.dtype)
        for title in args.groups:
            measure_group(title, Path(name), args.dtype, size, args.repeats)
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    main()
