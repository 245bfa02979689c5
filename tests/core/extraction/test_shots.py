"""Cuts against the truth, against PySceneDetect, and what moves without being one.

Run: python -m pytest tests/core/extraction/test_shots.py
"""

import colorsys
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.extraction.frames import pictures
from gloria_core.extraction.shots import cuts_of, find_cuts, hue_saturation_value, times_for_cuts
from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.program import make_program
from gloria_core.toyworld.scene import make_scene
from gloria_core.toyworld.source import Source

SIDE, RATE = 96, 24


def shot(seed, num_frames):
    """Frames of a toy film: other people, rooms, turns and camera moves."""
    program = make_program(seed, num_frames / RATE + 1)
    source = Source(held_out_character(seed), make_scene(seed + 40), program, None, RATE, SIDE, SIDE)
    return (source.frames(0, num_frames) * 255).byte()


def timed(frames):
    return [(idx / RATE, frame) for idx, frame in enumerate(frames)]


def noise(seed, num_frames):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 255, (num_frames, SIDE, SIDE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def film():
    lengths = [40, 25, 60, 15, 33]
    return torch.cat([shot(seed, length) for seed, length in enumerate(lengths)]), np.cumsum(lengths)[:-1] / RATE


def test_all_cuts_of_a_film_and_nothing_else_are_found(film):
    frames, truth = film
    assert find_cuts(timed(frames)) == pytest.approx(truth.tolist())


def test_a_picture_that_only_turns_lighter_or_is_panned_over_has_no_cut():
    picture = shot(7, 1)[0]
    lighter = [(picture.float() * share).byte() for share in torch.linspace(0.2, 1, 48)]
    wide = torch.cat([picture, shot(8, 1)[0], picture], 1)
    panned = [wide[:, 2 * step : 2 * step + SIDE] for step in range(SIDE)]
    assert find_cuts(timed(lighter)) == find_cuts(timed(panned)) == []


def test_flashes_shorter_than_a_shot_do_not_cut_twice():
    first, second = shot(1, 30), shot(2, 30)
    frames = torch.cat([first, second[:4], first[:26], second])
    assert find_cuts(timed(frames)) == pytest.approx([30 / RATE, 60 / RATE])


def test_few_pictures_a_second_are_no_cuts(tmp_path):
    """Five pictures a second of a fast move, then other footage; a file gives the same picture for several moments."""
    wide = torch.cat([shot(7, 1)[0], shot(8, 1)[0]], 1)
    moving = [wide[:, 6 * step : 6 * step + SIDE] for step in range(16)]
    with av.open(str(tmp_path / "slow.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5, options={"qscale": "2"})
        stream.width = stream.height = SIDE
        for picture in [*moving, *shot(2, 16)]:
            frame = av.VideoFrame.from_ndarray(picture.contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    seen = list(pictures(tmp_path / "slow.mp4", times_for_cuts(6.4)))
    assert find_cuts(seen) == pytest.approx([3.2], abs=1 / RATE)
    assert len(find_cuts([(time, picture.clone()) for time, picture in seen])) > 1, "as if each were a new picture"


@pytest.mark.parametrize("length", [0, 1, 4, 5])
def test_very_short_videos_have_no_cut(length):
    assert find_cuts(timed(shot(3, 5)[:length])) == []


def test_colors_are_those_of_pythons_own_formula():
    picture = noise(0, 1)[0, :4]
    picture[0, :3] = torch.tensor([[0, 0, 0], [9, 9, 9], [255, 255, 255]], dtype=torch.uint8)
    expected = [[colorsys.rgb_to_hsv(*pixel) for pixel in row] for row in (picture.double() / 255).tolist()]
    scaled = torch.tensor(expected, dtype=torch.float64) * torch.tensor([180.0, 255.0, 255.0])
    torch.testing.assert_close(hue_saturation_value(picture).double(), scaled, atol=2e-4, rtol=0)


def pyscenedetect(frames):
    scenedetect = pytest.importorskip("scenedetect", reason="PySceneDetect is not installed", exc_type=ImportError)
    detector, found = scenedetect.AdaptiveDetector(min_scene_len=round(0.6 * RATE)), []
    for idx, frame in enumerate(frames):
        timecode = scenedetect.FrameTimecode(idx, fps=float(RATE))
        found += detector.process_frame(timecode, np.ascontiguousarray(frame.flip(-1).numpy()))
    return [cut.frame_num / RATE for cut in found + detector.post_process(timecode)]


def test_pyscenedetect_finds_the_same(film):
    stills = torch.cat([shot(seed, 1).expand(20, -1, -1, -1) for seed in (4, 5, 6)])
    blurred = torch.cat([shot(9, 30), (shot(9, 1).float() + torch.randn(30, SIDE, SIDE, 3) * 40).clamp(0, 255).byte()])
    for frames in (film[0], stills, blurred, noise(1, 60), torch.cat([shot(1, 20), noise(2, 20), shot(1, 20)])):
        assert find_cuts(timed(frames)) == pytest.approx(pyscenedetect(frames))


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ([0.0] * 20 + [20.0] + [0.0] * 20, [20]),
        ([0.0] * 20 + [14.9] + [0.0] * 20, []),
        ([6.0] * 20 + [18.0] + [6.0] * 20, [20]),
        ([6.0] * 20 + [17.9] + [6.0] * 20, []),
        ([0.0] * 13 + [20.0] + [0.0] * 20, []),
        ([0.0] * 14 + [20.0] + [0.0] * 13 + [20.0] + [0.0] * 9, [14, 28]),
        ([0.0] * 14 + [20.0] + [0.0] * 12 + [20.0] + [0.0] * 9, [14]),
        ([0.0] * 20 + [20.0, 0.0], []),
    ],
)
def test_a_cut_is_great_and_far_greater_than_what_is_around(changes, cuts):
    assert cuts_of(np.arange(len(changes)) / RATE, np.array(changes)) == cuts
