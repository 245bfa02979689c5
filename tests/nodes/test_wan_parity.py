"""Our DiT against ComfyUI's WanModel on the same random weights. Run: pytest tests/nodes/test_wan_parity.py"""

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import WanModel

from gloria_pack.gloria_core.model.attention import Kernels
from gloria_pack.gloria_core.model.dit import GloriaDiT
from gloria_pack.gloria_core.model.presets import TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_pack.gloria_core.toy_weights import random_state_dict

CONFIGS = {"t2v": TOY_T2V, "i2v": TOY_I2V, "ti2v": TOY_TI2V}
OPERATIONS = comfy.ops.disable_weight_init


def make_pair(config, dtype, kernels=None):
    wan = WanModel(
        model_type=config.model_type, in_dim=config.in_dim, out_dim=config.out_dim, dim=config.dim,
        ffn_dim=config.ffn_dim, num_heads=config.num_heads, num_layers=config.num_layers, text_dim=config.text_dim,
        operations=OPERATIONS, dtype=dtype, device="cpu",
    ).eval()  # fmt: skip
    shapes = {key: tuple(tensor.shape) for key, tensor in wan.state_dict().items()}
    wan.load_state_dict(random_state_dict(shapes, 0, torch.float32))
    kernels = kernels or Kernels(comfy.ldm.modules.attention.optimized_attention, comfy.ldm.flux.math.apply_rope1)
    ours = GloriaDiT(config, kernels, OPERATIONS, dtype=dtype).eval()
    ours.load_state_dict(wan.state_dict())
    return wan, ours


def make_inputs(config, dtype, height=9, width=10):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.in_dim, 3, height, width, generator=generator).to(dtype)
    context = torch.randn(2, 7, config.text_dim, generator=generator).to(dtype)
    clip = torch.randn(2, 257, 1280, generator=generator).to(dtype) if config.model_type == "i2v" else None
    per_frame = torch.tensor([[0.0, 500.0, 500.0], [0.0, 30.0, 700.0]])
    timestep = per_frame if config is TOY_TI2V else per_frame[:, -1]
    return x, timestep, context, clip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", CONFIGS)
def test_equals_wan_model_bit_for_bit_with_comfyui_kernels(variant, dtype):
    config = CONFIGS[variant]
    wan, ours = make_pair(config, dtype)
    x, timestep, context, clip = make_inputs(config, dtype)
    with torch.no_grad():
        expected = wan(x, timestep, context, clip_fea=clip)
        out = ours(x, timestep, context, clip_fea=clip)
    assert expected.std() > 0.05
    assert torch.equal(out, expected)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("variant", CONFIGS)
def test_equals_wan_model_with_torch_kernels(variant, dtype, atol):
    config = CONFIGS[variant]
    wan, ours = make_pair(config, dtype, Kernels())
    x, timestep, context, clip = make_inputs(config, dtype)
    with torch.no_grad():
        expected = wan(x, timestep, context, clip_fea=clip)
        torch.testing.assert_close(ours(x, timestep, context, clip_fea=clip), expected, atol=atol, rtol=0)


def test_scaled_and_shifted_rope_options_equal_wan_models():
    wan, ours = make_pair(TOY_T2V, torch.float32)
    x, timestep, context, _ = make_inputs(TOY_T2V, torch.float32)
    options = {"rope_options": {"scale_t": 0.5, "shift_y": 3.0, "scale_x": 1.5}}
    with torch.no_grad():
        expected = wan(x, timestep, context, transformer_options=dict(options))
        plain = wan(x, timestep, context)
        out = ours(x, timestep, context, transformer_options=options)
    assert not torch.allclose(expected, plain, atol=1e-4)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_stock_patches_see_the_video_tokens_only():
    _, ours = make_pair(TOY_T2V, torch.float32)
    x, timestep, context, _ = make_inputs(TOY_T2V, torch.float32, 8, 12)
    anchors = [torch.randn(2, 16, 1, 4, 4), torch.randn(2, 16, 1, 8, 12)]
    slots = (("viewpoint", "left"), ("global", "global"))
    video_tokens, seen = 3 * 4 * 6, []

    def attn1(args):
        seen.append(("attn1", args["x"].shape[1], args["q"].shape[1], args["k"].shape[1]))
        return args["x"]

    def attn2(args):
        grid = args["transformer_options"]["grid_sizes"]
        seen.append(("attn2", args["x"].shape[1], grid[0] * grid[1] * grid[2]))
        return args["x"]

    def double(args):
        seen.append(("double", args["img"].shape[1], args["img_offset"]))
        return args

    def replaced(args, extra):
        seen.append(("replace", args["img"].shape[1], args["pe"].shape[1]))
        return extra["original_block"](args)

    options = {
        "patches": {"attn1_patch": [attn1], "attn2_patch": [attn2], "double_block": [double]},
        "patches_replace": {"dit": {("double_block", 1): replaced}},
    }
    with torch.no_grad():
        out = ours(x, timestep, context, anchors=anchors, anchor_slots=slots, transformer_options=options)
        plain = ours(x, timestep, context, anchors=anchors, anchor_slots=slots)
    assert torch.equal(out, plain)
    assert {entry[0] for entry in seen} == {"attn1", "attn2", "double", "replace"}
    for entry in seen:
        assert entry[1] == video_tokens
        assert all(count in (video_tokens, 0) for count in entry[2:])
