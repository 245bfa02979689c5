"""Load Gloria Model, and stock nodes on what it gives. Run: pytest tests/nodes/test_load_model.py"""

import asyncio
import json
import pickle
from dataclasses import dataclass, replace

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

import nodes as comfy_nodes
from gloria_pack.gloria_core.durable_files import write_safetensors
from gloria_pack.gloria_core.errors import CheckpointError
from gloria_pack.gloria_core.model.checkpoint import SETTINGS_KEY, merge
from gloria_pack.gloria_core.model.presets import TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_pack.gloria_core.toy_weights import write_toy_dit, write_toy_gloria
from gloria_pack.nodes.bridge.model import ComfyGloriaDiT, GloriaModel
from gloria_pack.nodes.load_model import GloriaLoadModel

FRAMES, SIDE = 3, 8


@dataclass
class ClipVisionOutput:
    """What Wan's model class reads of a CLIP_VISION_OUTPUT."""

    penultimate_hidden_states: torch.Tensor


@pytest.fixture(scope="module")
def models(base_directory):
    """Toy files in ComfyUI's model folders."""
    folder = base_directory / "models"
    write_toy_dit(folder / "diffusion_models" / "t2v.safetensors", TOY_T2V)
    write_toy_dit(folder / "diffusion_models" / "i2v.safetensors", TOY_I2V)
    write_toy_dit(folder / "diffusion_models" / "ti2v.safetensors", TOY_TI2V)
    write_toy_gloria(folder / "gloria" / "gloria.safetensors", TOY_T2V.with_audio())
    files = ("diffusion_models/t2v.safetensors", "gloria/gloria.safetensors")
    base, gloria = (load_file(folder / name) for name in files)
    write_safetensors(folder / "diffusion_models" / "merged.safetensors", merge(base, gloria, "b", "g"), {})
    return folder


def load(base="t2v", gloria="gloria.safetensors", dtype="default"):
    return GloriaLoadModel.execute(f"{base}.safetensors", gloria, dtype).result[0]


def conditioning(seed=0, **values):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 6, TOY_T2V.text_dim, generator=generator), values]]


def full_conditioning(channels=16, seed=0):
    generator = torch.Generator().manual_seed(9)
    anchors = [torch.randn(1, channels, 1, h, w, generator=generator) for h, w in ((SIDE, SIDE), (4, 6))]
    return conditioning(
        seed, gloria_anchors=anchors, gloria_anchor_slots=(("global", "global"), ("expression", "sad")),
        gloria_audio=torch.randn(9, 13, 768, generator=generator).to(torch.bfloat16),
    )


def sample(model, positive, negative, channels=16, steps=2, **latent):
    latent = {"samples": torch.zeros(1, channels, FRAMES, SIDE, SIDE), **latent}
    (out,) = comfy_nodes.common_ksampler(
        model, 1, steps, 3.5, "euler", "simple", positive, negative, latent, denoise=1.0
    )
    return out["samples"]


def test_ksampler_sees_anchors_and_speech(models):
    model = load()
    assert isinstance(model.model, GloriaModel)
    plain = sample(model, conditioning(), conditioning(1))
    full = sample(model, full_conditioning(), full_conditioning(seed=1))
    assert torch.isfinite(full).all()
    assert (plain - full).abs().max() > 1e-3


@pytest.mark.parametrize(("base", "channels"), [("t2v", 16), ("i2v", 16), ("ti2v", 48)])
def test_without_weights_it_samples_like_the_stock_loader(models, base, channels):
    # Without CLIP tokens the stock I2V model feeds text to its image attention; ours leaves that attention out.
    vision = {"clip_vision_output": ClipVisionOutput(torch.randn(1, 257, 1280))} if base == "i2v" else {}
    conds = conditioning(**vision), conditioning(1, **vision)
    ours_out = sample(load(base, "none"), *conds, channels)
    state = load_file(models / "diffusion_models" / f"{base}.safetensors")
    # The stock class takes Wan's text width for granted, so the toy text width is told by metadata.
    stock = comfy.sd.load_diffusion_model_state_dict(
        state, metadata={"config": json.dumps({"transformer": {"text_dim": TOY_T2V.text_dim}})}
    )
    assert not isinstance(stock.model, GloriaModel)
    assert torch.equal(ours_out, sample(stock, *conds, channels))


def test_stock_load_diffusion_model_recognises_a_merged_file(models):
    (stock,) = comfy_nodes.UNETLoader().load_unet("merged.safetensors", "default")
    assert isinstance(stock.model, GloriaModel)
    full = full_conditioning(), full_conditioning(seed=1)
    assert torch.equal(sample(stock, *full), sample(load(), *full))


def test_save_model_writes_a_file_that_is_recognised_again(models):
    model = load()
    state = model.model.state_dict_for_saving(dict(model.model.diffusion_model.state_dict()))
    again = comfy.sd.load_diffusion_model_state_dict(state)
    assert isinstance(again.model, GloriaModel)
    assert again.model.gloria_config == model.model.gloria_config


def test_stock_lora_of_wan_changes_our_model(models):
    generator = torch.Generator().manual_seed(0)
    key = "diffusion_model.blocks.1.self_attn.q"
    lora = {
        f"{key}.lora_A.weight": torch.randn(4, TOY_T2V.dim, generator=generator),
        f"{key}.lora_B.weight": torch.randn(TOY_T2V.dim, 4, generator=generator),
        "diffusion_model.blocks.0.audio_attn.o.lora_A.weight": torch.randn(4, TOY_T2V.dim, generator=generator),
        "diffusion_model.blocks.0.audio_attn.o.lora_B.weight": torch.randn(TOY_T2V.dim, 4, generator=generator),
    }
    model = load()
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    assert len(patched.patches) == 2
    full = full_conditioning(), full_conditioning(seed=1)
    assert (sample(model, *full) - sample(patched, *full)).abs().max() > 1e-4


def test_model_sampling_shift_and_custom_sampler_work(models):
    from comfy_extras.nodes_custom_sampler import (
        BasicScheduler,
        CFGGuider,
        KSamplerSelect,
        RandomNoise,
        SamplerCustomAdvanced,
    )
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    (shifted,) = ModelSamplingSD3().patch(load(), 3.0)
    full = full_conditioning(), full_conditioning(seed=1)
    expected = sample(shifted, *full)
    run = lambda node, *args: node.execute(*args).result[0]  # noqa: E731
    out = run(
        SamplerCustomAdvanced, run(RandomNoise, 1), run(CFGGuider, shifted, *full, 3.5), run(KSamplerSelect, "euler"),
        run(BasicScheduler, shifted, "simple", 2, 1.0), {"samples": torch.zeros(1, 16, FRAMES, SIDE, SIDE)},
    )  # fmt: skip
    assert torch.equal(out["samples"], expected)
    assert not torch.allclose(expected, sample(load(), *full))


def test_easycache_skips_steps_on_our_model(models):
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(load(), 100.0, 0.0, 1.0, False).result[0]
    calls = []
    hook = cached.model.diffusion_model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    full = full_conditioning(), full_conditioning(seed=1)
    try:
        out = sample(cached, *full, steps=8)
    finally:
        hook.remove()
    assert torch.isfinite(out).all()
    assert 0 < len(calls) < 8


def test_torch_compile_node_gives_the_same_video(models):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    one_block = replace(TOY_T2V, num_layers=1, dim=128, num_heads=1, ffn_dim=128)  # compiling four takes minutes
    write_toy_dit(models / "diffusion_models" / "one_block.safetensors", one_block)
    write_toy_gloria(models / "gloria" / "one_block.safetensors", one_block.with_audio())
    model = load("one_block", "one_block.safetensors")
    full = full_conditioning(), full_conditioning(seed=1)
    compiled = TorchCompileModel.execute(model, "inductor").result[0]
    torch.testing.assert_close(sample(compiled, *full, steps=1), sample(model, *full, steps=1), atol=1e-3, rtol=0)


def test_fp8_weights_and_fp8_scaled_files_load(models):
    full = full_conditioning(), full_conditioning(seed=1)
    reference = sample(load(), *full)
    fp8 = load(dtype="fp8_e4m3fn")
    assert fp8.model.diffusion_model.blocks[0].ffn[0].weight.dtype == torch.float8_e4m3fn
    out = sample(fp8, *full)
    assert 0 < (out - reference).abs().mean() < 0.3 * reference.abs().mean()

    state = load_file(models / "diffusion_models" / "t2v.safetensors")
    for key in [k for k in state if k.endswith(".weight") and k.startswith("blocks") and state[k].ndim == 2]:
        scale = state[key].abs().max() / 448
        state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
        state[key.replace(".weight", ".scale_weight")] = scale.float()
    state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(state, models / "diffusion_models" / "scaled.safetensors")
    out = sample(load("scaled"), *full)
    assert 0 < (out - reference).abs().mean() < 0.3 * reference.abs().mean()


def test_anchors_are_declared_to_the_memory_estimate(models):
    import comfy.sampler_helpers

    model = load()
    shape = [1, 16, FRAMES, SIDE, SIDE]
    conds = lambda entry: {"positive": [entry[0][1]], "negative": [entry[0][1]]}  # noqa: E731
    without, _ = comfy.sampler_helpers.estimate_memory(model, shape, conds(conditioning()))
    with_anchors, _ = comfy.sampler_helpers.estimate_memory(model, shape, conds(full_conditioning()))
    cells, anchor_cells = FRAMES * SIDE * SIDE, SIDE * SIDE + 4 * 6
    assert with_anchors / without == pytest.approx((cells + anchor_cells) / cells, rel=0.01)


def test_known_frames_have_timestep_zero_in_place_and_survive(models):
    for base, channels in (("t2v", 16), ("ti2v", 48)):
        model = load(base, "none")
        recorded = []
        hook = model.model.diffusion_model.time_embedding.register_forward_hook(
            lambda _m, inputs, _o, r=recorded: r.append(len(inputs[0]))
        )
        start = torch.randn(1, channels, FRAMES, SIDE, SIDE)
        mask = torch.ones(1, 1, FRAMES, 1, 1)
        mask[:, :, :1] = 0
        try:
            out = sample(model, conditioning(), conditioning(1), channels, samples=start, noise_mask=mask)
        finally:
            hook.remove()
        assert recorded[0] == 2 * FRAMES  # cond and uncond, one timestep per latent frame
        torch.testing.assert_close(out[:, :, 0], start[:, :, 0], atol=1e-5, rtol=0)
        assert (out[:, :, 1:] - start[:, :, 1:]).abs().max() > 0.1


def test_image_latents_of_another_length_are_cut_or_go_on_with_their_last_frame(models):
    model = load("i2v", "none")
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 16, 2, SIDE, SIDE, generator=generator)
    mask = torch.ones(1, 1, 2, SIDE, SIDE)
    mask[:, :, :1] = 0
    longer = torch.cat([image, image[:, :, -1:]], dim=2), torch.cat([mask, mask[:, :, -1:]], dim=2)
    outs = [
        sample(model, *(conditioning(s, concat_latent_image=i, concat_mask=m) for s in (0, 1)))
        for i, m in ((image, mask), longer)
    ]
    assert torch.equal(*outs)
    too_long = torch.cat([*longer[0].split(2, 2), image], dim=2), torch.cat([longer[1], mask], dim=2)
    conds = [conditioning(s, concat_latent_image=too_long[0], concat_mask=too_long[1]) for s in (0, 1)]
    assert torch.equal(outs[0], sample(model, *conds))
    assert not torch.allclose(outs[0], sample(model, conditioning(), conditioning(1)))


def test_conditions_of_other_models_are_refused(models):
    with pytest.raises(ValueError, match="reference_latents"):
        sample(load(), conditioning(reference_latents=[torch.zeros(1, 16, 1, 8, 8)]), conditioning(1))


def test_speech_on_a_model_without_audio_branch_is_refused(models):
    with pytest.raises(ValueError, match="no audio branch"):
        sample(load(gloria="none"), full_conditioning(), full_conditioning(seed=1))


def test_wrong_files_are_refused_before_anything_is_loaded(models, monkeypatch):
    monkeypatch.setattr(comfy.sd, "load_diffusion_model_state_dict", lambda *_a, **_k: pytest.fail("loaded"))
    folder = models / "diffusion_models"
    data = (folder / "t2v.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))
    save_file({"a.weight": torch.zeros(2)}, folder / "other.safetensors")
    for name, message in (("cut", "damaged"), ("pickle", "damaged"), ("other", "not a Wan video model"),
                          ("absent", "not in the folder models/diffusion_models")):
        with pytest.raises(CheckpointError, match=message):
            load(name)
    with pytest.raises(CheckpointError, match="not a Gloria weights file"):
        save_file({"a.weight": torch.zeros(2)}, models / "gloria" / "other.safetensors")
        load(gloria="other.safetensors")


def test_loader_lists_models_and_gloria_folder_takes_safetensors_only(models, pack):
    (models / "gloria" / "evil.pt").write_bytes(b"x")
    schema = GloriaLoadModel.define_schema()
    options = {entry.id: entry.options for entry in schema.inputs}
    assert "merged.safetensors" in options["base"]
    assert options["gloria_weights"][0] == "none"
    assert "gloria.safetensors" in options["gloria_weights"]
    assert "evil.pt" not in options["gloria_weights"]
    assert "gloria" in folder_paths.folder_names_and_paths


def test_registering_twice_keeps_one_model_class(pack):
    extension = asyncio.run(pack.comfy_entrypoint())
    asyncio.run(extension.on_load())
    names = [m.__name__ for m in comfy.supported_models.models]
    assert names.count("GloriaModelConfig") == 1
    assert names[0] == "GloriaModelConfig"


def test_dit_in_comfyui_has_wans_keys_and_ours(models):
    model = load()
    assert isinstance(model.model.diffusion_model, ComfyGloriaDiT)
    keys = set(model.model.diffusion_model.state_dict())
    assert SETTINGS_KEY not in keys
    assert "audio_proj.layer_mix" in keys
