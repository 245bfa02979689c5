"""Footage to cache, with real encoders at toy size. Run: python -m pytest tests/core/data/test_build.py"""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[3]))
sys.path.append(str(Path(__file__).resolve().parent))

from toy_footage import CountingEncoders, shown, write_video

from gloria_core.conditioning.audio import features_from_speech
from gloria_core.conditioning.wav2vec import load_transformers_encoder
from gloria_core.data.buckets import bucket_size
from gloria_core.data.build import main
from gloria_core.data.cache import CacheStore
from gloria_core.data.cache_index import read_index
from gloria_core.data.manifest import Manifest, read_manifest, write_manifest
from gloria_core.data.precompute import CacheSettings, build_cache
from gloria_core.data.read_clip import probe_video, read_clip, read_picture
from gloria_core.data.scan_folder import ScanOptions, scan_folder
from gloria_core.errors import DatasetError
from gloria_core.media.read_audio import read_audio
from gloria_core.toy_lab import write_toy_encoders

SIZE = "32x32"


@pytest.fixture
def footage(tmp_path):
    folder = tmp_path / "footage"
    write_video(folder / "anna.mp4", seconds=4)
    (folder / "anna.txt").write_text("a woman speaks\n")
    for name in ("front", "back_2", "happy"):
        path = folder / "anchors" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 64), (120, 60, 30)).save(path)
    return folder


def small_scan(folder):
    return scan_folder(folder, ScanOptions(clip_frames=41))


@pytest.mark.parametrize("fps", [24, 30, 60, 12])
def test_frame_k_is_what_the_video_shows_at_its_time(tmp_path, fps):
    path = write_video(tmp_path / "v.mp4", seconds=2, fps=fps, sound=False)
    frames = read_clip(path, start=0.5, num_frames=25, fps=24.0, height=32, width=32)
    times = [0.5 + idx / 24 for idx in range(25)]
    assert shown(frames) == [int(time * fps + 1e-3) for time in times]
    picture = read_picture(path, 0.5)
    assert picture.shape == (64, 64, 3)
    assert round(float(picture.mean()) * 255 / 2 - 5) == int(0.5 * fps)


def test_length_is_read_from_the_packets(tmp_path):
    info = probe_video(write_video(tmp_path / "v.mp4", seconds=3))
    assert info.seconds == pytest.approx(3, abs=1 / 24)
    assert (info.height, info.width, info.has_audio) == (64, 64, True)


def test_clips_past_the_end_and_broken_files_are_named(tmp_path):
    path = write_video(tmp_path / "v.mp4", seconds=1)
    with pytest.raises(DatasetError, match=r"'v\.mp4' ends at 1\.00 s and shows nothing at 1\.00 s"):
        read_clip(path, 0.5, 41, 24.0, 32, 32)
    path.write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"'v\.mp4' is not a readable video"):
        probe_video(path)


def test_a_plain_folder_becomes_clips_captions_and_anchors(footage):
    manifest = small_scan(footage)
    (source,) = manifest.sources
    assert source.caption == "a woman speaks"
    assert [(clip.start, clip.frames) for clip in source.clips] == [(0, 41), (41 / 24, 41), (55 / 24, 41)]
    kinds = [(anchor.kind, anchor.label) for anchor in source.anchors]
    assert kinds.count(("global", "global")) == 10
    assert set(kinds[10:]) == {("viewpoint", "front"), ("viewpoint", "back"), ("expression", "happy")}
    assert small_scan(footage) == manifest
    write_manifest(footage, manifest)
    assert read_manifest(footage) == manifest


def test_an_anchor_image_without_a_label_is_refused(footage):
    (footage / "anchors" / "IMG_1234.png").write_bytes((footage / "anchors" / "front.png").read_bytes())
    with pytest.raises(DatasetError, match="does not start with a label"):
        small_scan(footage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=2), "schema is 2"),
        (lambda d: d["sources"][0].update(vido="x"), r"sources\[0\]: unknown field\(s\) vido"),
        (lambda d: d["sources"][0].update(video="../secret.mp4"), "leads out of"),
        (lambda d: d["sources"][0].update(video="/etc/passwd"), "leads out of"),
        (lambda d: d["sources"][0].update(video="gone.mp4"), "'gone.mp4' is not in"),
        (lambda d: d["sources"][0]["clips"][0].update(frames=40), r"clips\[0\].*4n \+ 1"),
        (lambda d: d["sources"][0]["anchors"][0].update(label="smug"), r"anchors\[0\].*smug"),
        (lambda d: d["sources"][0]["anchors"][0].update(time=None), "either time or image"),
        (lambda d: d["sources"].append(d["sources"][0]), "every id once"),
    ],
)
def test_mistakes_in_a_manifest_are_named(footage, change, message):
    write_manifest(footage, small_scan(footage))
    content = json.loads((footage / "dataset.json").read_text())
    change(content)
    (footage / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        read_manifest(footage)


def test_a_link_out_of_the_folder_is_refused(footage, tmp_path):
    manifest = small_scan(footage)
    (footage / "anna.mp4").rename(tmp_path / "elsewhere.mp4")
    (footage / "anna.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    write_manifest(footage, manifest)
    with pytest.raises(DatasetError, match="leads out of"):
        read_manifest(footage)


def test_what_is_cached_is_what_was_shown(footage, tmp_path):
    fake = CountingEncoders()
    index = build_cache(small_scan(footage), footage, tmp_path / "cache", fake.encoders, CacheSettings(size=SIZE))
    assert read_index(tmp_path / "cache") == index
    store = CacheStore(tmp_path / "cache")
    clip = index.clips[1]
    latents = store.load(clip.latents)["latents"]
    assert latents.shape == (16, 11, 4, 4)
    first = round(clip.start * 24)
    expected = [first, *[first + 4 * idx - 1.5 for idx in range(1, 11)]]
    torch.testing.assert_close(latents[0, :, 2, 2].float() * 255 / 2 - 5, torch.tensor(expected), atol=0.6, rtol=0)
    anchors = {(a.kind, a.label): a for a in index.sources[0].anchors}
    assert anchors["viewpoint", "front"].latent_size == (8, 6)
    assert anchors["global", "global"].latent_size == (4, 4)
    assert clip.audio is None
    assert store.load(clip.text)["text"][0, 0] == len("a woman speaks")
    assert store.load(index.empty_text)["text"][0, 0] == 0


def test_a_second_build_computes_only_what_is_missing_damaged_or_changed(footage, tmp_path):
    cache, settings = tmp_path / "cache", CacheSettings(size=SIZE)
    first = CountingEncoders()
    index = build_cache(small_scan(footage), footage, cache, first.encoders, settings)
    again = CountingEncoders()
    assert build_cache(small_scan(footage), footage, cache, again.encoders, settings) == index
    assert (again.videos, again.texts) == (0, 0)

    entries = cache / "entries"
    data = bytearray((entries / f"{index.clips[0].latents}.safetensors").read_bytes())
    data[-1] ^= 1
    (entries / f"{index.clips[0].latents}.safetensors").write_bytes(data)
    (entries / f"{index.clips[1].latents}.json").write_text("{")
    (entries / f"{index.clips[2].latents}.safetensors").unlink()
    with pytest.raises(DatasetError, match=r"\(of 'anna.mp4 clip 0'\) is damaged"):
        CacheStore(cache).load(index.clips[0].latents)
    mended = CountingEncoders()
    build_cache(small_scan(footage), footage, cache, mended.encoders, settings)
    assert (mended.videos, mended.texts) == (3, 0)

    (footage / "anna.txt").write_text("a woman sings")
    sings = CountingEncoders()
    changed = build_cache(small_scan(footage), footage, cache, sings.encoders, settings)
    assert (sings.videos, sings.texts) == (0, 1)
    assert changed.clips[0].text != index.clips[0].text
    other = CountingEncoders("another vae")
    build_cache(small_scan(footage), footage, cache, other.encoders, settings)
    assert (other.videos, other.texts) == (first.videos, 0)


def test_a_cancelled_build_goes_on(footage, tmp_path):
    def cancel(done, total, text):
        if done == 5:
            raise KeyboardInterrupt

    fake = CountingEncoders()
    with pytest.raises(KeyboardInterrupt):
        build_cache(small_scan(footage), footage, tmp_path / "c", fake.encoders, CacheSettings(size=SIZE), cancel)
    done = fake.videos + fake.texts
    assert done == 5
    build_cache(small_scan(footage), footage, tmp_path / "c", fake.encoders, CacheSettings(size=SIZE))
    whole = CountingEncoders()
    build_cache(small_scan(footage), footage, tmp_path / "w", whole.encoders, CacheSettings(size=SIZE))
    assert (fake.videos, fake.texts) == (whole.videos, whole.texts)


def test_nan_from_an_encoder_is_not_cached(footage, tmp_path):
    fake = CountingEncoders()
    broken = replace(fake.encoders, encode_text=lambda prompt: torch.full((1, 2), torch.nan))
    with pytest.raises(DatasetError, match="NaN"):
        build_cache(small_scan(footage), footage, tmp_path / "c", broken, CacheSettings(size=SIZE))


def test_start_videos_are_the_first_frame_and_gray(footage, tmp_path):
    fake = CountingEncoders()
    settings = CacheSettings(size=SIZE, image_channels=True)
    index = build_cache(small_scan(footage), footage, tmp_path / "c", fake.encoders, settings)
    clip = index.clips[1]
    values = CacheStore(tmp_path / "c").load(clip.start_video)["latents"][0, :, 1, 1].float()
    assert round(float(values[0]) * 255 / 2 - 5) == round(clip.start * 24)
    torch.testing.assert_close(values[1:], torch.full((10,), 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("source", "size", "multiple", "expected"),
    [
        ((1080, 1920), "480p", 16, (480, 848)),
        ((1920, 1080), "480p", 16, (848, 480)),
        ((1080, 1920), "720p", 32, (704, 1280)),
        ((240, 320), "480p", 16, (240, 320)),
        ((1080, 1920), "832x480", 16, (480, 832)),
    ],
)
def test_buckets(source, size, multiple, expected):
    assert bucket_size(*source, size, multiple) == expected


def test_bucket_sizes_that_cannot_be_are_refused():
    for size in ("833x480", "huge"):
        with pytest.raises(DatasetError):
            bucket_size(480, 832, size, 16)


def test_the_command_builds_with_real_encoders_continuously_and_hears_whole_files(footage, tmp_path):
    from diffusers import AutoencoderKLWan

    write_toy_encoders(tmp_path)
    write_manifest(footage, small_scan(footage))
    arguments = [
        str(footage), "--cache", str(tmp_path / "cache"), "--vae", str(tmp_path / "vae"),
        "--text-encoder", str(tmp_path / "text_encoder"), "--audio-encoder", str(tmp_path / "wav2vec2"),
        "--size", SIZE, "--image-channels",
    ]  # fmt: skip
    assert main(arguments) == 0
    index, store = read_index(tmp_path / "cache"), CacheStore(tmp_path / "cache")
    assert index.audio_shape == (3, 16)
    clip = index.clips[1]
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    frames = read_clip(footage / "anna.mp4", clip.start, 41, 24.0, 32, 32)
    with torch.inference_mode():
        expected = vae.encode((frames * 2 - 1).permute(3, 0, 1, 2)[None]).latent_dist.mode()[0]
    mean, std = (torch.tensor(x).view(-1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    torch.testing.assert_close(store.load(clip.latents)["latents"], ((expected - mean) / std).half())
    text = store.load(clip.text)["text"]
    assert text.shape == (512, 16)
    assert text[:3].abs().min() > 0
    assert text[3:].abs().max() == 0
    encoder = load_transformers_encoder(tmp_path / "wav2vec2")
    whole = features_from_speech(encoder, read_audio(footage / "anna.mp4"), 24.0)
    first = round(clip.start * 24)
    assert torch.equal(store.load(clip.audio)["audio"], whole.features_FLC[first : first + 41])
    assert main([str(footage), "--cache", str(tmp_path / "c2"), "--vae", str(tmp_path), "--text-encoder", "x"]) == 1


KILLED_BUILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from test_build import CacheSettings, CountingEncoders, SIZE, build_cache, small_scan
from dataclasses import replace
fake = CountingEncoders()
footage, cache = Path(sys.argv[1]), Path(sys.argv[2])
slow = lambda done, total, text: time.sleep(0.01)
print("ready", flush=True)
build_cache(small_scan(footage), footage, cache, fake.encoders, CacheSettings(size=SIZE), slow)
"""


def test_kill_9_at_random_points_then_again_gives_the_same_cache(footage, tmp_path):
    whole = build_cache(
        small_scan(footage), footage, tmp_path / "whole", CountingEncoders().encoders, CacheSettings(size=SIZE)
    )
    here = Path(__file__).resolve().parent
    script = KILLED_BUILD.format(root=str(here.parents[2]), here=str(here))
    rng = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(footage), str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.3))
        process.kill()
        process.wait()
    fake = CountingEncoders()
    index = build_cache(small_scan(footage), footage, tmp_path / "killed", fake.encoders, CacheSettings(size=SIZE))
    assert index == whole
    left, right = CacheStore(tmp_path / "killed"), CacheStore(tmp_path / "whole")
    for key in set(index.keys()):
        one, other = left.load(key), right.load(key)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_manifests_need_a_source():
    with pytest.raises(DatasetError, match="at least one source"):
        Manifest(sources=())
