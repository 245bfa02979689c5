"""Gloria Timeline through conditioning, plan, long sampler and KSampler, with a real CLIP, VAE and model at toy size.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_timeline.py
"""

import copy
import json

import comfy.sample
import comfy.sd
import comfy.utils
import pytest
import torch

import nodes as comfy_nodes
from gloria_pack.gloria_core.conditioning.anchors import Anchor, AnchorSet
from gloria_pack.gloria_core.conditioning.audio import AudioFeatures
from gloria_pack.gloria_core.errors import CueError
from gloria_pack.gloria_core.model.presets import TOY_T2V
from gloria_pack.gloria_core.sampling.plan import chunk_seed, plan_chunks
from gloria_pack.gloria_core.toy_weights import write_toy_dit, write_toy_gloria, write_toy_text_encoder, write_toy_vae
from gloria_pack.nodes.bridge.conditioning import chunk_inputs
from gloria_pack.nodes.condition import GloriaCondition
from gloria_pack.nodes.encode_timeline import GloriaEncodeTimeline
from gloria_pack.nodes.load_model import GloriaLoadModel
from gloria_pack.nodes.plan_video import GloriaPlanVideo
from gloria_pack.nodes.sample_long_video import GloriaSampleLongVideo

BASE = "A woman in a red coat."
# At 24 fps chunks of 21 frames with a prefix of 4 latents add frames 0-20, 21-28, 29-36 and 37-40.
CUES = "0:00 she speaks\n0:00.9 [happy] she smiles\n0:01.25 [happy, front] she turns"
CUE_OF_CHUNK = (0, 1, 2, 2)
LENGTH, CHUNK = 41, {"chunk_frames": 21, "prefix_latents": 4}
SIDE = 32
ALL_LABELS = ("global", "front", "happy", "sad")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    write_toy_text_encoder(path)
    return comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.WAN)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_toy_vae(path, width=8)
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


@pytest.fixture(scope="module")
def model(base_directory):
    folder = base_directory / "models"
    write_toy_dit(folder / "diffusion_models" / "timeline.safetensors", TOY_T2V)
    write_toy_gloria(folder / "gloria" / "timeline.safetensors", TOY_T2V.with_audio())
    return GloriaLoadModel.execute("timeline.safetensors", "timeline.safetensors", "default").result[0]


@pytest.fixture(autouse=True)
def _as_comfyui_runs_nodes(output_directory):
    with torch.inference_mode():
        yield


def anchor_set(*labels):
    kinds = {"global": "global", "front": "viewpoint", "happy": "expression", "sad": "expression"}
    generator = torch.Generator().manual_seed(0)
    pictures = {label: torch.rand(SIDE, SIDE, 3, generator=generator) for label in kinds}
    return AnchorSet(tuple(Anchor(kinds[label], label, pictures[label]) for label in labels))


def encode(clip, text):
    return comfy_nodes.CLIPTextEncode().encode(clip, text)[0]


def timeline(clip, cues=CUES, base=BASE):
    return GloriaEncodeTimeline.execute(clip, base, cues).result[0]


def condition(clip, vae, positive, labels=ALL_LABELS, **changes):
    anchors = anchor_set(*labels) if labels else None
    inputs = {
        "positive": positive, "negative": encode(clip, "blurry"), "vae": vae, "width": SIDE, "height": SIDE,
        "length": LENGTH, "anchors": anchors,
    }  # fmt: skip
    return GloriaCondition.execute(**{**inputs, **changes}).result


def sample(model, conditions, **changes):
    positive, negative, latent = conditions
    settings = {
        "seed": 3, "steps": 2, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple", "shift": 0.0,
        "job_name": "film", **CHUNK,
    }  # fmt: skip
    node = GloriaSampleLongVideo.PREPARE_CLASS_CLONE(None)
    return node.execute(model, positive, negative, latent, **{**settings, **changes}).result[0]["samples"]


def ksampler(model, positive, negative, latent, seed=3):
    return comfy_nodes.common_ksampler(model, seed, 2, 3.5, "euler", "simple", positive, negative, latent)[0]["samples"]


def test_the_conditioning_shows_its_first_cue_as_the_stock_encoder_encodes_it(clip):
    (entry,) = timeline(clip)
    (expected,) = encode(clip, f"{BASE} she speaks")
    assert torch.equal(entry[0], expected[0])
    assert torch.equal(entry[1]["pooled_output"], expected[1]["pooled_output"])


def test_every_text_is_encoded_once(clip, monkeypatch):
    calls = []
    original = clip.encode_from_tokens_scheduled
    monkeypatch.setattr(clip, "encode_from_tokens_scheduled", lambda *a, **k: calls.append(1) or original(*a, **k))
    timeline(clip, "0:00 a\n0:01 b\n0:02 a\n0:03 [happy] a")
    assert len(calls) == 2


def test_every_chunk_gets_its_prompt_and_anchors_and_nothing_else(model, clip, vae):
    film = sample(model, condition(clip, vae, timeline(clip)))
    texts = ["she speaks", "she smiles", "she turns"]
    labels = [ALL_LABELS, ("global", "happy"), ("global", "front", "happy")]
    by_hand = [condition(clip, vae, encode(clip, f"{BASE} {text}"), of) for text, of in zip(texts, labels, strict=True)]

    plan = plan_chunks(film.shape[2], 6, 4)
    assert len(plan.chunks) == len(CUE_OF_CHUNK)
    expected, prefix = None, None
    for chunk, cue in zip(plan.chunks, CUE_OF_CHUNK, strict=True):
        inputs = chunk_inputs(model, *by_hand[cue], chunk, prefix)
        latents = ksampler(model, *inputs, seed=chunk_seed(3, chunk.index))
        expected = latents if expected is None else torch.cat([expected, latents[:, :, 4:]], dim=2)
        prefix = latents[:, :, -4:]
    assert torch.equal(film, expected)


def test_prompts_and_anchors_of_cues_show_in_the_result(model, clip, vae):
    plain = sample(model, condition(clip, vae, timeline(clip, "0:00 she speaks")))
    cued = sample(model, condition(clip, vae, timeline(clip)))
    same_text = sample(model, condition(clip, vae, timeline(clip, "0:00 she speaks\n0:00.9 [happy] she speaks")))
    assert torch.equal(plain[:, :, :6], cued[:, :, :6])
    assert torch.equal(plain[:, :, :6], same_text[:, :, :6])
    for changed in (cued, same_text):
        assert not torch.allclose(plain[:, :, 6:8], changed[:, :, 6:8], atol=1e-4)


@pytest.mark.parametrize("cues", ["0:00 she speaks", "0:00 [sad] she speaks\n0:00.2 [happy] she smiles"])
def test_one_chunk_equals_ksampler_with_a_timeline_too(model, clip, vae, cues):
    conditions = condition(clip, vae, timeline(clip, cues), length=17)
    film = sample(model, conditions)
    assert torch.equal(film, ksampler(model, *conditions))
    # The whole film is one chunk, so it gets the cue that covers most of it.
    text, labels = ("she smiles", ("global", "happy")) if "sad" in cues else ("she speaks", ALL_LABELS)
    by_hand = condition(clip, vae, encode(clip, f"{BASE} {text}"), labels, length=17)
    assert torch.equal(film, ksampler(model, *by_hand))


def test_a_timeline_of_one_cue_gives_the_film_of_a_plain_prompt(model, clip, vae):
    plain = sample(model, condition(clip, vae, encode(clip, f"{BASE} she speaks")))
    assert torch.equal(sample(model, condition(clip, vae, timeline(clip, "0:00 she speaks"))), plain)


def test_a_plain_sampler_without_gloria_conditioning_takes_the_first_cue(model, clip):
    latent = {"samples": torch.zeros(1, 16, 3, 4, 4)}
    negative = encode(clip, "blurry")
    shown = ksampler(model, timeline(clip), negative, latent)
    assert torch.equal(shown, ksampler(model, encode(clip, f"{BASE} she speaks"), negative, latent))


def count_chunks(monkeypatch):
    calls = []
    original = comfy.sample.sample
    monkeypatch.setattr(comfy.sample, "sample", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    return calls


def test_a_changed_cue_samples_from_its_first_chunk_on_and_says_what_changed(
    model, clip, vae, monkeypatch, caplog, output_directory
):
    sample(model, condition(clip, vae, timeline(clip)))
    calls = count_chunks(monkeypatch)
    changed = CUES.replace("she turns", "she waves")
    with caplog.at_level("INFO"):
        film = sample(model, condition(clip, vae, timeline(clip, changed)))
    assert len(calls) == 2
    assert f"chunks 2-3: prompt: {BASE} she turns -> {BASE} she waves" in caplog.text
    unbroken = sample(model, condition(clip, vae, timeline(clip, changed)), job_name="unbroken")
    assert torch.equal(film, unbroken)
    description = json.loads(next((output_directory / "gloria").glob("unbroken-*/job.json")).read_text())
    assert [entry["anchors"]["value"] for entry in description["chunk_inputs"]] == [
        "all", "happy", "happy, front", "happy, front",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "num_sampled"),
    [
        (CUES.replace("[happy] she", "[sad] she"), 3),  # anchors of chunk 1
        (CUES.replace("she speaks", "she sings"), 4),
        (CUES.replace("0:00.9", "0:00.95"), 0),  # the same cue covers the same chunks
        (CUES.replace("0:01.25", "0:01.7"), 2),  # chunk 2 keeps the cue before, and chunk 3 continues it
        (CUES + "\n9:00 she sleeps", 0),
    ],
)
def test_only_what_a_chunk_is_made_from_counts(model, clip, vae, monkeypatch, changed, num_sampled):
    sample(model, condition(clip, vae, timeline(clip)))
    calls = count_chunks(monkeypatch)
    film = sample(model, condition(clip, vae, timeline(clip, changed)))
    assert len(calls) == num_sampled
    monkeypatch.undo()
    assert torch.equal(film, sample(model, condition(clip, vae, timeline(clip, changed)), job_name="unbroken"))


def test_a_changed_base_prompt_changes_every_chunk(model, clip, vae, monkeypatch):
    sample(model, condition(clip, vae, timeline(clip)))
    calls = count_chunks(monkeypatch)
    sample(model, condition(clip, vae, timeline(clip, base="A man.")))
    assert len(calls) == 4


def test_a_redo_from_a_chunk_samples_it_and_its_followers(model, clip, vae, monkeypatch, caplog):
    conditions = condition(clip, vae, timeline(clip))
    first = sample(model, conditions).clone()
    calls = count_chunks(monkeypatch)
    with caplog.at_level("INFO"):
        again = sample(model, conditions, seeds="2: 77")
    assert len(calls) == 2
    assert "chunk 2: seed added (77)" in caplog.text
    assert torch.equal(again[:, :, :8], first[:, :, :8])
    assert not torch.allclose(again[:, :, 8:], first[:, :, 8:], atol=1e-4)


def test_what_is_attached_on_the_way_goes_with_every_cue(model, clip, vae):
    import node_helpers

    cues = timeline(clip)
    attached = node_helpers.conditioning_set_values(cues, {"strength": 0.5})
    film = sample(model, condition(clip, vae, attached))
    by_hand = condition(clip, vae, node_helpers.conditioning_set_values(timeline(clip), {"strength": 0.5}))
    assert all(options["strength"] == 0.5 for _, options in by_hand[0])
    assert torch.equal(film, sample(model, by_hand, job_name="again"))
    from gloria_pack.nodes.bridge.timeline import with_cue

    for index in range(3):
        (entry,) = with_cue(*by_hand[:2], index)[0]
        assert entry[1]["strength"] == 0.5
        assert torch.equal(entry[0], encode(clip, f"{BASE} {['she speaks', 'she smiles', 'she turns'][index]}")[0][0])


def test_the_plan_shows_what_each_chunk_gets(model, clip, vae):
    positive, _, latent = condition(clip, vae, timeline(clip, CUES + "\n0:01.72 she blinks"))
    (report,) = GloriaPlanVideo.execute(model, latent, 21, 2, 3.5, positive).result
    lines = report.splitlines()
    shown = [lines[i + 1].strip() for i, line in enumerate(lines) if line.startswith("  chunk ")]
    assert shown == [
        f"cue 0:00: {BASE} she speaks",
        f"cue 0:00.9 [happy]: {BASE} she smiles",
        f"cue 0:01.25 [happy, front]: {BASE} she turns",
        f"cue 0:01.25 [happy, front]: {BASE} she turns",
    ]
    assert "cue 0:01.72 covers most of no chunk: she blinks" in report
    # Chunk 0 looks at all four anchors: memory and tokens are its.
    assert f"tokens per step: {6 * 4 + 4 * 4}" in report


def test_cues_follow_the_frame_rate_of_the_speech(model, clip, vae):
    features = AudioFeatures(torch.zeros(LENGTH, 13, 768, dtype=torch.bfloat16), 12.0, LENGTH, LENGTH / 12)
    positive, _, latent = condition(clip, vae, timeline(clip), audio_features=features)
    (report,) = GloriaPlanVideo.execute(model, latent, 21, 2, 3.5, positive).result
    assert "at 12 fps" in report
    shown = [line.strip().split(":")[1] for line in report.splitlines() if line.strip().startswith("cue")]
    assert shown[0] == "00"
    assert report.count("cue 0:01.25") == 3


def test_cues_that_cannot_be_followed_are_refused(model, clip, vae):
    with pytest.raises(CueError, match="cue at 0:01.25 names the anchor 'front', but the anchors are global, happy"):
        condition(clip, vae, timeline(clip), ("global", "happy"))
    with pytest.raises(CueError, match="no anchors are connected"):
        condition(clip, vae, timeline(clip), ())
    with pytest.raises(CueError, match="negative prompt comes from a Gloria Timeline"):
        condition(clip, vae, timeline(clip), negative=timeline(clip))
    with pytest.raises(CueError, match="combined from 2 timelines"):
        condition(clip, vae, timeline(clip) + timeline(clip))
    with pytest.raises(CueError, match="Line 1"):
        timeline(clip, "she speaks")


def test_nothing_that_was_given_is_changed(model, clip, vae):
    conditions = condition(clip, vae, timeline(clip))
    before = copy.deepcopy([[options for _, options in part] for part in conditions[:2]])
    sample(model, conditions)
    after = [[options for _, options in part] for part in conditions[:2]]
    for entries, expected in zip(after, before, strict=True):
        for options, old in zip(entries, expected, strict=True):
            assert options.keys() == old.keys()
            assert options["gloria_active_anchors"] == old["gloria_active_anchors"]
            assert all(torch.equal(a, b) for a, b in zip(options["gloria_anchors"], old["gloria_anchors"], strict=True))
