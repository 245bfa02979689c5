"""The ablation benchmark on films whose truth is known, and its whole way on random weights.

Run: pytest tests/benchmarks/test_toyworld.py
"""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.toyworld import attention
from benchmarks.toyworld.__main__ import parse, run
from benchmarks.toyworld.arms import ARMS, SWAPPED_VIEWS
from benchmarks.toyworld.films import PROGRAMS, frames_of, make_film, seams_of
from benchmarks.toyworld.looks import Looks, asked_yaw, look_once, seen_yaw
from benchmarks.toyworld.measure import look_at, measure, seam_jump, slope
from benchmarks.toyworld.report import BEGIN, END, write_between_markers
from benchmarks.toyworld.run import NOT_BLENDED, NOT_TRAINED
from benchmarks.toyworld.sample import Shot, chunk_conditions, heard, load_lab, shoot, with_settings
from benchmarks.toyworld.statistics import (
    OTHER_WAY,
    SEPARATES,
    TOGETHER,
    TOO_FEW,
    bootstrap_interval,
    estimate,
    paired_difference,
    verdict,
)
from gloria_core.analysis.attention_probe import AttentionProbe
from gloria_core.demo.audio_encoder import train_audio_encoder
from gloria_core.demo.files import ModelFiles
from gloria_core.demo.scratch import dit_config
from gloria_core.demo.sizes import TINY
from gloria_core.demo.text_encoder import train_text_encoder
from gloria_core.demo.train_arm import ONE_POSITION
from gloria_core.errors import CheckpointError
from gloria_core.model.checkpoint import load_dit, write_merged
from gloria_core.model.rope import anchor_position
from gloria_core.sampling.denoise import SampleSettings, denoise_chunk
from gloria_core.sampling.plan import plan_chunks
from gloria_core.sampling.schedule import flow_sigmas
from gloria_core.shapes import LatentSize
from gloria_core.toy_weights import write_toy_dit, write_toy_gloria, write_toy_vae
from gloria_core.toyworld.captions import VOCABULARY
from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.palette import MARK_COLORS
from gloria_core.toyworld.readout import Reader

CHUNKS = 8


def numbers_of(film, frames_THWC, every=1, read=None):
    shot = Shot(frames_THWC, seams_of(film.plan), None)
    return measure(look_at(film, shot, read or Reader(film.source).read, every))


@pytest.fixture(scope="module")
def turning():
    return make_film(TINY.world, 1, "turning", CHUNKS, 0)


@pytest.fixture(scope="module")
def talking():
    return make_film(TINY.world, 2, "talking", CHUNKS, 0)


@pytest.fixture(scope="module")
def clean(turning):
    return numbers_of(turning, turning.source.frames(0, turning.num_frames), every=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights of a model that hears, and encoders after the few steps of the tiniest training."""
    files = ModelFiles(tmp_path_factory.mktemp("untrained") / "models")
    write_toy_vae(files.vae, width=4)
    train_text_encoder(TINY, files.text_encoder)
    train_audio_encoder(TINY, files.audio_encoder)
    encoders = TINY.encoders
    config = dit_config(TINY).with_audio(encoders.audio_layers + 1, encoders.audio_width)
    base, additions = files.root / "base.safetensors", files.root / "additions.safetensors"
    write_toy_dit(base, config)
    write_toy_gloria(additions, config)
    write_merged(load_dit(base, additions), files.dit)
    return files


def test_the_true_film_is_right_in_everything(clean):
    assert clean["readable"] == 1
    assert clean["yaw_error"] < 2
    assert clean["view_error"] < 2
    assert clean["mark_unseen"] > 0.95
    assert clean["back_shows_front"] in (None, 0)
    assert clean["copy"] < 0.05
    assert abs(clean["palette_drift"]) < 0.3


def test_swapped_marks_are_seen_as_swapped(turning):
    front, back, *sleeves = turning.source.character.marks
    swapped = replace(turning.source, character=replace(turning.source.character, marks=(back, front, *sleeves)))
    poses = turning.truth()
    behind_T = torch.full_like(poses.yaw_T, math.pi)
    poses = replace(poses, yaw_T=behind_T, head_yaw_T=behind_T)
    numbers = numbers_of(turning, swapped.picture(poses), every=16)
    assert numbers["back_shows_front"] == 1
    assert numbers["mark_unseen"] == 0


@pytest.fixture(scope="module")
def feeling():
    """A film of many moods, and how it measures frames: those at the ends of chunks alone."""
    film = make_film(TINY.world, 3, "feeling", 6, 0)
    read = Reader(film.source).read
    return film, lambda frames_THWC: numbers_of(film, frames_THWC, every=1000, read=read)


@pytest.fixture(scope="module")
def felt(feeling):
    film, measured = feeling
    return measured(film.source.frames(0, film.num_frames))


def test_cheeks_of_another_color_are_seen_and_nothing_else(feeling, felt):
    film, measured = feeling
    assert (felt["quirk"], felt["expression"], felt["leak"], felt["copy"]) == (1, 1, 0, 0)
    character = film.source.character
    quirks = tuple((quirk + 1) % len(MARK_COLORS) for quirk in character.quirks)
    numbers = measured(replace(film.source, character=replace(character, quirks=quirks)).frames(0, film.num_frames))
    assert numbers["quirk"] == 0
    assert (numbers["expression"], numbers["leak"], numbers["copy"], numbers["mark_seen"]) == (1, 0, 0, 1)


def test_the_pose_of_the_front_anchor_is_seen_as_leaked_and_copied(feeling):
    film, measured = feeling
    num, front = film.num_frames, film.view_poses[:1]
    posed = replace(
        film.truth(), yaw_T=front.yaw_T.expand(num), head_yaw_T=front.head_yaw_T.expand(num),
        expression_TE=front.expression_TE.expand(num, -1),
    )  # fmt: skip
    numbers = measured(film.source.picture(posed))
    assert numbers["leak"] == 1
    # The global anchor, the other picture that could be copied, is not.
    assert numbers["copy"] >= 0.5
    assert numbers["expression"] == 0
    assert numbers["mark_seen"] == 1


def test_a_character_that_slowly_becomes_another_one_drifts_and_its_room_does_not(feeling, felt):
    film, measured = feeling
    num = film.num_frames
    stranger = replace(film.source, character=held_out_character(10)).frames(0, num)
    share = 0.5 * torch.linspace(0, 1, num)[:, None, None, None]
    numbers = measured(torch.lerp(film.source.frames(0, num), stranger, share))
    assert abs(felt["identity_drift"]) < 0.15
    assert numbers["identity_drift"] > 0.5
    assert abs(felt["palette_drift"]) < 0.15
    assert numbers["palette_drift"] > 0.5
    assert abs(numbers["room_drift"] - felt["room_drift"]) < 0.1


def test_speech_and_palette_that_go_wrong_are_found(talking):
    """One film with both: the mouth three frames late, and colors that fade by an even step in every chunk."""
    late = replace(talking.source, samples_N=np.roll(talking.source.samples_N, round(3 / talking.source.fps * 16_000)))
    frames = late.frames(0, talking.num_frames)
    num = torch.arange(talking.num_frames)[:, None, None, None]
    faded = frames * (1 - 0.001 * num)
    numbers = numbers_of(talking, faded)
    assert numbers["sync_lag"] == 3
    assert numbers["sync_contrast"] > 0.3
    assert numbers["room_drift"] > 0.2
    assert numbers["palette_drift"] > 0.1


@pytest.mark.parametrize("program", PROGRAMS)
def test_prompts_say_only_what_captions_of_training_can_say(program):
    for number in range(3):
        film = make_film(TINY.world, number, program, CHUNKS, 0)
        for first, stop in map(frames_of, film.plan.chunks):
            prompt = film.source.prompt(first, stop - first)
            assert set(re.findall(r"\w+", prompt)) <= set(VOCABULARY)
            moods = prompt.split(", ")[-2].removeprefix("feels ").split(" then ")
            assert all(before != after for before, after in pairwise(moods)), prompt
            quarters = film.source.program.turn_yaw(np.array([first, stop]) / film.source.fps) / (math.pi / 2)
            if abs(quarters[1] - quarters[0]) > 0.5:
                assert "turns" in prompt
            assert prompt.endswith("speaking"), "all of these films are spoken"


def test_a_cut_at_every_seam_is_a_jump():
    frames = torch.arange(40.0)[:, None, None, None].expand(40, 2, 2, 3) / 100
    assert seam_jump(frames, [10, 20]) == pytest.approx(1)
    jumping = frames + 0.04 * ((torch.arange(40) >= 10).float() + (torch.arange(40) >= 20).float())[:, None, None, None]
    assert seam_jump(jumping, [10, 20]) == pytest.approx(5, rel=1e-4)


def test_a_slope_is_that_of_the_line():
    x = torch.tensor([0.0, 1.0, 3.0, 7.0])
    assert slope(x, 5 - 0.25 * x) == pytest.approx(-0.25)
    assert slope(torch.ones(3), torch.rand(3)) is None


def test_speech_is_heard_late_or_not_at_all():
    features = torch.arange(6.0)[:, None, None]
    assert heard(features, 2).flatten().tolist() == [0, 0, 0, 1, 2, 3]
    assert heard(features, None).abs().max() == 0


def test_an_interval_is_that_of_a_normal_mean():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_interval(np.full(5, 0.7)) == pytest.approx((0.7, 0.7))


def test_differences_are_paired_and_missing_values_left_out():
    full = {number: float(number**2) for number in range(10)}
    arm = {**{number: value + 0.1 for number, value in full.items()}, 3: None}
    difference = paired_difference(arm, full)
    assert difference.count == 9
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert [verdict(difference, side) for side in (1, 0, -1)] == [SEPARATES, SEPARATES, OTHER_WAY]
    around = paired_difference({0: 1.0, 1: -1.0}, {0: 0.0, 1: 0.0})
    assert verdict(around, 1) == TOGETHER
    assert verdict(estimate({0: 1.0}), 1) == TOO_FEW


def test_changed_settings_move_anchors_and_leave_the_weights(files):
    model = load_dit(files.dit).eval()
    one = with_settings(model, ONE_POSITION)
    slots = [("global", "global"), ("viewpoint", "left"), ("expression", "happy")]
    assert {anchor_position(*slot, one.config.gloria) for slot in slots} == {600}
    swapped = with_settings(model, SWAPPED_VIEWS)
    assert all(torch.equal(swapped.state_dict()[name], x) for name, x in model.state_dict().items())
    x = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 4, TINY.encoders.text_width, generator=torch.Generator().manual_seed(1))
    front, back = torch.randn(2, 1, 16, 1, 8, 6, generator=torch.Generator().manual_seed(2))
    inputs = x, torch.tensor([500.0]), text
    views = ("viewpoint", "front"), ("viewpoint", "back")
    with torch.inference_mode():
        plain = model(*inputs, anchors=[front, back], anchor_slots=views)
        moved = swapped(*inputs, anchors=[front, back], anchor_slots=views)
        relabelled = model(*inputs, anchors=[front, back], anchor_slots=views[::-1])
    assert torch.equal(moved, relabelled)
    assert not torch.equal(plain, moved)


def test_every_arm_changes_the_film(files):
    lab = load_lab(files.root, TINY.world, SampleSettings(steps=1, cfg=2.0, shift=1.5), torch.device("cpu"))
    film = make_film(TINY.world, 0, "turning", 2, 0)
    arms = [arm for arm in ARMS.values() if not arm.trained and arm.name != "no_blend"]
    made = {arm.name: shoot(lab, film, arm) for arm in arms}
    for name, shot in made.items():
        assert shot.frames_THWC.shape == (film.num_frames, 64, 64, 3)
        assert name == "full" or not torch.equal(shot.frames_THWC, made["full"].frames_THWC), name
    assert made["full"].seams == seams_of(film.plan)
    assert torch.equal(shoot(lab, film, ARMS["full"]).frames_THWC, made["full"].frames_THWC)


def test_the_whole_way_is_shared_and_goes_on_where_it_was_stopped(tmp_path, files):
    """Two characters, two chunks; random weights, whose numbers mean nothing."""
    output, table = tmp_path / "results.json", tmp_path / "table.md"
    table.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arms = ["full", "no_blend", "no_superset", "one_way_trained"]
    one_way = tmp_path / "one_way.safetensors"
    write_merged(with_settings(load_dit(files.dit), {"anchor_attention": "one_way"}), one_way)
    call = ["--model", str(files.root), "--scale", "tiny", "--identities", "2", "--chunks", "2", "--steps", "1",
            "--programs", "random", "--read-every", "29", "--device", "cpu", "--arms", *arms,
            "--arm-model", f"one_way_trained={one_way}", "--output", str(output), "--write", str(table)]  # fmt: skip
    assert run(parse([*call, "--share", "1/2"])) is None
    assert not output.exists()
    shared = {path: path.stat().st_mtime_ns for path in (tmp_path / "results.parts").rglob("*.json")}
    assert {path.name for path in shared} == {"held_out_01.json"}
    run(parse(call))
    assert {path: path.stat().st_mtime_ns for path in shared} == shared
    assert len(list((tmp_path / "results.parts").rglob("*.json"))) == 4
    result = json.loads(output.read_text())
    assert set(result["arms"]) == {"full", "one_way_trained"}
    assert all(set(films) == {"0", "1"} for films in result["parts"].values())
    assert result["model"]["arms"]["one_way_trained"] != result["model"]["files"]["dit"]
    assert result["skipped"] == {"no_blend": NOT_BLENDED, "no_superset": NOT_TRAINED}
    text = table.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text


def test_the_file_of_another_arm_is_refused(tmp_path, files, capsys):
    call = ["--model", str(files.root), "--scale", "tiny", "--output", str(tmp_path / "x.json"), "--device", "cpu",
            "--arm-model", f"no_offsets={files.dit}"]  # fmt: skip
    with pytest.raises(CheckpointError, match="not the arm 'no_offsets': it has .*label_step 1, expected .*--arm no_o"):
        run(parse(call))
    with pytest.raises(SystemExit):
        parse([*call, "--arms", "full"])
    assert "--arm-model gives no_offsets, which --arms leaves out" in capsys.readouterr().err


def test_a_file_without_a_place_for_the_table_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ValueError, match="no place for the table"):
        write_between_markers(tmp_path / "page.md", "text")


def test_a_look_at_the_true_film_is_what_the_sampler_does_at_that_noise(files):
    """At the first noise level both see noise alone, behind the same given latents."""
    settings = SampleSettings(steps=1, cfg=1.0, shift=1.5)
    lab = load_lab(files.root, TINY.world, settings, torch.device("cpu"))
    film = make_film(TINY.world, 0, "turning", 2, 0)
    true = lab.encoders.pictures(film.source.frames(0, film.num_frames)[None]).float()
    for chunk, conditions in zip(film.plan.chunks, chunk_conditions(lab, film, ARMS["full"], film.plan), strict=True):
        clean = true[:, :, chunk.start : chunk.stop]
        prefix = clean[:, :, : chunk.prefix] if chunk.prefix else None
        probes = [AttentionProbe(flow_sigmas(1, 1.5), (0,), (0, 1)) for _ in range(2)]
        size = LatentSize(16, film.plan.total_latents, *clean.shape[3:])
        denoise_chunk(lab.model, conditions, size, settings, chunk, 5, prefix, probes[0])
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            look_once(lab.model, conditions, chunk, clean, noise, 1.0, probes[1])
        sampled, once = (probe.result().shares_LFG for probe in probes)
        torch.testing.assert_close(once, sampled)
        torch.testing.assert_close(once.sum(2), torch.ones(once.shape[:2]))


def test_looks_of_a_film_are_those_of_the_chunk_that_added_each_latent():
    plan = plan_chunks(8, 6, 4)
    maps = tuple(torch.arange(6 * 8.0).view(6, 8) + 100 * idx for idx in range(2))
    looks = Looks(plan, maps, (("global", "global"), ("viewpoint", "back")), {})
    assert looks.at(("viewpoint", "back")).tolist() == [7, 15, 23, 31, 39, 47, 139, 147]
    assert looks.by_chunk(("global", "global")) == [26, 142]
    assert looks.by_chunk(None) == [20, 136]


def test_angles_of_latents_are_those_of_their_frames():
    film = make_film(TINY.world, 1, "turning", 2, 0)
    truth = film.truth()
    assert asked_yaw(film)[0] == pytest.approx(float(truth.yaw_T[0]))
    assert asked_yaw(film)[5] == pytest.approx(float(truth.yaw_T[17:21].mean()), abs=1e-6)
    frames = film.source.frames(0, film.num_frames)
    frames[5:9], frames[10:] = 0.5, 0.5  # gray: latent 2 cannot be read, one frame of latent 3 can
    seen = seen_yaw(film, frames, Reader(film.source).read)
    assert seen[2].isnan()
    assert seen[3] == pytest.approx(float(truth.yaw_T[9]), abs=0.1)


def test_the_papers_two_analyses_are_drawn_and_written(tmp_path, files):
    call = ["--model", str(files.root), "--scale", "tiny", "--output", str(tmp_path), "--identities", "1",
            "--chunks", "2", "--steps", "2", "--looks", "1", "--device", "cpu"]  # fmt: skip
    assert attention.main(call) == 0
    result = json.loads((tmp_path / "attention.json").read_text())
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {f"fig{name}.png" for name in ("9_chunks", "9_maps", "10_sampled", "10_shown", "10_time")}
    for name in ("9_chunks", "10_shown", "10_time"):
        with Image.open(tmp_path / f"fig{name}.png") as picture:
            assert len(picture.getcolors(1 << 16)) > 50
    assert [len(result["over_chunks"][name]) for name in ("global", "first latent")] == [2, 2]
    latents = len(result["over_time"]["turning"]["seconds"])
    for name in ("asked", "shown"):
        for table in result["over_angle"][name].values():
            assert sum(entry["count"] for entry in table) == latents
    # Random weights look at anchors as even attention would, give or take a third.
    even = result["over_angle"]["even"]["back"]
    assert result["over_time"]["turning"]["back"] == pytest.approx([even] * latents, rel=0.34)
