"""The attention probe against closed forms and a full softmax in float64, and that it changes nothing.

Run: python -m pytest tests/core/test_attention_probe.py
"""

import dataclasses
import math

import pytest
import torch

from gloria_core.analysis import attention_probe
from gloria_core.analysis.attention_curves import (
    PREFIX,
    VIDEO,
    means_by_chunk,
    read_film_attention,
    share_by_angle,
)
from gloria_core.analysis.attention_file import attention_path, read_shares
from gloria_core.analysis.attention_probe import AttentionProbe, PassLayout, ProbeSettings, group_shares, spread
from gloria_core.errors import PlanError
from gloria_core.generate import Job, generate
from gloria_core.model.attention import PROBE_OPTION, Kernels, torch_attention
from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import TOY_TI2V, GloriaSettings
from gloria_core.sampling.denoise import Conditions, SampleSettings, denoise_chunk
from gloria_core.sampling.plan import plan_chunks
from gloria_core.sampling.schedule import flow_sigmas
from gloria_core.shapes import LatentSize, TokenGrid
from gloria_core.toy_weights import random_state_dict

GRID = TokenGrid(3, 2, 2)
SLOTS = (("global", "global"), ("viewpoint", "back"), ("expression", "happy"))
COUNTS = (4, 6, 1)
LAYOUT = PassLayout(GRID, SLOTS, COUNTS)
NUM_TOKENS = GRID.count + sum(COUNTS)
HEADS, HEAD_DIM = 3, 8
SETTINGS = SampleSettings(seed=2, steps=4, cfg=3.0, chunk_latents=6, prefix_latents=4)
TOTAL = 9


def randn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def naive_shares(q_BVD, k_BSD, heads=None):
    """The whole softmax in float64, then sums by group: another way to the same numbers."""
    q, k = (x.double().unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q_BVD, k_BSD))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    weights = weights.mean(0)[list(heads or range(HEADS))].mean(0)
    edges = [GRID.count // GRID.frames] * GRID.frames + list(COUNTS)
    columns = torch.stack([part.sum(1) for part in weights.split(edges, dim=1)], dim=1)
    return columns.unflatten(0, (GRID.frames, -1)).mean(1)


@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("heads", [(), (2, 0)])
@pytest.mark.parametrize("block_bytes", [1, 4 * NUM_TOKENS * 5, 1 << 20])
def test_shares_are_those_of_the_full_softmax(monkeypatch, scale, heads, block_bytes):
    monkeypatch.setattr(attention_probe, "CPU_BLOCK_BYTES", block_bytes)
    q, k = randn(2, GRID.count, HEADS * HEAD_DIM, scale=scale), randn(2, NUM_TOKENS, HEADS * HEAD_DIM, seed=1)
    shares = group_shares(q, k, HEADS, LAYOUT, heads)
    torch.testing.assert_close(shares.double(), naive_shares(q, k, heads), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shares.sum(1), torch.ones(GRID.frames))


def test_queries_that_prefer_nothing_look_at_every_token_alike():
    shares = group_shares(torch.zeros(1, GRID.count, 24), randn(1, NUM_TOKENS, 24), HEADS, LAYOUT)
    even = torch.tensor([4, 4, 4, *COUNTS]) / NUM_TOKENS
    torch.testing.assert_close(shares, even.expand(GRID.frames, -1))


def test_one_key_that_outweighs_all_others_by_a_known_factor():
    q, k = torch.zeros(1, GRID.count, 24), torch.zeros(1, NUM_TOKENS, 24)
    q[..., ::HEAD_DIM] = 1.0
    k[:, GRID.count + COUNTS[0], ::HEAD_DIM] = math.log(5.0) * math.sqrt(HEAD_DIM)  # first token of the back anchor
    shares = group_shares(q, k, HEADS, LAYOUT)
    expected = torch.tensor([4, 4, 4, 4, 5 + 5.0, 1]) / (NUM_TOKENS + 4)
    torch.testing.assert_close(shares, expected.expand(GRID.frames, -1))


def test_half_precision_loses_nothing_that_the_queries_still_hold():
    q, k = (x.bfloat16() for x in (randn(1, GRID.count, 24), randn(1, NUM_TOKENS, 24, seed=1)))
    torch.testing.assert_close(group_shares(q, k, HEADS, LAYOUT).double(), naive_shares(q, k), rtol=1e-5, atol=1e-6)


def test_heads_that_do_not_exist_are_refused():
    with pytest.raises(PlanError, match=r"heads \[3\], the model has 0 to 2"):
        group_shares(torch.zeros(1, GRID.count, 24), torch.zeros(1, NUM_TOKENS, 24), HEADS, LAYOUT, (3,))


@pytest.mark.parametrize(
    ("count", "total", "places"), [(4, 40, (5, 15, 25, 35)), (1, 9, (4,)), (3, 3, (0, 1, 2)), (9, 2, (0, 1))]
)
def test_places_are_spread_evenly(count, total, places):
    assert spread(count, total) == places


@pytest.mark.parametrize(("count", "total"), [(0, 3), (3, 0)])
def test_no_places_are_refused(count, total):
    with pytest.raises(PlanError, match="at least 1"):
        spread(count, total)


def make_model(anchor_attention="joint", recorder=None):
    settings = GloriaSettings(anchor_attention=anchor_attention)
    config = dataclasses.replace(TOY_TI2V, num_layers=3, gloria=settings)
    kernels = Kernels(attention=recorder) if recorder else None
    model = GloriaDiT(config, kernels, dtype=torch.float32).eval()
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    model.load_state_dict(random_state_dict(shapes, 0, torch.float32))
    return model


CONDITIONS = Conditions(
    text_BLD=randn(1, 5, TOY_TI2V.text_dim),
    negative_text_BLD=randn(1, 5, TOY_TI2V.text_dim, seed=1),
    anchors=[randn(1, 48, 1, 4, 4), randn(1, 48, 1, 2, 2, seed=1), randn(1, 48, 1, 4, 2, seed=2)],
    anchor_slots=(("global", "global"), ("viewpoint", "back"), ("viewpoint", "back")),
    start_BCTHW=randn(1, 48, 1, 4, 4, seed=3),
)
SIZE = LatentSize(48, TOTAL, 4, 4)


class RecordingAttention:
    """The model's real attention, which also keeps what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, q, k, v, heads, transformer_options=None):
        self.calls.append((q, k, heads, transformer_options["block_index"]))
        return torch_attention(q, k, v, heads)


@pytest.mark.parametrize("anchor_attention", ["joint", "one_way"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_looks_at_a_chunk_are_the_softmax_of_the_models_own_attention_calls(anchor_attention, cfg):
    recorder = RecordingAttention()
    model = make_model(anchor_attention, recorder)
    settings = dataclasses.replace(SETTINGS, cfg=cfg)
    chunk = plan_chunks(TOTAL, 6, 4).chunks[0]
    probe = AttentionProbe(flow_sigmas(4, settings.shift), steps=(1, 3), blocks=(0, 2))
    denoise_chunk(model, CONDITIONS, SIZE, settings, chunk, 2, None, probe)
    shares = probe.result()
    assert shares.slots == (("global", "global"), ("viewpoint", "back"))
    assert shares.tokens == (4,) * 6 + (4, 3)
    assert shares.looks == ((1, 0), (1, 2), (3, 0), (3, 2))
    num_video = 6 * 4
    num_all = num_video + 4 + 1 + 2
    # Calls whose queries contain the video's and whose keys are all tokens; others are cross-attention and anchors.
    own = [call for call in recorder.calls if call[1].shape[1] == num_all]
    per_pass = [own[start : start + 3] for start in range(0, len(own), 3)]
    positive = per_pass if cfg == 1.0 else per_pass[::2]  # the core asks for the positive prompt first
    assert len(positive) == 4
    for (step, block), shares_FG in zip(shares.looks, shares.shares_LFG, strict=True):
        q, k, heads, block_idx = positive[step][block]
        assert block_idx == block
        logits = [x.double().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q[:, :num_video], k)]
        weights = (logits[0] @ logits[1].transpose(-1, -2) * logits[0].shape[-1] ** -0.5).softmax(-1).mean(1)[0]
        frames = weights[:, :num_video].unflatten(1, (6, -1)).sum(2)
        expected = torch.cat([frames, *(weights[:, part].sum(1, keepdim=True) for part in
                                        (slice(24, 28), slice(28, 31)))], dim=1)  # fmt: skip
        expected = expected.unflatten(0, (6, -1)).mean(1)
        torch.testing.assert_close(shares_FG.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("anchor_attention", ["joint", "one_way"])
def test_a_probe_changes_no_bit_of_the_film_and_nothing_that_names_it(tmp_path, anchor_attention):
    model = make_model(anchor_attention)
    films, folders = [], []
    for root, probe in (("off", None), ("on", ProbeSettings(num_blocks=9, num_steps=9))):
        job = Job(tmp_path / root, "film", {"model": {"digest": "ab"}})
        films.append(generate(model, CONDITIONS, SIZE, SETTINGS, job, probe=probe))
        folders.append(next((tmp_path / root).iterdir()))
    assert torch.equal(*films)
    assert folders[0].name == folders[1].name
    for path in sorted(folders[0].glob("*.*")):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name
    added = {path.name for path in folders[1].iterdir()} - {path.name for path in folders[0].iterdir()}
    assert added == {f"attention_{idx:05d}.safetensors" for idx in range(3)}


def test_a_pass_without_a_probe_runs_no_code_of_it(monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("the probe was called")

    for name in ("of_pass", "look"):
        monkeypatch.setattr(AttentionProbe, name, never)
    chunk = plan_chunks(TOTAL, 6, 4).chunks[0]
    denoise_chunk(make_model(), CONDITIONS, SIZE, SETTINGS, chunk, 2, None)


def test_only_the_positive_half_of_a_batch_is_looked_at():
    model, chunk_latents = make_model(), 3
    x = randn(2, 48, chunk_latents, 4, 4)
    sigmas = flow_sigmas(2, 5.0)
    results = []
    for options, rows in (({"cond_or_uncond": [1, 0]}, slice(0, 2)), ({}, slice(1, 2))):
        probe = AttentionProbe(sigmas, (0,), (1,))
        anchors = [anchor.expand(len(x[rows]), -1, -1, -1, -1) for anchor in CONDITIONS.anchors]
        with torch.no_grad():
            model(
                x[rows], torch.full((len(x[rows]),), 1000.0), CONDITIONS.text_BLD.expand(len(x[rows]), -1, -1), None,
                anchors, CONDITIONS.anchor_slots,
                transformer_options={PROBE_OPTION: probe, "sigmas": sigmas[:1].float(), **options},
            )  # fmt: skip
        results.append(probe.result().shares_LFG)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("sigma", "step"), [(1.0, 0), (0.76, 0), (0.75, 1), (0.6, 1), (0.5, 2), (0.25, 3), (0.01, 3), (0.0, 3)]
)
def test_a_noise_level_belongs_to_the_step_that_begins_at_or_above_it(sigma, step):
    probe = AttentionProbe(torch.linspace(1, 0, 5), range(4), (0,))
    anchors = [torch.zeros(1, count, 1) for count in COUNTS]
    passed = probe.of_pass(GRID, SLOTS, anchors, {"sigmas": torch.tensor([sigma])})
    assert passed.step == step


def test_a_resumed_film_keeps_the_shares_of_its_chunks_and_a_damaged_one_loses_them(tmp_path):
    model = make_model()
    job = Job(tmp_path, "film", {"model": {"digest": "ab"}})
    plan = plan_chunks(TOTAL, 6, 4)

    def stop(chunk, _is_kept):
        if chunk.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, CONDITIONS, SIZE, SETTINGS, job, on_chunk=stop, probe=ProbeSettings())
    (folder,) = tmp_path.iterdir()
    before = {path.name: path.read_bytes() for path in folder.glob("attention_*")}
    assert len(before) == 2
    generate(model, CONDITIONS, SIZE, SETTINGS, job, probe=ProbeSettings())
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert read_film_attention(folder, plan).missing == ()

    torn = attention_path(folder, 1)
    torn.write_bytes(torn.read_bytes()[:-8])
    assert read_shares(folder, plan.chunks[1]) is None
    attention_path(folder, 2).write_bytes(attention_path(folder, 0).read_bytes())  # of another chunk
    attention = read_film_attention(folder, plan)
    assert attention.missing == (1, 2)
    assert attention.curves_T[VIDEO].isfinite().tolist() == [True] * 6 + [False] * 3


def test_curves_are_the_shares_by_name_and_sum_to_one(tmp_path):
    model = make_model()
    generate(
        model, CONDITIONS, SIZE, SETTINGS, Job(tmp_path, "film", {}), probe=ProbeSettings(num_blocks=2, num_steps=2)
    )
    (folder,) = tmp_path.iterdir()
    plan = plan_chunks(TOTAL, 6, 4)
    attention = read_film_attention(folder, plan)
    names = [("global", "global"), ("viewpoint", "back"), PREFIX, VIDEO]
    assert list(attention.curves_T) == names
    assert attention.looks == ((1, 0), (1, 2), (3, 0), (3, 2))
    for curves in (attention.curves_T, attention.even_T):
        torch.testing.assert_close(sum(curves.values()), torch.ones(TOTAL))
    second = read_shares(folder, plan.chunks[1]).shares_LFG.mean(0)
    new = slice(plan.chunks[1].start + 4, plan.chunks[1].stop)
    torch.testing.assert_close(attention.curves_T[PREFIX][new], second[4:, :4].sum(1))
    torch.testing.assert_close(attention.curves_T["viewpoint", "back"][new], second[4:, 7])
    torch.testing.assert_close(attention.even_T["viewpoint", "back"], torch.tensor([3 / 31] * 8 + [3 / 27]))
    means = means_by_chunk(attention, plan)
    assert means["global", "global"][0] == pytest.approx(float(attention.curves_T["global", "global"][:6].mean()))


def test_attention_that_depends_on_the_angle_comes_back_by_angle():
    yaw = torch.linspace(-math.pi, math.pi, 3601)
    shares = (1 - torch.cos(yaw)) / 2  # 0 in front, 1 at the back, the same on both sides
    bins = share_by_angle(shares, yaw, num_bins=9)
    assert [entry.degrees for entry in bins] == [10, 30, 50, 70, 90, 110, 130, 150, 170]
    for entry in bins:
        low, high = math.radians(entry.degrees - 10), math.radians(entry.degrees + 10)
        mean = 0.5 - (math.sin(high) - math.sin(low)) / (2 * (high - low))
        assert entry.mean == pytest.approx(mean, abs=2e-3)
    assert sum(entry.count for entry in bins) == 3601
    with_gap = share_by_angle(torch.tensor([0.5, math.nan]), torch.tensor([0.0, math.pi]))
    assert [(entry.degrees, entry.count) for entry in with_gap] == [(15.0, 1)]
