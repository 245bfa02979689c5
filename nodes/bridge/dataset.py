"""A folder of footage in ComfyUI's input folder and stock encoders enter, what the core builds from leaves."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.latent_formats
import folder_paths
import torch
from torch import Tensor

from ...gloria_core.data.cache import ENTRIES
from ...gloria_core.data.manifest import MANIFEST_NAME
from ...gloria_core.data.precompute import Encoders
from ...gloria_core.data.scan_folder import VIDEO_SUFFIXES
from ...gloria_core.errors import DatasetError
from ...gloria_core.media.decode_latents import fingerprint_weights
from ...gloria_core.media.read_audio import Speech
from .audio_encoder import encode_with_comfy
from .images import wan_latent_channels
from .paths import contained

DATASETS_FOLDER = "gloria/datasets"
NO_FOLDER = "put a folder of videos into ComfyUI/input"
LINKED = "connected footage"
_FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}


def footage_folders() -> list[str]:
    """Folders inside the input folder that hold videos or a dataset.json, for a combo."""
    root = Path(folder_paths.get_input_directory())
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        files = (name for _, _, names in os.walk(folder) for name in names)
        if any(name == MANIFEST_NAME or Path(name).suffix.lower() in VIDEO_SUFFIXES for name in files):
            found.append(folder.name)
    return found or [NO_FOLDER]


def footage_path(name: str) -> Path:
    """The footage folder of a name.

    Raises:
        DatasetError: Not a folder directly inside the input folder.
    """
    if name == LINKED:
        raise DatasetError("Nothing is connected to footage. Connect Gloria Extract Anchors, or choose a folder.")
    if name not in footage_folders() or name == NO_FOLDER:
        raise DatasetError(
            f"There is no folder of videos named {name[:80]!r} in ComfyUI's input folder "
            f"({folder_paths.get_input_directory()}). Put the videos there and refresh the page."
        )
    return Path(folder_paths.get_input_directory()) / name


def dataset_state(name: str, size: str) -> str:
    """Changes whenever a file of the footage or an entry of its cache does, so that the node runs again."""
    try:
        footage = footage_path(name)
    except DatasetError:
        return ""
    folders = (footage, cache_path(footage, size) / ENTRIES)
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return repr([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files])


def cache_path(footage: Path, size: str) -> Path:
    """Where the cache of a footage folder is kept, inside the output folder.

    Args:
        footage: directly in the input folder, or an extraction.
    """
    is_input = footage.parent == Path(folder_paths.get_input_directory())
    name = footage.name if is_input else f"extracted-{footage.name}"
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{name}-{size}")[:80]
    return contained(Path(folder_paths.get_output_directory()) / DATASETS_FOLDER / slug, slug)


def comfy_encoders(vae: Any, clip: Any, audio_encoder: Any | None, clip_vision: Any | None) -> Encoders:
    """ComfyUI's own encoders behind the core's protocol; they load and unload as in any graph."""
    channels = wan_latent_channels(vae)
    latent_format = _FORMATS[channels]()
    fingerprints = {
        "vae": fingerprint_weights(vae.first_stage_model),
        "text": fingerprint_weights(clip.cond_stage_model),
    }

    def encode_video(video_THWC: Tensor) -> Tensor:
        raw_BCTHW = vae.encode(video_THWC).to("cpu", torch.float32)
        return latent_format.process_in(raw_BCTHW)[0]

    def encode_text(prompt: str) -> Tensor:
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0][0].to("cpu", torch.float32)

    hear: Callable[[Speech, float], Tensor] | None = None
    if audio_encoder is not None:
        fingerprints["audio"] = fingerprint_weights(audio_encoder.model)

        def hear(speech: Speech, fps: float) -> Tensor:
            return encode_with_comfy(audio_encoder, speech, fps).features_FLC

    see: Callable[[Tensor], Tensor] | None = None
    if clip_vision is not None:
        fingerprints["clip_vision"] = fingerprint_weights(clip_vision.model)

        def see(image_HWC: Tensor) -> Tensor:
            states = clip_vision.encode_image(image_HWC[None]).penultimate_hidden_states
            return states[0].to("cpu", torch.float32)

    return Encoders(channels, encode_video, encode_text, fingerprints, hear, see)
