"""The toy world as a dataset of the shipped trainer. Run: pytest tests/core/demo/test_world_cache.py"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.data.cache import ENTRIES, CacheStore
from gloria_core.data.cache_index import INDEX_NAME, read_index
from gloria_core.data.draws import DrawPlan
from gloria_core.demo.anchor_candidates import anchor_candidates
from gloria_core.demo.audio_encoder import train_audio_encoder
from gloria_core.demo.files import IDENTITY, WINDOWS, DemoFiles
from gloria_core.demo.latent_scale import normalized
from gloria_core.demo.runs import curriculum_run
from gloria_core.demo.sizes import TINY
from gloria_core.demo.text_encoder import load_text_encoder, train_text_encoder
from gloria_core.demo.wan_vae import WanVae, reset_parameters
from gloria_core.demo.world_cache import build_world_cache, load_vae
from gloria_core.durable_files import write_safetensors
from gloria_core.toyworld.character import training_character
from gloria_core.toyworld.program import VIEW_YAW
from gloria_core.toyworld.source import make_source

CPU = torch.device("cpu")


def build(files, sizes=TINY):
    return build_world_cache(sizes, files, WINDOWS, CPU)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    files = DemoFiles(tmp_path_factory.mktemp("demo"))
    vae = WanVae(TINY.vae.width)
    reset_parameters(vae, 0)
    write_safetensors(files.vae, vae.state_dict(), {"format": "pt"})
    train_text_encoder(TINY, files.text_encoder)
    train_audio_encoder(TINY, files.audio_encoder)
    build(files)
    return files


@pytest.fixture(scope="module")
def index(files):
    return read_index(files.cache(WINDOWS))


def first_source():
    return make_source(training_character(0), 0, TINY.world.fps, TINY.world.seconds)


def test_a_clip_is_its_stretch_of_the_video_with_its_words_and_its_sound(files, index):
    store, source = CacheStore(files.cache(WINDOWS)), first_source()
    clip = next(clip for clip in index.clips if clip.source == "train_00000")
    first, num_frames = round(clip.start * TINY.world.fps), 4 * clip.num_latents - 3
    video = source.frames(first, num_frames).movedim(-1, 0)[None] * 2 - 1
    with torch.inference_mode():
        expected = normalized(load_vae(files.vae, CPU).encode(video.bfloat16())[0].float())[0]
    assert torch.allclose(store.load(clip.latents)["latents"].float(), expected, atol=0.02)
    text = load_text_encoder(files.text_encoder)(source.prompt(first, num_frames))
    assert torch.allclose(store.load(clip.text)["text"].float(), text, atol=0.05)
    assert store.load(clip.audio)["audio"].shape == (num_frames, *index.audio_shape)


def test_held_out_characters_are_for_validation_alone(index):
    splits = {clip.source: clip.split for clip in index.clips}
    assert {source: split == "validation" for source, split in splits.items()} == {
        source: source.startswith("held_out") for source in splits
    }
    assert len(splits) == TINY.world.num_sources + TINY.world.num_held_out


def test_the_trainers_draw_plan_accepts_it_and_takes_anchors_from_inside_and_outside(files, index):
    config = curriculum_run(TINY, files, "cpu", IDENTITY, "base.safetensors")
    config = replace(config, stages=tuple(replace(stage, steps=40) for stage in config.stages), batch_size=4)
    plan = DrawPlan(index, config, image_channels=False)
    plan.check()
    sources = {source.id: source for source in index.sources}
    kinds, is_inside = set(), []
    for step in range(config.total_steps):
        for draw in plan.step(step).samples:
            clip = index.clips[draw.clip_idx]
            begin = clip.start + (4 * draw.first_latent - 3) / index.fps
            for anchor in (sources[clip.source].anchors[idx] for idx in draw.anchors):
                kinds.add(anchor.kind)
                if anchor.kind == "global":
                    is_inside.append(begin <= anchor.time < begin + 4 * draw.num_latents / index.fps)
    assert kinds == {"global", "viewpoint", "expression"}
    assert any(is_inside)
    assert not all(is_inside)


def test_a_second_build_makes_only_what_is_missing_and_the_same(files, index):
    folder = files.cache(WINDOWS)
    lost = index.clips[-1].latents
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder / ENTRIES).iterdir()}
    (folder / ENTRIES / f"{lost}.safetensors").unlink()
    (folder / INDEX_NAME).unlink()
    assert build(files) == index
    for path, (written, content) in before.items():
        assert path.read_bytes() == content, path
        # A source is made whole again; the others are not touched.
        if index.sources[0].anchors[0].key in path.name:
            assert path.stat().st_mtime_ns == written


def test_every_label_has_a_picture_and_seen_ones_show_what_they_say():
    source = first_source()
    candidates = anchor_candidates(source, np.random.default_rng(0))
    labels = {(each.anchor.kind, each.anchor.label) for each in candidates}
    assert labels == {("global", "global"), *(("viewpoint", x) for x in VIEWPOINTS),
                      *(("expression", x) for x in EXPRESSIONS)}  # fmt: skip
    seen = [each for each in candidates if each.time is not None and each.anchor.kind != "global"]
    assert seen
    for each in seen:
        poses = source.poses(round(each.time * source.fps), 1)
        if each.anchor.kind == "viewpoint":
            error = (float(poses.yaw_T) - VIEW_YAW[each.anchor.label] + math.pi) % (2 * math.pi) - math.pi
            assert abs(error) < math.radians(20)
        else:
            assert poses.expression_TE[0].argmax() == EXPRESSIONS.index(each.anchor.label)


def test_a_global_anchor_is_the_frame_of_its_time():
    source = first_source()
    for each in anchor_candidates(source, np.random.default_rng(0)):
        if each.anchor.kind == "global":
            frame = source.frames(round(each.time * source.fps), 1)[0]
            assert torch.allclose(each.anchor.image_HWC, frame, atol=1e-5)
