"""Weights files: detection, merging, refusal of what does not belong. Run: pytest tests/core/test_checkpoint.py"""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from gloria_core.errors import CheckpointError
from gloria_core.model.checkpoint import (
    SETTINGS_KEY,
    check_state_dict,
    detect_config,
    is_addition,
    load_dit,
    merge,
    read_safetensors,
    write_gloria_weights,
    write_merged,
)
from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import PRESETS, TOY_I2V, TOY_T2V, TOY_TI2V, GloriaSettings


def random_model(config, seed=0):
    torch.manual_seed(seed)
    model = GloriaDiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture
def files(tmp_path):
    """A base, Gloria weights for it, both merged, and the model they came from."""
    config = replace(TOY_T2V, gloria=replace(TOY_T2V.gloria, anchor_attention="one_way")).with_audio(3, 32)
    model = random_model(config)
    base = {key: tensor for key, tensor in model.state_dict().items() if not is_addition(key)}
    save_file(base, tmp_path / "base.safetensors")
    write_gloria_weights(model, tmp_path / "gloria.safetensors")
    write_merged(model, tmp_path / "merged.safetensors")
    return tmp_path, model


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_are_read_back_from_the_tensors_of_every_preset(name):
    config = PRESETS[name]
    assert detect_config(GloriaDiT(config, device="meta").state_dict()) == config


def test_keys_are_wans_and_additions_have_their_own_prefix():
    plain = set(GloriaDiT(TOY_I2V, device="meta").state_dict())
    audio = set(GloriaDiT(TOY_I2V.with_audio(), device="meta").state_dict())
    attention = [f"{name}.{part}" for name in "qkvo" for part in ("weight", "bias")]
    attention += ["norm_q.weight", "norm_k.weight"]
    image = ["k_img.weight", "k_img.bias", "v_img.weight", "v_img.bias", "norm_k_img.weight"]
    linear = [f"{name}.{part}" for name in ("text_embedding.0", "text_embedding.2", "time_embedding.0",
              "time_embedding.2", "time_projection.1", "patch_embedding", "head.head",
              "img_emb.proj.0", "img_emb.proj.1", "img_emb.proj.3", "img_emb.proj.4") for part in ("weight", "bias")]
    expected = {*linear, "head.modulation"}
    for idx in range(TOY_I2V.num_layers):
        expected |= {f"blocks.{idx}.self_attn.{key}" for key in attention}
        expected |= {f"blocks.{idx}.cross_attn.{key}" for key in attention + image}
        expected |= {f"blocks.{idx}.{key}" for key in ("ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias",
                                                       "norm3.weight", "norm3.bias", "modulation")}
    assert plain == expected
    branch = {"k.weight", "k.bias", "v.weight", "v.bias", "o.weight", "o.bias", "norm_k.weight"}
    projection = {"layer_mix", "norm.weight", "norm.bias", "proj.weight", "proj.bias", "window_position"}
    assert audio - plain == {f"blocks.{idx}.audio_attn.{key}" for idx in (0, 2) for key in branch} | {
        f"audio_proj.{key}" for key in projection
    }


def test_base_plus_gloria_equals_the_merged_file(files):
    folder, model = files
    from_parts = load_dit(folder / "base.safetensors", folder / "gloria.safetensors")
    from_merged = load_dit(folder / "merged.safetensors")
    assert from_parts.config == from_merged.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, from_parts.state_dict()[key])
        assert torch.equal(tensor, from_merged.state_dict()[key])


def test_settings_survive_as_json_in_the_file(files):
    folder, model = files
    tensor = load_file(folder / "gloria.safetensors")[SETTINGS_KEY]
    assert json.loads(bytes(tensor.tolist()))["anchor_attention"] == "one_way"
    assert GloriaSettings.from_json(model.config.gloria.to_json()) == model.config.gloria


def test_gloria_weights_for_another_base_are_refused_with_counts(files):
    folder, _ = files
    other = random_model(TOY_TI2V)
    wide = random_model(replace(TOY_T2V, dim=384, num_heads=3))
    gloria = read_safetensors(folder / "gloria.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit: of \d+ tensors 14 of another shape"):
        merge(wide.state_dict(), {**gloria, "audio_proj.layer_mix": torch.zeros(3)}, "wide", "gloria")
    shallow = random_model(replace(TOY_T2V, num_layers=2))
    with pytest.raises(CheckpointError, match=r"'g' on the base 'b' does not fit"):
        merge(shallow.state_dict(), gloria, "b", "g")
    merge(other.state_dict(), gloria, "same width", "gloria")  # a branch of the same width fits any base


def test_files_in_the_wrong_slot_are_recognised(files):
    folder, _ = files
    base, gloria = (read_safetensors(folder / f"{name}.safetensors") for name in ("base", "gloria"))
    merged = read_safetensors(folder / "merged.safetensors")
    with pytest.raises(CheckpointError, match="not a Gloria weights file"):
        merge(base, base, "base", "base")
    with pytest.raises(CheckpointError, match="it is a merged file"):
        merge(base, merged, "base", "merged")
    with pytest.raises(CheckpointError, match="not a Wan video model: 'head.modulation' is missing"):
        detect_config(gloria)


def test_missing_and_unexpected_tensors_are_counted():
    state = GloriaDiT(TOY_T2V, device="meta").state_dict()
    del state["blocks.1.ffn.0.weight"], state["blocks.1.ffn.0.bias"]
    state["vace_blocks.0.before_proj.weight"] = torch.empty(1)
    with pytest.raises(CheckpointError, match=r"2 missing \(blocks.1.ffn.0.weight.*1 unexpected \(vace_blocks"):
        check_state_dict(state, TOY_T2V, "'file'")


def test_scales_of_quantised_files_are_not_unexpected():
    state = GloriaDiT(TOY_T2V, device="meta").state_dict()
    state["scaled_fp8"] = torch.empty(2)
    state["blocks.0.ffn.0.scale_weight"] = torch.empty(1)
    state["blocks.0.ffn.0.comfy_quant"] = torch.empty(9, dtype=torch.uint8)
    check_state_dict(state, TOY_T2V, "'file'")


def test_damaged_and_foreign_files_give_typed_errors(files, tmp_path):
    folder, _ = files
    data = (folder / "base.safetensors").read_bytes()
    for name, content in {"cut": data[: len(data) // 2], "header": data[:5], "empty": b"",
                          "huge": (2**62).to_bytes(8, "little") + data[8:]}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or incomplete"):
            read_safetensors(path)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    for name in ("weights.pt", "renamed.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(CheckpointError, match="not a safetensors file|damaged"):
            read_safetensors(tmp_path / name)
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="does not exist"):
        read_safetensors(tmp_path / "nothing.safetensors")


def test_settings_of_a_newer_version_are_refused():
    with pytest.raises(CheckpointError, match="does not know: new_idea"):
        GloriaSettings.from_json('{"new_idea": 1}')


def test_quantised_files_are_refused_outside_comfyui(tmp_path):
    state = dict(random_model(TOY_T2V).state_dict()) | {"blocks.0.ffn.0.scale_weight": torch.ones(1)}
    save_file(state, tmp_path / "fp8.safetensors")
    with pytest.raises(CheckpointError, match="quantised"):
        load_dit(tmp_path / "fp8.safetensors")
