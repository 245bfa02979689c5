"""Folders of public models in diffusers' and transformers' layout enter, the encoders of a dataset build leave."""

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..conditioning.audio import features_from_speech
from ..conditioning.wav2vec import load_transformers_encoder
from ..durable_files import file_sha256
from ..errors import DatasetError
from ..media.decode_latents import fingerprint_weights
from ..media.read_audio import Speech
from .precompute import Encoders

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

logger = logging.getLogger(__name__)

# Wan's DiT reads 512 text tokens; behind the prompt's own come zeros.
TEXT_TOKENS = 512
# One tensor under two names; files hold it once.
_TIED = {"shared.weight", "encoder.embed_tokens.weight"}


def load_encoders(
    vae: Path, text_encoder: Path, audio_encoder: Path | None = None, clip_vision: Path | None = None,
    device: str = "cpu",
) -> Encoders:  # fmt: skip
    """Encoders from local folders; nothing is downloaded.

    Args:
        vae: an AutoencoderKLWan.
        text_encoder: a UMT5EncoderModel with its tokenizer, in the same folder or in `tokenizer` beside it.
        audio_encoder: a wav2vec2 model.
        clip_vision: a CLIPVisionModel with its processor, in the same folder or in `image_processor` beside it, for
            Wan2.1-I2V.

    Raises:
        DatasetError: A folder without such a model, complete and undamaged; a device that is not there.
    """
    from transformers import AutoTokenizer, UMT5EncoderModel

    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise DatasetError("torch sees no CUDA device here. Use the device cpu, or install torch with CUDA.")
    wan_vae = load_wan_vae(vae).to(device)
    text_model = _loaded(UMT5EncoderModel, text_encoder).eval().to(device)
    tokenizer_folder = _beside(text_encoder, "tokenizer")
    tokenizer = _loaded(AutoTokenizer, tokenizer_folder)
    scale = f"{wan_vae.config.latents_mean} {wan_vae.config.latents_std}"
    fingerprints = {
        "vae": _joined(fingerprint_weights(wan_vae), scale),
        "text": _joined(fingerprint_weights(text_model), *_digests(tokenizer_folder, "*.json", "*.model")),
    }
    hear = None
    if audio_encoder is not None:
        hear, fingerprints["audio"] = _speech_encoder(audio_encoder, device)
    see = None
    if clip_vision is not None:
        see, fingerprints["clip_vision"] = _clip_vision(clip_vision, device)
    return Encoders(
        latent_channels=wan_vae.config.z_dim,
        encode_video=lambda video_THWC: encode_wan_video(wan_vae, video_THWC),
        encode_text=lambda prompt: _encode_text(text_model, tokenizer, prompt),
        fingerprints=fingerprints,
        encode_speech=hear,
        encode_clip_vision=see,
    )


def load_wan_vae(folder: Path) -> "AutoencoderKLWan":
    """Wan's VAE from a local folder, on the CPU.

    Raises:
        DatasetError: A folder without one, complete and undamaged; diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise DatasetError(f"{error.name} is not installed. Run: pip install diffusers") from error

    return _loaded(AutoencoderKLWan, folder).eval()


@torch.inference_mode()
def encode_wan_video(vae: "AutoencoderKLWan", video_THWC: Tensor) -> Tensor:
    """Normalised latents [C, t, h, w], float32 on the CPU: the posterior's mode, `(z - mean) / std` per channel."""
    weight = next(vae.parameters())
    video_BCTHW = (video_THWC * 2 - 1).permute(3, 0, 1, 2)[None].to(weight.device, weight.dtype)
    latents_CTHW = vae.encode(video_BCTHW).latent_dist.mode()[0].float().cpu()
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (latents_CTHW - mean) / std


@torch.inference_mode()
def _encode_text(model: Any, tokenizer: Any, prompt: str) -> Tensor:
    """[512, D]: hidden states of the prompt's tokens, then zeros, as Wan was trained."""
    num_tokens = len(tokenizer(prompt).input_ids)
    if num_tokens > TEXT_TOKENS:
        cut = num_tokens - TEXT_TOKENS
        logger.warning("a caption has %d tokens, the last %d are cut: %.60s", num_tokens, cut, prompt)
    tokens = tokenizer([prompt], padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask.to(model.device)
    hidden_1LD = model(tokens.input_ids.to(model.device), mask).last_hidden_state
    return (hidden_1LD * mask[..., None])[0].float().cpu()


def _speech_encoder(folder: Path, device: str) -> tuple[Any, str]:
    encoder = load_transformers_encoder(folder, device)

    def encode(speech: Speech, fps: float) -> Tensor:
        return features_from_speech(encoder, speech, fps).features_FLC

    # Fine-tuned models share their first layers: the files tell them apart.
    return encode, _joined(*_digests(folder, "*.safetensors", "*.json"))


def _clip_vision(folder: Path, device: str) -> tuple[Any, str]:
    from transformers import CLIPImageProcessor, CLIPVisionModel

    model = _loaded(CLIPVisionModel, folder).eval().to(device)
    processor_folder = _beside(folder, "image_processor")
    processor = _loaded(CLIPImageProcessor, processor_folder)

    @torch.inference_mode()
    def encode(image_HWC: Tensor) -> Tensor:
        pixels = processor(images=(image_HWC * 255).round().byte().numpy(), return_tensors="pt").pixel_values
        # Wan2.1-I2V reads the last hidden states but one.
        return model(pixels.to(model.device), output_hidden_states=True).hidden_states[-2][0].float().cpu()

    return encode, _joined(fingerprint_weights(model), *_digests(processor_folder, "preprocessor_config.json"))


def _beside(folder: Path, name: str) -> Path:
    """The folder `name` next to a model's, as diffusers lays pipelines out, or else the model's own."""
    return folder.parent / name if (folder.parent / name).is_dir() else folder


def _loaded(kind: Any, folder: Path) -> Any:
    """The model or processor in `folder`, without the random weights that the libraries put where one is missing."""
    from safetensors import SafetensorError

    is_model = hasattr(kind, "forward")
    options = {"use_safetensors": True, "output_loading_info": True} if is_model else {}
    if not folder.is_dir():  # a relative name would be taken for one on a model hub
        raise DatasetError(f"There is no folder {folder} to load {kind.__name__} from. Check the path.")
    try:
        loaded = kind.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DatasetError(
            f"{folder} is not a complete folder of {kind.__name__} (safetensors): {str(error).splitlines()[0]} "
            "Download it again, or choose the folder of another model."
        ) from error
    if not is_model:
        return loaded
    model, report = loaded
    missing = set(report["missing_keys"])
    if len(missing & _TIED) == 1:
        missing -= _TIED
    if missing:
        raise DatasetError(
            f"{folder} lacks {len(missing)} weights of {kind.__name__}, the first is {min(missing)}. It is another "
            "model or incomplete: choose the right folder."
        )
    return model


def _digests(folder: Path, *patterns: str) -> list[str]:
    """Name and SHA-256 of each file that is read, in order."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return [f"{path.name} {file_sha256(path)}" for path in files]


def _joined(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
