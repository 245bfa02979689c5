"""Sizes enter, a trained video autoencoder in Wan 2.1's file format leaves; a second call goes on where one was cut.

The loss is the absolute error of pixels and of their differences to the next pixel (small marks have more edge than
area), and a trace of KL that keeps the latents near the origin. Images come first: a clip's convolutions start as the
images' ones (`wan_vae.reset_parameters`), and an image costs less.

Legend: B clips, C channels, T frames, H W pixels or latent cells.
"""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..durable_files import write_safetensors
from ..errors import TrainingError
from ..training.config import OptimizerConfig, PrecisionConfig
from ..training.lr_schedule import learning_rate
from ..training.optimizer import TrainingOptimizer, build_optimizer
from ..training.snapshot import find_latest, prune, save_snapshot
from .latent_scale import measure_latents, scale_latents
from .pictures import held_out_clips, training_batch
from .sizes import DemoSizes, VaePhase
from .wan_vae import WanVae, reset_parameters

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_EDGE_WEIGHT, _KL_WEIGHT = 2.0, 1e-5
_WARMUP_STEPS, _CLIP_NORM = 50, 1.0
_EMA_DECAY = 0.998
_HELD_OUT = {"image": (1, 32), "clip": (9, 4)}


def train_vae(sizes: DemoSizes, folder: Path, path: Path, device: torch.device) -> None:
    """Train in `folder` and write the file `path`, its latents scaled to Wan's."""
    training = VaeTraining(sizes, folder, device)
    training.run()
    vae = training.averaged()
    mean_C, std_C = measure_latents(vae, sizes.world, sizes.seed, device)
    scale_latents(vae, mean_C, std_C)
    metadata = {"format": "pt", "modelspec.title": "gloria demo vae", "psnr": json.dumps(held_out_psnr(vae, sizes))}
    # Half precision has three more bits than bfloat16, and nothing here is large.
    write_safetensors(path, {name: x.detach().cpu().half() for name, x in vae.state_dict().items()}, metadata)


class VaeTraining:
    """The loop and its state."""

    def __init__(self, sizes: DemoSizes, folder: Path, device: torch.device) -> None:
        self.sizes = sizes
        self.folder = folder
        self.step = 0
        self._device = device
        self._vae = WanVae(sizes.vae.width)
        reset_parameters(self._vae, sizes.seed)
        self._vae.to(device)
        self._config = OptimizerConfig(
            name="muon", lr=sizes.vae.lr, weight_decay=0.01, schedule="cosine",
            warmup_steps=min(_WARMUP_STEPS, sizes.vae.total_steps // 4),
        )  # fmt: skip
        self._weights = dict(self._vae.named_parameters())
        self._optimizer: TrainingOptimizer = build_optimizer(
            self._weights, self._config, PrecisionConfig(compute="float32"), sizes.seed
        )
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._restore()

    def run(self) -> None:
        """Train to the last step, with a snapshot and held-out figures every `report_every` steps."""
        vae = self.sizes.vae
        while self.step < vae.total_steps:
            figures = self._train_step()
            is_due = self.step % vae.report_every == 0 or self.step == vae.total_steps
            if is_due:
                figures |= {f"psnr_{name}": value for name, value in held_out_psnr(self.averaged(), self.sizes).items()}
                self._save()
                logger.info("vae step %d of %d: %s", self.step, vae.total_steps, _shown(figures))
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")

    def averaged(self) -> WanVae:
        """The autoencoder with the moving average of the weights."""
        vae = WanVae(self.sizes.vae.width).to(self._device)
        vae.load_state_dict(self._average)
        return vae.eval()

    def phase(self) -> VaePhase:
        """What the next step trains on."""
        step = self.step
        for phase in self.sizes.vae.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise TrainingError(f"The autoencoder has {self.sizes.vae.total_steps} steps, step {self.step + 1} is none.")

    def _train_step(self) -> dict[str, Any]:
        started, phase, sizes = time.perf_counter(), self.phase(), self.sizes
        video_BCTHW = training_batch(
            sizes.world, sizes.seed, self.step, phase.num_frames, phase.batch, self._device
        )
        torch.manual_seed(sizes.seed * 1_000_003 + self.step)
        loss, parts = vae_loss(self._vae, video_BCTHW)
        loss.backward()
        norm = self._optimizer.clip_gradients(_CLIP_NORM)
        lr = learning_rate(self._config, sizes.vae.lr, self.step, sizes.vae.total_steps)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(f"The autoencoder's loss is not finite in step {self.step + 1}. Lower its lr.")
        self._optimizer.step(lr, self.step)
        self._optimizer.zero_grad()
        self.step += 1
        # A short memory at first: the start is not worth an average.
        decay = min(_EMA_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for name, weight in self._weights.items():
                self._average[name].lerp_(weight, 1 - decay)
        return {
            "step": self.step, "frames": phase.num_frames, **{name: float(value) for name, value in parts.items()},
            "grad_norm": float(norm), "lr": lr, "seconds": round(time.perf_counter() - started, 3),
        }  # fmt: skip

    def _save(self) -> None:
        groups = {
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "average": self._average,
            "optimizer": self._optimizer.state_tensors(),
        }
        save_snapshot(self.folder, self.step, groups, {"width": self.sizes.vae.width})
        prune(self.folder, keep_last=2, keep_every=0)

    def _restore(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        snapshot = find_latest(self.folder)
        if snapshot is not None:
            if snapshot.state["width"] != self.sizes.vae.width:
                raise TrainingError(
                    f"{self.folder} holds an autoencoder of width {snapshot.state['width']}, this run has "
                    f"{self.sizes.vae.width}. Give another folder."
                )
            self._vae.load_state_dict(snapshot.load("weights"))
            self._average = {name: x.to(self._device) for name, x in snapshot.load("average").items()}
            self._optimizer.load_state_tensors(snapshot.load("optimizer"))
            self.step = snapshot.step
        truncate_metrics(self.folder / METRICS, self.step)


def vae_loss(vae: WanVae, video_BCTHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts; the network computes in bfloat16, the loss in float32."""
    mean_BCTHW, log_variance_BCTHW = (x.float() for x in vae.encode(video_BCTHW.bfloat16()))
    log_variance_BCTHW = log_variance_BCTHW.clamp(-20, 10)
    noise_BCTHW = torch.randn_like(mean_BCTHW)
    latents_BCTHW = mean_BCTHW + noise_BCTHW * (0.5 * log_variance_BCTHW).exp()
    decoded_BCTHW = vae.decode(latents_BCTHW.bfloat16()).float()
    error_BCTHW = decoded_BCTHW - video_BCTHW
    pixel = error_BCTHW.abs().mean()
    edge = sum((error_BCTHW.diff(dim=dim).abs().mean() for dim in (-1, -2)), torch.zeros_like(pixel))
    kl = 0.5 * (mean_BCTHW.square() + log_variance_BCTHW.exp() - 1 - log_variance_BCTHW).mean()
    loss = pixel + _EDGE_WEIGHT * edge + _KL_WEIGHT * kl
    psnr = _psnr(error_BCTHW.detach().square().mean().item())
    return loss, {"pixel": pixel.detach(), "edge": edge.detach(), "kl": kl.detach(), "psnr": torch.tensor(psnr)}


@torch.inference_mode()
def held_out_psnr(vae: nn.Module, sizes: DemoSizes) -> dict[str, float]:
    """Decibels on characters that were never trained on: images, and all frames of clips but the first."""
    weight = next(vae.parameters())
    figures = {}
    for name, (num_frames, batch) in _HELD_OUT.items():
        video_BCTHW = held_out_clips(sizes.world, num_frames, batch, weight.device)
        decoded_BCTHW = vae.decode(vae.encode(video_BCTHW.bfloat16())[0]).float().clamp(-1, 1)
        error_BCTHW = (decoded_BCTHW - video_BCTHW)[:, :, min(1, num_frames - 1) :]
        figures[name] = round(_psnr(error_BCTHW.square().mean().item()), 2)
    return figures


def truncate_metrics(path: Path, step: int) -> None:
    """Forget what was logged of steps that have to be done again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    path.write_text("".join(kept), encoding="utf-8")


def _psnr(squared_error: float) -> float:
    """Pixels span 2."""
    return 10 * math.log10(4 / max(squared_error, 1e-12))


def _shown(figures: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "step")
