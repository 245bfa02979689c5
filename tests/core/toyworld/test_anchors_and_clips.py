"""Sources, anchors and training samples. Run: python -m pytest tests/core/toyworld/test_anchors_and_clips.py"""

import hashlib
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from gloria_core.conditioning.anchors import EXPRESSIONS, LABELS, VIEWPOINTS
from gloria_core.errors import ToyWorldError
from gloria_core.media.read_audio import SAMPLE_RATE
from gloria_core.toyworld.anchors import (
    MAX_EXPRESSION_YAW,
    MAX_VIEW_JITTER,
    expression_anchors,
    global_anchor,
    global_frame,
    viewpoint_anchors,
)
from gloria_core.toyworld.character import training_character
from gloria_core.toyworld.clips import ClipOptions, clip_of, random_clips
from gloria_core.toyworld.program import VIEW_YAW
from gloria_core.toyworld.source import make_source
from gloria_core.toyworld.speech import mouth_opening_of

REPO = Path(__file__).resolve().parents[3]
OPTIONS = ClipOptions(fps=8, num_frames=17, source_seconds=8)
DIGEST = """
import hashlib, sys
from itertools import islice
from gloria_core.toyworld.clips import ClipOptions, random_clips
digest = hashlib.sha256()
for clip in islice(random_clips(9, ClipOptions(fps=8, num_frames=17, source_seconds=8)), 3):
    for tensor in (clip.frames_THWC, *(anchor.image_HWC for anchor in clip.anchors)):
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(clip.samples_N.tobytes() + clip.prompt.encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def source():
    return make_source(training_character(2), 5, fps=12, seconds=10)


def test_the_same_seed_gives_the_same_bytes_in_every_process():
    run = [sys.executable, "-c", DIGEST]
    elsewhere = subprocess.run(run, cwd=REPO, capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256()
    for clip in islice(random_clips(9, OPTIONS), 3):
        for tensor in (clip.frames_THWC, *(anchor.image_HWC for anchor in clip.anchors)):
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update(clip.samples_N.tobytes() + clip.prompt.encode())
    assert elsewhere == digest.hexdigest() + "\n"


def test_anchors_have_the_labels_of_the_product(source):
    clip = clip_of(source, 3, np.random.default_rng(0), OPTIONS)
    slots = [(anchor.kind, anchor.label) for anchor in clip.anchors]
    assert slots == [(kind, label) for kind, labels in LABELS.items() for label in labels]


def test_viewpoint_anchors_face_their_way_in_any_mood(source):
    rng = np.random.default_rng(1)
    worn = []
    for _ in range(40):
        crops = viewpoint_anchors(source, rng)
        expected = torch.tensor([VIEW_YAW[label] for label in VIEWPOINTS])
        assert (crops.poses.yaw_T - expected).abs().max() <= MAX_VIEW_JITTER + 1e-6
        worn += crops.poses.expression_TE.argmax(1).tolist()
    counts = np.bincount(worn, minlength=len(EXPRESSIONS))
    assert ((counts - 20) ** 2 / 20).sum() < 7 + 6 * math.sqrt(14)


def test_expression_anchors_look_anywhere_in_front_in_another_light(source):
    rng = np.random.default_rng(2)
    crops = [expression_anchors(source, rng) for _ in range(20)]
    yaws = torch.cat([each.poses.head_yaw_T for each in crops])
    assert yaws.abs().max() <= MAX_EXPRESSION_YAW
    assert yaws.std() > 0.8 * MAX_EXPRESSION_YAW / math.sqrt(3)
    for each in crops:
        assert each.poses.expression_TE.argmax(1).tolist() == list(range(len(EXPRESSIONS)))
    light = torch.stack([anchor.image_HWC.mean((0, 1)) for each in crops for anchor in each.anchors])
    assert (light / light.mean(1, keepdim=True)).std(0).min() > 0.03


def test_a_global_anchor_is_a_frame_of_the_video(source):
    torch.testing.assert_close(global_anchor(source, 31).anchors[0].image_HWC, source.frames(31, 1)[0])
    rng, clip = np.random.default_rng(3), (40, 17)
    inside = {global_frame(source, rng, clip, is_inside=True) for _ in range(400)}
    outside = {global_frame(source, rng, clip, is_inside=False) for _ in range(3000)}
    assert inside == set(range(40, 57))
    assert outside == set(range(source.num_frames)) - inside


def test_a_clip_is_a_stretch_of_its_source(source):
    clip = clip_of(source, 24, np.random.default_rng(0), ClipOptions(fps=12, num_frames=17))
    torch.testing.assert_close(clip.frames_THWC, source.frames(0, 60)[24:41], atol=1e-5, rtol=0)
    start, stop = 24 * SAMPLE_RATE // 12, round(41 * SAMPLE_RATE / 12)
    np.testing.assert_array_equal(clip.samples_N, source.samples_N[start:stop])
    opening = mouth_opening_of(source.samples_N, 12, source.num_frames)[24:41]
    np.testing.assert_allclose(clip.poses.speech_T.numpy(), opening)
    assert clip.prompt == source.prompt(24, 17)


def test_frames_beyond_the_video_are_refused(source):
    with pytest.raises(ToyWorldError, match="Frames 110 to 127 of a video of 120 frames"):
        source.frames(110, 17)


def test_some_videos_are_silent_and_say_so():
    sources = [make_source(training_character(0), seed, 8, seconds=4) for seed in range(24)]
    silent = [source for source in sources if source.samples_N is None]
    assert 0 < len(silent) < 12
    for source in silent:
        assert source.prompt(0, 17).endswith("silent")
        assert not source.sound(0, 17).any()
        assert len(source.sound(0, 17)) == 17 * SAMPLE_RATE // 8
