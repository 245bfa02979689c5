"""The whole demo model at tiny scale: from nothing to four files, and kill -9 on the way.

Run: pytest tests/core/demo/test_train_demo.py
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gloria_core.data.cache_index import read_index
from gloria_core.demo.files import BASE, CURRICULUM, GLOBAL, IDENTITY, PICTURES, WINDOWS, DemoFiles
from gloria_core.demo.look import look
from gloria_core.demo.scratch import dit_config, write_fresh_dit
from gloria_core.demo.sizes import CPU, GPU, TINY
from gloria_core.demo.train import train_demo
from gloria_core.demo.train_arm import ARMS, arm_run, train_arm
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


def exported(output, folder="models"):
    return {path.name: path.read_bytes() for path in sorted((output / folder).rglob("*.safetensors"))}


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


def test_the_stages_are_the_papers_with_pictures_before_its_identity_anchors(whole):
    files = DemoFiles(whole)
    lines = [line for run in CURRICULUM for line in read_metrics(files.run(run))[0]]
    names = list(dict.fromkeys(line["stage"] for line in lines))
    assert names == ["audio", "global_anchor", "pictures", "identity_anchors", "both_anchors"]
    batches = {"pictures": TINY.stages.pictures_batch}
    assert all(line["samples"] == batches.get(line["stage"], TINY.stages.batch) for line in lines)
    pictures = read_index(files.cache(PICTURES))
    assert {clip.num_latents for clip in pictures.clips} == {1}
    assert len(pictures.clips) == TINY.world.seconds * (TINY.stages.picture_videos + TINY.world.num_held_out)


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
    assert names == ["sheet_vae.png", *(f"sheet_{run}.png" for run in (BASE, *CURRICULUM))]


ALL_ARMS = """
import shutil
import sys
from pathlib import Path
from gloria_core.demo.files import BASE, CURRICULUM, GLOBAL, IDENTITY, PICTURES, WINDOWS, DemoFiles
from gloria_core.demo.sizes import TINY
from gloria_core.demo.train import main
from gloria_core.demo.train_arm import ARMS, TrainedArm, train_arm

base, output = map(Path, sys.argv[1:])
assert train_arm(TINY, TrainedArm(name="nothing", benchmark="nothing"), DemoFiles(base), output, "cpu")
for name in ARMS:
    assert main(["--scale", "tiny", "--base", str(base), "--output", str(output), "--arm", name]) == 0
# As after a kill in the last stage.
(output / "models_one_way").rename(output / "models_unbroken")
run = DemoFiles(output).run("one_way_identity")
for folder in (run / "checkpoints" / "step_00000004", run / "results"):
    shutil.rmtree(folder)
assert main(["--scale", "tiny", "--base", str(base), "--output", str(output), "--arm", "one_way"]) == 0
"""


@pytest.fixture(scope="module")
def arms(tmp_path_factory, whole):
    output = tmp_path_factory.mktemp("arms")
    subprocess.run([sys.executable, "-c", ALL_ARMS, str(whole), str(output)], **OPTIONS, check=True)
    return output


def model_of(folder):
    return load_dit(next((folder / "diffusion_models").iterdir()))


def test_an_arm_that_changes_nothing_is_the_full_model_bit_for_bit(whole, arms):
    full, again = model_of(whole / "models").state_dict(), model_of(arms / "models_nothing").state_dict()
    assert all(torch.equal(again[name], full[name]) for name in full)
    for run in (PICTURES, IDENTITY):
        losses = [[line["loss"] for line in read_metrics(DemoFiles(output).run(name))[0]]
                  for output, name in ((whole, run), (arms, f"nothing_{run}"))]  # fmt: skip
        assert losses[0] == losses[1]
    assert not DemoFiles(arms).run(f"nothing_{GLOBAL}").exists()


def test_arms_differ_from_the_full_model_and_their_files_know_how(whole, arms):
    full = model_of(whole / "models")
    for name, arm in ARMS.items():
        model = model_of(arms / f"models_{name}")
        assert not torch.equal(model.blocks[0].ffn[0].weight, full.blocks[0].ffn[0].weight), name
        assert model.config.gloria == replace(full.config.gloria, **arm.settings)
    for run in (PICTURES, IDENTITY):
        config = arm_run(TINY, ARMS["no_superset"], DemoFiles(whole), DemoFiles(arms), run, whole, "cpu")
        assert not any(stage.superset for stage in config.stages)


def test_an_arm_goes_on_where_it_was_cut_and_needs_the_full_models_checkpoint(tmp_path, arms):
    assert len(exported(arms, "models_unbroken")) == 4
    assert exported(arms, "models_one_way") == exported(arms, "models_unbroken")
    with pytest.raises(TrainingError, match="starts at the end of the run 'global'"):
        train_arm(TINY, ARMS["one_way"], DemoFiles(tmp_path), tmp_path, "cpu")


def reaches(output, moment):
    files = DemoFiles(output)
    return {
        "vae": (files.vae_run / "checkpoints" / "step_00000002" / "COMPLETE").exists(),
        "cache": len(list((files.cache(BASE) / "sources").glob("*.json"))) >= 2,
        "pictures": (files.run(PICTURES) / "checkpoints" / "step_00000002" / "COMPLETE").exists(),
        "identity": (files.run(IDENTITY) / "checkpoints" / "step_00000002" / "COMPLETE").exists(),
    }[moment]


def test_kill_9_in_every_part_then_again_gives_the_same_files(tmp_path, whole):
    for moment in ("vae", "cache", "pictures", "identity"):
        process = subprocess.Popen(command(tmp_path), **OPTIONS)
        while not reaches(tmp_path, moment) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert reaches(tmp_path, moment)
    assert subprocess.run(command(tmp_path), **OPTIONS, timeout=300).returncode == 0
    # Which sources are there is known by their keys: nothing was made twice in another way.
    for dataset in (BASE, WINDOWS, PICTURES):
        assert read_index(DemoFiles(tmp_path).cache(dataset)) == read_index(DemoFiles(whole).cache(dataset))
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
