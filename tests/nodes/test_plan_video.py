"""Gloria Plan on toy models. Run: python -m pytest tests/nodes/test_plan_video.py"""

import re

import comfy.model_management
import pytest
import torch

from gloria_pack.gloria_core.errors import PlanError
from gloria_pack.gloria_core.model.presets import TOY_T2V
from gloria_pack.gloria_core.sampling.cost import forward_flops
from gloria_pack.gloria_core.toy_weights import write_toy_dit
from gloria_pack.nodes.bridge import estimate
from gloria_pack.nodes.load_model import GloriaLoadModel
from gloria_pack.nodes.plan_video import GloriaPlanVideo


@pytest.fixture(scope="module")
def model(base_directory):
    write_toy_dit(base_directory / "models" / "diffusion_models" / "plan.safetensors", TOY_T2V)
    return GloriaLoadModel.execute("plan.safetensors", "none", "default").result[0]


@pytest.fixture
def positive():
    anchors = [torch.zeros(1, 16, 1, 8, 12), torch.zeros(1, 16, 1, 4, 4), torch.zeros(1, 16, 1, 4, 6)]
    slots = (("global", "global"), ("viewpoint", "left"), ("expression", "sad"))
    return [[torch.zeros(1, 6, TOY_T2V.text_dim), {"gloria_anchors": anchors, "gloria_anchor_slots": slots}]]


def latent(frames=40, **extra):
    return {"samples": torch.zeros(1, 16, frames, 8, 12), **extra}


def report(model, frames=40, **changes):
    inputs = {"latent": latent(frames), "chunk_frames": 33, "steps": 10, "cfg": 3.5, **changes}
    return GloriaPlanVideo.execute(model, **inputs)


def test_chunks_are_listed_with_their_frames_and_seconds(model):
    text = report(model, 12, latent=latent(12, gloria_pixel_frames=44)).result[0]
    assert "44 frames, 1.83 s at 24 fps; 12 latents in 2 chunks" in text
    assert "chunk 0: frames 0-32, 0.00-1.38 s, 9 latents" in text
    assert "chunk 1: frames 17-43, 0.71-1.83 s, 7 latents, first 4 latents from the chunk before" in text


def test_long_plans_stay_short(model):
    text = report(model, 2000).result[0]
    assert len(text.splitlines()) < 45
    assert "more, the last one" in text


def test_tokens_count_video_and_every_anchor(model, positive):
    text = report(model, positive=positive).result[0]
    video = 9 * 4 * 6
    assert f"tokens per step: {video + 24 + 4 + 6}" in text
    for line in (f"video {video}", "anchor global 24", "anchor viewpoint left 4", "anchor expression sad 6"):
        assert line in text


def test_memory_is_comfyuis_own_estimate_and_grows_with_anchors(model, positive):
    size = estimate.film_size(model, latent(9))
    plain = estimate.peak_memory_bytes(model, [[positive[0][0], {}]], size)
    with_anchors = estimate.peak_memory_bytes(model, positive, size)
    assert plain == model.model.memory_required([2, *size])
    assert with_anchors > plain
    assert f"weights {model.model_size() / 2**30:.2f} GiB" in report(model).result[0]


def test_time_is_operations_over_the_measured_rate(model, positive, monkeypatch):
    import gloria_pack.nodes.plan_video as plan_video

    monkeypatch.setattr(plan_video, "matmul_rate", lambda model: (1e6, "a slow abacus"))
    text = report(model, 9, positive=positive).result[0]
    facts = estimate.model_facts(model, positive)
    assert facts.shape[:3] == (TOY_T2V.dim, TOY_T2V.ffn_dim, TOY_T2V.num_layers)
    seconds = round(20 * forward_flops(facts.shape, 9 * 24, 34) / 1e6)
    hours, rest = divmod(seconds, 3600)
    assert f"at least {hours}:{rest // 60:02d}:{rest % 60:02d} in all" in text
    assert "lower bound" in text
    assert "a slow abacus" in text
    assert "20 passes" in text
    assert "10 passes" in report(model, 9, cfg=1.0).result[0]


def test_the_rate_is_measured_here(model):
    rate, device = estimate.matmul_rate(model)
    assert 1e8 < rate < 1e16
    assert comfy.model_management.get_torch_device_name(model.load_device) in device


def test_disk_covers_chunks_and_film(model):
    text = report(model, 9, latent={"samples": torch.zeros(1, 16, 9, 1024, 1024)}).result[0]
    expected = 2 * 16 * 9 * 1024 * 1024 * 4 / 2**30
    assert re.search(rf"disk for latents: {expected:.2f} GiB", text)


def test_the_report_is_shown_under_the_node(model):
    output = report(model)
    assert output.ui.as_dict()["text"] == (output.result[0],)


def test_a_latent_of_another_model_is_refused(model):
    with pytest.raises(PlanError, match="takes \\[1, 16"):
        report(model, latent={"samples": torch.zeros(1, 48, 9, 8, 8)})
    with pytest.raises(PlanError, match="4n"):
        report(model, chunk_frames=32)
