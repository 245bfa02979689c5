"""The whole demo model at tiny scale: from nothing to four files, and kill -9 on the way.

Run: pytest tests/core/demo/test_train_demo.py
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gloria_core.data.cache_index import read_index
from gloria_core.demo.files import DemoFiles
from gloria_core.demo.look import look
from gloria_core.demo.runs import BASE, STAGES
from gloria_core.demo.scratch import dit_config, write_fresh_dit
from gloria_core.demo.sizes import CPU, GPU, TINY
from gloria_core.demo.train import train_demo
from gloria_core.demo.train_vae import VaeTraining
from gloria_core.errors import TrainingError
from gloria_core.model.checkpoint import expected_shapes, load_dit
from gloria_core.toy_weights import vae_shapes
from gloria_core.training.run_folder import read_metrics

ROOT = Path(__file__).resolve().parents[3]
LIMIT_BYTES = 40e6
OPTIONS = {
    "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
    "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
}  # fmt: skip


def exported(output):
    return {path.name: path.read_bytes() for path in sorted(DemoFiles(output).export.rglob("*.safetensors"))}


def command(output):
    return [sys.executable, "-m", "gloria_core.demo.train", "--scale", "tiny", "--output", str(output)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    # Not in this process: where ComfyUI was imported, PyTorch takes other algorithms and the last bits are others.
    subprocess.run(command(output), **OPTIONS, check=True)
    return output


def test_four_files_leave_and_the_model_knows_its_frame_rate(whole):
    folders = {path.parent.name for path in DemoFiles(whole).export.rglob("*.safetensors")}
    assert folders == {"diffusion_models", "vae", "text_encoders", "audio_encoders"}
    model = load_dit(next((DemoFiles(whole).export / "diffusion_models").iterdir()))
    assert model.config.gloria.fps == TINY.world.fps
    assert model.config.gloria.audio_layers == TINY.encoders.audio_layers + 1


def test_the_stages_are_the_papers(whole):
    lines = read_metrics(DemoFiles(whole).run(STAGES))[0]
    names = list(dict.fromkeys(line["stage"] for line in lines))
    assert names == ["audio", "global_anchor", "identity_anchors", "both_anchors"]
    assert all(line["samples"] == TINY.stages.batch for line in lines)


def test_doing_it_again_does_nothing_and_another_model_is_refused(whole):
    made = [path for path in whole.rglob("*.safetensors") if "models" not in path.parts and "results" not in path.parts]
    before = {path: path.stat().st_mtime_ns for path in made}
    # The trainer and the export write their results again, with the same content.
    files = exported(whole)
    assert train_demo(TINY, whole)
    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert exported(whole) == files
    with pytest.raises(TrainingError, match="vae.width was 4, now 12"):
        train_demo(CPU, whole)


def test_the_sheets_of_pictures_can_be_made_of_every_part(whole):
    names = [path.name for path in look(TINY, whole)]
    assert names == ["sheet_vae.png", "sheet_base.png", "sheet_stages.png"]


def reaches(output, moment):
    files = DemoFiles(output)
    return {
        "vae": (files.vae_run / "checkpoints" / "step_00000002" / "COMPLETE").exists(),
        "cache": len(list((files.cache(BASE) / "sources").glob("*.json"))) >= 2,
        "stages": (files.run(STAGES) / "checkpoints" / "step_00000004" / "COMPLETE").exists(),
    }[moment]


def test_kill_9_in_every_part_then_again_gives_the_same_files(tmp_path, whole):
    for moment in ("vae", "cache", "stages"):
        process = subprocess.Popen(command(tmp_path), **OPTIONS)
        while not reaches(tmp_path, moment) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert reaches(tmp_path, moment)
    assert subprocess.run(command(tmp_path), **OPTIONS, timeout=300).returncode == 0
    # Which sources are there is known by their keys: nothing was made twice in another way.
    for stage in (BASE, STAGES):
        assert read_index(DemoFiles(tmp_path).cache(stage)) == read_index(DemoFiles(whole).cache(stage))
    # The file of the diffusion model also tells where its base lay.
    weights = [load_dit(next((DemoFiles(output).export / "diffusion_models").iterdir())).state_dict()
               for output in (tmp_path, whole)]  # fmt: skip
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    others = {name: content for name, content in exported(whole).items() if "dit" not in name}
    assert {name: exported(tmp_path)[name] for name in others} == others


def test_the_autoencoder_learns(tmp_path):
    training = VaeTraining(TINY, tmp_path, torch.device("cpu"))
    training.run()
    lines = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "psnr_image" in line]
    assert len(lines) == 3
    first, last = (float(line.split('"psnr_image": ')[1].split(",")[0]) for line in (lines[0], lines[-1]))
    assert last > first


@pytest.mark.parametrize("sizes", [CPU, GPU], ids=["cpu", "gpu"])
def test_the_files_of_the_shipped_sizes_fit_the_repository(sizes):
    dit = dit_config(sizes).with_audio(sizes.encoders.audio_layers + 1, sizes.encoders.audio_width)
    shapes = [*expected_shapes(dit).values(), *dict(vae_shapes(sizes.vae.width)).values()]
    num_bytes = 2 * sum(torch.Size(shape).numel() for shape in shapes)
    assert num_bytes + 2e6 < LIMIT_BYTES, "two bytes a weight, and room for the encoders"
    assert dit.head_dim == 128


def test_a_fresh_model_predicts_nothing_and_passes_its_input_through_every_block(tmp_path):
    write_fresh_dit(TINY, tmp_path / "fresh.safetensors")
    model = load_dit(tmp_path / "fresh.safetensors")
    x = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    model.blocks[-1].register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    prediction = model(x, torch.tensor([500.0]), torch.randn(1, 4, TINY.encoders.text_width))
    assert (prediction == 0).all()
    assert torch.equal(seen[0][0], seen[0][1])
