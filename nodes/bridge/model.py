"""Our DiT as a ComfyUI model: registered with the stock loaders, patched, offloaded and sampled like any Wan model."""

import logging
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.patcher_extension
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch

from ...gloria_core.conditioning.audio import frame_windows
from ...gloria_core.errors import CheckpointError
from ...gloria_core.model.attention import Kernels
from ...gloria_core.model.checkpoint import (
    SETTINGS_KEY,
    check_state_dict,
    describe,
    detect_config,
    merge,
    read_safetensors,
    settings_to_tensor,
)
from ...gloria_core.model.dit import GloriaDiT
from ...gloria_core.model.presets import DiTConfig
from .conditioning import fit_length
from .timeline import active_anchors

log = logging.getLogger(__name__)

WEIGHTS_FOLDER = "gloria"
# Conditions of other Wan models. Ours would have to ignore them, and nobody would know why they do nothing.
_FOREIGN_CONDITIONS = ("time_dim_concat", "reference_latents", "context_latents")


class ComfyGloriaDiT(GloriaDiT):
    """The core's DiT behind the call that ComfyUI's model classes, wrappers and patches expect."""

    def __init__(
        self, gloria_config: DiTConfig, dtype: Any = None, device: Any = None, operations: Any = None, **_detected: Any
    ) -> None:
        # `_detected` is what ComfyUI's detection read from the file; `gloria_config` says the same and more.
        kernels = Kernels(comfy.ldm.modules.attention.optimized_attention, comfy.ldm.flux.math.apply_rope1)
        super().__init__(gloria_config, kernels, operations, device, dtype)

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        clip_fea: torch.Tensor | None = None,
        time_dim_concat: None = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> torch.Tensor:
        """The positions of the arguments are WanModel's: wrappers such as EasyCache's rely on them."""
        options = {} if transformer_options is None else transformer_options
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers).execute(
            x, timestep, context, clip_fea, time_dim_concat, options, **conditions
        )

    def _forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        clip_fea: torch.Tensor | None,
        time_dim_concat: None,  # noqa: ARG002 - refused in extra_conds
        transformer_options: dict[str, Any],
        gloria_anchors: list[torch.Tensor] | None = None,
        gloria_anchor_slots: tuple[tuple[str, str], ...] = (),
        gloria_audio: torch.Tensor | None = None,
        **_other: Any,
    ) -> torch.Tensor:
        return super().forward(
            x,
            timestep,
            context,
            clip_fea=clip_fea,
            anchors=gloria_anchors or (),
            anchor_slots=gloria_anchor_slots,
            audio_windows=gloria_audio,
            transformer_options=transformer_options,
        )


class GloriaModel(comfy.model_base.WAN21):
    """ComfyUI's side of the model: conditions, memory estimate, and how a clean prefix enters."""

    def __init__(self, model_config: "GloriaModelConfig", device: Any = None) -> None:
        # As WAN22 and the other Wan variants do: WAN21 itself would build the stock WanModel.
        super(comfy.model_base.WAN21, self).__init__(
            model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=ComfyGloriaDiT
        )
        self.image_to_video = self.gloria_config.takes_image_channels
        self.memory_usage_factor_conds = ("gloria_anchors",)

    @property
    def gloria_config(self) -> DiTConfig:
        """Sizes and settings of the loaded weights."""
        return self.model_config.unet_config["gloria_config"]

    @property
    def takes_prefix_in_place(self) -> bool:
        """Whether known frames enter as clean latents with timestep 0, rather than through image channels."""
        return not self.gloria_config.takes_image_channels

    def concat_cond(self, **kwargs: Any) -> torch.Tensor | None:
        """Mask and image channels, cut to the video or going on with their last frame, gray and unknown."""
        for name in ("concat_latent_image", "concat_mask"):
            if kwargs.get(name) is not None:
                kwargs[name] = fit_length(kwargs[name], kwargs["noise"].shape[2])
        return super().concat_cond(**kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """ComfyUI conditions -> arguments of the DiT."""
        for name in _FOREIGN_CONDITIONS:
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"The conditioning carries '{name}', which a Gloria model cannot use. "
                    "Give reference images through Gloria Anchors and Gloria Conditioning instead."
                )
        out = super().extra_conds(**kwargs)
        anchors, slots = active_anchors(kwargs)
        if anchors:
            device = kwargs["noise"].device
            out["gloria_anchors"] = comfy.conds.CONDList([self.process_latent_in(a.to(device)) for a in anchors])
            out["gloria_anchor_slots"] = comfy.conds.CONDConstant(tuple(slots))
        audio = kwargs.get("gloria_audio")
        if audio is not None:
            windows = frame_windows(audio, kwargs.get("gloria_first_latent", 0), kwargs["noise"].shape[2])
            out["gloria_audio"] = comfy.conds.CONDRegular(windows[None])
        denoise_mask = kwargs.get("denoise_mask")
        if denoise_mask is not None and self.takes_prefix_in_place:
            out["denoise_mask"] = comfy.conds.CONDRegular(denoise_mask)
        return out

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, list[int]]:
        """Sizes for the memory estimate: anchors cost what the same number of video cells costs."""
        out = super().extra_conds_shapes(**kwargs)
        anchors, _ = active_anchors(kwargs)
        if anchors:
            out["gloria_anchors"] = [1, anchors[0].shape[1], sum(a[0, 0].numel() for a in anchors)]
        return out

    def process_timestep(
        self, timestep: torch.Tensor, denoise_mask: torch.Tensor | None = None, **_conditions: Any
    ) -> torch.Tensor:
        """Per-frame timesteps where frames are known: 0 for clean ones, the current one for the rest."""
        if denoise_mask is None:
            return timestep
        share_of_noise_BT = denoise_mask.mean(dim=(1, 3, 4))
        return share_of_noise_BT * timestep.view(-1, 1)

    def scale_latent_inpaint(
        self, sigma: torch.Tensor, noise: torch.Tensor, latent_image: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Known frames stay clean in place; on bases with image channels they are noised like the rest."""
        if self.takes_prefix_in_place:
            return latent_image
        return super().scale_latent_inpaint(sigma=sigma, noise=noise, latent_image=latent_image, **kwargs)

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """ComfyUI's context windows take each window's own speech."""
        if cond_key == "gloria_audio":
            return cond_value._copy_with(cond_value.cond[:, window.index_list])
        return super().resize_cond_for_context_window(cond_key, cond_value, window, *args, **kwargs)


class GloriaModelConfig(comfy.supported_models.WAN21_T2V):
    """Tells ComfyUI's model detection that a Wan file with our settings tensor is ours."""

    unet_config = {"image_model": "wan2.1"}  # noqa: RUF012 - the attributes that ComfyUI's detection reads

    @classmethod
    def matches(
        cls, unet_config: dict[str, Any], state_dict: dict[str, torch.Tensor] | None = None, unet_key_prefix: str = ""
    ) -> bool:
        """Whether a file is a Wan model with our settings (`required_keys` ignores the prefix before 0.30)."""
        return f"{unet_key_prefix}{SETTINGS_KEY}" in (state_dict or {}) and super().matches(unet_config)

    def __init__(self, unet_config: dict[str, Any]) -> None:
        super().__init__(unet_config)
        if unet_config["out_dim"] == comfy.latent_formats.Wan22.latent_channels:
            self.latent_format = comfy.latent_formats.Wan22()

    def get_model(self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: Any = None) -> GloriaModel:
        """Builds the empty model for a state dict."""
        own = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        self.unet_config["gloria_config"] = detect_config(own)
        return GloriaModel(self, device=device)

    def process_unet_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The settings are configuration, not a weight."""
        return {key: tensor for key, tensor in state_dict.items() if key != SETTINGS_KEY}

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """*Save Model* writes a file that is recognised again."""
        settings = settings_to_tensor(self.unet_config["gloria_config"].gloria)
        return super().process_unet_state_dict_for_saving({**state_dict, SETTINGS_KEY: settings})


def register_gloria_model() -> None:
    """Puts our model class first in ComfyUI's detection, and the `models/gloria` folder on its list."""
    models = comfy.supported_models.models
    # By name: when the pack is reloaded, the class of the same name is another object.
    models[:] = [GloriaModelConfig, *(m for m in models if m.__name__ != GloriaModelConfig.__name__)]
    if WEIGHTS_FOLDER not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(WEIGHTS_FOLDER, str(Path(folder_paths.models_dir) / WEIGHTS_FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[WEIGHTS_FOLDER]
    folder_paths.folder_names_and_paths[WEIGHTS_FOLDER] = (paths, {".safetensors", ".sft"})


def list_models(folder: str) -> list[str]:
    """File names that a loader offers."""
    return folder_paths.get_filename_list(folder)


def model_path(folder: str, name: str) -> Path:
    """Path of a model file that the user chose by name.

    Raises:
        CheckpointError: The file is not there (any more).
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths(folder))
        raise CheckpointError(f"'{name}' is not in the folder models/{folder} (looked in {places}).")
    return Path(path)


def load_gloria_model(
    base: Path, gloria: Path | None, model_options: dict[str, Any], disable_dynamic: bool = False
) -> Any:
    """A ModelPatcher from a Wan base (or merged file) and optional Gloria weights.

    Args:
        disable_dynamic: ComfyUI sets it when it loads the file again for *TorchCompileModel*.

    Raises:
        CheckpointError: Damaged files, another architecture, or weights made for another base.
    """
    state_dict = _strip_prefix(read_safetensors(base))
    if gloria is not None:
        state_dict = merge(state_dict, read_safetensors(gloria), base.name, gloria.name)
    config = detect_config(state_dict)
    check_state_dict(state_dict, config, f"'{base.name}'")
    state_dict.setdefault(SETTINGS_KEY, settings_to_tensor(config.gloria))
    log.info("Gloria model %s: %s", base.name, describe(config))
    model = comfy.sd.load_diffusion_model_state_dict(
        state_dict, model_options=model_options, disable_dynamic=disable_dynamic
    )
    if model is None:
        raise CheckpointError(f"ComfyUI could not build a model from '{base.name}'.")
    # By this ComfyUI loads the file again, for compiled models and for copies on other devices.
    model.cached_patcher_init = (load_gloria_model, (base, gloria, model_options))
    return model


def _strip_prefix(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "model.diffusion_model."
    if not any(key.startswith(prefix) for key in state_dict):
        return state_dict
    return comfy.utils.state_dict_prefix_replace(state_dict, {prefix: ""}, filter_keys=True)
