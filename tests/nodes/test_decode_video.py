"""Gloria Decode Video in a real ComfyUI. Run: COMFYUI_PATH=... python -m pytest tests/nodes/test_decode_video.py"""

import json

import av
import comfy.sd
import comfy.utils
import numpy as np
import pytest
import torch
from comfy import model_management
from comfy_api.latest import InputImpl
from safetensors.torch import load_file

import nodes as comfyui_nodes
from gloria_pack.gloria_core.errors import GloriaError, MediaError
from gloria_pack.gloria_core.toy_weights import write_toy_vae

PROMPT = {"7": {"class_type": "GloriaDecodeVideo", "inputs": {"filename_prefix": "gloria/film"}}}
WORKFLOW = {"workflow": {"nodes": [{"id": 7}], "version": 0.4}}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "toy.safetensors"
    write_toy_vae(path, 4)
    return comfy.sd.VAE(sd=load_file(path))


@pytest.fixture
def decode(pack, vae, output_directory):
    """Runs the node with its hidden inputs set the way ComfyUI's executor sets them."""
    from comfy_api.latest import io

    from gloria_pack.nodes.decode_video import GloriaDecodeVideo

    def run(latent, **inputs):
        node = GloriaDecodeVideo.PREPARE_CLASS_CLONE(
            {"hidden_inputs": {io.Hidden.prompt: PROMPT, io.Hidden.extra_pnginfo: WORKFLOW, io.Hidden.unique_id: "7"}}
        )
        values = {"vae": vae, "fps": 24.0, "filename_prefix": "gloria/film", "crf": 17} | inputs
        with torch.inference_mode():
            return node.execute(latent, **values)

    return run


def latent_of(num_latents, seed=0, **extra):
    generator = torch.Generator().manual_seed(seed)
    return {"samples": torch.randn(1, 16, num_latents, 4, 6, generator=generator), **extra}


def audio_of(seconds, rate=44100):
    waveform = torch.sin(torch.arange(int(seconds * rate)) * 2 * torch.pi * 300 / rate).expand(1, 2, -1) * 0.5
    return {"waveform": waveform, "sample_rate": rate}


def test_inputs_keep_their_order_because_saved_workflows_count_on_it(pack):
    from gloria_pack.nodes.decode_video import GloriaDecodeVideo

    schema = GloriaDecodeVideo.define_schema()
    assert [item.id for item in schema.inputs] == ["latent", "vae", "audio", "fps", "filename_prefix", "crf"]
    assert schema.is_output_node
    assert all(item.tooltip for item in [*schema.inputs, *schema.outputs])


def test_video_and_preview_point_to_the_finished_file(decode, output_directory):
    output = decode(latent_of(4), audio=audio_of(9))
    (video,) = output.args
    assert isinstance(video, InputImpl.VideoFromFile)
    path = output_directory / "gloria" / "film_00001_.mp4"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert video.get_stream_source() == str(path)
    assert video.get_frame_count() == 13
    assert video.get_dimensions() == (48, 32)
    assert float(video.get_duration()) == pytest.approx(13 / 24, abs=1 / 24)
    assert output.ui.as_dict()["images"] == [{"filename": path.name, "subfolder": "gloria", "type": "output"}]
    with av.open(str(path)) as container:
        assert container.streams.audio[0].layout.nb_channels == 2
        assert json.loads(container.metadata["prompt"]) == PROMPT
        assert json.loads(container.metadata["workflow"]) == WORKFLOW["workflow"]


def test_picture_is_the_one_of_vae_decode(decode, vae):
    latent = latent_of(5)
    (video,) = decode(latent, crf=0).args
    written = video.get_components().images
    expected = vae.decode(latent["samples"])[0]
    assert expected.std() > 0.05
    # What 4:2:0 color and 8 bits leave of it: brightness.
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    assert ((written[..., :3] - expected) @ weights).abs().mean() < 0.03


def test_gloria_pixel_frames_trims_the_film(decode):
    (video,) = decode(latent_of(4, gloria_pixel_frames=11)).args
    assert video.get_frame_count() == 11


def test_second_film_gets_the_next_number_and_the_first_one_stays(decode, output_directory):
    decode(latent_of(1))
    before = (output_directory / "gloria" / "film_00001_.mp4").read_bytes()
    decode(latent_of(1, seed=1))
    names = sorted(entry.name for entry in (output_directory / "gloria").iterdir())
    assert names == ["film_00001_.mp4", "film_00002_.mp4"]
    assert (output_directory / "gloria" / "film_00001_.mp4").read_bytes() == before


def test_film_without_audio_and_folder_in_the_root_of_output(decode, output_directory):
    output = decode(latent_of(1), filename_prefix="plain")
    assert output.ui.as_dict()["images"][0]["subfolder"] == ""
    with av.open(str(output_directory / "plain_00001_.mp4")) as container:
        assert not container.streams.audio


def test_save_video_copies_the_film_without_encoding_again(decode, output_directory):
    (video,) = decode(latent_of(4), audio=audio_of(1)).args
    video.save_to(str(output_directory / "copy.mp4"))

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(video=0)]

    assert packets(output_directory / "copy.mp4") == packets(video.get_stream_source())


def test_cancel_stops_the_decode_and_the_next_run_finishes_it(decode, output_directory, monkeypatch):
    latent = latent_of(45)

    def press_cancel(done, total, preview, node_id=None):
        if 125 <= done < total:
            model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", press_cancel)
    with pytest.raises(model_management.InterruptProcessingException):
        decode(latent)
    monkeypatch.undo()
    (parts,) = (output_directory / "gloria").iterdir()
    assert (parts / "seg_00000.json").exists()
    (video,) = decode(latent).args
    assert video.get_frame_count() == 177
    assert [entry.name for entry in (output_directory / "gloria").iterdir()] == ["film_00001_.mp4"]


def test_remaining_time_is_sent_to_the_node(decode, monkeypatch):
    import sys
    from types import ModuleType, SimpleNamespace

    sent = []
    server = ModuleType("server")
    instance = SimpleNamespace(send_progress_text=lambda text, node_id: sent.append((text, node_id)))
    server.PromptServer = SimpleNamespace(instance=instance)
    monkeypatch.setitem(sys.modules, "server", server)
    decode(latent_of(3))
    assert sent[-1] == ("9 of 9 frames", "7")


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ({"samples": torch.zeros(1, 48, 2, 4, 4)}, "48 channels, this VAE decodes 16"),
        ({"samples": torch.zeros(1, 4, 8, 8)}, "Expected a video latent"),
        ({"samples": torch.full((1, 16, 2, 4, 4), float("nan"))}, "Latent frame 0 of 2"),
        ({"samples": torch.zeros(1, 16, 2, 4, 4), "gloria_pixel_frames": 9}, "cannot keep 9"),
    ],
)
def test_unusable_latents_are_refused_and_leave_nothing(decode, output_directory, latent, message):
    with pytest.raises(MediaError, match=message):
        decode(latent)
    assert not [entry for entry in output_directory.rglob("*") if entry.is_file()]


@pytest.mark.parametrize("prefix", ["../film", "/tmp/film", "a/../../film"])
def test_prefix_outside_the_output_folder_is_refused(decode, prefix):
    with pytest.raises(GloriaError):
        decode(latent_of(1), filename_prefix=prefix)


def test_stock_vae_decode_and_the_node_agree_on_the_number_of_frames(decode, vae):
    latent = latent_of(3)
    (images,) = comfyui_nodes.VAEDecode().decode(vae, latent)
    (video,) = decode(latent).args
    assert np.shape(images)[0] == video.get_frame_count() == 9
