"""A Wan base, optional Gloria weights and a dataset's shapes enter, the model that training starts from leaves."""

from dataclasses import replace
from pathlib import Path

import torch

from ..data.cache_index import CacheIndex
from ..errors import CheckpointError, DatasetError
from ..model.checkpoint import is_addition, load_dit
from ..model.dit import GloriaDiT
from ..model.presets import DiTConfig
from .config import TrainConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_for_training(config: TrainConfig, index: CacheIndex, text_dim: int) -> GloriaDiT:
    """The model on the CPU in the type it computes in; fresh additions are the exact no-op of the paper's stage I.

    Args:
        text_dim: width of the dataset's text embeddings.

    Raises:
        CheckpointError: Damaged or quantised files, or Gloria weights of another base.
        DatasetError: A dataset made with the encoders of another base.
    """
    dtype = DTYPES[config.precision.compute]
    gloria = None if config.gloria is None else Path(config.gloria)
    model = load_dit(Path(config.base), gloria, dtype=dtype)
    is_fresh = gloria is None and not model.config.gloria.has_audio
    if is_fresh and config.audio_branch:
        if not config.trains_audio:
            raise CheckpointError(
                "audio_branch is true without Gloria weights, but no stage trains it: a fresh branch would stay "
                "silent. Give Gloria weights, set train to all, or set audio_branch and the stages' audio to false."
            )
        model = _with_fresh_audio(model, config, index)
    elif is_fresh:
        model.config = _with_run_settings(model.config, config, index)
        for block in model.blocks:
            block.self_attn.anchor_attention = config.anchor_attention
    if any(stage.audio for stage in config.stages) and not model.config.gloria.has_audio:
        raise CheckpointError(
            "A stage has speech, but the model has no audio branch. Set audio_branch to true without Gloria weights "
            "for a fresh one, give weights that have one, or set the stages' audio to false."
        )
    check_dataset_fits(model.config, index, text_dim)
    return model


def check_dataset_fits(dit: DiTConfig, index: CacheIndex, text_dim: int) -> None:
    """Refuse a dataset whose encoders belong to another base.

    Raises:
        DatasetError: With what the dataset holds and what the model reads.
    """
    if index.latent_channels != dit.out_dim:
        raise DatasetError(
            f"The dataset holds latents of {index.latent_channels} channels, the model makes {dit.out_dim}: build the "
            "dataset with this base's VAE (Wan 2.1's for 16 channels, Wan 2.2's for 48)."
        )
    if text_dim != dit.text_dim:
        raise DatasetError(
            f"The dataset's text embeddings are {text_dim} wide, the model reads {dit.text_dim}: build the dataset "
            "with this base's text encoder."
        )
    if dit.takes_image_channels and any(clip.start_video is None for clip in index.clips):
        raise DatasetError(
            "This base makes video from an image, but the dataset was built without start images: build it again with "
            "image channels on."
        )
    heard = (dit.gloria.audio_layers, dit.gloria.audio_channels)
    if dit.gloria.has_audio and index.audio_shape is not None and index.audio_shape != heard:
        raise DatasetError(
            f"The dataset's speech features have (layers, channels) = {index.audio_shape}, the model reads {heard}: "
            "build the dataset with the wav2vec2 encoder that the Gloria weights were trained with."
        )


def _with_fresh_audio(model: GloriaDiT, config: TrainConfig, index: CacheIndex) -> GloriaDiT:
    if index.audio_shape is None:
        raise DatasetError(
            "audio_branch is true, but the dataset has no speech features: build it with an audio encoder, or set "
            "audio_branch to false."
        )
    dit = _with_run_settings(model.config.with_audio(*index.audio_shape), config, index)
    fresh = GloriaDiT(dit, dtype=DTYPES[config.precision.compute], device="meta")
    weights = dict(model.state_dict())
    for key, tensor in fresh.state_dict().items():
        if is_addition(key):
            weights[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
    fresh.load_state_dict(weights, assign=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh.reset_gloria_parameters()
    return fresh


def _with_run_settings(dit: DiTConfig, config: TrainConfig, index: CacheIndex) -> DiTConfig:
    """What fresh Gloria weights take from the run and its dataset."""
    return replace(dit, gloria=replace(dit.gloria, anchor_attention=config.anchor_attention, fps=index.fps))
