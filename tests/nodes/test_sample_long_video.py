"""Gloria Long Video Sampler against stock KSampler, and on bad input.

Run: python -m pytest tests/nodes/test_sample_long_video.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nodes as comfy_nodes
from gloria_pack.gloria_core.errors import GloriaError, JournalError, PlanError
from gloria_pack.gloria_core.model.presets import TOY_I2V, TOY_T2V, TOY_TI2V
from gloria_pack.gloria_core.sampling.plan import chunk_seed, plan_chunks
from gloria_pack.gloria_core.toy_weights import write_toy_dit, write_toy_gloria
from gloria_pack.nodes.bridge import sampling
from gloria_pack.nodes.bridge.conditioning import chunk_inputs
from gloria_pack.nodes.bridge.fingerprint import fingerprint, tensor_fingerprint
from gloria_pack.nodes.load_model import GloriaLoadModel
from gloria_pack.nodes.sample_long_video import GloriaSampleLongVideo

REPO = Path(__file__).resolve().parents[2]
SIDE = 8
STEPS = 2
CHANNELS = {"t2v": 16, "i2v": 16, "ti2v": 48}


@pytest.fixture(scope="module")
def models(base_directory):
    folder = base_directory / "models"
    for name, config in (("t2v", TOY_T2V), ("i2v", TOY_I2V), ("ti2v", TOY_TI2V)):
        write_toy_dit(folder / "diffusion_models" / f"{name}.safetensors", config)
        write_toy_gloria(folder / "gloria" / f"{name}.safetensors", config.with_audio())
    write_toy_dit(folder / "diffusion_models" / "low.safetensors", TOY_T2V, seed=1)
    names = [("t2v", "t2v"), ("i2v", "i2v"), ("ti2v", "ti2v"), ("low", "t2v")]
    return {
        base: GloriaLoadModel.execute(f"{base}.safetensors", f"{gloria}.safetensors", "default").result[0]
        for base, gloria in names
    }


@pytest.fixture(autouse=True)
def _empty_output(output_directory):
    pass


def conditioning(kind, seed, num_latents):
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(9)
    channels = CHANNELS[kind]
    values = {
        "gloria_first_latent": 0,
        "gloria_anchors": [torch.randn(1, channels, 1, SIDE, SIDE, generator=fixed)],
        "gloria_anchor_slots": (("global", "global"),),
        "gloria_audio": torch.randn(4 * num_latents, 13, 768, generator=fixed).to(torch.bfloat16),
    }
    if kind == "i2v":
        values["concat_latent_image"] = torch.randn(1, 16, min(num_latents, 6), SIDE, SIDE, generator=fixed)
        values["concat_mask"] = torch.ones(1, 1, min(num_latents, 6), SIDE, SIDE)
        values["concat_mask"][:, :, 0] = 0
    return [[torch.randn(1, 6, TOY_T2V.text_dim, generator=generator), values]]


def film_inputs(models, kind="t2v", num_latents=9, start=False):
    samples = torch.from_numpy(np.zeros((1, CHANNELS[kind], num_latents, SIDE, SIDE), np.float32))
    latent = {"samples": samples, "gloria_pixel_frames": 4 * num_latents - 3}
    if start:
        samples[:, :, 0] = torch.randn(CHANNELS[kind], SIDE, SIDE, generator=torch.Generator().manual_seed(4))
        latent["noise_mask"] = torch.ones(1, 1, num_latents, 1, 1)
        latent["noise_mask"][:, :, 0] = 0
    return {
        "model": models[kind],
        "positive": conditioning(kind, 0, num_latents),
        "negative": conditioning(kind, 1, num_latents),
        "latent": latent,
        "seed": 3,
        "steps": STEPS,
        "cfg": 3.5,
        "sampler_name": "euler",
        "scheduler": "simple",
        "shift": 0.0,
        "chunk_frames": 4 * num_latents - 3,
        "job_name": "film",
    }


def run(inputs, **changes):
    node = GloriaSampleLongVideo.PREPARE_CLASS_CLONE(None)  # as ComfyUI's executor does
    return node.execute(**{**inputs, **changes}).result[0]


def ksampler(inputs, model=None, positive=None, negative=None, latent=None, seed=None):
    (out,) = comfy_nodes.common_ksampler(
        model or inputs["model"], inputs["seed"] if seed is None else seed, inputs["steps"], inputs["cfg"],
        inputs["sampler_name"], inputs["scheduler"], positive or inputs["positive"], negative or inputs["negative"],
        latent or inputs["latent"], denoise=1.0,
    )  # fmt: skip
    return out["samples"]


@pytest.mark.parametrize(
    ("kind", "num_latents", "start"),
    [("t2v", 1, False), ("t2v", 5, False), ("t2v", 3, True), ("i2v", 5, False), ("ti2v", 5, False), ("ti2v", 3, True)],
)
def test_a_film_of_one_chunk_equals_ksampler_bit_for_bit(models, kind, num_latents, start):
    inputs = film_inputs(models, kind, num_latents, start)
    assert torch.equal(run(inputs, chunk_frames=4 * max(num_latents, 5) - 3)["samples"], ksampler(inputs))


@pytest.mark.parametrize("sampler", ["uni_pc", "euler_ancestral"])
def test_one_chunk_equals_ksampler_for_other_samplers(models, sampler):
    inputs = {**film_inputs(models, num_latents=5), "sampler_name": sampler, "steps": 4}
    assert torch.equal(run(inputs)["samples"], ksampler(inputs))


def test_shift_equals_the_stock_model_sampling_node(models):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    inputs = film_inputs(models, num_latents=5)
    (shifted,) = ModelSamplingSD3().patch(inputs["model"], 5.0)
    assert torch.equal(run(inputs, shift=5.0)["samples"], ksampler(inputs, shifted))
    assert not torch.equal(run(inputs, shift=0.0)["samples"], ksampler(inputs, shifted))


@pytest.mark.parametrize("kind", ["i2v", "ti2v"])
def test_a_long_film_is_ksampler_on_every_chunk_joined(models, kind):
    total, chunk_latents = 14, 6
    inputs = film_inputs(models, kind, total, start=kind == "ti2v")
    film = run(inputs, chunk_frames=4 * chunk_latents - 3, prefix_latents=4)["samples"]
    plan = plan_chunks(total, chunk_latents, 4)
    assert len(plan.chunks) == 5

    expected, prefix = None, None
    for chunk in plan.chunks:
        positive, negative, latent = chunk_inputs(
            inputs["model"], inputs["positive"], inputs["negative"], inputs["latent"], chunk, prefix
        )
        seed = chunk_seed(inputs["seed"], chunk.index)
        latents = ksampler(inputs, positive=positive, negative=negative, latent=latent, seed=seed)
        if expected is None:
            expected = latents
        else:
            w = torch.tensor([1, 0.67, 0.33, 0]).view(1, 1, 4, 1, 1)
            end = expected[:, :, -4:]
            overlap = w * end + (1 - w) * latents[:, :, :4] if kind == "i2v" else end
            expected = torch.cat([expected[:, :, :-4], overlap, latents[:, :, 4:]], dim=2)
        prefix = latents[:, :, -4:]
    assert torch.equal(film, expected)


def test_a_prefix_in_place_comes_back_unchanged(models):
    inputs = film_inputs(models, "ti2v", 10, start=True)
    film = run(inputs, chunk_frames=21, prefix_latents=4, blend=False)["samples"]
    (folder,) = film_folder(inputs)
    first, second = (load_file(folder / f"chunk_0000{k}.safetensors")["latents"] for k in (0, 1))
    torch.testing.assert_close(second[:, :4], first[:, -4:], rtol=0, atol=1e-5)
    assert film.shape[2] == 10


def film_folder(inputs):
    import folder_paths

    return sorted((sampling_path(folder_paths) / "gloria").glob(f"{inputs['job_name']}-*"))


def sampling_path(folder_paths):
    from pathlib import Path

    return Path(folder_paths.get_output_directory())


def ksampler_chain(inputs, high, low, switch):
    advanced = comfy_nodes.KSamplerAdvanced().sample
    shared = (inputs["steps"], inputs["cfg"], inputs["sampler_name"], inputs["scheduler"])
    conds = (inputs["positive"], inputs["negative"])
    (half,) = advanced(high, "enable", inputs["seed"], *shared, *conds, inputs["latent"], 0, switch, "enable")
    (out,) = advanced(low, "disable", inputs["seed"], *shared, *conds, half, switch, 10000, "disable")
    return out["samples"]


def test_two_experts_equal_a_chain_of_advanced_ksamplers(models):
    inputs = {**film_inputs(models, num_latents=5), "steps": 6}
    sigmas = comfy.samplers.KSampler(models["t2v"], 6, "cpu", "euler", "simple").sigmas
    switch = int((sigmas[:-1] >= 0.9).sum())
    assert 0 < switch < 6
    film = run(inputs, model_low_noise=models["low"], switch_at=0.9)["samples"]
    assert torch.equal(film, ksampler_chain(inputs, models["t2v"], models["low"], switch))


@pytest.mark.parametrize(("switch_at", "only"), [(0.0, "t2v"), (1.0, "low")])
def test_an_expert_without_steps_is_not_run(models, switch_at, only):
    inputs = film_inputs(models, num_latents=5)
    sigmas = comfy.samplers.KSampler(models["t2v"], STEPS, "cpu", "euler", "simple").sigmas
    # Wan's schedule starts at exactly 1: just above it, no step is left for the high-noise expert.
    switch_at = switch_at and float(sigmas[0]) + 1e-3
    film = run(inputs, model_low_noise=models["low"], switch_at=switch_at)["samples"]
    assert torch.equal(film, ksampler(inputs, models[only]))


def test_two_experts_keep_known_latents(models):
    inputs = {**film_inputs(models, num_latents=5, start=True), "steps": 6}
    film = run(inputs, model_low_noise=models["low"], switch_at=0.9)["samples"]
    torch.testing.assert_close(film[:, :, 0], inputs["latent"]["samples"][:, :, 0], rtol=0, atol=1e-5)
    same = run(inputs, model_low_noise=models["t2v"], switch_at=0.9, job_name="same")["samples"]
    torch.testing.assert_close(same, ksampler(inputs), rtol=1e-3, atol=1e-3)


def test_the_output_keeps_unknown_keys_and_drops_the_mask(models):
    inputs = film_inputs(models, num_latents=5, start=True)
    out = run(inputs)
    assert out["gloria_pixel_frames"] == 17
    assert "noise_mask" not in out


def count_steps(monkeypatch):
    """Counts model calls of the real sampler without changing it."""
    calls = []
    original = comfy.sample.sample
    monkeypatch.setattr(comfy.sample, "sample", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    return calls


def test_cancel_keeps_finished_chunks_and_the_same_queue_resumes(models, monkeypatch, caplog):
    inputs = film_inputs(models, "i2v", 14)
    settings = {"chunk_frames": 21, "prefix_latents": 4}
    unbroken = run(inputs, **settings, job_name="unbroken")["samples"]

    seen = []
    original = sampling.FilmProgress.finish_chunk

    def cancel_after_two(self, chunk):
        seen.append(chunk.index)
        if chunk.index == 1:
            comfy.model_management.interrupt_current_processing(True)
        original(self, chunk)

    monkeypatch.setattr(sampling.FilmProgress, "finish_chunk", cancel_after_two)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(inputs, **settings)
    monkeypatch.undo()
    assert seen == [0, 1]

    calls = count_steps(monkeypatch)
    with caplog.at_level("INFO"):
        resumed = run(inputs, **settings)["samples"]
    assert len(calls) == 3
    assert "resumed: chunks 0-1 kept" in caplog.text
    assert torch.equal(resumed, unbroken)


def test_cancel_inside_a_step_stops_before_the_step_ends(models):
    inputs = film_inputs(models, num_latents=5)
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(inputs)
    assert not comfy.model_management.processing_interrupted()


def test_a_second_run_samples_nothing_and_blend_is_no_reason_to_sample(models, monkeypatch):
    inputs = film_inputs(models, "i2v", 14)
    settings = {"chunk_frames": 21, "prefix_latents": 4}
    first = run(inputs, **settings)["samples"].clone()
    calls = count_steps(monkeypatch)
    assert torch.equal(run(inputs, **settings)["samples"], first)
    cut = run(inputs, **settings, blend=False)["samples"]
    assert calls == []
    assert not torch.equal(cut, first)


def test_changed_inputs_start_a_new_job_that_says_what_changed(models, caplog):
    inputs = film_inputs(models, num_latents=5)
    run(inputs)
    changed = film_inputs(models, num_latents=5)
    changed["positive"][0][1]["gloria_anchors"][0] = torch.zeros(1, 16, 1, SIDE, SIDE)
    with caplog.at_level("INFO"):
        run(changed, seed=4)
    assert "anchors changed, seed: 3 -> 4" in caplog.text
    folders = film_folder(inputs)
    assert len(folders) == 2
    assert json.loads((folders[0] / "job.json").read_text())["inputs"]["steps"] == {"value": STEPS}


def test_progress_counts_all_steps_of_all_chunks(models, monkeypatch):
    updates = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: updates.append((value, total))
    )
    texts = []
    monkeypatch.setattr(sampling.FilmProgress, "say", lambda self, text: texts.append(text))
    inputs = film_inputs(models, "i2v", 14)
    run(inputs, chunk_frames=21, prefix_latents=4)
    assert updates[-1] == (5 * STEPS, 5 * STEPS)
    assert all(total == 5 * STEPS for _, total in updates)
    assert [value for value, _ in updates] == sorted(value for value, _ in updates)
    assert any(text.startswith("chunk 3/5, step 2/2, ETA 0:") for text in texts)


def test_nan_from_the_model_names_chunk_and_step_and_keeps_earlier_chunks(models, monkeypatch):
    inputs = film_inputs(models, "i2v", 14)
    calls = []
    original = models["i2v"].model.apply_model

    def broken(x, *args, **kwargs):
        calls.append(1)
        out = original(x, *args, **kwargs)
        return out * float("nan") if len(calls) > STEPS else out

    monkeypatch.setattr(models["i2v"].model, "apply_model", broken)
    with pytest.raises(JournalError, match=r"Chunk 1 .*step 1 of 2.*fp8"):
        run(inputs, chunk_frames=21, prefix_latents=4)
    monkeypatch.undo()
    (folder,) = film_folder(inputs)
    assert (folder / "chunk_00000.json").exists()
    assert not (folder / "chunk_00001.json").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"chunk_frames": 22}, r"4n \+ 1.*21 or 25"),
        ({"chunk_frames": 13}, "no new frame"),
        ({"job_name": "../evil"}, "job name"),
        ({"positive": []}, "positive conditioning is empty"),
        ({"negative": []}, "negative conditioning is empty"),
        ({"latent": {"samples": torch.zeros(1, 48, 5, SIDE, SIDE)}}, "48 channels"),
        ({"latent": {"samples": torch.zeros(1, 16, SIDE, SIDE)}}, "shape"),
        ({"latent": {"samples": torch.zeros(2, 16, 5, SIDE, SIDE)}}, "2 videos"),
        ({"cfg": float("nan")}, "finite"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_sampled(models, monkeypatch, changes, match):
    calls = count_steps(monkeypatch)
    with pytest.raises(GloriaError, match=match):
        run(film_inputs(models, num_latents=5), **changes)
    assert calls == []


def test_context_windows_are_refused(models):
    inputs = film_inputs(models, num_latents=5)
    model = inputs["model"].clone()
    model.model_options["context_handler"] = object()
    with pytest.raises(PlanError, match="context windows"):
        run({**inputs, "model": model})


def test_experts_of_different_kinds_are_refused(models):
    with pytest.raises(PlanError, match="different kinds"):
        run(film_inputs(models, num_latents=5), model_low_noise=models["i2v"])


def test_short_audio_is_a_warning(models, caplog):
    inputs = film_inputs(models, num_latents=5)
    inputs["positive"][0][1]["gloria_audio"] = inputs["positive"][0][1]["gloria_audio"][:4]
    run(inputs)
    assert "covers 4 of the film's 17 frames" in caplog.text


def lora_for(scale):
    generator = torch.Generator().manual_seed(0)
    key = "diffusion_model.blocks.1.self_attn.q"
    return {
        f"{key}.lora_A.weight": scale * torch.randn(4, TOY_T2V.dim, generator=generator),
        f"{key}.lora_B.weight": torch.randn(TOY_T2V.dim, 4, generator=generator),
    }


def test_the_model_fingerprint_survives_a_reload_and_a_run(models):
    again = GloriaLoadModel.execute("t2v.safetensors", "t2v.safetensors", "default").result[0]
    before = fingerprint(again)
    assert before == fingerprint(models["t2v"])
    run({**film_inputs(models, num_latents=5), "model": again})
    assert fingerprint(again) == before
    assert fingerprint(again.clone()) == before


def test_the_model_fingerprint_ignores_whether_a_lora_is_baked_in_just_now(models):
    model = GloriaLoadModel.execute("t2v.safetensors", "t2v.safetensors", "default").result[0]
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora_for(1.0), 1.0, 0)
    plain, with_lora = fingerprint(model), fingerprint(patched)
    run({**film_inputs(models, num_latents=5), "model": patched})
    assert (fingerprint(model), fingerprint(patched)) == (plain, with_lora)


def test_the_model_fingerprint_sees_lora_strength_weights_shift_and_base(models):
    model = models["t2v"]
    variants = [
        model,
        models["low"],
        models["i2v"],
        comfy.sd.load_lora_for_models(model, None, lora_for(1.0), 1.0, 0)[0],
        comfy.sd.load_lora_for_models(model, None, lora_for(1.0), 0.5, 0)[0],
        comfy.sd.load_lora_for_models(model, None, lora_for(2.0), 1.0, 0)[0],
        sampling.with_shift(model, 3.0),
        sampling.with_shift(model, 4.0),
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)


def test_settings_of_a_model_patch_in_a_closure_count(models):
    def rescaled(multiplier):
        model = models["t2v"].clone()
        model.set_model_sampler_cfg_function(lambda args: args["cond"] * multiplier)
        return fingerprint(model)

    assert rescaled(0.5) == rescaled(0.5)
    assert rescaled(0.5) != rescaled(0.7)


def test_a_conditioning_fingerprint_is_content():
    class Output:
        def __init__(self, value):
            self.penultimate_hidden_states = torch.full((2, 3), value)
            self.me = self

    make = lambda value: [[torch.ones(1, 2), {"clip_vision_output": Output(value), "strength": 1.0}]]  # noqa: E731
    assert fingerprint(make(1.0)) == fingerprint(make(1.0))
    assert fingerprint(make(1.0)) != fingerprint(make(2.0))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("full_bytes", [0, 1 << 20])
def test_tensors_of_every_type_whole_or_sampled(dtype, full_bytes):
    tensor = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).clamp(-1, 1).to(dtype)
    before = tensor_fingerprint(tensor, full_bytes)
    assert tensor_fingerprint(tensor.t().contiguous().t(), full_bytes) == before
    assert tensor_fingerprint(torch.zeros_like(tensor), full_bytes) != before
    assert tensor_fingerprint(tensor.reshape(30, 40), full_bytes) != before


def test_one_changed_value_in_a_large_latent_is_seen():
    latent = torch.zeros(1, 16, 600, 60, 104)
    before = fingerprint(latent)
    latent[0, 3, 400, 7, 9] = 1e-3
    assert fingerprint(latent) != before


@pytest.mark.parametrize("kind", ["i2v", "ti2v"])
def test_the_core_alone_makes_the_same_film(models, kind, tmp_path):
    from gloria_pack.gloria_core.generate import Job, generate
    from gloria_pack.gloria_core.model.dit import GloriaDiT
    from gloria_pack.gloria_core.sampling.denoise import Conditions, SampleSettings
    from gloria_pack.gloria_core.shapes import LatentSize

    total, channels = 9, CHANNELS[kind]
    inputs = {**film_inputs(models, kind, total, start=kind == "ti2v"), "steps": 4, "shift": 5.0}
    model = models[kind].model
    values = inputs["positive"][0][1]
    to_model = lambda latents: model.process_latent_in(latents)  # noqa: E731
    start = values["concat_latent_image"] if kind == "i2v" else inputs["latent"]["samples"][:, :, :1]
    conditions = Conditions(
        text_BLD=inputs["positive"][0][0],
        negative_text_BLD=inputs["negative"][0][0],
        anchors=[to_model(anchor) for anchor in values["gloria_anchors"]],
        anchor_slots=values["gloria_anchor_slots"],
        audio_FLC=values["gloria_audio"],
        start_BCTHW=to_model(start),
    )
    # Both branches of this test's conditioning hear the same speech; the core's negative hears silence.
    inputs["negative"][0][1]["gloria_audio"] = torch.zeros_like(values["gloria_audio"])
    film = run(inputs, chunk_frames=21, prefix_latents=4)["samples"]
    dit = GloriaDiT(model.gloria_config, dtype=torch.float32).eval()
    dit.load_state_dict(model.diffusion_model.state_dict())
    core = generate(
        dit,
        conditions,
        LatentSize(channels, total, SIDE, SIDE),
        SampleSettings(seed=3, steps=4, shift=5.0, chunk_latents=6),
        Job(tmp_path, "core", {}),
    )
    torch.testing.assert_close(model.process_latent_out(core), film, rtol=0, atol=2e-3)


RESTART = """
import sys
sys.path[:0] = [{comfyui!r}]
from comfy.cli_args import args
args.cpu, args.base_directory = True, {base!r}
import asyncio, importlib.util, torch
spec = importlib.util.spec_from_file_location("gloria_pack", {pack!r})
pack = importlib.util.module_from_spec(spec)
sys.modules["gloria_pack"] = pack
spec.loader.exec_module(pack)
asyncio.run(asyncio.run(pack.comfy_entrypoint()).on_load())
import comfy.sd
from safetensors.torch import load_file
from gloria_pack.nodes.bridge import fingerprint, sampling
from gloria_pack.nodes.load_model import GloriaLoadModel
for dtype in ("default", "fp8_e4m3fn"):
    model = GloriaLoadModel.execute("t2v.safetensors", "t2v.safetensors", dtype).result[0]
    model, _ = comfy.sd.load_lora_for_models(model, None, load_file({lora!r}), 0.7, 0)
    print("digest", fingerprint.fingerprint(sampling.with_shift(model, 3.0)))
"""


def test_model_fingerprints_are_the_same_after_a_restart(models, base_directory, tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_file(lora_for(1.0), lora)
    script = RESTART.format(
        comfyui=os.environ["COMFYUI_PATH"], base=str(base_directory), pack=str(REPO / "__init__.py"), lora=str(lora)
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    elsewhere = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("digest")]

    here = []
    for dtype in ("default", "fp8_e4m3fn"):
        model = GloriaLoadModel.execute("t2v.safetensors", "t2v.safetensors", dtype).result[0]
        model, _ = comfy.sd.load_lora_for_models(model, None, load_file(lora), 0.7, 0)
        here.append(fingerprint(sampling.with_shift(model, 3.0)))
    assert here == elsewhere
    assert here[0] != here[1]


def test_anchors_on_a_plain_wan_model_are_refused_instead_of_ignored(models, base_directory, output_directory):
    state = comfy.utils.load_torch_file(str(base_directory / "models" / "diffusion_models" / "t2v.safetensors"))
    metadata = {"config": json.dumps({"transformer": {"text_dim": TOY_T2V.text_dim}})}
    plain = comfy.sd.load_diffusion_model_state_dict(state, metadata=metadata)
    inputs = film_inputs(models, num_latents=3)
    with pytest.raises(PlanError, match=r"anchors and audio.*Load Gloria Model"):
        run(inputs, model=plain)
    assert not list((output_directory / "gloria").glob("*/chunk_*"))
