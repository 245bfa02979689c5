"""Gloria Conditioning with real toy VAEs and samplers. Run: COMFYUI_PATH=<ComfyUI> python -m pytest
tests/nodes/test_condition.py"""

import copy
import dataclasses

import comfy.ldm.wan.vae2_2
import comfy.samplers
import comfy.sd
import comfy.taesd.taesd
import comfy.utils
import comfy_extras.nodes_wan
import psutil
import pytest
import torch

import gloria_core.toy_weights
import nodes as comfyui_nodes
from gloria_pack.gloria_core.conditioning.anchors import Anchor, AnchorSet
from gloria_pack.gloria_core.conditioning.audio import AudioFeatures
from gloria_pack.gloria_core.errors import AnchorError, MediaError, PlanError
from gloria_pack.gloria_core.model.presets import TOY_I2V, TOY_T2V
from gloria_pack.gloria_core.shapes import LatentSize
from gloria_pack.nodes.bridge.images import film_latent
from gloria_pack.nodes.bridge.model import load_gloria_model
from gloria_pack.nodes.condition import GloriaCondition

WIDTH, HEIGHT = 64, 32
NUM_LAYERS, AUDIO_WIDTH = 3, 8


def picture(height, width, seed=0):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def prompt(seed, width=32):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 7, width, generator=generator), {"pooled_output": torch.randn(1, 4, generator=generator)}]]


def speech(num_frames):
    features = torch.randn(num_frames, NUM_LAYERS, AUDIO_WIDTH, generator=torch.Generator().manual_seed(0))
    return AudioFeatures(features.bfloat16(), 24.0, num_frames, num_frames / 24)


def condition(vae, **inputs):
    """The node's three outputs, run as ComfyUI runs it."""
    defaults = {
        "positive": prompt(1), "negative": prompt(2), "vae": vae, "width": WIDTH, "height": HEIGHT, "length": 9,
    }  # fmt: skip
    with torch.inference_mode():
        return GloriaCondition.execute(**{**defaults, **inputs}).result


def encode(vae, image_THWC):
    with torch.inference_mode():
        return vae.encode(image_THWC)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A stock VAE object with a narrow Wan 2.1 network."""
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    gloria_core.toy_weights.write_toy_vae(path, width=8)
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


@pytest.fixture
def vae_2_2(monkeypatch):
    """A stock Wan 2.2 VAE object; ComfyUI fixes the network's width at 160, which is far too slow here."""

    class Narrow(comfy.ldm.wan.vae2_2.WanVAE):
        def __init__(self, **sizes):
            super().__init__(**{**sizes, "dim": 16, "dec_dim": 16})

    monkeypatch.setattr(comfy.ldm.wan.vae2_2, "WanVAE", Narrow)
    network = Narrow(z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return comfy.sd.VAE(sd=gloria_core.toy_weights.random_state_dict(shapes, 0, torch.float32))


@pytest.fixture
def anchors():
    return AnchorSet(
        (
            Anchor("global", "global", picture(50, 90, 1)),
            Anchor("viewpoint", "back", picture(300, 180, 2)),
            Anchor("expression", "happy", picture(100, 100, 3)),
            Anchor("expression", "happy", picture(70, 40, 4)),
        )
    )


def test_the_public_contract_of_the_node():
    schema = GloriaCondition.define_schema()
    assert schema.node_id == "GloriaCondition"
    assert [(i.id, i.get_io_type(), bool(i.optional), bool(i.advanced)) for i in schema.inputs] == [
        ("positive", "CONDITIONING", False, False),
        ("negative", "CONDITIONING", False, False),
        ("vae", "VAE", False, False),
        ("width", "INT", False, False),
        ("height", "INT", False, False),
        ("length", "INT", False, False),
        ("anchors", "GLORIA_ANCHORS", True, False),
        ("audio_features", "GLORIA_AUDIO,AUDIO_ENCODER_OUTPUT", True, False),
        ("start_image", "IMAGE", True, False),
        ("clip_vision_output", "CLIP_VISION_OUTPUT", True, False),
        ("viewpoint_size", "INT", True, True),
        ("expression_size", "INT", True, True),
    ]
    assert [o.get_io_type() for o in schema.outputs] == ["CONDITIONING", "CONDITIONING", "LATENT"]
    assert schema.description
    assert all(part.tooltip for part in (*schema.inputs, *schema.outputs))
    assert {i.id: i.default for i in schema.inputs if i.get_io_type() == "INT"} == {
        "width": 832, "height": 480, "length": 0, "viewpoint_size": 512, "expression_size": 256,
    }  # fmt: skip


def test_each_anchor_is_encoded_alone_at_its_own_size(vae, anchors):
    positive, negative, _ = condition(vae, anchors=anchors, viewpoint_size=128, expression_size=64)
    for options in (positive[0][1], negative[0][1]):
        latents = options["gloria_anchors"]
        assert options["gloria_anchor_slots"] == anchors.slots()
        assert [tuple(latent.shape) for latent in latents] == [
            (1, 16, 1, 4, 8), (1, 16, 1, 20, 12), (1, 16, 1, 8, 8), (1, 16, 1, 8, 4),
        ]  # fmt: skip
    fits_as_it_is = AnchorSet((Anchor("viewpoint", "left", picture(48, 32)),))
    positive, _, _ = condition(vae, anchors=fits_as_it_is)
    assert torch.equal(positive[0][1]["gloria_anchors"][0], encode(vae, picture(48, 32)[None]))


def test_every_entry_of_a_conditioning_gets_the_values_and_keeps_its_own(vae, anchors):
    two = prompt(1) + prompt(3)
    positive, _, _ = condition(vae, positive=two, anchors=anchors, audio_features=speech(9))
    assert len(positive) == 2
    for entry, given in zip(positive, two, strict=True):
        assert torch.equal(entry[0], given[0])
        assert entry[1]["pooled_output"] is given[1]["pooled_output"]
        assert entry[1]["gloria_first_latent"] == 0
        assert set(entry[1]) == {
            "pooled_output", "gloria_first_latent", "gloria_anchors", "gloria_anchor_slots", "gloria_audio",
            "concat_latent_image", "concat_mask",
        }  # fmt: skip


def test_nothing_that_was_given_is_changed(vae, anchors):
    given = {
        "positive": prompt(1), "negative": prompt(2), "start_image": picture(40, 70)[None], "audio_features": speech(9),
    }  # fmt: skip
    before = copy.deepcopy(given)
    images_before = [anchor.image_HWC.clone() for anchor in anchors.anchors]
    condition(vae, anchors=anchors, **given)
    for name in ("positive", "negative"):
        (embedding, options), (embedding_before, options_before) = given[name][0], before[name][0]
        assert torch.equal(embedding, embedding_before)
        assert options.keys() == options_before.keys()
        assert torch.equal(options["pooled_output"], options_before["pooled_output"])
    assert torch.equal(given["start_image"], before["start_image"])
    assert torch.equal(given["audio_features"].features_FLC, before["audio_features"].features_FLC)
    for anchor, image_before in zip(anchors.anchors, images_before, strict=True):
        assert torch.equal(anchor.image_HWC, image_before)


def test_without_images_and_audio_only_the_prompt_remains(vae):
    positive, negative, latent = condition(vae)
    assert set(positive[0][1]) == set(negative[0][1]) == {"pooled_output", "gloria_first_latent"}
    assert set(latent) == {"samples", "gloria_pixel_frames", "gloria_fps"}
    assert not latent["samples"].any()


@pytest.mark.parametrize(("length", "latent_frames"), [(1, 1), (2, 2), (9, 3), (10, 4), (121, 31)])
def test_the_latent_covers_the_exact_length(vae, length, latent_frames):
    _, _, latent = condition(vae, length=length)
    assert tuple(latent["samples"].shape) == (1, 16, latent_frames, HEIGHT // 8, WIDTH // 8)
    assert latent["gloria_pixel_frames"] == length


def test_length_zero_means_as_long_as_the_speech_and_any_other_length_wins(vae):
    for length, expected in ((0, 34), (20, 20), (50, 50)):
        positive, _, latent = condition(vae, length=length, audio_features=speech(34))
        assert latent["gloria_pixel_frames"] == expected
        assert positive[0][1]["gloria_audio"].shape[0] == 34


def test_the_prompt_hears_the_speech_and_the_negative_prompt_hears_nothing(vae):
    features = speech(9)
    positive, negative, _ = condition(vae, audio_features=features)
    assert positive[0][1]["gloria_audio"] is features.features_FLC
    silence = negative[0][1]["gloria_audio"]
    assert silence.shape == features.features_FLC.shape
    assert not silence.any()
    assert silence.untyped_storage().nbytes() <= 16


def test_the_stock_encoders_output_becomes_features_at_24_frames_per_second(vae):
    num_samples = 8000
    num_tokens = 24  # of wav2vec2's convolutions for that many samples
    layers = [torch.randn(1, num_tokens, AUDIO_WIDTH) for _ in range(NUM_LAYERS)]
    output = {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": num_samples}
    positive, _, latent = condition(vae, length=0, audio_features=output)
    assert latent["gloria_pixel_frames"] == 12
    assert tuple(positive[0][1]["gloria_audio"].shape) == (12, NUM_LAYERS, AUDIO_WIDTH)


def test_the_start_image_is_frame_zero_of_the_latent_and_marked_as_known(vae):
    start = picture(HEIGHT, WIDTH, 7)
    _, _, latent = condition(vae, start_image=start[None])
    samples, mask = latent["samples"], latent["noise_mask"]
    assert torch.equal(samples[:, :, :1], encode(vae, start[None]))
    assert not samples[:, :, 1:].any()
    assert mask.tolist() == [[[[[0.0]], [[1.0]], [[1.0]]]]]


def test_the_global_anchor_is_the_start_image_unless_another_is_given(vae, anchors):
    positive, _, latent = condition(vae, anchors=anchors)
    global_latent = positive[0][1]["gloria_anchors"][0]
    assert torch.equal(latent["samples"][:, :, :1], global_latent)
    start = picture(HEIGHT, WIDTH, 7)
    positive, _, latent = condition(vae, anchors=anchors, start_image=start[None])
    assert torch.equal(latent["samples"][:, :, :1], encode(vae, start[None]))
    assert torch.equal(positive[0][1]["gloria_anchors"][0], global_latent)
    without_global = AnchorSet(anchors.of_kind("expression"))
    assert "noise_mask" not in condition(vae, anchors=without_global)[2]


@pytest.mark.parametrize("length", [1, 9, 121])
def test_image_channels_equal_those_of_the_stock_node(vae, length):
    start = picture(HEIGHT, WIDTH, 7)[None]
    ours = condition(vae, start_image=start, length=length)
    with torch.inference_mode():
        stock = comfy_extras.nodes_wan.WanImageToVideo.execute(
            prompt(1), prompt(2), vae, WIDTH, HEIGHT, length, 1, start_image=start
        ).result
    for ours_cond, stock_cond in zip(ours[:2], stock[:2], strict=True):
        # Equal up to how threads share a convolution of another length.
        images = (entry[0][1]["concat_latent_image"] for entry in (ours_cond, stock_cond))
        torch.testing.assert_close(*images, rtol=0, atol=1e-5)
        assert torch.equal(ours_cond[0][1]["concat_mask"], stock_cond[0][1]["concat_mask"])
    assert ours[2]["samples"].shape == stock[2]["samples"].shape


def test_image_channels_of_a_long_film_stop_growing_at_the_length_of_the_steady_gray(vae):
    start = picture(HEIGHT, WIDTH, 7)
    positive, _, latent = condition(vae, start_image=start[None], length=14400)
    image = positive[0][1]["concat_latent_image"]
    assert image.shape[2] == positive[0][1]["concat_mask"].shape[2] == 41
    assert latent["samples"].shape[2] == latent["noise_mask"].shape[2] == 3601
    longer = torch.full((177, HEIGHT, WIDTH, 3), 0.5)
    longer[0] = start
    full = encode(vae, longer)
    longest = torch.cat([image, image[:, :, -1:].expand(-1, -1, 4, -1, -1)], dim=2)
    torch.testing.assert_close(longest, full, rtol=0, atol=1e-5)


def test_the_clip_vision_output_goes_to_both(vae):
    marker = object()
    positive, negative, _ = condition(vae, clip_vision_output=marker)
    assert positive[0][1]["clip_vision_output"] is negative[0][1]["clip_vision_output"] is marker


def test_the_wan_2_2_vae_makes_48_channels_and_no_image_channels(vae_2_2, anchors):
    positive, _, latent = condition(vae_2_2, anchors=anchors, viewpoint_size=128, expression_size=64)
    options = positive[0][1]
    assert tuple(latent["samples"].shape) == (1, 48, 3, HEIGHT // 16, WIDTH // 16)
    assert latent["samples"][:, :, 0].any()
    assert "concat_latent_image" not in options
    assert [tuple(a.shape[1:]) for a in options["gloria_anchors"]] == [
        (48, 1, 2, 4), (48, 1, 10, 6), (48, 1, 4, 4), (48, 1, 4, 2),
    ]  # fmt: skip


def test_the_wan_2_2_vae_needs_multiples_of_32(vae_2_2):
    with pytest.raises(PlanError, match=r"width is 48 pixels, expected a multiple of 32.*use 32 or 64"):
        condition(vae_2_2, width=48)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"width": 70}, PlanError, "width is 70 pixels, expected a multiple of 16.*use 64 or 80"),
        ({"height": 8}, PlanError, "height is 8 pixels.*use 16 or 32"),
        ({"length": 0}, PlanError, "length is 0.*connect Gloria Audio"),
        ({"start_image": torch.zeros(2, 64, 64, 3)}, AnchorError, r"start_image has shape \[2, .*ImageFromBatch"),
        ({"start_image": torch.zeros(1, 1, 1, 3)}, AnchorError, "start_image is 1x1 pixels"),
        ({"start_image": torch.full((1, 64, 64, 3), float("nan"))}, AnchorError, "start_image holds .*not finite"),
    ],
)
def test_bad_input_is_refused_before_anything_is_encoded(vae, monkeypatch, inputs, error, message):
    def encode_is_too_early(*_args):
        raise AssertionError("encoded before the inputs were checked")

    monkeypatch.setattr(vae, "encode", encode_is_too_early)
    with pytest.raises(error, match=message):
        condition(vae, **inputs)


def test_a_vae_of_another_model_is_refused():
    network = comfy.taesd.taesd.TAESD()
    state_dict = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    with pytest.raises(MediaError, match=r"TAESD, 4 latent channels.*wan_2\.1_vae"):
        condition(comfy.sd.VAE(sd=state_dict))


def test_a_vae_that_makes_nan_is_reported(vae, anchors):
    weight = vae.first_stage_model.encoder.conv1.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        with pytest.raises(MediaError, match="VAE made values that are not finite"):
            condition(vae, anchors=anchors)
    finally:
        with torch.no_grad():
            weight.copy_(saved)


def test_a_ten_minute_film_takes_no_memory_before_it_is_sampled(vae):
    process = psutil.Process()
    before = process.memory_info().rss
    _, _, latent = condition(vae, length=14400, width=832, height=480)
    with_start = film_latent(LatentSize.from_pixels(16, 14400, 480, 832), torch.ones(1, 16, 1, 60, 104))
    grown = process.memory_info().rss - before
    assert latent["samples"].nbytes > 1.4e9
    assert with_start["samples"][0, :, 0].all()
    assert grown < 80e6  # the start image's 16 channels lie far apart, each may take up to two pages of 2 MiB


def test_a_film_beyond_the_machine_is_a_clear_error(vae):
    with pytest.raises(PlanError, match="GiB, more than this machine grants"):
        condition(vae, length=1_000_000, width=16384, height=16384)


@pytest.mark.parametrize("loader", ["stock", "gloria"])
@pytest.mark.parametrize("config", [TOY_T2V, TOY_I2V], ids=["t2v", "i2v"])
def test_one_latent_serves_both_kinds_of_base_in_a_stock_ksampler(vae, anchors, tmp_path, config, loader):
    config = dataclasses.replace(config, text_dim=4096)  # the width that the stock loader takes for granted
    path = tmp_path / "base.safetensors"
    gloria_core.toy_weights.write_toy_dit(path, config)
    model = load_gloria_model(path, None, {}) if loader == "gloria" else comfy.sd.load_diffusion_model(str(path))
    seen = []

    def record(apply_model, arguments):
        seen.append((arguments["input"][:1], arguments["timestep"][:1], arguments["c"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(record)
    text = {"positive": prompt(1, config.text_dim), "negative": prompt(2, config.text_dim)}
    positive, negative, latent = condition(vae, anchors=anchors, **text)
    with torch.inference_mode():
        (out,) = comfyui_nodes.KSampler().sample(
            model, 5, 3, 3.5, "euler", "simple", positive, negative, latent, denoise=1.0
        )
        clean = model.model.process_latent_in(latent["samples"])[:, :, :1]
        noise = comfy.sample.prepare_noise(latent["samples"], 5)[:, :, :1]
    assert torch.allclose(out["samples"][:, :, :1], latent["samples"][:, :, :1], atol=1e-5)
    assert out["samples"][:, :, 1:].isfinite().all()
    in_place = loader == "gloria" and not config.takes_image_channels
    for step_input, sigma, arguments in seen:
        # In training frame 0 of an I2V base is noised like the others, a clean prefix of our T2V base is not.
        expected = clean if in_place else sigma * noise + (1 - sigma) * clean
        assert torch.allclose(step_input[:, :, :1], expected, atol=1e-5)
        concat = arguments.get("c_concat")
        assert (concat is not None) == config.takes_image_channels
        if concat is not None:
            assert concat[0, :4, :, 0, 0].tolist() == [[1.0, 0.0, 0.0]] * 4
            assert torch.allclose(concat[:1, 4:, :1], clean, atol=1e-5)
