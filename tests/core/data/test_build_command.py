"""The command that builds a dataset. Run: python -m pytest tests/core/data/test_build_command.py"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.data.build import main
from gloria_core.data.cache import CacheStore
from gloria_core.data.cache_index import read_index
from gloria_core.data.manifest import read_manifest
from gloria_core.data.read_clip import read_clip
from gloria_core.toy_lab import CAPTION, write_toy_encoders, write_toy_video

VISION_WIDTH = 16


@pytest.fixture
def footage(tmp_path):
    folder = tmp_path / "footage"
    write_toy_video(folder / "take.mp4", 0, num_frames=40)
    (folder / "take.txt").write_text(CAPTION)
    return folder


def arguments(folder, *more):
    models = folder / "models"
    return [str(folder / "footage"), "--cache", str(folder / "cache"), "--vae", str(models / "vae"),
            "--text-encoder", str(models / "text_encoder"), *more]  # fmt: skip


def write_clip_vision(model_folder, processor_folder):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=16,
    )  # fmt: skip
    CLIPVisionModel(config).save_pretrained(model_folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(processor_folder)


@pytest.mark.parametrize("processor", ["image_processor", "image_encoder"])
def test_clip_vision_finds_its_processor_beside_or_inside(tmp_path, footage, processor):
    from transformers import CLIPImageProcessor, CLIPVisionModel

    models = tmp_path / "models"
    write_toy_encoders(models)
    write_clip_vision(models / "image_encoder", models / processor)
    vision = str(models / "image_encoder")
    assert main(arguments(tmp_path, "--image-channels", "--clip-vision", vision, "--clip-frames", "17")) == 0
    clip = read_index(tmp_path / "cache").clips[1]
    found = CacheStore(tmp_path / "cache").load(clip.clip_vision)["clip_vision"]
    (first,) = (read_clip(footage / "take.mp4", clip.start, 1, 24.0, 64, 64) * 255).round().byte().numpy()
    pixels = CLIPImageProcessor.from_pretrained(models / processor)(images=first, return_tensors="pt").pixel_values
    with torch.inference_mode():
        states = CLIPVisionModel.from_pretrained(vision)(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found, states[-2][0].half())


def test_a_scan_never_overwrites_what_was_mended_by_hand(tmp_path, footage, caplog):
    assert main([str(footage), "--scan"]) == 0
    path = footage / "dataset.json"
    mended = path.read_text().replace(CAPTION, "mended")
    path.write_text(mended)
    assert main([str(footage), "--scan"]) == 1
    assert "Rename or delete it" in caplog.text
    assert path.read_text() == mended
    assert read_manifest(footage).sources[0].caption == "mended"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --scan or --cache"),
        (["--scan", "--cache", "c"], "give either --scan or --cache"),
        (["--cache", "c", "--vae", "v"], "--cache needs --vae and --text-encoder"),
        (["--scan", "--device", "gpu"], "invalid choice: 'gpu'"),
    ],
)
def test_options_that_do_not_go_together_are_named(footage, capsys, options, message):
    with pytest.raises(SystemExit):
        main([str(footage), *options])
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(tmp_path, caplog):
    assert main([str(tmp_path / "nowhere"), "--scan"]) == 1
    assert f"There is no folder {tmp_path / 'nowhere'}" in caplog.text
