"""A folder name enters; footage, encoders, a base and two runs of toy size are in it: the whole way of a lab on a CPU.

    python -m gloria_core.toy_lab toy_lab

The models have random weights in the folder layout of the public ones: what comes out is noise, how it comes is real.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from .model.presets import TOY_T2V
from .toy_weights import write_toy_dit
from .training.presets import preset

logger = logging.getLogger(__name__)

SIDE, FPS, SAMPLE_RATE = 64, 24, 16000
NUM_VIDEOS, VIDEO_FRAMES = 4, 204
LABELS = ("front", "back", "left", "happy", "sad")
CAPTION = "a figure moves and speaks"
TEXT_WIDTH = 16
BASE = replace(TOY_T2V, dim=128, num_heads=1, ffn_dim=256, num_layers=2, text_dim=TEXT_WIDTH)
STAGE_STEPS = 4


def write_toy_lab(folder: Path, seed: int = 0) -> None:
    """Everything that the commands of docs/training.md need to run in `folder`."""
    character = folder / "footage" / "anna"
    for idx in range(NUM_VIDEOS):
        write_toy_video(character / f"take_{idx}.mp4", idx)
        (character / f"take_{idx}.txt").write_text(CAPTION + "\n", encoding="utf-8")
    _write_anchor_images(character / "anchors")
    write_toy_encoders(folder / "models", seed)
    write_toy_dit(folder / "models" / "base.safetensors", BASE, seed)
    for name, settings in (("run", _lora_run()), ("stages", _stages_run())):
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    logger.info("wrote %s", folder)


def write_toy_video(path: Path, idx: int, num_frames: int = VIDEO_FRAMES) -> None:
    """A bright square that walks over a gradient, with a voice of four syllables a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    times_N = np.arange(num_frames * SAMPLE_RATE // FPS) / SAMPLE_RATE
    voice_N = np.sin(2 * np.pi * (150 + 20 * idx) * times_N) * np.sin(4 * np.pi * times_N) ** 2
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for frame_idx in range(num_frames):
            frame = av.VideoFrame.from_ndarray(_picture(idx, frame_idx), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray((voice_N * 12000).astype(np.int16)[None], format="s16", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        for packets in (audio.encode(sound), audio.encode()):
            container.mux(packets)


def write_toy_encoders(folder: Path, seed: int = 0) -> None:
    """`vae`, `text_encoder`, `tokenizer` and `wav2vec2` as diffusers and transformers save the public ones."""
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        UMT5Config,
        UMT5EncoderModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
    )

    words = ["<pad>", "</s>", "<unk>", *CAPTION.split()]
    tokenizer = Tokenizer(models.WordLevel({word: idx for idx, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder / "tokenizer")
    text = UMT5Config(vocab_size=len(words), d_model=TEXT_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    speech = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoencoderKLWan(base_dim=4, z_dim=BASE.out_dim).save_pretrained(folder / "vae")
        UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
        Wav2Vec2Model(speech).save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "wav2vec2")


def _lora_run() -> dict[str, Any]:
    """A LoRA by the preset for trying things out."""
    return {"preset": "debug_cpu", "name": "anna", "base": "models/base.safetensors", "output": "run",
            "data": {"cache": "cache"}, "validation": {"vae": "models/vae"}}  # fmt: skip


def _stages_run() -> dict[str, Any]:
    """The paper's stages, a few steps of each."""
    stages = [{**stage, "steps": STAGE_STEPS} for stage in preset("paper_stages")["stages"]]
    return {
        "preset": "paper_stages", "name": "anna_stages", "base": "models/base.safetensors", "output": "stages",
        "device": "cpu", "data": {"cache": "cache", "frames": [21]}, "batch_size": 4, "micro_batch_size": 2,
        "precision": {"compute": "float32"}, "stages": stages,
        "validation": {"loss_every": 4, "levels": 2, "clips_every": 0, "rollout_latents": 0},
        "checkpoints": {"every": 4},
    }  # fmt: skip


def _write_anchor_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for idx, label in enumerate(LABELS):
        Image.fromarray(_picture(idx, 12 * idx)).save(folder / f"{label}.png")


def _picture(idx: int, frame_idx: int) -> np.ndarray:
    ramp = np.linspace(40, 160, SIDE, dtype=np.float32)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.float32(60 + 40 * idx)), axis=-1)
    side = SIDE // 4
    left, top = frame_idx % (SIDE - side), 8 * idx % (SIDE - side)
    picture[top : top + side, left : left + side] = 230
    return picture.astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m gloria_core.toy_lab", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to put it, a few MB")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_toy_lab(options.folder)
    return 0


if __name__ == "__main__":
    main()
