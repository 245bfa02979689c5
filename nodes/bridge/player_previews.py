"""Finished chunks on disk enter, a small video of each with its sound leaves, for watching while the rest renders.

With a VAE the pictures are those of the film, decoded from the chunk alone: the latents it took over from the chunk
before warm the decoder up. Without one they are the rough pictures that ComfyUI shows while it samples.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import latent_preview
import numpy as np
import torch
from comfy import model_management
from torch import Tensor

from ...gloria_core.conditioning.cues import new_frames
from ...gloria_core.durable_files import commit_json, read_json, share_file
from ...gloria_core.errors import MediaError
from ...gloria_core.media.decode_latents import fingerprint_weights, stream_frames
from ...gloria_core.media.mux_film import AudioTrack
from ...gloria_core.media.preview import preview_size, sound_of_frames, write_preview
from ...gloria_core.sampling.film_file import tensor_bytes
from ...gloria_core.sampling.journal import Journal
from ...gloria_core.sampling.plan import Chunk
from ...gloria_core.shapes import TEMPORAL_STRIDE, pixel_frames_for, spatial_stride
from .sampling import Film
from .timeline import film_timing
from .vae import open_decoder

log = logging.getLogger(__name__)

ROUGH = "rough"


def preview_path(folder: Path, index: int) -> Path:
    """The preview of a chunk."""
    return folder / f"preview_{index:05d}.mp4"


def preview_record_path(folder: Path, index: int) -> Path:
    """What that preview was made from; written after it."""
    return folder / f"preview_{index:05d}.json"


class ChunkPreviews:
    """Makes the preview of every chunk of one film, once."""

    def __init__(self, film: Film, journal: Journal, vae: Any | None, audio: dict[str, Any] | None) -> None:
        self._film = film
        self._journal = journal
        self._vae = vae
        self._pictures = ROUGH
        if vae is not None:
            _check_vae(vae, film)
            self._pictures = fingerprint_weights(vae.first_stage_model)
        self._track = None if audio is None else AudioTrack.from_batch(audio["waveform"], audio["sample_rate"])
        self._pixel_frames, self._rate = film_timing(film.latent)

    def make(self, chunk: Chunk) -> str | None:
        """Put the preview of a finished chunk beside it; what went wrong is returned: no preview stops a film."""
        folder, index = self._journal.folder, chunk.index
        sound = self._sound(chunk)
        record = {
            "chunk": self._journal.record(chunk).sha256,
            "pictures": self._pictures,
            "sound": "" if sound is None else hashlib.sha256(tensor_bytes(sound.waveform_CN)).hexdigest(),
            "frames": list(new_frames(chunk, self._pixel_frames)),
            "fps": str(self._rate),
        }
        if self._is_current(folder, index, record) or self._take_over(index, record):
            return None
        try:
            write_preview(preview_path(folder, index), self._frames(chunk), self._size(), self._rate, sound)
            commit_json(preview_record_path(folder, index), record)
        except model_management.InterruptProcessingException:  # an Exception in old releases of ComfyUI
            raise
        except Exception as error:  # out of memory, a full disk: the chunk itself is safe and the film goes on
            log.warning("No preview of chunk %d: %s", index, error, exc_info=not isinstance(error, MediaError))
            return f"no preview of chunk {index + 1}: {error}"
        return None

    def _is_current(self, folder: Path, index: int, record: dict[str, Any]) -> bool:
        return read_json(preview_record_path(folder, index)) == record and preview_path(folder, index).is_file()

    def _take_over(self, index: int, record: dict[str, Any]) -> bool:
        """A chunk of an earlier take brings its preview along."""
        earlier = self._journal.folder.parent / self._journal.adopted.get(index, "")
        if index not in self._journal.adopted or not self._is_current(earlier, index, record):
            return False
        share_file(preview_path(earlier, index), preview_path(self._journal.folder, index))
        commit_json(preview_record_path(self._journal.folder, index), record)
        return True

    def _sound(self, chunk: Chunk) -> AudioTrack | None:
        if self._track is None:
            return None
        return sound_of_frames(self._track, *new_frames(chunk, self._pixel_frames), self._rate)

    def _size(self) -> tuple[int, int]:
        channels, height, width = self._film.latent_shape
        stride = spatial_stride(channels)
        return preview_size(height * stride, width * stride)

    def _frames(self, chunk: Chunk) -> Iterator[Tensor]:
        """frames_THWC that the chunk adds to the film."""
        latents_BCTHW = self._journal.latents(chunk)[None]
        first, stop = new_frames(chunk, self._pixel_frames)
        # Decoded alone, the chunk's first latent gives one frame, whatever it gives in the film.
        skipped = pixel_frames_for(chunk.prefix) if chunk.prefix else 0
        missing = TEMPORAL_STRIDE - 1 if chunk.index and not chunk.prefix else 0
        left = stop - first
        for frames_THWC in self._decode(latents_BCTHW):
            model_management.throw_exception_if_processing_interrupted()
            kept_THWC = frames_THWC[skipped:]
            skipped = max(0, skipped - frames_THWC.shape[0])
            if missing and kept_THWC.shape[0]:
                kept_THWC = torch.cat([kept_THWC[:1].expand(missing, -1, -1, -1), kept_THWC])
                missing = 0
            kept_THWC = kept_THWC[:left]
            left -= kept_THWC.shape[0]
            if kept_THWC.shape[0]:
                yield kept_THWC

    def _decode(self, latents_BCTHW: Tensor) -> Iterator[Tensor]:
        if self._vae is None:
            return _rough_frames(self._film.model, latents_BCTHW)
        if isinstance(self._vae.first_stage_model, (comfy.ldm.wan.vae.WanVAE, comfy.ldm.wan.vae2_2.WanVAE)):
            return stream_frames(open_decoder(self._vae, latents_BCTHW), latents_BCTHW)
        return iter([self._vae.decode(latents_BCTHW)[0]])  # small approximate decoders (TAEHV) take a chunk at once


def _check_vae(vae: Any, film: Film) -> None:
    channels, *_ = film.latent_shape
    vae.throw_exception_if_invalid()
    if vae.latent_channels != channels:
        raise MediaError(
            f"The preview VAE decodes {vae.latent_channels} channels, the film has {channels}: "
            "connect the VAE that belongs to the model, or none for rough previews."
        )


def _rough_frames(model: Any, latents_BCTHW: Tensor) -> Iterator[Tensor]:
    """One small picture per latent, held as long as the latent lasts."""
    space = model.model.latent_format
    previewer = latent_preview.Latent2RGBPreviewer(
        space.latent_rgb_factors, space.latent_rgb_factors_bias, space.latent_rgb_factors_reshape
    )
    normalised_BCTHW = space.process_in(latents_BCTHW.float())
    for index in range(latents_BCTHW.shape[2]):
        picture = previewer.decode_latent_to_preview(normalised_BCTHW[:, :, index : index + 1])
        frame_HWC = torch.from_numpy(np.array(picture)) / 255
        yield frame_HWC[None].expand(TEMPORAL_STRIDE if index else 1, -1, -1, -1)
