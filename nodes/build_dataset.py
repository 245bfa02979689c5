"""A folder of footage -> a dataset cache on disk that the trainer reads."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..gloria_core.data.buckets import SIZES
from ..gloria_core.data.build import find_manifest, report
from ..gloria_core.data.precompute import CacheSettings, build_cache
from ..gloria_core.data.scan_folder import DEFAULT_CLIP_FRAMES, MIN_CLIP_FRAMES, ScanOptions
from .anchor_sizes import anchor_size_inputs
from .bridge.dataset import LINKED, cache_path, comfy_encoders, dataset_state, footage_folders, footage_path
from .bridge.extraction import linked_footage
from .bridge.progress import NodeProgress, show_text
from .types import GloriaDataset, GloriaFootage

CUSTOM_SIZE = "custom"


class GloriaBuildDataset(io.ComfyNode):
    """Gloria Dataset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaBuildDataset",
            display_name="Gloria Dataset",
            category="Gloria/training",
            description="Encodes a folder of videos once for training: latents, captions, speech and anchors. What is "
            "encoded already is used again; cancel at any time and queue again to go on.",
            search_aliases=["training data", "cache latents", "prepare dataset", "finetune data"],
            inputs=_inputs(),
            outputs=[
                GloriaDataset.Output(display_name="dataset", tooltip="For Gloria Train."),
                io.String.Output(
                    display_name="report",
                    tooltip="Clips, sizes and anchors by label, beside the shares of the paper's training data.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, size: str, width: int = 832, height: int = 480, **_others: Any) -> str:
        return dataset_state(folder, _size(size, width, height))

    @classmethod
    def execute(
        cls,
        folder: str,
        vae: Any,
        clip: Any,
        size: str,
        clip_frames: int,
        for_image_to_video: bool,
        audio_encoder: Any | None = None,
        clip_vision: Any | None = None,
        width: int = 832,
        height: int = 480,
        footage: Path | None = None,
        viewpoint_size: int = 512,
        expression_size: int = 256,
    ) -> io.NodeOutput:
        source = footage_path(folder) if footage is None else linked_footage(footage)
        show_text("looking at the videos", cls.hidden.unique_id)
        manifest = find_manifest(source, ScanOptions(clip_frames=clip_frames))
        size = _size(size, width, height)
        cache = cache_path(source, size)
        progress = NodeProgress(cls.hidden.unique_id, "entries")
        index = build_cache(
            manifest,
            source,
            cache,
            comfy_encoders(vae, clip, audio_encoder, clip_vision),
            CacheSettings(size, for_image_to_video, viewpoint_size**2, expression_size**2),
            lambda done, total, _what: progress(done, max(total, 1)),
        )
        text = report(index)
        show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(cache, text, ui=ui.PreviewText(text))


def _size(size: str, width: int, height: int) -> str:
    return f"{width}x{height}" if size == CUSTOM_SIZE else size


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        io.Combo.Input(
            "folder",
            options=[*footage_folders(), LINKED],
            tooltip="Folder of videos in ComfyUI's input folder, with captions (video name.txt) and labelled images "
            "(anchors/front.png, anchors/happy.png); or a folder with a dataset.json. See this node's help page. Not "
            "used while footage is connected.",
        ),
        io.Vae.Input("vae", tooltip="The Wan VAE of the base that will be trained."),
        io.Clip.Input("clip", tooltip="The text encoder of the base: Load CLIP with type wan."),
        io.AudioEncoder.Input(
            "audio_encoder",
            optional=True,
            tooltip="wav2vec2, for talking videos. Not connected: speech is not learned.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="Only for Wan 2.1 image-to-video bases, which also see the first frame.",
        ),
        io.Combo.Input(
            "size",
            options=[*SIZES, CUSTOM_SIZE],
            default="480p",
            tooltip="About this many pixels in the aspect ratio of each video. 704p is for TI2V-5B.",
        ),
        io.Int.Input(
            "clip_frames",
            default=DEFAULT_CLIP_FRAMES,
            min=MIN_CLIP_FRAMES,
            max=1001,
            step=4,
            tooltip="Length of the clips that videos are cut into, at 24 frames per second. Longer than the window "
            "that is trained, so that windows can also be cut mid-stream: 137 for 121 or 81 frames.",
        ),
        io.Boolean.Input(
            "for_image_to_video",
            default=False,
            tooltip="On for Wan 2.1 I2V and Wan2.2 I2V-A14B bases, which take the first frame through extra channels.",
        ),
        io.Int.Input(
            "width", default=832, min=32, max=4096, step=16, optional=True, advanced=True,
            tooltip="Width in pixels for size 'custom': every video is scaled and cropped to it.",
        ),
        io.Int.Input(
            "height", default=480, min=32, max=4096, step=16, optional=True, advanced=True,
            tooltip="Height in pixels for size 'custom'.",
        ),
        GloriaFootage.Input(
            "footage", optional=True,
            tooltip="From Gloria Extract Anchors or Relabel Anchors, used instead of folder. Its clips have their "
            "length already.",
        ),
        *anchor_size_inputs("Use the same in Gloria Conditioning.", "Use the same in Gloria Conditioning."),
    ]  # fmt: skip
