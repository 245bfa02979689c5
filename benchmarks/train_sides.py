"""One trainer in a process of its own, let through step by step: what `train_step.py` starts, not to be run by hand.

Each line on stdin lets one optimizer step through; each step reports its seconds, its processor seconds and the peak of
the resident set since the first step on stdout. The end of stdin ends the process.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))

import torch  # noqa: E402
from torch.nn.modules.module import register_module_forward_pre_hook  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

RANK, LEARNING_RATE, ENDLESS = 16, 1e-4, 10**6
TARGETS = ("self_attn", "cross_attn", "ffn")  # all that ours offers, and its default
_PRODUCTS = 20


@dataclass(frozen=True, kw_only=True)
class Side:
    """A trainer and how it is set."""

    trainer: str
    """`ours`, `stock`, or `matrix`: products of the model's size and nothing else."""
    checkpointing: bool = True
    keep_attention: bool = False
    """Ours."""
    streamed: bool = False
    """Ours: all blocks live apart from the device."""
    depth: int = 1
    """Stock: which level of modules is recomputed; 1, the default, is the model as one piece, 2 are the blocks."""
    bypass: bool = False
    """Stock: adapters beside the layers instead of inside their weights."""
    only_our_layers: bool = False
    """Stock, changed by this benchmark: adapters on the layers that ours adapts and nowhere else."""


class Gate:
    """Counts the optimizer's steps from the first forward pass of `model_class` on."""

    def __init__(self, model_class: str = "") -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # logs must not reach the reports
        self._model_class = model_class
        self._hook = register_module_forward_pre_hook(self._before_forward)
        self._resident = 0
        self._started = (0.0, 0.0)

    def begin(self) -> None:
        """Everything is loaded: memory counts from here."""
        register_optimizer_step_post_hook(lambda *_: self.after_step())
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._resident = _memory_kib("VmRSS")
        self._wait()

    def after_step(self, **values: float) -> None:
        """Report a step and wait for leave to make the next."""
        wall, processor = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        peak = (_memory_kib("VmHWM") - self._resident) / 1024
        report = {"seconds": wall, "processor_seconds": processor, "peak_mib": peak, **values}
        self._out.write(json.dumps(report) + "\n")
        self._out.flush()
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self._started = (time.perf_counter(), time.process_time())

    def _before_forward(self, module: torch.nn.Module, _: object) -> None:
        if type(module).__name__ == self._model_class:
            self._hook.remove()
            with torch.no_grad():
                # Pages of a mapped file come in now, not in the first step.
                sum(float(weight.sum()) for weight in module.parameters())
            self.begin()


def _memory_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def train_ours(side: Side, folder: Path, dtype: str, frames: int) -> None:
    """The whole of `python -m gloria_core.train run.yaml`, with its cache, draws, metrics and optimizer."""
    from gloria_core.train import train
    from gloria_core.training.config import config_from_dict

    Gate("GloriaDiT")
    train(config_from_dict({
        "name": "bench", "base": str(folder / "base.safetensors"), "output": tempfile.mkdtemp(dir=folder),
        "device": "cpu", "data": {"cache": str(folder / "cache"), "frames": [4 * frames - 3]},
        "audio_branch": False, "method": "lora", "lora": {"rank": RANK, "alpha": RANK, "targets": list(TARGETS)},
        "optimizer": {"lr": LEARNING_RATE}, "precision": {"compute": dtype},
        "memory": {"checkpointing": side.checkpointing, "keep_attention": side.keep_attention,
                   "streamed_blocks": ENDLESS if side.streamed else 0},
        "stages": [{"name": "lora", "steps": ENDLESS, "train": "lora", "audio": False, "global_anchor": False,
                    "identity_anchors": "none", "prefix_probability": 0.0, "start_probability": 0.0}],
        "validation": {"loss_every": 0}, "checkpoints": {"every": ENDLESS},
    }))  # fmt: skip


def train_stock(side: Side, folder: Path, dtype: str, frames: int) -> None:  # noqa: ARG001 - the latents say it
    """ComfyUI's node on a model that ComfyUI's loader made, inside inference mode as its executor does."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    # What ComfyUI takes by itself on an NVIDIA GPU; its choice on a CPU would be far slower.
    args.cpu, args.use_pytorch_cross_attention = True, True
    import comfy.sd
    import comfy_extras.nodes_train as nodes_train
    from safetensors.torch import load_file

    if side.only_our_layers:
        limit_to_our_layers(nodes_train)
    data = load_file(folder / "data.safetensors")
    Gate("WanModel")
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(str(folder / "base.safetensors"))
        values = {
            "model": model, "latents": {"samples": data["latents"].float()},
            "positive": [[text[None].float(), {}] for text in data["text"]], "batch_size": 1, "steps": ENDLESS,
            "grad_accumulation_steps": 1, "learning_rate": LEARNING_RATE, "rank": RANK, "optimizer": "AdamW",
            "loss_function": "MSE", "seed": 0, "training_dtype": {"float32": "fp32", "bfloat16": "bf16"}[dtype],
            "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
            "gradient_checkpointing": side.checkpointing, "checkpoint_depth": side.depth, "offloading": False,
            "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": side.bypass,
        }  # fmt: skip
        nodes_train.TrainLoraNode.execute(**{name: [value] for name, value in values.items()})


def limit_to_our_layers(nodes_train) -> None:
    """The node has no filter; here the adapters of all other weights are dropped as soon as it has made them."""
    layers = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k",
              "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2")  # fmt: skip

    def limited(setup):
        def run(mp, *values):
            parameters, adapters, *managers = setup(mp, *values)
            kept = {name for name, _ in mp.model.named_modules() if ".blocks." in name and name.endswith(layers)}
            for manager in managers:
                manager.adapters = {name: manager.adapters[name] for name in kept}
            inside = () if managers else tuple(f"{name}.weight" for name in kept)
            mp.weight_wrapper_patches = {key: mp.weight_wrapper_patches[key] for key in inside}
            parameters = {key: value for key, value in parameters.items() if key.rpartition(".lora_")[0] in kept}
            return parameters, adapters, *managers

        return run

    nodes_train._setup_lora_adapters = limited(nodes_train._setup_lora_adapters)
    nodes_train._setup_lora_adapters_bypass = limited(nodes_train._setup_lora_adapters_bypass)


def multiply(tokens: int, dim: int, ffn_dim: int, dtype: str) -> None:
    """Products of the feed-forward layer's size, the largest in the model."""
    gate = Gate()
    x, weight = torch.randn(tokens, dim).to(getattr(torch, dtype)), torch.randn(dim, ffn_dim).to(getattr(torch, dtype))
    gate.begin()
    while True:
        for _ in range(_PRODUCTS):
            x @ weight
        gate.after_step(flops=_PRODUCTS * 2.0 * tokens * dim * ffn_dim)


def main() -> None:
    job = json.loads(sys.argv[1])
    side, folder, dtype, size = Side(**job["side"]), Path(job["folder"]), job["dtype"], job["size"]
    if side.trainer == "matrix":
        multiply(job["tokens"], size["dim"], size["ffn_dim"], dtype)
    else:
        {"ours": train_ours, "stock": train_stock}[side.trainer](side, folder, dtype, size["frames"])


if __name__ == "__main__":
    main()
