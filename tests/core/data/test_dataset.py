"""Batches from a cache are what sampling would see. Run: python -m pytest tests/core/data/test_dataset.py"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))
from toy_run import CLIP_LATENTS, WINDOW_LATENTS, toy_config, write_cache

from gloria_core.conditioning.audio import frame_windows
from gloria_core.data.batch import SampleDraw
from gloria_core.data.cache import CacheStore
from gloria_core.data.cache_index import read_index
from gloria_core.data.dataset import load_samples
from gloria_core.data.draws import DrawPlan
from gloria_core.errors import DatasetError
from gloria_core.sampling import denoise
from gloria_core.sampling.plan import PREFIX_LATENTS, Chunk
from gloria_core.training.validate import clip_conditions


def draw(**changes):
    values = {"clip_idx": 0, "num_latents": WINDOW_LATENTS, "first_latent": 0, "num_known": 1, "anchors": (0,),
              "drop_text": False, "drop_audio": False, "noise_seed": 1, "sigma": 0.5}  # fmt: skip
    return SampleDraw(**{**values, **changes})


@pytest.fixture(scope="module", params=["t2v", "i2v"])
def cache(request, tmp_path_factory):
    folder = write_cache(tmp_path_factory.mktemp("cache"), base=request.param)
    return CacheStore(folder), read_index(folder), request.param == "i2v"


def load(cache, *draws, audio=True):
    store, index, image_channels = cache
    return load_samples(store, index, draws, image_channels=image_channels, audio=audio)


@pytest.mark.parametrize(("first", "known"), [(0, 1), (2, PREFIX_LATENTS)])
def test_windows_known_frames_and_image_channels_are_those_of_sampling(cache, first, known):
    store, index, image_channels = cache
    clip = index.clips[0]
    (batch,) = load(cache, draw(first_latent=first, num_known=known))
    whole = store.load(clip.latents)["latents"]
    assert torch.equal(batch.latents_BCTHW[0], whole[:, first : first + WINDOW_LATENTS])
    conditions = clip_conditions(store, index, clip, with_anchors=True)
    prefix = whole[None, :, first : first + PREFIX_LATENTS].float() if first else None
    chunk = Chunk(index=int(first > 0), start=first, length=WINDOW_LATENTS, prefix=PREFIX_LATENTS if first else 0)
    image, known_T = denoise._known_latents(conditions, batch.latents_BCTHW.float(), prefix, chunk)
    assert torch.equal(batch.known_BT[0], known_T)
    if image_channels:
        torch.testing.assert_close(batch.image_BCTHW.float(), image)
    else:
        assert batch.image_BCTHW is None
    windows = frame_windows(store.load(clip.audio)["audio"], first, WINDOW_LATENTS)
    assert torch.equal(batch.audio_BNWLC[0], windows.bfloat16())


def test_dropped_conditions_are_the_empty_prompt_and_zeros(cache):
    store, index, _ = cache
    (batch,) = load(cache, draw(drop_text=True, drop_audio=True))
    assert torch.equal(batch.text_BLD[0], store.load(index.empty_text)["text"])
    assert not batch.audio_BNWLC.any()
    (batch,) = load(cache, draw(), audio=False)
    assert batch.audio_BNWLC is None


def test_samples_of_one_layout_are_stacked_and_others_apart(cache):
    store, index, _ = cache
    anchors = index.sources[0].anchors
    front, back = (next(i for i, a in enumerate(anchors) if a.label == label) for label in ("front", "back"))
    one, two, three = draw(anchors=(0, front)), draw(anchors=(1, back), clip_idx=1), draw(anchors=(2,))
    batches = load(cache, one, three, two)
    assert [batch.draws for batch in batches] == [(one, two), (three,)]
    assert batches[0].anchor_slots == (
        (("global", "global"),) * 2, (("viewpoint", "front"), ("viewpoint", "back")),
    )  # fmt: skip
    assert torch.equal(batches[0].anchors[1][1], store.load(anchors[back].key)["latent"])


def test_missing_entries_are_named(cache, tmp_path):
    folder = write_cache(tmp_path / "cache")
    index = read_index(folder)
    (folder / "entries" / f"{index.clips[0].latents}.json").unlink()
    with pytest.raises(DatasetError, match=index.clips[0].latents):
        load_samples(CacheStore(folder), index, [draw()], image_channels=False, audio=True)


def test_drawn_windows_stay_inside_their_clips(tmp_path):
    config = toy_config(tmp_path, stages=[{"name": "one", "steps": 40}])
    index = read_index(Path(config.data.cache))
    plan = DrawPlan(index, config, False)
    for step in range(40):
        for sample in plan.step(step).samples:
            assert sample.first_latent + sample.num_latents <= CLIP_LATENTS
