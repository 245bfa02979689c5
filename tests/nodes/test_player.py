"""Previews of finished chunks, what the player hears and what it may ask, on a film that ComfyUI really samples.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_player.py
"""

import json
import shutil
from fractions import Fraction

import av
import comfy.sd
import comfy.utils
import pytest
import torch

from gloria_pack.gloria_core.errors import MediaError
from gloria_pack.gloria_core.media.preview import preview_size
from gloria_pack.gloria_core.model.presets import TOY_T2V
from gloria_pack.gloria_core.sampling.journal import Journal
from gloria_pack.gloria_core.sampling.plan import chunk_seed, plan_chunks
from gloria_pack.gloria_core.toy_weights import write_toy_dit, write_toy_vae
from gloria_pack.nodes.bridge import player_status
from gloria_pack.nodes.bridge.player_previews import ChunkPreviews
from gloria_pack.nodes.bridge.routes_films import FILM_ROUTES
from gloria_pack.nodes.bridge.sampling import Film
from gloria_pack.nodes.load_model import GloriaLoadModel
from gloria_pack.nodes.sample_long_video import GloriaSampleLongVideo

TOTAL, FRAMES, SIDE = 14, 50, 8
NUM_CHUNKS = 5
RATE = Fraction(24)


@pytest.fixture(scope="module")
def page_routes():
    return FILM_ROUTES


@pytest.fixture(scope="module")
def model(base_directory):
    write_toy_dit(base_directory / "models" / "diffusion_models" / "player.safetensors", TOY_T2V)
    return GloriaLoadModel.execute("player.safetensors", "none", "default").result[0]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    write_toy_vae(path, width=8)
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


def speech(seconds=3.0, pitch=440.0):
    wave = torch.sin(torch.arange(int(16000 * seconds)) / 16000 * pitch * 6.283)
    return {"waveform": wave[None, None], "sample_rate": 16000}


def run(model, **changes):
    text = torch.randn(1, 6, TOY_T2V.text_dim, generator=torch.Generator().manual_seed(0))
    inputs = {
        "positive": [[text, {}]], "negative": [[-text, {}]],
        "latent": {"samples": torch.zeros(1, 16, TOTAL, SIDE, SIDE), "gloria_pixel_frames": FRAMES},
        "seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "shift": 0.0,
        "chunk_frames": 21, "job_name": "film",
    }  # fmt: skip
    node = GloriaSampleLongVideo.PREPARE_CLASS_CLONE(None)
    with torch.inference_mode():
        return node.execute(model, **{**inputs, **changes}).result[0]["samples"]


def job_folder(output, job="film"):
    (folder,) = (output / "gloria").glob(f"{job}-*")
    return folder


def read(path):
    """Frames, their rate and the seconds of sound in a preview."""
    with av.open(str(path)) as file:
        rate = file.streams.video[0].average_rate
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        sound = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0)) if file.streams.audio else 0
    return pictures, rate, sound


@pytest.mark.parametrize("prefix_latents", [0, 4])
@pytest.mark.parametrize("with_vae", [False, True])
def test_previews_show_every_frame_of_the_film_once_with_its_sound(
    model, vae, output_directory, prefix_latents, with_vae
):
    run(model, prefix_latents=prefix_latents, preview_vae=vae if with_vae else None, audio=speech())
    folder = job_folder(output_directory)
    files = sorted(folder.glob("preview_*.mp4"))
    assert len(files) == len(list(folder.glob("chunk_*.safetensors")))
    counts = []
    for path in files:
        pictures, rate, sound = read(path)
        assert rate == RATE
        assert pictures[0].shape == (64, 64, 3)
        assert sound == pytest.approx(len(pictures) / 24, abs=0.1)  # AAC comes in blocks of 64 ms
        counts.append(len(pictures))
    assert sum(counts) == FRAMES
    assert not list(folder.glob("*.tmp*"))


def frames_of(model, vae, journal, chunk):
    samples = torch.zeros(1, 16, TOTAL, SIDE, SIDE)
    latent = {"samples": samples, "gloria_pixel_frames": FRAMES}
    film = Film(model, None, 0.9, [], [], latent, 2, 1.0, "euler", "simple")
    return torch.cat(list(ChunkPreviews(film, journal, vae, None)._frames(chunk)))


def test_pictures_are_those_of_the_vae_on_the_chunk_alone(model, vae, tmp_path):
    plan = plan_chunks(TOTAL, 6, 4)
    generator = torch.Generator().manual_seed(0)
    with Journal(tmp_path, "film", {}, plan, (16, SIDE, SIDE), {}) as journal, torch.inference_mode():
        for chunk in plan.chunks:
            latents = torch.randn(1, 16, chunk.length, SIDE, SIDE, generator=generator)
            journal.commit(chunk, 0, journal.prefix_for(chunk), latents)
            whole = vae.decode(latents)[0]
            expected = whole[13:] if chunk.prefix else whole
            shown = frames_of(model, vae, journal, chunk)
            # The film ends within the last latent.
            assert torch.equal(shown, expected[: shown.shape[0]])
            assert shown.shape[0] == (21 if not chunk.index else 8 if chunk.stop < TOTAL else 5)


def test_a_small_approximate_vae_serves_as_well(model, output_directory):
    from comfy.taesd.taehv import TAEHV

    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = comfy.sd.VAE(sd=TAEHV(latent_channels=16).state_dict())
    assert not isinstance(small.first_stage_model, comfy.ldm.wan.vae.WanVAE)
    run(model, preview_vae=small)
    counts = [len(read(path)[0]) for path in sorted(job_folder(output_directory).glob("preview_*.mp4"))]
    assert counts == [21, 8, 8, 8, 5]


def test_a_preview_is_made_once_and_again_when_sound_or_vae_change(model, vae, output_directory):
    run(model, audio=speech())
    folder = job_folder(output_directory)
    made = {path: path.stat().st_mtime_ns for path in folder.glob("preview_*.mp4")}
    run(model, audio=speech())
    assert {path: path.stat().st_mtime_ns for path in made} == made
    run(model, audio=speech(pitch=220.0))
    again = {path: path.stat().st_mtime_ns for path in made}
    assert all(again[path] > made[path] for path in made)
    run(model, audio=speech(pitch=220.0), preview_vae=vae)
    assert all(path.stat().st_mtime_ns > again[path] for path in made)


def test_another_take_brings_previews_of_the_chunks_it_takes_over(model, output_directory):
    run(model)
    before = job_folder(output_directory)
    run(model, seeds="3: 99")
    (after,) = set((output_directory / "gloria").iterdir()) - {before}
    same = [(before / f"preview_{i:05d}.mp4").samefile(after / f"preview_{i:05d}.mp4") for i in range(NUM_CHUNKS)]
    assert same == [True, True, True, False, False]


def test_sound_that_ends_early_leaves_silent_previews_behind(model, output_directory):
    run(model, audio=speech(seconds=1.0))
    sounds = [read(path)[2] for path in sorted(job_folder(output_directory).glob("preview_*.mp4"))]
    assert sounds[0] > 0.5
    assert sounds[-1] == 0


def test_no_preview_stops_a_film(model, vae, output_directory, monkeypatch, caplog):
    unbroken = run(model, job_name="unbroken").clone()
    monkeypatch.setattr(comfy.ldm.wan.vae.Decoder3d, "forward", lambda *a, **k: 1 / 0)
    assert torch.equal(run(model, preview_vae=vae), unbroken)
    assert "No preview of chunk 4" in caplog.text
    assert not list(job_folder(output_directory).glob("*.mp4"))


def test_a_vae_of_another_model_is_refused_before_the_first_step(model, vae, output_directory, monkeypatch):
    monkeypatch.setattr(vae, "latent_channels", 48)
    with pytest.raises(MediaError, match="48 channels, the film has 16"):
        run(model, preview_vae=vae)
    assert not list(output_directory.glob("gloria/*/chunk_*"))


def test_cancel_works_while_a_preview_is_decoded(model, vae, output_directory, monkeypatch):
    original = comfy.ldm.wan.vae.Decoder3d.forward

    def cancel(*args, **kwargs):
        comfy.model_management.interrupt_current_processing(True)
        return original(*args, **kwargs)

    monkeypatch.setattr(comfy.ldm.wan.vae.Decoder3d, "forward", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, preview_vae=vae)
    folder = job_folder(output_directory)
    assert [path.name for path in folder.glob("chunk_*.safetensors")] == ["chunk_00000.safetensors"]
    assert not list(folder.glob("*.mp4"))


@pytest.mark.parametrize(("size", "shown"), [
    ((480, 832), (296, 512)), ((832, 480), (512, 296)), ((64, 64), (64, 64)), ((720, 1280), (288, 512)),
    ((16, 8192), (2, 512)),
])  # fmt: skip
def test_previews_are_small_even_and_of_the_films_shape(size, shown):
    assert preview_size(*size) == shown


def test_the_page_hears_of_steps_chunks_and_the_end(model, output_directory, monkeypatch):
    heard = []

    class Server:
        def send_sync(self, event, data, sid=None):
            heard.append((event, dict(data)))

        def send_progress_text(self, text, node_id):
            pass

    monkeypatch.setattr(player_status, "comfy_server", Server)
    monkeypatch.setattr(player_status, "_SEND_SECONDS", 0)
    run(model)
    assert {event for event, _ in heard} == {"gloria.film"}
    states = [state for _, state in heard]
    assert [state["finished"] for state in states if "finished" in state] == list(range(NUM_CHUNKS))
    assert [(state["chunk"], state["step"]) for state in states if "step" in state and "finished" not in state][:4] == [
        (0, 1), (0, 2), (0, 2), (1, 1),
    ]  # fmt: skip
    assert all(state["eta_seconds"] >= 0 for state in states if "eta_seconds" in state)
    assert states[-1]["ended"]
    assert player_status.running_film(states[-1]["folder"]) is None
    assert json.dumps(states)


def film(page_server, folder):
    return page_server.ask("GET", f"/gloria/films/{folder}")


def test_takes_chunks_and_previews_are_found_again_from_disk_alone(page_server, model, output_directory):
    run(model, audio=speech())
    first = job_folder(output_directory).name
    run(model, audio=speech(), seeds="3: 99")
    takes = page_server.ask("GET", "/gloria/films?job=film").json
    assert len(takes) == 2
    assert takes[1] == {"folder": first, "running": False}

    shown = film(page_server, takes[0]["folder"]).json
    assert shown["job"] == "film"
    assert shown["running"] is None
    assert [chunk["seed"] for chunk in shown["chunks"]] == [
        str(99 if i == 3 else chunk_seed(3, i)) for i in range(NUM_CHUNKS)
    ]
    assert all(chunk["is_done"] and chunk["preview"] and chunk["is_rough"] for chunk in shown["chunks"])
    assert [chunk["start"] for chunk in shown["chunks"]] == [0, 21 / 24, 29 / 24, 37 / 24, 45 / 24]

    answer = page_server.ask("GET", f"/gloria/films/{first}/previews/1")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "video/mp4")
    assert answer.body == (output_directory / "gloria" / first / "preview_00001.mp4").read_bytes()
    part = page_server.ask("GET", f"/gloria/films/{first}/previews/1", Range="bytes=4-7")
    assert (part.status, part.body) == (206, b"ftyp")


def test_a_film_under_way_says_what_it_does_and_what_is_missing(page_server, model, output_directory):
    run(model)
    folder = job_folder(output_directory)
    for path in (*folder.glob("chunk_00003.*"), *folder.glob("chunk_00004.*")):
        path.unlink()
    status = player_status.FilmStatus(folder, "film", NUM_CHUNKS, "7")
    with status:
        status.update(chunk=3, step=1, num_steps=2, eta_seconds=9.5)
        shown = film(page_server, folder.name).json
        assert [chunk["is_done"] for chunk in shown["chunks"]] == [True, True, True, False, False]
        assert [chunk["seed"] for chunk in shown["chunks"]] == [str(chunk_seed(3, i)) for i in range(NUM_CHUNKS)]
        assert shown["running"]["chunk"] == 3
        assert shown["running"]["eta_seconds"] == 9.5
        assert page_server.ask("GET", "/gloria/films?job=film").json[0]["running"]
    assert film(page_server, folder.name).json["running"] is None


@pytest.mark.parametrize("path", [
    "films/{f}x", "films/..", "films/..%2f{f}", "films/{f}%2f..", "films/film", "films/{f}/previews/..",
    "films/{f}/previews/9", "films/{f}/previews/-1", "films/{f}/previews/0%00", "films/{f}/previews/1%2f..%2f0",
    "films/..%2f..%2foutput%2fgloria%2f{f}", "films/{f}/previews/%D9%A1", "films/linked-01234567",
    "films/linked-01234567/previews/0", "films/{f}/previews/00000000",
])  # fmt: skip
def test_nothing_outside_the_job_folders_is_told_or_sent(page_server, model, output_directory, tmp_path, path):
    run(model)
    name = job_folder(output_directory).name
    shutil.copytree(output_directory / "gloria" / name, tmp_path / "outside")
    (output_directory / "gloria" / "linked-01234567").symlink_to(tmp_path / "outside")
    answer = page_server.ask("GET", f"/gloria/{path.replace('{f}', name)}")
    assert answer.status in (403, 404)
    assert b"mdat" not in answer.body
    assert b"chunks" not in answer.body


@pytest.mark.parametrize("job", ["..", "a/b", "", "%2e%2e%2f", "*", "film*"])
def test_job_names_that_are_none_are_refused(page_server, output_directory, job):
    assert page_server.ask("GET", f"/gloria/films?job={job}").status == 400


@pytest.mark.parametrize("path", ["films?job=film", "films/{f}", "films/{f}/previews/0"])
def test_other_pages_learn_nothing(page_server, model, output_directory, path):
    run(model)
    path = f"/gloria/{path.replace('{f}', job_folder(output_directory).name)}"
    assert page_server.ask("GET", path, Origin=page_server.origin).status == 200
    for headers in ({"Origin": "https://foreign.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert page_server.ask("GET", path, **headers).status == 403
    for method in ("POST", "PUT", "DELETE"):
        assert page_server.ask(method, path, b"{}").status in (404, 405)


@pytest.mark.parametrize("content", [
    "", "[1]", "{}", '{"total_latents": 1e9, "chunk_latents": 6, "prefix_latents": 4}',
    '{"total_latents": 999999999, "chunk_latents": 6, "prefix_latents": 4}',
    '{"total_latents": 14, "chunk_latents": 4, "prefix_latents": 4}',
    '{"total_latents": 14, "chunk_latents": true, "prefix_latents": 4}',
])  # fmt: skip
def test_a_damaged_description_is_told_and_no_bug(page_server, model, output_directory, content):
    run(model)
    folder = job_folder(output_directory)
    (folder / "job.json").write_text(content)
    answer = film(page_server, folder.name)
    assert answer.status == 400
    assert "error" in answer.json


def test_strange_inputs_in_a_description_are_shown_as_unknown(page_server, model, output_directory):
    run(model)
    folder = job_folder(output_directory)
    description = json.loads((folder / "job.json").read_text())
    strange = {**description, "inputs": [], "chunk_inputs": [{"seed": 3}, 7, {"prompt": {"value": "x"}}, {}, {}]}
    (folder / "job.json").write_text(json.dumps(strange))
    (folder / "preview_00000.json").write_text('{"fps": "1/0"}')
    shown = film(page_server, folder.name)
    assert shown.status == 200
    assert shown.json["chunks"][2]["prompt"] == "x"
    assert shown.json["chunks"][0]["preview"] is None
