"""Text, anchors, speech and start image -> conditioning and the LATENT of the whole film, for any sampler."""

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ..gloria_core.conditioning.anchors import AnchorSet, AnchorSizes, check_image, resize_to_cover
from ..gloria_core.conditioning.audio import AudioFeatures, features_from_encoder_output, null_audio
from ..gloria_core.errors import AnchorError, PlanError
from ..gloria_core.shapes import LatentSize, pixel_multiple
from .anchor_sizes import anchor_size_inputs
from .bridge.conditioning import set_values
from .bridge.images import (
    IMAGE_CHANNELS_VAE,
    encode_anchors,
    encode_image,
    encode_start_video,
    film_latent,
    wan_latent_channels,
)
from .bridge.progress import show_text
from .bridge.timeline import DEFAULT_FPS, check_timeline, with_cue_of_whole
from .types import GloriaAnchors, GloriaAudio

log = logging.getLogger(__name__)

MAX_SIDE = 16384
MAX_LENGTH = 1_000_000


class GloriaCondition(io.ComfyNode):
    """Gloria Conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaCondition",
            display_name="Gloria Conditioning",
            category="Gloria/conditioning",
            description="Joins prompt, anchors, speech and start image, and sets size and length of the video. Its "
            "outputs go to Gloria Long Video Sampler, or for a few seconds to any stock sampler.",
            search_aliases=["wan image to video", "character conditioning", "talking video", "audio to video"],
            inputs=_inputs(),
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="The prompt with anchors, speech and start image attached."
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The negative prompt with the same anchors and start image, and silence for speech, so "
                    "that CFG strengthens text and speech together.",
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Empty latent of the whole video, with the start image in its first frame. It takes no "
                    "memory until it is sampled.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        positive: list[Any],
        negative: list[Any],
        vae: Any,
        width: int,
        height: int,
        length: int,
        anchors: AnchorSet | None = None,
        audio_features: Any = None,
        start_image: torch.Tensor | None = None,
        clip_vision_output: Any = None,
        viewpoint_size: int = 512,
        expression_size: int = 256,
    ) -> io.NodeOutput:
        channels = wan_latent_channels(vae)
        check_timeline(positive, negative, () if anchors is None else anchors.slots())
        _check_size(width, height, channels)
        audio = _as_features(audio_features)
        fps = DEFAULT_FPS if audio is None else audio.fps
        pixel_frames = _pixel_frames(length, audio)
        start_HWC = _start_image(start_image, anchors, height, width)
        size = LatentSize.from_pixels(channels, pixel_frames, height, width)
        sizes = AnchorSizes(height, width, viewpoint_size**2, expression_size**2)

        latent = film_latent(size, None if start_HWC is None else encode_image(vae, start_HWC))
        values = {
            "gloria_first_latent": 0,
            **_anchor_values(vae, anchors, sizes, cls.hidden),
            **_start_values(vae, start_HWC, size),
        }
        if clip_vision_output is not None:
            values["clip_vision_output"] = clip_vision_output
        with_speech = {} if audio is None else {"gloria_audio": audio.features_FLC}
        with_silence = {} if audio is None else {"gloria_audio": null_audio(audio.features_FLC)}
        shown = with_cue_of_whole(
            set_values(positive, values | with_speech), set_values(negative, values | with_silence), pixel_frames, fps
        )
        return io.NodeOutput(*shown, {**latent, "gloria_pixel_frames": pixel_frames, "gloria_fps": fps})


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        io.Conditioning.Input("positive", tooltip="What happens in the video."),
        io.Conditioning.Input("negative", tooltip="What the video should not show."),
        io.Vae.Input("vae", tooltip="Wan 2.1 VAE for Wan 2.1 and Wan2.2 A14B models, Wan 2.2 VAE for TI2V-5B."),
        io.Int.Input(
            "width",
            default=832,
            min=16,
            max=MAX_SIDE,
            step=16,
            tooltip="Width of the video in pixels: a multiple of 16, with the Wan 2.2 VAE of 32.",
        ),
        io.Int.Input(
            "height",
            default=480,
            min=16,
            max=MAX_SIDE,
            step=16,
            tooltip="Height of the video in pixels: a multiple of 16, with the Wan 2.2 VAE of 32.",
        ),
        io.Int.Input(
            "length",
            default=0,
            min=0,
            max=MAX_LENGTH,
            tooltip="Frames of the video, 24 per second. 0: as long as the speech. Past the end of the speech its "
            "last sound is held, so let the recording end in silence.",
        ),
        GloriaAnchors.Input(
            "anchors",
            optional=True,
            tooltip="Images of the character from Gloria Anchors or Gloria Load Character.",
        ),
        io.MultiType.Input(
            "audio_features",
            types=[GloriaAudio, io.AudioEncoderOutput],
            optional=True,
            tooltip="Speech that moves the lips: from Gloria Audio (any length), or from the stock Audio Encoder "
            "Encode node with a wav2vec2 model (short recordings).",
        ),
        io.Image.Input(
            "start_image",
            optional=True,
            tooltip="First frame of the video, one image. Without it the global anchor is used; without both the "
            "video starts from the prompt alone.",
        ),
        io.ClipVisionOutput.Input(
            "clip_vision_output",
            optional=True,
            tooltip="CLIP vision encoding of the start image, which Wan 2.1 I2V models were trained with.",
        ),
        *anchor_size_inputs(
            "Larger keeps more detail of the clothing and makes every step slower.",
            "Larger keeps more detail of the face and makes every step slower.",
        ),
    ]


def _check_size(width: int, height: int, channels: int) -> None:
    multiple = pixel_multiple(channels)
    for name, side in (("width", width), ("height", height)):
        if side < multiple or side % multiple:
            lower = max(1, side // multiple) * multiple
            raise PlanError(
                f"The {name} is {side} pixels, expected a multiple of {multiple} with this VAE: "
                f"use {lower} or {lower + multiple}."
            )


def _as_features(audio_features: Any) -> AudioFeatures | None:
    if audio_features is None or isinstance(audio_features, AudioFeatures):
        return audio_features
    return features_from_encoder_output(audio_features, DEFAULT_FPS)


def _pixel_frames(length: int, audio: AudioFeatures | None) -> int:
    if length > 0:
        return length
    if audio is None:
        raise PlanError(
            "length is 0, which means 'as long as the speech', but no audio_features are connected. "
            "Set length to a number of frames (121 are 5 seconds) or connect Gloria Audio."
        )
    return audio.num_frames


def _start_image(
    start_image: torch.Tensor | None, anchors: AnchorSet | None, height: int, width: int
) -> torch.Tensor | None:
    """The given start image, else the global anchor, at the size of the video."""
    if start_image is not None:
        if start_image.ndim != 4 or start_image.shape[0] != 1:
            raise AnchorError(
                f"start_image has shape {list(start_image.shape)}, expected one image [1, height, width, 3]. "
                f"Pick one image of a batch with the ImageFromBatch node."
            )
        check_image(start_image[0], "start_image")
        return resize_to_cover(start_image[0], height, width)
    if anchors is not None and (of_scene := anchors.of_kind("global")):
        return resize_to_cover(of_scene[0].image_HWC, height, width)
    return None


def _anchor_values(vae: Any, anchors: AnchorSet | None, sizes: AnchorSizes, hidden: Any) -> dict[str, Any]:
    if anchors is None:
        return {}
    latents, told = encode_anchors(vae, anchors, sizes)
    if told:
        log.info(told)
        show_text(told, hidden.unique_id)
    return {"gloria_anchors": latents, "gloria_anchor_slots": anchors.slots()}


def _start_values(vae: Any, start_HWC: torch.Tensor | None, size: LatentSize) -> dict[str, Any]:
    """Image channels for bases that have them; the others take the start image from the LATENT and ignore these."""
    if start_HWC is None or size.channels != IMAGE_CHANNELS_VAE:
        return {}
    image_BCTHW = encode_start_video(vae, start_HWC, size.frames)
    mask_BCTHW = torch.ones_like(image_BCTHW[:, :1])
    mask_BCTHW[:, :, :1] = 0.0
    return {"concat_latent_image": image_BCTHW, "concat_mask": mask_BCTHW}
