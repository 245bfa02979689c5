"""The DiT: equality with diffusers, exact no-ops, tokens of anchors, timesteps. Run: pytest tests/core/test_dit.py"""

from dataclasses import replace

import pytest
import torch

from gloria_core.errors import AnchorError, AudioError
from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import (
    PRESETS,
    TOY_I2V,
    TOY_T2V,
    TOY_TI2V,
    WAN21_I2V_14B,
    WAN22_TI2V_5B,
)

B, T, H, W, TEXT_TOKENS = 2, 3, 6, 8, 5
VIDEO_TOKENS = T * (H // 2) * (W // 2)


def make_model(config, seed=0):
    torch.manual_seed(seed)
    model = GloriaDiT(config).eval()
    for name, parameter in model.named_parameters():
        # Norms at one: with small ones every attention would be uniform, and RoPE without effect.
        torch.nn.init.normal_(parameter, mean=1.0 if ".norm_" in name else 0.0, std=0.04)
    return model


def make_inputs(config, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, config.in_dim, T, H, W, generator=generator)
    context = torch.randn(B, TEXT_TOKENS, config.text_dim, generator=generator)
    return x, torch.tensor([700.0, 300.0]), context


def make_anchors(channels=16, sizes=((6, 8), (4, 4), (2, 6)), seed=2):
    generator = torch.Generator().manual_seed(seed)
    slots = (("global", "global"), ("viewpoint", "back"), ("expression", "happy"))
    anchors = [torch.randn(B, channels, 1, h, w, generator=generator) for h, w in sizes]
    return anchors, slots[: len(anchors)]


def test_equals_diffusers_wan_transformer():
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    model = make_model(TOY_T2V)
    theirs = WanTransformer3DModel(
        num_attention_heads=TOY_T2V.num_heads, attention_head_dim=128, in_channels=16, out_channels=16,
        text_dim=TOY_T2V.text_dim, ffn_dim=TOY_T2V.ffn_dim, num_layers=TOY_T2V.num_layers,
    ).eval()
    theirs.load_state_dict(convert_wan_transformer_to_diffusers(dict(model.state_dict())))
    x, timestep, context = make_inputs(TOY_T2V)
    with torch.no_grad():
        expected = theirs(x, timestep, context).sample
        torch.testing.assert_close(model(x, timestep, context), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("preset", "with_audio", "billions"),
    [(WAN21_I2V_14B, False, 16.39), (WAN21_I2V_14B, True, 17.08), (WAN22_TI2V_5B, False, 5.00)],
)
def test_parameter_count_is_the_papers(preset, with_audio, billions):
    config = preset.with_audio() if with_audio else preset
    model = GloriaDiT(config, device="meta")
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == billions


def test_half_of_the_blocks_hear():
    for preset in PRESETS.values():
        config = preset.with_audio()
        model = GloriaDiT(config, device="meta")
        hearing = [idx for idx, block in enumerate(model.blocks) if block.audio_attn is not None]
        assert hearing == list(range(0, config.num_layers, 2))


def test_fresh_audio_branch_changes_nothing_at_all():
    base = make_model(TOY_T2V)
    model = make_model(TOY_T2V.with_audio(3, 32), seed=5)
    model.load_state_dict(base.state_dict(), strict=False)
    model.reset_gloria_parameters()
    x, timestep, context = make_inputs(TOY_T2V)
    windows = torch.randn(B, T, 4, 3, 32)
    with torch.no_grad():
        silent, speaking = base(x, timestep, context), model(x, timestep, context, audio_windows=windows)
    assert torch.equal(silent, speaking)


def test_trained_audio_branch_changes_the_video():
    model = make_model(TOY_T2V.with_audio(3, 32))
    x, timestep, context = make_inputs(TOY_T2V)
    windows = torch.randn(B, T, 4, 3, 32)
    with torch.no_grad():
        assert not torch.allclose(
            model(x, timestep, context, audio_windows=windows), model(x, timestep, context), atol=1e-4
        )


def test_audio_of_one_window_enters_its_own_latent_frame_only():
    model = make_model(TOY_T2V.with_audio(3, 32))
    branch = model.blocks[0].audio_attn
    queries = torch.randn(B, VIDEO_TOKENS, TOY_T2V.dim)
    windows = torch.randn(B, T, 4, 3, 32)
    changed = windows.clone()
    changed[:, 1] += 1.0
    with torch.no_grad():
        before, after = (branch(queries, model.audio_proj(w), {}).unflatten(1, (T, -1)) for w in (windows, changed))
    differs = (before != after).flatten(2).any(dim=2)
    assert differs.tolist() == [[False, True, False]] * B


@pytest.mark.parametrize("config", [TOY_T2V, TOY_I2V, TOY_TI2V])
def test_anchor_tokens_join_attention_and_are_cropped_from_the_output(config):
    model = make_model(config)
    x, timestep, context = make_inputs(config)
    anchors, slots = make_anchors(config.out_dim)
    seen = []
    model.blocks[0].self_attn.register_forward_hook(lambda _m, inputs, out: seen.append((inputs[0].shape, out.shape)))
    with torch.no_grad():
        out = model(x, timestep, context, anchors=anchors, anchor_slots=slots)
        without = model(x, timestep, context)
    anchor_tokens = 3 * 4 + 2 * 2 + 1 * 3
    assert seen[0][0][1] == VIDEO_TOKENS + anchor_tokens
    assert out.shape == (B, config.out_dim, T, H, W)
    assert not torch.allclose(out, without, atol=1e-4)


def test_the_order_of_anchors_does_not_matter_but_their_label_does():
    model = make_model(TOY_T2V)
    x, timestep, context = make_inputs(TOY_T2V)
    anchors, slots = make_anchors()
    with torch.no_grad():
        out = model(x, timestep, context, anchors=anchors, anchor_slots=slots)
        shuffled = model(x, timestep, context, anchors=anchors[::-1], anchor_slots=slots[::-1])
        relabeled = model(
            x, timestep, context, anchors=anchors, anchor_slots=(slots[0], ("viewpoint", "front"), slots[2])
        )
    torch.testing.assert_close(out, shuffled, atol=1e-5, rtol=0)
    assert (out - relabeled).abs().max() > 1e-4


def test_one_way_anchors_do_not_depend_on_the_video_and_joint_ones_do():
    for mode, independent in (("one_way", True), ("joint", False)):
        config = replace(TOY_T2V, gloria=replace(TOY_T2V.gloria, anchor_attention=mode))
        model = make_model(config)
        anchors, slots = make_anchors()
        states = []
        model.blocks[-1].register_forward_hook(lambda _m, _i, out, s=states: s.append(out[:, VIDEO_TOKENS:]))
        x, timestep, context = make_inputs(TOY_T2V)
        with torch.no_grad():
            model(x, timestep, context, anchors=anchors, anchor_slots=slots)
            model(x + 1.0, timestep * 0.5, context, anchors=anchors, anchor_slots=slots)
        assert torch.equal(states[0], states[1]) == independent


def test_one_way_video_equals_an_attention_mask():
    config = replace(TOY_T2V, gloria=replace(TOY_T2V.gloria, anchor_attention="one_way"))
    model, x = make_model(config).blocks[0].self_attn, torch.randn(1, 9, TOY_T2V.dim)
    rope = torch.eye(2).expand(1, 9, 1, 64, 2, 2)
    with torch.no_grad():
        out = model(x, rope, 6, {})
        q, k = model.norm_q(model.q(x)), model.norm_k(model.k(x))
        mask = torch.ones(9, 9, dtype=torch.bool)
        mask[6:, :6] = False
        heads = [t.unflatten(-1, (2, 128)).transpose(1, 2) for t in (q, k, model.v(x))]
        expected = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        expected = model.o(expected.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_per_frame_timesteps_equal_per_token_modulation_with_anchors_present():
    """The trap of repeating modulation over the total token count: appended anchors shift every frame's share."""
    model = make_model(TOY_TI2V)
    x, _, context = make_inputs(TOY_TI2V)
    anchors, slots = make_anchors(48)
    timestep_BT = torch.tensor([[0.0, 800.0, 500.0], [0.0, 100.0, 900.0]])
    recorded = []
    model.blocks[0].self_attn.register_forward_hook(lambda _m, inputs, _o: recorded.append(inputs[0]))
    with torch.no_grad():
        model(x, timestep_BT, context, anchors=anchors, anchor_slots=slots)
        block = model.blocks[0]
        tokens = model.patch_embedding(x).flatten(2).transpose(1, 2)
        per_token = timestep_BT.repeat_interleave(VIDEO_TOKENS // T, dim=1)
        time = model._project_time(model._embed_time(per_token, x.dtype))
        shift, scale = (block.modulation[:, idx] + time[:, :, idx] for idx in range(2))
        expected = shift + block.norm1(tokens) * (1 + scale)
        torch.testing.assert_close(recorded[0][:, :VIDEO_TOKENS], expected, atol=1e-5, rtol=0)

        own = torch.cat([model.patch_embedding(a).flatten(2).transpose(1, 2) for a in anchors], dim=1)
        clean = model._project_time(model._embed_time(torch.zeros(B, 1), x.dtype))
        shift, scale = (block.modulation[:, idx] + clean[:, :, idx] for idx in range(2))
        expected = shift + block.norm1(own) * (1 + scale)
        torch.testing.assert_close(recorded[0][:, VIDEO_TOKENS:], expected, atol=1e-5, rtol=0)


def test_anchors_on_an_image_base_carry_mask_and_image_channels():
    model = make_model(TOY_I2V)
    x, timestep, context = make_inputs(TOY_I2V)
    anchors, slots = make_anchors()
    recorded = []
    model.patch_embedding.register_forward_hook(lambda _m, inputs, _o: recorded.append(inputs[0]))
    with torch.no_grad():
        model(x, timestep, context, anchors=anchors, anchor_slots=slots)
    given = recorded[1]
    assert torch.equal(given[:, :16], anchors[0])
    assert (given[:, 16:20] == 1).all()
    assert torch.equal(given[:, 20:], anchors[0])


def test_wrong_anchor_latents_and_audio_are_named():
    model = make_model(TOY_T2V)
    x, timestep, context = make_inputs(TOY_T2V)
    anchors, slots = make_anchors(48)
    with pytest.raises(AnchorError, match=r"'global' is a latent of shape \(2, 48, 1, 6, 8\).*16"):
        model(x, timestep, context, anchors=anchors, anchor_slots=slots)
    with pytest.raises(AudioError, match="no audio branch"):
        model(x, timestep, context, audio_windows=torch.zeros(B, T, 4, 3, 32))
    hearing = make_model(TOY_T2V.with_audio(3, 32))
    with pytest.raises(AudioError, match=r"got \(windows, layers, channels\) = \(3, 5, 32\), expected \(3, 3, 32\)"):
        hearing(x, timestep, context, audio_windows=torch.zeros(B, T, 4, 5, 32))


def test_gradients_reach_every_parameter():
    model = GloriaDiT(TOY_I2V.with_audio(3, 32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, timestep, context = make_inputs(TOY_I2V)
    anchors, slots = make_anchors()
    model(
        x, timestep, context, clip_fea=torch.randn(B, 7, 1280), anchors=anchors, anchor_slots=slots,
        audio_windows=torch.randn(B, T, 4, 3, 32),
    ).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_samples_of_a_batch_may_have_labels_of_their_own():
    model = make_model(TOY_T2V)
    x, timestep, context = make_inputs(TOY_T2V)
    anchors, slots = make_anchors()
    other = (slots[0], ("viewpoint", "left"), ("expression", "sad"))
    with torch.no_grad():
        shared = model(x, timestep, context, anchors=anchors, anchor_slots=slots)
        twice = model(x, timestep, context, anchors=anchors, anchor_slots=[(slot, slot) for slot in slots])
        assert torch.equal(shared, twice)
        mixed = model(x, timestep, context, anchors=anchors, anchor_slots=list(zip(slots, other, strict=True)))
        alone = [
            model(x[i : i + 1], timestep[i : i + 1], context[i : i + 1],
                  anchors=[anchor[i : i + 1] for anchor in anchors], anchor_slots=own)
            for i, own in enumerate((slots, other))
        ]  # fmt: skip
    torch.testing.assert_close(mixed, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[1], shared[1], atol=1e-4)
