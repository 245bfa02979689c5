"""Streaming decode against the whole decode. Run: python -m pytest tests/core/test_decode_latents.py"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gloria_core.errors import MediaError
from gloria_core.media.decode_latents import digest_latents, stream_frames

sys.path.append(str(Path(__file__).parent))
from toy_decoder import random_latents, toy_decoder, toy_vae


class PairCounter:
    """Writes each latent's first value into its frames, and notes how it was fed."""

    channels = 16
    group_latents = 2
    fingerprint = "counter"

    def reset(self):
        self.groups = []

    def push(self, latents_BCTHW):
        assert latents_BCTHW.shape[2] == 1 if not self.groups else latents_BCTHW.shape[2] <= 2
        self.groups.append(latents_BCTHW[0, 0, :, 0, 0].tolist())
        repeats = 1 if len(self.groups) == 1 else 4
        return latents_BCTHW[0, 0, :, :1, :1, None].expand(-1, 8, 8, 3).repeat_interleave(repeats, 0)


def numbered_latents(num_latents):
    return torch.arange(num_latents).float().view(1, 1, -1, 1, 1).expand(1, 16, num_latents, 1, 1)


@pytest.mark.parametrize("is_2_2", [False, True])
@pytest.mark.parametrize("num_latents", [1, 2, 3, 5, 9])
def test_streamed_frames_equal_diffusers_own_decode_bit_for_bit(is_2_2, num_latents):
    vae = toy_vae(is_2_2)
    latents = random_latents(num_latents, vae.config.z_dim)
    streamed = torch.cat(list(stream_frames(toy_decoder(is_2_2), latents)))
    with torch.no_grad():
        expected = vae.decode(latents).sample[0].movedim(0, -1).add(1).div(2)
    assert expected.std() > 0.05
    assert torch.equal(streamed, expected)


def test_restart_with_warm_up_equals_the_unbroken_decode_bit_for_bit():
    decoder, latents = toy_decoder(), random_latents(44, height=2, width=2)
    unbroken = torch.cat(list(stream_frames(decoder, latents)))
    for first in (39, 43):
        restarted = torch.cat(list(stream_frames(decoder, latents, first_latent=first)))
        assert torch.equal(restarted, unbroken[1 + (first - 1) * 4 :])


@pytest.mark.parametrize("warm_up", [1, 2, 3, 38])
@pytest.mark.parametrize("first", [0, 1, 2, 5, 40, 49])
@pytest.mark.parametrize("stop", [50, 51])
def test_every_wanted_frame_comes_once_and_warm_up_is_dropped(warm_up, first, stop):
    frames = torch.cat(list(stream_frames(PairCounter(), numbered_latents(51), first, stop, warm_up)))
    expected = [latent for latent in range(first, stop) for _ in range(4 if latent else 1)]
    assert frames[:, 0, 0, 0].tolist() == expected


@pytest.mark.parametrize("first", [1, 7, 8, 41])
def test_restart_keeps_the_pairs_of_the_unbroken_decode(first):
    whole, restarted = PairCounter(), PairCounter()
    list(stream_frames(whole, numbered_latents(60)))
    list(stream_frames(restarted, numbered_latents(60), first_latent=first, warm_up=5))
    assert all(pair in whole.groups for pair in restarted.groups[1:])


def test_mapped_strided_film_is_never_read_as_a_whole(tmp_path):
    path = tmp_path / "film.npy"
    film = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(60, 16, 1, 1))
    film[:] = np.arange(60)[:, None, None, None]
    latents = torch.from_numpy(np.load(path, mmap_mode="c")).movedim(0, 1)[None]
    assert not latents.is_contiguous()
    frames = torch.cat(list(stream_frames(PairCounter(), latents)))
    assert frames.shape[0] == 59 * 4 + 1
    assert digest_latents(latents) == digest_latents(latents.contiguous())


def test_digest_sees_every_value_and_the_dtype():
    latents = random_latents(40)
    digests = {digest_latents(latents), digest_latents(latents.to(torch.bfloat16)), digest_latents(latents[:, :, :39])}
    for index in (0, 17, 39):
        changed = latents.clone()
        changed[0, 5, index, 1, 1] += 1e-4
        digests.add(digest_latents(changed))
    assert len(digests) == 6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_latent_is_named_before_it_is_decoded(value):
    latents = numbered_latents(40).clone()
    latents[0, 3, 37, 0, 0] = value
    decoder = PairCounter()
    with pytest.raises(MediaError, match="Latent frame 37 of 40"):
        list(stream_frames(decoder, latents))
    assert decoder.groups[-1] == [35.0, 36.0]
    with pytest.raises(MediaError, match="Latent frame 37 of 40"):
        digest_latents(latents)


def test_nan_from_the_vae_is_told_apart_from_bad_latents():
    decoder = toy_decoder()
    torch.nn.init.constant_(decoder._vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(MediaError, match="the latents are fine"):
        list(stream_frames(decoder, random_latents(2)))


def test_wrong_shapes_and_spans_are_refused_at_the_call():
    decoder = PairCounter()
    for latents, message in (
        (torch.zeros(16, 3, 2, 2), "Expected a video latent"),
        (torch.zeros(2, 16, 3, 2, 2), "Got 2 videos"),
        (torch.zeros(1, 48, 3, 2, 2), "48 channels, this VAE decodes 16"),
        (torch.zeros(1, 16, 0, 2, 2), "is empty"),
    ):
        with pytest.raises(MediaError, match=message):
            stream_frames(decoder, latents)
    for first, stop in ((-1, 3), (3, 3), (0, 4)):
        with pytest.raises(MediaError, match="Cannot decode latents"):
            stream_frames(decoder, torch.zeros(1, 16, 3, 2, 2), first, stop)
    with pytest.raises(MediaError, match="at least 1 warm-up"):
        stream_frames(decoder, torch.zeros(1, 16, 3, 2, 2), 1, warm_up=0)


def test_vae_with_another_time_stride_is_refused():
    class OneToOne(PairCounter):
        def push(self, latents_BCTHW):
            return super().push(latents_BCTHW)[:1]

    with pytest.raises(MediaError, match="not a Wan video VAE"):
        list(stream_frames(OneToOne(), numbered_latents(3)))
