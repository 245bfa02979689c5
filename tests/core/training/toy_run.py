"""A toy base, a dataset cache with known contents, and the settings of a run on them."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.data.cache import CacheStore
from gloria_core.data.cache_index import CachedAnchor, CachedClip, CachedSource, CacheIndex, write_index
from gloria_core.model.presets import TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_core.toy_weights import write_toy_dit
from gloria_core.training.config import config_from_dict
from gloria_core.training.presets import merge_settings

SMALL = {"dim": 128, "num_heads": 1, "ffn_dim": 128, "num_layers": 2, "text_dim": 16}
BASES = {name: replace(config, **SMALL) for name, config in
         {"t2v": TOY_T2V, "i2v": replace(TOY_I2V, model_type="t2v"), "ti2v": TOY_TI2V}.items()}  # fmt: skip
AUDIO_LAYERS, AUDIO_CHANNELS = 2, 8
WINDOW_LATENTS, CLIP_LATENTS, SIDE = 6, 9, 4


def write_base(folder, base="t2v"):
    path = Path(folder) / f"{base}.safetensors"
    write_toy_dit(path, BASES[base])
    return path


def write_cache(folder, num_sources=2, clips_per_source=2, base="t2v", audio=True, seed=0):
    """Clips of random latents; the last source is held out."""
    folder = Path(folder)
    store = CacheStore(folder)
    generator = torch.Generator().manual_seed(seed)
    channels = BASES[base].out_dim

    def put(name, **tensors):
        store.put(name, tensors, kind=name.split("_")[0])
        return name

    def random(*shape):
        return torch.randn(shape, generator=generator).half()

    empty = put("text_empty", text=torch.zeros(3, SMALL["text_dim"]).half())
    sources, clips = [], []
    for source_idx in range(num_sources):
        anchors = [
            CachedAnchor(kind=kind, label=label, time=time, latent_size=(2, 2),
                         key=put(f"anchor_{source_idx}_{label}_{idx}", latent=random(channels, 1, 2, 2)))
            for idx, (kind, label, time) in enumerate(
                [("global", "global", 0.5 * n) for n in range(4)]
                + [("viewpoint", label, 0.1 * n) for n, label in enumerate(VIEWPOINTS)]
                + [("expression", label, None) for label in EXPRESSIONS]
            )
        ]  # fmt: skip
        sources.append(CachedSource(id=f"s{source_idx}", anchors=tuple(anchors)))
        for clip_idx in range(clips_per_source):
            name = f"{source_idx}_{clip_idx}"
            clips.append(CachedClip(
                id=f"s{source_idx}/{clip_idx}", source=f"s{source_idx}", start=2.0 * clip_idx, height=SIDE * 8,
                width=SIDE * 8, num_latents=CLIP_LATENTS,
                latents=put(f"clip_{name}", latents=random(channels, CLIP_LATENTS, SIDE, SIDE)),
                start_video=put(f"start_{name}", latents=random(channels, 5, SIDE, SIDE)) if base == "i2v" else None,
                text=put(f"text_{name}", text=random(3, SMALL["text_dim"])),
                audio=put(f"audio_{name}", audio=random(4 * CLIP_LATENTS - 3, AUDIO_LAYERS, AUDIO_CHANNELS))
                if audio else None,
                clip_vision=None, split="validation" if source_idx == num_sources - 1 else "train",
            ))  # fmt: skip
    index = CacheIndex(
        fps=24.0, latent_channels=channels, empty_text=empty, encoders={"vae": "toy"},
        audio_shape=(AUDIO_LAYERS, AUDIO_CHANNELS) if audio else None, sources=tuple(sources), clips=tuple(clips),
    )  # fmt: skip
    write_index(folder, index)
    return folder


def toy_settings(folder, base="t2v", **changes):
    """Plain settings of a run in `folder`, which gets a base and a cache when it has none."""
    folder = Path(folder)
    cache = folder / "cache"
    if not cache.exists():
        write_cache(cache, base=base)
    path = folder / f"{base}.safetensors"
    settings = {
        "name": "toy", "base": str(path if path.exists() else write_base(folder, base)),
        "output": str(folder / "run"), "data": {"cache": str(cache), "frames": [4 * WINDOW_LATENTS - 3]},
        "device": "cpu", "method": "lora", "lora": {"rank": 2, "alpha": 2.0},
        "optimizer": {"lr": 1e-3, "weight_decay": 0.0}, "timesteps": {"shift": 1.0},
        "precision": {"compute": "float32"}, "memory": {"checkpointing": False},
        "stages": [{"name": "one", "steps": 6, "identity_anchors": "one_type"}],
        "batch_size": 2, "micro_batch_size": 1,
        "validation": {"loss_every": 0, "clips_every": 0, "steps": 2, "levels": 2},
        "checkpoints": {"every": 3},
    }  # fmt: skip
    return merge_settings(settings, changes)


def toy_config(folder, base="t2v", **changes):
    """The same, checked."""
    return config_from_dict(toy_settings(folder, base, **changes))
