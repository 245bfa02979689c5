"""The demo model that comes with the pack, in ComfyUI's own loaders.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_demo_model.py
"""

from pathlib import Path

import folder_paths
import pytest
import torch

import nodes
from gloria_pack.gloria_core.demo.files import ModelFiles
from gloria_pack.gloria_core.demo.pictures import held_out_clips
from gloria_pack.gloria_core.demo.sizes import CPU
from gloria_pack.nodes.bridge.demo_model import DEMO_MODEL
from gloria_pack.nodes.bridge.model import ComfyGloriaDiT

FILES = ModelFiles(DEMO_MODEL)
MAX_MEGABYTES = 40
# What training measured on held-out clips is 27.5.
MIN_DECIBELS = 25


@pytest.mark.parametrize("path", [FILES.dit, *FILES.encoders], ids=lambda path: path.name)
def test_loaders_list_it_behind_the_users_own_files(path: Path):
    kind = path.parent.name
    assert folder_paths.get_folder_paths(kind)[-1] == str(path.parent)
    assert path.name in folder_paths.get_filename_list(kind)


def test_it_is_small_enough_to_come_with_the_pack():
    assert sum(path.stat().st_size for path in (FILES.dit, *FILES.encoders)) < MAX_MEGABYTES * 1e6


def test_load_diffusion_model_takes_it_as_a_gloria_model_that_hears():
    (model,) = nodes.UNETLoader().load_unet(FILES.dit.name, "default")
    assert isinstance(model.model.diffusion_model, ComfyGloriaDiT)
    assert model.model.diffusion_model.config.gloria.has_audio


def test_load_vae_shows_dolls_that_it_never_saw():
    (vae,) = nodes.VAELoader().load_vae(FILES.vae.name)
    clips_BCTHW = held_out_clips(CPU.world, 9, 2, "cpu")
    for clip_CTHW in (clips_BCTHW + 1) / 2:
        frames_THWC = clip_CTHW.movedim(0, -1)
        shown_THWC = vae.decode(vae.encode(frames_THWC)).reshape(frames_THWC.shape)
        error = (shown_THWC - frames_THWC).square().mean()
        assert -10 * torch.log10(error) > MIN_DECIBELS
