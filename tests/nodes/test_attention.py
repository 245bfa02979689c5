"""The attention probe in films that ComfyUI really samples: it is right, changes nothing, and tells no stranger.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_attention.py
"""

import json
import shutil

import comfy.model_management
import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

from gloria_pack.gloria_core.analysis.attention_file import attention_path, read_shares
from gloria_pack.gloria_core.errors import PlanError
from gloria_pack.gloria_core.model.presets import TOY_T2V
from gloria_pack.gloria_core.sampling.job_folder import read_plan
from gloria_pack.gloria_core.toy_weights import write_toy_dit
from gloria_pack.nodes.bridge.attention import FILM_FOLDER
from gloria_pack.nodes.bridge.routes_films import FILM_ROUTES
from gloria_pack.nodes.load_model import GloriaLoadModel
from gloria_pack.nodes.probe_attention import GloriaProbeAttention
from gloria_pack.nodes.sample_long_video import GloriaSampleLongVideo
from gloria_pack.nodes.show_attention import GloriaShowAttention

TOTAL, CHUNK, SIDE, STEPS = 10, 6, 8, 3
NUM_CHUNKS = 3
SLOTS = (("global", "global"), ("viewpoint", "back"))


@pytest.fixture(scope="module")
def page_routes():
    return FILM_ROUTES


@pytest.fixture(scope="module")
def models(base_directory):
    folder = base_directory / "models" / "diffusion_models"
    files = ("attention.safetensors", "attention_low.safetensors")
    for seed, name in enumerate(files):
        write_toy_dit(folder / name, TOY_T2V, seed=seed)
    return [GloriaLoadModel.execute(name, "none", "default").result[0] for name in files]


@pytest.fixture(scope="module")
def model(models):
    return models[0]


def conditioning(seed):
    fixed = torch.Generator().manual_seed(9)
    values = {
        "gloria_first_latent": 0,
        "gloria_anchors": [torch.randn(1, 16, 1, side, side, generator=fixed) for side in (SIDE, SIDE - 2)],
        "gloria_anchor_slots": SLOTS,
    }
    return [[torch.randn(1, 6, TOY_T2V.text_dim, generator=torch.Generator().manual_seed(seed)), values]]


def probe(blocks=2, steps=2):
    return GloriaProbeAttention.execute(blocks, steps).result[0]


def run(model, **changes):
    inputs = {
        "positive": conditioning(0), "negative": conditioning(1),
        "latent": {"samples": torch.zeros(1, 16, TOTAL, SIDE, SIDE)},
        "seed": 3, "steps": STEPS, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple", "shift": 0.0,
        "chunk_frames": 4 * CHUNK - 3, "job_name": "film",
    }  # fmt: skip
    node = GloriaSampleLongVideo.PREPARE_CLASS_CLONE(None)
    with torch.inference_mode():
        return node.execute(model, **{**inputs, **changes}).result[0]


def shares_of(output, folder_name):
    folder = output / "gloria" / folder_name
    return [read_shares(folder, chunk) for chunk in read_plan(folder).chunks]


@pytest.mark.parametrize(("sampler", "with_low_noise"), [("uni_pc", False), ("heun", True)])
def test_the_film_and_its_folder_are_the_same_with_a_probe(models, output_directory, sampler, with_low_noise):
    settings = {"sampler_name": sampler, "model_low_noise": models[1] if with_low_noise else None, "switch_at": 0.8}
    plain = run(models[0], **settings)
    before = plain["samples"].clone()
    shutil.rmtree(output_directory / "gloria" / plain[FILM_FOLDER])
    watched = run(models[0], **settings, probe=probe(9, 9))
    assert torch.equal(watched["samples"], before)
    assert watched[FILM_FOLDER] == plain[FILM_FOLDER]
    for shares in shares_of(output_directory, watched[FILM_FOLDER]):
        assert {step for step, _ in shares.looks} == set(range(STEPS))
        assert {block for _, block in shares.looks} == set(range(TOY_T2V.num_layers))
        torch.testing.assert_close(shares.shares_LFG.sum(2), torch.ones(len(shares.looks), shares.shares_LFG.shape[1]))


@pytest.mark.parametrize("cfg", [1.0, 3.5])
def test_shares_are_the_softmax_of_what_comfyui_attention_was_given(model, output_directory, cfg):
    calls = []

    def witness(function, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        parts = options["cond_or_uncond"]
        if k.shape[1] > CHUNK * 16 and 0 in parts:  # all tokens: cross-attention has those of the text
            q_of_prompt, k_of_prompt = (x.chunk(len(parts))[parts.index(0)] for x in (q, k))
            calls.append((options["block_index"], q_of_prompt, k_of_prompt, heads))
        return function(q, k, v, heads, *args, **kwargs)

    seen = model.clone()
    seen.model_options["transformer_options"]["optimized_attention_override"] = witness
    film = run(seen, cfg=cfg, latent={"samples": torch.zeros(1, 16, CHUNK, SIDE, SIDE)}, probe=probe(9, 9))
    (shares,) = shares_of(output_directory, film[FILM_FOLDER])
    assert shares.slots == SLOTS
    assert shares.tokens == (16,) * CHUNK + (16, 9)
    assert [block for _, block in shares.looks] == [block for block, *_ in calls]
    for shares_FG, (_, q, k, heads) in zip(shares.shares_LFG, calls, strict=True):
        q, k = (x.double().unflatten(-1, (heads, -1)).transpose(1, 2)[0] for x in (q[:, : CHUNK * 16], k))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(0)
        groups = [part.sum(1) for part in weights.split(list(shares.tokens), dim=1)]
        expected = torch.stack(groups, dim=1).unflatten(0, (CHUNK, -1)).mean(1)
        torch.testing.assert_close(shares_FG.double(), expected, rtol=1e-4, atol=1e-6)


def test_shares_survive_cancel_resume_and_another_take(model, output_directory, monkeypatch):
    from gloria_pack.nodes.bridge import sampling

    original = sampling.FilmProgress.finish_chunk

    def cancel_after_one(self, chunk):
        comfy.model_management.interrupt_current_processing(True)
        original(self, chunk)

    monkeypatch.setattr(sampling.FilmProgress, "finish_chunk", cancel_after_one)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, probe=probe())
    monkeypatch.undo()
    (folder,) = (output_directory / "gloria").iterdir()
    kept = attention_path(folder, 0).read_bytes()
    assert not attention_path(folder, 1).exists()
    film = run(model, probe=probe(9, 9))
    assert film[FILM_FOLDER] == folder.name
    assert attention_path(folder, 0).read_bytes() == kept
    assert None not in shares_of(output_directory, folder.name)

    take = run(model, seeds="2: 99")  # without a probe
    assert take[FILM_FOLDER] != folder.name
    first, second, third = shares_of(output_directory, take[FILM_FOLDER])
    assert first is not None
    assert second is not None
    assert third is None


def test_the_node_draws_what_was_looked_at_and_says_what_is_missing(model, output_directory):
    film = run(model, probe=probe())
    node = GloriaShowAttention.PREPARE_CLASS_CLONE(None)
    curves, report = node.execute(film).result
    assert curves.shape == (1, 480, 960, 3)
    lines = report.splitlines()
    assert lines[0].startswith(f"{NUM_CHUNKS} of {NUM_CHUNKS} chunks looked at, in steps 0, 2 and blocks")
    names = [line.split(":")[0].strip() for line in lines[2::2]]
    assert names == ["global", "back", "chunk's start", "rest of the video"]
    attention_path(output_directory / "gloria" / film[FILM_FOLDER], 1).unlink()
    assert "chunks 1 were sampled without a probe" in node.execute(film).result[1]
    unseen = run(model, job_name="unseen")
    assert node.execute(unseen).result[1].startswith("Nothing was looked at")


def test_a_latent_of_another_node_and_a_plain_model_are_refused(model, output_directory, base_directory):
    node = GloriaShowAttention.PREPARE_CLASS_CLONE(None)
    for latent in ({}, {FILM_FOLDER: "../../secret-01234567"}, {FILM_FOLDER: "gone-01234567"}):
        with pytest.raises(PlanError, match="does not come from Gloria Long Video Sampler"):
            node.execute(latent)
    weights = load_file(base_directory / "models" / "diffusion_models" / "attention.safetensors")
    metadata = {"config": json.dumps({"transformer": {"text_dim": TOY_T2V.text_dim}})}
    plain = comfy.sd.load_diffusion_model_state_dict(weights, metadata=metadata)
    bare = [[text, {}] for text, _ in conditioning(0)]
    with pytest.raises(PlanError, match="plain Wan model and has none"):
        run(plain, positive=bare, negative=bare, probe=probe())
    assert not list(output_directory.glob("gloria/*/chunk_*"))


def test_the_page_gets_every_curve_with_gaps_where_nothing_was_looked_at(page_server, model, output_directory):
    film = run(model, probe=probe())
    folder = output_directory / "gloria" / film[FILM_FOLDER]
    attention_path(folder, 2).write_bytes(b"torn")
    answer = page_server.ask("GET", f"/gloria/films/{folder.name}/attention")
    assert answer.status == 200
    shown = answer.json
    assert shown["seconds"] == [0.5 / 24, *((8 * idx - 2) / 2 / 24 for idx in range(1, TOTAL))]
    names = [(curve["kind"], curve["label"]) for curve in shown["curves"]]
    assert names == [*SLOTS, ("chunk", "prefix"), ("chunk", "video")]
    table = torch.tensor([curve["shares"][:8] for curve in shown["curves"]])
    torch.testing.assert_close(table.sum(0), torch.ones(8), atol=1e-4, rtol=0)
    assert all(curve["shares"][8:] == [None, None] for curve in shown["curves"])
    first = read_shares(folder, read_plan(folder).chunks[0]).shares_LFG.mean(0)
    assert shown["curves"][1]["shares"][:6] == pytest.approx(first[:, CHUNK + 1].tolist(), abs=1e-5)


@pytest.mark.parametrize("path", ["{f}x/attention", "..%2f{f}/attention", "linked-01234567/attention"])
def test_nothing_outside_the_job_folders_is_told(page_server, model, output_directory, tmp_path, path):
    name = run(model, probe=probe())[FILM_FOLDER]
    shutil.copytree(output_directory / "gloria" / name, tmp_path / "outside")
    (output_directory / "gloria" / "linked-01234567").symlink_to(tmp_path / "outside")
    answer = page_server.ask("GET", f"/gloria/films/{path.replace('{f}', name)}")
    assert answer.status in (403, 404)
    assert b"shares" not in answer.body


def test_other_pages_learn_nothing_and_damaged_jobs_say_so(page_server, model, output_directory):
    folder = output_directory / "gloria" / run(model, probe=probe())[FILM_FOLDER]
    path = f"/gloria/films/{folder.name}/attention"
    for headers in ({"Origin": "https://foreign.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert page_server.ask("GET", path, **headers).status == 403
    assert page_server.ask("POST", path, b"{}").status in (404, 405)
    description = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**description, "total_latents": 10**9}))
    answer = page_server.ask("GET", path)
    assert (answer.status, "damaged" in answer.json["error"]) == (400, True)
