"""Validation clips as videos. Run: python -m pytest tests/core/training/test_sample_videos.py"""

import logging
import sys
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent))
from toy_run import toy_config

from gloria_core.errors import ConfigError, DatasetError
from gloria_core.train import train
from gloria_core.training.run_folder import read_metrics
from gloria_core.training.sample_videos import SampleVideos

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def write_vae(folder, channels=16):
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    scale = {"latents_mean": [0.1] * channels, "latents_std": [1.5] * channels}
    AutoencoderKLWan(base_dim=4, z_dim=channels, **scale).save_pretrained(folder)
    return folder


def frames_of(path):
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return rate, torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)])


def test_a_run_with_a_vae_leaves_videos_of_its_clips(tmp_path):
    from diffusers import AutoencoderKLWan

    vae = write_vae(tmp_path / "vae")
    stages = [{"name": "one", "steps": 2}]
    assert train(toy_config(tmp_path, validation={"clips_every": 2, "vae": str(vae)}, stages=stages))
    samples = tmp_path / "run" / "samples"
    latents = load_file(samples / "step_000002_clip0.safetensors")["latents"]
    rate, frames = frames_of(samples / "step_000002_clip0.mp4")
    with torch.no_grad():
        (expected,) = AutoencoderKLWan.from_pretrained(vae).decode(latents[None] * 1.5 + 0.1).sample
    expected = (expected.clamp(-1, 1).permute(1, 2, 3, 0) + 1) * 127.5
    assert rate == 24
    assert frames.shape == expected.shape == (21, 32, 32, 3)
    # What is left is the video codec's: it halves the resolution of color.
    assert (frames.float().mean(dim=(1, 2)) - expected.mean(dim=(1, 2))).abs().max() < 4
    assert not list(samples.glob("*.parts"))


def test_a_clip_that_cannot_be_decoded_is_named_and_the_run_goes_on(tmp_path, caplog):
    videos = SampleVideos(write_vae(tmp_path / "vae"), 16, CPU)
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file({"latents": torch.zeros(16, 2, 4, 4)}, good, {"fps": "12.0"})
    save_file({"latents": torch.full((16, 2, 4, 4), float("nan"))}, bad, {"fps": "12.0"})
    videos.write([bad, good])
    assert "bad.safetensors stays as latents" in caplog.text
    assert "NaN" in caplog.text
    assert not (tmp_path / "bad.mp4").exists()
    assert frames_of(tmp_path / "good.mp4")[0] == 12


def test_a_vae_of_another_base_or_none_is_refused_before_the_first_step(tmp_path):
    write_vae(tmp_path / "other", channels=48)
    with pytest.raises(ConfigError, match=r"validation\.vae.*48 channels.*holds 16"):
        train(toy_config(tmp_path, validation={"vae": str(tmp_path / "other")}))
    with pytest.raises(DatasetError, match="no folder"):
        train(toy_config(tmp_path, validation={"vae": str(tmp_path / "nowhere")}))
    assert read_metrics(tmp_path / "run")[0] == []


def test_the_log_says_how_far_a_run_is_and_where_its_results_are(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(toy_config(tmp_path, validation={"loss_every": 3}))
    for text in ("step 1 of 6, one, loss", "step 6 of 6, one", "held-out loss after step 3: ", "_lora.safetensors"):
        assert text in caplog.text
