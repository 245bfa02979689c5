"""The pack's nodes, in the order of the graph."""

from comfy_api.latest import ComfyExtension, io

from .bridge.characters import register_character_folders
from .bridge.demo_model import register_demo_model
from .bridge.model import register_gloria_model
from .bridge.routes import register_routes
from .bridge.routes_anchors import ANCHOR_ROUTES
from .bridge.routes_films import FILM_ROUTES
from .bridge.routes_timeline import TIMELINE_ROUTES
from .bridge.routes_training import TRAINING_ROUTES
from .bridge.training_notice import register_training_notice
from .build_dataset import GloriaBuildDataset
from .condition import GloriaCondition
from .crop_character import GloriaCropBody, GloriaCropHead
from .decode_video import GloriaDecodeVideo
from .encode_audio import GloriaEncodeAudio
from .encode_timeline import GloriaEncodeTimeline
from .extract_anchors import GloriaExtractAnchors
from .load_anchors import GloriaLoadAnchors
from .load_character import GloriaLoadCharacter
from .load_demo_encoders import GloriaLoadDemoEncoders
from .load_model import GloriaLoadModel
from .monitor_training import GloriaMonitorTraining
from .plan_video import GloriaPlanVideo
from .probe_attention import GloriaProbeAttention
from .relabel_anchors import GloriaRelabelAnchors
from .sample_long_video import GloriaSampleLongVideo
from .save_character import GloriaSaveCharacter
from .show_attention import GloriaShowAttention
from .train_model import GloriaTrainModel

NODES: list[type[io.ComfyNode]] = [
    GloriaLoadModel,
    GloriaLoadDemoEncoders,
    GloriaLoadAnchors,
    GloriaSaveCharacter,
    GloriaLoadCharacter,
    GloriaEncodeAudio,
    GloriaEncodeTimeline,
    GloriaCondition,
    GloriaPlanVideo,
    GloriaProbeAttention,
    GloriaSampleLongVideo,
    GloriaShowAttention,
    GloriaDecodeVideo,
    GloriaExtractAnchors,
    GloriaRelabelAnchors,
    GloriaCropHead,
    GloriaCropBody,
    GloriaBuildDataset,
    GloriaTrainModel,
    GloriaMonitorTraining,
]


class GloriaExtension(ComfyExtension):
    """Registers the Gloria model class, what the page asks and the notice about training, and lists the nodes."""

    async def on_load(self) -> None:
        register_gloria_model()
        register_character_folders()
        register_demo_model()
        register_routes((*ANCHOR_ROUTES, *FILM_ROUTES, *TIMELINE_ROUTES, *TRAINING_ROUTES))
        register_training_notice()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
