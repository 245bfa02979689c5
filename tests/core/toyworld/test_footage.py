"""Toy footage as the product reads it. Run: python -m pytest tests/core/toyworld/test_footage.py"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS, Anchor
from gloria_core.data.manifest import read_manifest
from gloria_core.data.read_clip import probe_video, read_clip, read_image, read_picture
from gloria_core.data.scan_folder import ScanOptions, scan_folder
from gloria_core.media.read_audio import SAMPLE_RATE, read_audio
from gloria_core.toyworld.character import training_character
from gloria_core.toyworld.footage import FootageOptions, write_footage, write_video
from gloria_core.toyworld.source import make_source
from gloria_core.toyworld.speech import mouth_opening_of

OPTIONS = FootageOptions(num_videos=2, seconds=5, fps=12, size=96, clip_frames=25, anchors_per_label=1)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    return folder, write_footage(folder, [training_character(1), training_character(2)], OPTIONS)


def test_the_manifest_is_one_that_the_dataset_builder_reads(footage):
    folder, manifest = footage
    assert read_manifest(folder) == manifest
    assert [source.id for source in manifest.sources] == [
        f"training-{who}/take_{take}" for who in (1, 2) for take in (0, 1)
    ]
    for source in manifest.sources:
        kinds = [(anchor.kind, anchor.label) for anchor in source.anchors]
        assert kinds.count(("global", "global")) == 10
        assert set(kinds[10:]) == {("viewpoint", v) for v in VIEWPOINTS} | {("expression", e) for e in EXPRESSIONS}
        assert [clip.frames for clip in source.clips] == [25, 25]
        assert all(clip.caption.startswith("the character ") for clip in source.clips)


def test_every_clip_and_anchor_can_be_cut(footage):
    folder, manifest = footage
    for source in manifest.sources:
        for clip in source.clips:
            assert read_clip(folder / source.video, clip.start, clip.frames, 12, 64, 64).shape == (25, 64, 64, 3)
        for anchor in source.anchors:
            image = (
                read_picture(folder / source.video, anchor.time)
                if anchor.image is None
                else read_image(folder / anchor.image)
            )
            Anchor(anchor.kind, anchor.label, image)


def test_a_plain_scan_finds_the_same_videos_and_images(footage):
    folder, manifest = footage
    scanned = scan_folder(folder, ScanOptions(fps=12, clip_frames=25))
    assert [source.video for source in scanned.sources] == [source.video for source in manifest.sources]
    for found in scanned.sources:
        takes = [source for source in manifest.sources if source.video.split("/")[0] == found.video.split("/")[0]]
        images = {anchor.image for source in takes for anchor in source.anchors}
        assert {anchor.image for anchor in found.anchors} == images
        assert found.caption == takes[0].caption


def test_a_written_video_shows_and_sounds_like_its_source(tmp_path):
    source = make_source(training_character(1), 5, fps=12, seconds=5, height=128, width=128)
    write_video(tmp_path / "film.mp4", source)
    info = probe_video(tmp_path / "film.mp4")
    assert (info.seconds, info.height, info.width, info.has_audio) == (pytest.approx(5), 128, 128, True)
    shown = read_clip(tmp_path / "film.mp4", 0, 60, 12, 64, 64)
    drawn = F.avg_pool2d(source.frames(0, 60).movedim(-1, 1), 2).movedim(1, -1)
    error_T = (shown - drawn).square().mean((1, 2, 3)).sqrt()
    assert error_T.max() < 0.03
    assert (shown[1:] - drawn[:-1]).square().mean().sqrt() > error_T.mean()
    speech = read_audio(tmp_path / "film.mp4")
    assert float(speech.seconds) == pytest.approx(5, abs=0.1)
    heard = mouth_opening_of(speech.waveform_N.numpy(), 12, 60)
    np.testing.assert_allclose(heard[:58], source.speech_T[:58], atol=0.1)
    assert len(source.samples_N) == 5 * SAMPLE_RATE
    assert torch.isfinite(speech.waveform_N).all()


def test_the_same_options_film_the_same_pictures(tmp_path):
    options = FootageOptions(num_videos=1, seconds=2.5, fps=8, size=64, clip_frames=17, anchors_per_label=1)
    for name in ("first", "second"):
        write_footage(tmp_path / name, [training_character(4)], options)
    first, second = (
        sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("first", "second")
    )
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        if one.suffix == ".mp4":
            clips = [read_clip(path, 0, 17, 8, 64, 64) for path in (one, other)]
            torch.testing.assert_close(*clips, atol=2 / 255, rtol=0)
        else:
            assert one.read_bytes() == other.read_bytes(), one.name


def test_clips_may_overlap(tmp_path):
    options = FootageOptions(
        num_videos=1, seconds=2.5, fps=8, size=64, clip_frames=13, clip_stride=3, anchors_per_label=1
    )
    (source,) = write_footage(tmp_path, [training_character(4)], options).sources
    assert [(clip.start * 8, clip.frames) for clip in source.clips] == [(0, 13), (3, 13), (6, 13)]
