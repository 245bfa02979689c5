"""The core's own inference from model to film. Run: python -m pytest tests/core/test_generate.py"""

import dataclasses
import itertools

import pytest
import torch

from gloria_core.errors import AnchorError, PlanError
from gloria_core.generate import Job, VideoOutput, generate
from gloria_core.media.normalized_decoder import NormalizedDecoder
from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_core.sampling.denoise import Conditions, SampleSettings, denoise_chunk
from gloria_core.sampling.plan import chunk_seed, plan_chunks
from gloria_core.shapes import LatentSize, spatial_stride
from gloria_core.toy_weights import random_state_dict

CONFIGS = {"t2v": TOY_T2V, "i2v": TOY_I2V, "ti2v": TOY_TI2V}
TOTAL = 9
SETTINGS = SampleSettings(seed=2, steps=2, chunk_latents=6, prefix_latents=4)


@pytest.fixture(scope="module", params=CONFIGS)
def setup(request):
    config = dataclasses.replace(CONFIGS[request.param], num_layers=2).with_audio(audio_layers=2, audio_channels=8)
    model = GloriaDiT(config, dtype=torch.float32).eval()
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    model.load_state_dict(random_state_dict(shapes, 0, torch.float32))
    size = LatentSize(config.out_dim, TOTAL, 4, 4)
    return model, conditions_for(config, size), size


def conditions_for(config, size):
    generator = torch.Generator().manual_seed(1)
    randn = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return Conditions(
        text_BLD=randn(1, 5, config.text_dim),
        negative_text_BLD=randn(1, 5, config.text_dim),
        anchors=[randn(1, size.channels, 1, 4, 4), randn(1, size.channels, 1, 2, 2)],
        anchor_slots=(("global", "global"), ("expression", "happy")),
        audio_FLC=randn(45, 2, 8),
        start_BCTHW=randn(1, size.channels, 3 if config.takes_image_channels else 1, 4, 4),
        clip_BLD=randn(1, 257, 1280) if config.model_type == "i2v" else None,
    )


class ToyDecoder:
    """Frames of the right size and number whose gray is the mean of their latent."""

    group_latents = 1
    fingerprint = "toy"

    def __init__(self, channels):
        self.channels = channels

    def reset(self):
        self.num_frames = 1

    def push(self, latents_BCTHW):
        sides = [side * spatial_stride(self.channels) for side in latents_BCTHW.shape[3:]]
        frames = torch.full((self.num_frames, *sides, 3), torch.sigmoid(latents_BCTHW.mean()).item())
        self.num_frames = 4
        return frames


def job(root):
    return Job(root, "core", {"model": {"digest": "ab"}})


def test_a_long_film_is_its_chunks_each_behind_the_end_of_the_one_before(setup, tmp_path):
    model, conditions, size = setup
    film = generate(model, conditions, size, SETTINGS, job(tmp_path))
    prefix, expected = None, None
    for chunk in plan_chunks(TOTAL, 6, 4).chunks:
        latents = denoise_chunk(model, conditions, size, SETTINGS, chunk, chunk_seed(2, chunk.index), prefix)
        if expected is None:
            expected = latents
        else:
            w = torch.tensor([1, 0.67, 0.33, 0]).view(1, 1, 4, 1, 1)
            end = expected[:, :, -4:]
            overlap = w * end + (1 - w) * latents[:, :, :4] if model.config.takes_image_channels else end
            expected = torch.cat([expected[:, :, :-4], overlap, latents[:, :, 4:]], dim=2)
        prefix = latents[:, :, -4:]
    assert film.shape == (1, *size)
    assert torch.equal(film, expected)


def test_known_latents_stay_exactly_in_place_or_are_denoised_again(setup):
    model, conditions, size = setup
    first, second, *_ = plan_chunks(TOTAL, 6, 4).chunks
    start = denoise_chunk(model, conditions, size, SETTINGS, first, 2, None)
    prefix = torch.randn(1, size.channels, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    following = denoise_chunk(model, conditions, size, SETTINGS, second, 2, prefix)
    is_in_place = not model.config.takes_image_channels
    assert torch.equal(start[:, :, :1], conditions.start_BCTHW[:, :, :1]) == is_in_place
    assert torch.equal(following[:, :, :4], prefix) == is_in_place


def test_prefix_speech_anchors_and_start_all_reach_the_model(setup):
    model, conditions, size = setup
    first, second, *_ = plan_chunks(TOTAL, 6, 4).chunks
    prefix = torch.randn(1, size.channels, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    replace = dataclasses.replace
    variants = [
        (conditions, second, prefix),
        (conditions, second, prefix * 0.5),
        (conditions, first, None),
        (replace(conditions, audio_FLC=conditions.audio_FLC * 2), second, prefix),
        (replace(conditions, anchors=(), anchor_slots=()), second, prefix),
        (replace(conditions, text_BLD=conditions.text_BLD * 2), second, prefix),
    ]
    runs = [denoise_chunk(model, varied, size, SETTINGS, chunk, 2, given) for varied, chunk, given in variants]
    for a, b in itertools.combinations(runs, 2):
        assert not torch.equal(a[:, :, 4:], b[:, :, 4:])


@pytest.mark.parametrize("index", [0, 1])
def test_a_chunk_hears_its_own_speech_only(setup, index):
    model, conditions, size = setup
    chunk = plan_chunks(TOTAL, 6, 4).chunks[index]
    prefix = torch.zeros(1, size.channels, 4, 4, 4) if index else None
    own = range(max(0, 4 * chunk.start - 3), 4 * chunk.stop - 3)
    others, within = conditions.audio_FLC.clone(), conditions.audio_FLC.clone()
    others[[frame for frame in range(len(others)) if frame not in own]] = 5.0
    within[own.stop - 1] = 5.0
    film, same, different = (
        denoise_chunk(model, dataclasses.replace(conditions, audio_FLC=audio), size, SETTINGS, chunk, 2, prefix)
        for audio in (conditions.audio_FLC, others, within)
    )
    assert torch.equal(film, same)
    assert not torch.equal(film, different)


def test_a_second_call_resumes_and_writes_the_video(setup, tmp_path):
    model, conditions, size = setup
    first = generate(model, conditions, size, SETTINGS, job(tmp_path))
    kept = []
    output = VideoOutput(tmp_path / "film.mp4", ToyDecoder(size.channels), pixel_frames=31)
    second = generate(
        model, conditions, size, SETTINGS, job(tmp_path), output, on_chunk=lambda chunk, is_kept: kept.append(is_kept)
    )
    assert kept == [True] * 3
    assert torch.equal(first, second)
    import av

    with av.open(output.path) as video:
        assert sum(1 for _ in video.decode(video=0)) == 31


def test_conditions_that_do_not_fit_are_refused(setup, tmp_path):
    model, conditions, size = setup
    replace = dataclasses.replace
    with pytest.raises(PlanError, match="latent channels"):
        generate(model, conditions, size._replace(channels=20), SETTINGS, job(tmp_path))
    with pytest.raises(AnchorError, match="slots"):
        generate(model, replace(conditions, anchor_slots=()), size, SETTINGS, job(tmp_path))
    with pytest.raises(PlanError, match="start latent"):
        wrong = replace(conditions, start_BCTHW=torch.zeros(1, size.channels, 1, 6, 6))
        generate(model, wrong, size, SETTINGS, job(tmp_path))
    if model.config.takes_image_channels:
        with pytest.raises(PlanError, match="start image"):
            generate(model, replace(conditions, start_BCTHW=None), size, SETTINGS, job(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_normalized_decoder_undoes_the_normalisation_per_channel():
    class Recorder(ToyDecoder):
        def push(self, latents_BCTHW):
            self.seen = latents_BCTHW
            return super().push(latents_BCTHW)

    inner = Recorder(16)
    mean, std = torch.arange(16.0), torch.linspace(0.5, 2, 16)
    decoder = NormalizedDecoder(inner, mean, std)
    decoder.reset()
    decoder.push(torch.full((1, 16, 1, 2, 2), 3.0))
    torch.testing.assert_close(inner.seen[0, :, 0, 0, 0], 3 * std + mean)
    assert decoder.fingerprint != inner.fingerprint
