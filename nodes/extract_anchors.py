"""A video of one character -> labelled anchors, a contact sheet that says why, and footage for a dataset."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..gloria_core.durable_files import file_sha256
from ..gloria_core.errors import ConfigError
from ..gloria_core.extraction.anchor_set import anchor_set
from ..gloria_core.extraction.settings import ExtractionSettings
from ..gloria_core.strict import parse
from ..gloria_core.training.presets import merge_settings
from .bridge.extraction import (
    NO_FILE,
    Watch,
    place_footage,
    place_pose_file,
    pose_file_names,
    pose_file_path,
    report_text,
    run_extraction,
    sheet_image,
    work_path,
)
from .bridge.extraction_backends import NO_CLASSIFIER, Connected, classifier_names, make_backends
from .bridge.progress import show_text
from .bridge.yaml_text import yaml_values
from .types import GloriaAnchors, GloriaFootage


class GloriaExtractAnchors(io.ComfyNode):
    """Gloria Extract Anchors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaExtractAnchors",
            display_name="Gloria Extract Anchors",
            category="Gloria/footage",
            description="Finds anchors in footage of one character: whole frames, front, back, left and right views, "
            "expressions, and clips to train on. Shows what it chose and why. What is done is kept: queue again to go "
            "on after Cancel or with the same video.",
            search_aliases=["find anchors", "character from video", "mine footage", "contact sheet", "turnaround"],
            inputs=_inputs(),
            outputs=[
                GloriaAnchors.Output(
                    display_name="anchors",
                    tooltip="The best of every label, with what was mended by eye. For Gloria Conditioning.",
                ),
                io.Image.Output(
                    display_name="contact_sheet",
                    tooltip="Every anchor with its number, and some that were refused. The numbers are for Gloria "
                    "Relabel Anchors.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What was found, what was left out, and what was refused and why."
                ),
                GloriaFootage.Output(
                    display_name="footage", tooltip="Clips and anchors by time, for Gloria Dataset or Relabel Anchors."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, pose_file: str = NO_FILE, **_others: Any) -> str:
        """Changes with what is in the pose file."""
        return "" if pose_file not in pose_file_names()[1:] else str(file_sha256(pose_file_path(pose_file)))

    @classmethod
    def execute(
        cls,
        name: str,
        find_viewpoints: bool,
        per_label: int,
        find_cuts: bool,
        pose_file: str,
        expression_classifier: str,
        video: Any | None = None,
        images: torch.Tensor | None = None,
        fps: float = 24.0,
        judge_endpoint: str = "",
        settings: str = "",
        **models: Any,
    ) -> io.NodeOutput:
        checked = _settings(per_label, find_cuts, settings)
        watch = Watch(cls.hidden.unique_id)
        poses = pose_file_path(pose_file)
        connected = Connected(
            pose_file=poses, expression_classifier=expression_classifier, judge_endpoint=judge_endpoint, **models
        )
        backends = make_backends(connected, find_viewpoints, watch.on_picture, work_path(name))
        folder = place_footage(name, video, images, fps)
        if poses is not None:
            place_pose_file(folder, poses)
        extraction = run_extraction(folder, checked, backends, watch)
        text = report_text(extraction)
        show_text(extraction.lines[0], cls.hidden.unique_id)
        sheet = sheet_image(extraction)
        return io.NodeOutput(anchor_set(extraction), sheet, text, folder, ui=ui.PreviewText(text))


def _settings(per_label: int, find_cuts: bool, text: str) -> ExtractionSettings:
    """The widgets, then the user's own YAML; strictly checked as a whole."""
    values = {
        "footage": {"one_person": True, "shots": "detect" if find_cuts else "none"},
        "anchors": {"per_label": per_label},
    }
    values = merge_settings(values, yaml_values(text, "views: {half_width: 25}"))
    return parse(ExtractionSettings, values, "settings", ConfigError)


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        io.Video.Input(
            "video", optional=True, tooltip="Footage of one character, six seconds or longer: Load Video."
        ),
        io.Image.Input("images", optional=True, tooltip="Frames instead of a video, at fps frames per second."),
        io.Model.Input(
            "person_detector",
            optional=True,
            tooltip="RT-DETR v4 (Load Diffusion Model), or SAM 3 with person_prompt. Leaves out footage with several "
            "people and finds where to crop bodies.",
        ),
        io.Conditioning.Input(
            "person_prompt", optional=True, tooltip="Only for SAM 3: a CLIP Text Encode with the word person."
        ),
        io.Custom("FACE_DETECTION_MODEL").Input(
            "face_detector",
            optional=True,
            tooltip="Load Face Detection Model (MediaPipe). Finds heads for expressions, checks front and back views.",
        ),
        io.Model.Input(
            "pose_model",
            optional=True,
            tooltip="SDPose (Load Checkpoint). Estimates from 2D keypoints how the body is turned; a pose_file in 3D "
            "is surer and is used instead.",
        ),
        io.Vae.Input("pose_vae", optional=True, tooltip="The VAE of the SDPose checkpoint."),
        io.Clip.Input(
            "vision_language_model",
            optional=True,
            tooltip="A text encoder that sees pictures and writes, as for the stock Generate Text node: Qwen-VL, "
            "Gemma. Reads expressions, looks at them a second time, and writes a caption for every clip.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="Chooses anchors of one label that look different. Not connected: by their colors.",
        ),
        io.String.Input(
            "name",
            default="my_character",
            tooltip="Name of the folder in output/gloria/extraction: letters, digits, '-', '_'. One for each video.",
        ),
        io.Boolean.Input(
            "find_viewpoints",
            default=True,
            tooltip="Find front, back, left and right views. Needs a pose_file, or pose_model and pose_vae.",
        ),
        io.Int.Input("per_label", default=3, min=1, max=8, tooltip="Most anchors of each view and each expression."),
        io.Boolean.Input(
            "find_cuts",
            default=True,
            tooltip="Look for cuts and treat each shot on its own. Off: the footage has none, which saves time.",
        ),
        io.Combo.Input(
            "pose_file",
            options=pose_file_names(),
            default=NO_FILE,
            tooltip="3D poses of this very video from ComfyUI's input folder, .npz: GVHMR, SAM 3D Body and others, as "
            "the help page says. Refresh the page to see new ones.",
        ),
        io.Combo.Input(
            "expression_classifier",
            options=classifier_names(),
            default=NO_CLASSIFIER,
            tooltip="Folder in models/classifiers with an image classification model (transformers or ONNX) that "
            "knows all eight expressions. Needs a face_detector or joints with ears.",
        ),
        io.Float.Input("fps", default=24.0, min=1.0, max=240.0, step=0.01, tooltip="Frames per second of images."),
        io.String.Input(
            "judge_endpoint", default="", optional=True, advanced=True,
            tooltip="Name of an endpoint in the server's own file (GLORIA_ENDPOINTS) that looks at expressions a "
            "second time, instead of the vision_language_model. Head crops are sent there.",
        ),
        io.String.Input(
            "settings", default="", multiline=True, optional=True, advanced=True,
            tooltip="Any setting of docs/extraction.md as YAML, for example min_body_height under anchors. Unknown "
            "names are errors.",
        ),
    ]  # fmt: skip
