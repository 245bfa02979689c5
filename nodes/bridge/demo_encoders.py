"""The demo model's small encoder files as ComfyUI's own CLIP and AUDIO_ENCODER, built of its own parts."""

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.t5
from comfy.audio_encoders.audio_encoders import AudioEncoderModel
from comfy.audio_encoders.wav2vec2 import ConvFeatureEncoder, FeatureProjection

from ...gloria_core.demo.encoder_file import EncoderFile, read_encoder
from ...gloria_core.demo.vocabulary import END, PAD, Vocabulary
from ...gloria_core.errors import CheckpointError

_NAME = "gloria_demo"
_ANY_LENGTH = 99999999


def load_demo_clip(path: Path) -> comfy.sd.CLIP:
    """A CLIP whose tokens are whole words; every stock node that takes a CLIP works with it.

    Raises:
        CheckpointError: No text encoder of the demo model, or incomplete.
    """
    file = read_encoder(path, "text")
    vocabulary, min_tokens = Vocabulary(tuple(file.sizes["words"])), file.sizes["min_tokens"]

    class Target:
        params: dict[str, Any] = {}  # noqa: RUF012 - what comfy.sd.CLIP reads
        clip = staticmethod(lambda **options: _clip_model(file, options))
        tokenizer = staticmethod(lambda **options: _tokenizer(vocabulary, min_tokens, file, options))

    num_parameters = sum(tensor.numel() for tensor in file.weights.values())
    clip = comfy.sd.CLIP(Target, parameters=num_parameters)
    _check_complete(path, *clip.load_sd(file.weights))
    return clip


def load_demo_audio_encoder(path: Path) -> AudioEncoderModel:
    """An audio encoder for *Gloria Audio* and the stock *AudioEncoderEncode*.

    Raises:
        CheckpointError: No audio encoder of the demo model, or incomplete.
    """
    file = read_encoder(path, "audio")
    sizes = file.sizes["config"]
    width, channels = sizes["hidden_size"], sizes["conv_channels"]
    encoder = AudioEncoderModel(
        {
            "model_type": "wav2vec2", "embed_dim": width, "num_heads": sizes["num_attention_heads"],
            "num_layers": sizes["num_hidden_layers"], "conv_norm": False, "conv_bias": False, "do_normalize": False,
            "do_stable_layer_norm": False,
        }
    )  # fmt: skip
    # The width of these two is fixed in ComfyUI's model, not in its parts.
    factory = {"dtype": encoder.dtype, "device": encoder.patcher.offload_device, "operations": comfy.ops.manual_cast}
    encoder.model.feature_extractor = ConvFeatureEncoder(channels, conv_bias=False, conv_norm=False, **factory)
    encoder.model.feature_projection = FeatureProjection(channels, width, **factory)
    encoder.model.eval()
    comfy.model_management.archive_model_dtypes(encoder.model)
    _check_complete(path, *encoder.load_sd(file.weights))
    return encoder


class _WordTokenizer:
    """A vocabulary behind the calls that comfy.sd1_clip.SDTokenizer makes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @classmethod
    def from_pretrained(cls, vocabulary: Vocabulary) -> "_WordTokenizer":
        return cls(vocabulary)

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self._vocabulary.encode(text)}

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self._vocabulary.words)}

    def decode(self, token_ids: list[int], **_options: Any) -> str:
        return self._vocabulary.decode(token_ids)


def _tokenizer(
    vocabulary: Vocabulary, min_tokens: int, file: EncoderFile, options: dict[str, Any]
) -> comfy.sd1_clip.SD1Tokenizer:
    width = file.sizes["config"]["d_model"]

    def build(embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> Any:
        return comfy.sd1_clip.SDTokenizer(
            vocabulary, pad_with_end=False, embedding_directory=embedding_directory, embedding_size=width,
            embedding_key=_NAME, tokenizer_class=_WordTokenizer, has_start_token=False, pad_to_max_length=False,
            max_length=_ANY_LENGTH, min_length=min_tokens, pad_token=PAD, tokenizer_data=tokenizer_data or {},
        )  # fmt: skip

    return comfy.sd1_clip.SD1Tokenizer(clip_name=_NAME, tokenizer=build, **options)


def _clip_model(file: EncoderFile, options: dict[str, Any]) -> comfy.sd1_clip.SD1ClipModel:
    def build(device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> Any:
        return comfy.sd1_clip.SDClipModel(
            device=device, dtype=dtype, textmodel_json_config=dict(file.sizes["config"]),
            special_tokens={"end": END, "pad": PAD}, model_class=comfy.text_encoders.t5.T5,
            enable_attention_masks=True, zero_out_masked=True, model_options=model_options or {},
        )  # fmt: skip

    return comfy.sd1_clip.SD1ClipModel(clip_name=_NAME, clip_model=build, **options)


def _check_complete(path: Path, missing: list[str], unexpected: list[str]) -> None:
    # Only used in pre-training.
    missing = [name for name in missing if name != "masked_spec_embed"]
    if missing or unexpected:
        raise CheckpointError(
            f"'{path.name}' does not fit: {len(missing)} weights are missing and {len(unexpected)} are unknown "
            f"({[*missing, *unexpected][0]}, ...). Copy the demo model's files again."
        )
