"""LATENT of any length, VAE and AUDIO in, a finished MP4 out."""

from typing import Any

from comfy_api.latest import Input, InputImpl, io

from ..gloria_core.media.encode_video import frame_rate
from ..gloria_core.media.mux_film import AudioTrack
from ..gloria_core.media.write_video import FilmSettings, write_film
from .bridge.paths import output_path
from .bridge.progress import NodeProgress
from .bridge.saved_video import preview, workflow_metadata
from .bridge.vae import open_decoder


class GloriaDecodeVideo(io.ComfyNode):
    """Streams latents through the VAE into a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaDecodeVideo",
            display_name="Gloria Decode Video",
            category="Gloria/video",
            description=(
                "Decodes a Wan video latent of any length straight into an MP4, a few frames at a time: memory does "
                "not grow with length, and the pixels equal VAE Decode's. If the run is cancelled or killed, queue "
                "the same graph again: finished parts are kept and only the rest is decoded."
            ),
            search_aliases=["vae decode video", "save long video", "decode to mp4", "stream decode"],
            inputs=[
                io.Latent.Input("latent", tooltip="Any Wan 2.1 or 2.2 video latent, from Gloria or another sampler."),
                io.Vae.Input("vae", tooltip="The Wan VAE of the model: Wan 2.1 for 16 channels, Wan 2.2 for 48."),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound of the video. Longer audio is cut at the last frame, shorter audio is padded with "
                    "silence. 5.1 becomes stereo. Not connected: a silent video without a sound track.",
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    tooltip="Frames per second. 23.976 and 29.97 mean the exact NTSC rates. Use the rate the audio "
                    "was encoded for, otherwise the lips drift.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="gloria/film",
                    tooltip="Folder and name inside ComfyUI's output folder; a counter keeps older files.",
                ),
                io.Int.Input(
                    "crf",
                    default=17,
                    min=0,
                    max=51,
                    advanced=True,
                    tooltip="H.264 quality: lower is better and larger, 17 looks lossless, 23 is half the size.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video",
                    tooltip="The finished file on disk. Save Video copies it without encoding again.",
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        vae: Any,
        fps: float,
        filename_prefix: str,
        crf: int,
        audio: Input.Audio | None = None,
    ) -> io.NodeOutput:
        samples = latent["samples"]
        settings = FilmSettings(frame_rate(fps), crf)
        track = None if audio is None else AudioTrack.from_batch(audio["waveform"], audio["sample_rate"])
        path = output_path(filename_prefix, "mp4")
        write_film(
            path,
            open_decoder(vae, samples),
            samples,
            settings,
            pixel_frames=latent.get("gloria_pixel_frames"),
            audio=track,
            metadata=workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo),
            on_progress=NodeProgress(cls.hidden.unique_id, "frames"),
        )
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=preview(path))
