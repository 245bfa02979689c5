"""Gradients enter, weights move: Adam, AdamW or Muon, with an answer to what bfloat16 weights do to small updates.

The paper says "Adam" with weight decay .1. Adam proper (`adam`) adds decay to the gradient, where it is divided by the
running deviation like everything else; AdamW (`adamw`) takes it off the weight. They differ greatly; both are here.
Muon steps matrices, so it sees a convolution's weight as [out, in * taps]; first and last layers stay with AdamW.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, TrainingError
from .config import OptimizerConfig, PrecisionConfig
from .rounding import add_kahan_, round_stochastically_

# The first and the last layers of a DiT and of a VAE, whose directions are not alike.
_OUTER_LAYERS = ("patch_embedding.", "head.head.", "encoder.conv1.", "decoder.head.")


class TrainingOptimizer:
    """torch's optimizer on float32 values, whose results go to the model's weights.

    float32 weights are stepped themselves. bfloat16 weights are stepped as a float32 copy: a lasting one
    (`fp32_master`), or a passing one, one weight at a time, written back with compensation (`kahan`) or stochastic
    rounding (`stochastic`).
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, precision: PrecisionConfig, seed: int
    ) -> None:
        if not parameters:
            raise TrainingError("Nothing is trained: no LoRA, no audio branch and no weights. Check method and stages.")
        self._parameters = dict(parameters)
        self._seed = seed
        self._update = precision.update
        self._masters: dict[str, nn.Parameter] = {}
        self._passing: dict[str, nn.Parameter] = {}
        self._lost: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            if parameter.dtype == torch.float32:
                continue
            if self._update == "fp32_master":
                self._masters[name] = nn.Parameter(parameter.detach().float())
                continue
            self._passing[name] = nn.Parameter(torch.empty(0, device=parameter.device))
            if self._update == "kahan":
                self._lost[name] = torch.zeros_like(parameter.detach())
        lasting = {name: self._masters.get(name, p) for name, p in parameters.items() if name not in self._passing}
        self._matrices: dict[str, nn.Parameter] = {}
        if config.name == "muon":
            self._matrices = {name: _as_matrix(p) for name, p in lasting.items() if is_hidden_matrix(name, p)}
        others = [parameter for name, parameter in lasting.items() if name not in self._matrices]
        self._optimizer = _torch_optimizer(others, config) if others else None
        self._muon = _muon(list(self._matrices.values()), config) if self._matrices else None
        # Apart, because it steps one weight at a time.
        self._passing_optimizer = _torch_optimizer(list(self._passing.values()), config) if self._passing else None

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale all gradients down to `max_norm` (0: never); the norm before, float32."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        norm = torch.nn.utils.get_total_norm([gradient.float() for gradient in gradients])
        if hasattr(norm, "full_tensor"):  # sharded
            norm = norm.full_tensor()
        if max_norm > 0:
            scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale.to(gradient.dtype))
        return norm

    @torch.no_grad()
    def step(self, lr: float, step: int) -> None:
        """Move every weight that has a gradient.

        Args:
            step: of the run; stochastic rounding draws from (seed, step), so that a resumed run draws the same.
        """
        self._step_lasting(lr)
        for name in self._passing:
            if self._parameters[name].grad is not None:
                self._step_passing(name, lr, step)

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything a snapshot needs, by `<part>.<parameter>`."""
        tensors: dict[str, Tensor] = {}
        for name in self._parameters:
            optimizer, stepped = self._stepped(name)
            for part, value in optimizer.state.get(stepped, {}).items():
                tensors[f"{part}.{name}"] = value
        tensors |= {f"lost.{name}": tensor for name, tensor in self._lost.items()}
        return tensors | {f"master.{name}": master.detach() for name, master in self._masters.items()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot.

        Raises:
            TrainingError: Tensors of parameters that this run does not train, or masters that are missing.
        """
        states: dict[str, dict[str, Tensor]] = {name: {} for name in self._parameters}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            if name not in states:
                raise TrainingError(f"The snapshot's optimizer state names '{name}', which this run does not train.")
            states[name][part] = tensor
        missing = [name for name in self._masters if "master" not in states[name]]
        missing += [name for name in self._lost if "lost" not in states[name]]
        if missing:
            raise TrainingError(f"The snapshot lacks the precise part of {len(missing)} weights ({missing[0]}, ...).")
        with torch.no_grad():
            for name, state in states.items():
                if name in self._masters:
                    self._masters[name].copy_(state.pop("master"))
                if name in self._lost:
                    self._lost[name].copy_(state.pop("lost"))
                self._load_state(name, state)

    def _load_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        optimizer, stepped = self._stepped(name)
        optimizer.state[stepped] = {
            # torch keeps its step counter on the CPU.
            part: value.clone() if part == "step" else value.to(self._parameters[name].device, copy=True)
            for part, value in state.items()
        }

    def _stepped(self, name: str) -> tuple[Any, nn.Parameter]:
        if name in self._passing:
            return self._passing_optimizer, self._passing[name]
        if name in self._matrices:
            return self._muon, self._matrices[name]
        return self._optimizer, self._masters.get(name, self._parameters[name])

    def _step_lasting(self, lr: float) -> None:
        moved = [name for name in self._masters if self._parameters[name].grad is not None]
        for name in moved:
            self._masters[name].grad = self._parameters[name].grad.float()
        for name, matrix in self._matrices.items():
            gradient = self._parameters[name].grad
            matrix.grad = None if gradient is None else gradient.float().flatten(1)
        for optimizer in (self._optimizer, self._muon):
            if optimizer is not None:
                _set_lr(optimizer, lr)
                optimizer.step()
        for matrix in self._matrices.values():
            matrix.grad = None
        for name in moved:
            self._parameters[name].copy_(self._masters[name])
            self._masters[name].grad = None

    def _step_passing(self, name: str, lr: float, step: int) -> None:
        weight, value = self._parameters[name], self._passing[name]
        value.data = weight.detach().float()
        value.grad = weight.grad.float()
        _set_lr(self._passing_optimizer, lr)
        self._passing_optimizer.step()
        if self._update == "kahan":
            add_kahan_(weight, value - weight.float(), self._lost[name])
        else:
            digest = hashlib.sha256(f"{self._seed}/{step}/{name}".encode()).digest()
            generator = torch.Generator(weight.device).manual_seed(int.from_bytes(digest[:7], "big"))
            round_stochastically_(weight, value, generator)
        value.grad = None
        value.data = value.data.new_empty(0)


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, precision: PrecisionConfig, seed: int
) -> TrainingOptimizer:
    """The optimizer of a run.

    Raises:
        ConfigError: 8-bit AdamW without bitsandbytes.
    """
    return TrainingOptimizer(parameters, config, precision, seed)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon steps a weight: one that maps many channels to many."""
    return name.endswith(".weight") and parameter.ndim >= 2 and not any(layer in name for layer in _OUTER_LAYERS)


def _as_matrix(parameter: nn.Parameter) -> nn.Parameter:
    """The same memory as one row for each output."""
    if hasattr(parameter, "full_tensor"):
        raise ConfigError("optimizer muon needs whole weights, but here they are sharded: use one process, or adamw.")
    return nn.Parameter(parameter.detach().flatten(1))


def _muon(matrices: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    # With steps as large as AdamW's, one learning rate and one decay serve both.
    return torch.optim.Muon(
        matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _torch_optimizer(stepped: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    options: dict[str, Any] = {
        "lr": config.lr, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay
    }  # fmt: skip
    if config.name == "adam":
        return torch.optim.Adam(stepped, **options)
    if config.name in ("adamw", "muon"):
        return torch.optim.AdamW(stepped, **options)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            "optimizer.name is adamw8bit, which needs the package bitsandbytes: install it, or use adamw."
        ) from error
    return bitsandbytes.optim.AdamW8bit(stepped, **options)
