"""The trainer as a whole at toy size. Run: python -m pytest tests/core/training/test_train.py"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent))
from toy_run import toy_config, toy_settings, write_base, write_cache

from gloria_core.data.cache import CacheStore
from gloria_core.data.cache_index import read_index, write_index
from gloria_core.errors import ConfigError, DatasetError, TrainingError
from gloria_core.model.checkpoint import detect_config, load_dit
from gloria_core.train import main, train
from gloria_core.training.config import config_from_dict
from gloria_core.training.distributed import Workers
from gloria_core.training.loss_bins import LossBins
from gloria_core.training.objective import batch_loss
from gloria_core.training.progress import Progress
from gloria_core.training.resume import check_same_run, describe_run
from gloria_core.training.run_folder import RunFolder, read_metrics, read_status, read_validation, request
from gloria_core.training.snapshot import find_latest
from gloria_core.training.validate import validation_clips

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def losses_of(folder):
    return [line["loss"] for line in read_metrics(folder)[0]]


def final_tensors(config):
    snapshot = find_latest(Path(config.output))
    groups = {group: snapshot.load(group) for group in ("weights", "optimizer")}
    return {f"{group}/{key}": tensor for group, tensors in groups.items() for key, tensor in tensors.items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


@pytest.mark.parametrize("base", ["t2v", "i2v", "ti2v"])
def test_every_kind_of_base_trains_to_results(tmp_path, base):
    config = toy_config(tmp_path, base, stages=[{"name": "one", "steps": 2}])
    assert train(config)
    status = read_status(Path(config.output))
    assert status["state"] == "finished"
    assert status["step"] == 2
    assert set(status["results"]) == {"lora", "gloria"}
    assert all(Path(path).is_file() for path in status["results"].values())


def test_the_status_tells_at_once_that_training_goes_on_after_a_save(tmp_path):
    config = toy_config(tmp_path)
    with RunFolder(Path(config.output)) as folder:
        progress = Progress(config, Workers(config), folder)
        progress.say("saving", "saving step 1")
        step = {"step": 2, "stage": "one", "loss": 1.0, "grad_norm": 1.0, "lr": 1e-4, "seconds": 0.01}
        progress.after_step(step, LossBins())
        assert read_status(folder.path)["state"] == "training"


def test_a_lora_run_changes_adapters_and_audio_branch_and_nothing_else(tmp_path):
    config = toy_config(tmp_path)
    train(config)
    names = find_latest(Path(config.output)).load("weights").keys()
    assert all(".lora_" in name or "audio" in name for name in names)
    gloria = load_file(read_status(Path(config.output))["results"]["gloria"])
    fresh = toy_config(tmp_path, output=str(tmp_path / "fresh"), optimizer={"lr": 1e-30})
    train(fresh)
    untrained = load_file(read_status(Path(fresh.output))["results"]["gloria"])
    changed = [key for key in gloria if not torch.equal(gloria[key], untrained[key])]
    assert any(key.endswith("audio_attn.v.weight") for key in changed)
    merged = load_dit(Path(config.base), Path(read_status(Path(config.output))["results"]["gloria"]))
    base = load_file(config.base)
    for key, tensor in base.items():
        assert torch.equal(merged.state_dict()[key], tensor), key


def test_a_full_run_writes_a_model_that_loads(tmp_path):
    config = toy_config(tmp_path, method="full", stages=[{"name": "one", "steps": 2}])
    train(config)
    path = Path(read_status(Path(config.output))["results"]["merged"])
    assert detect_config(load_file(path)).gloria.has_audio
    trained, base = load_dit(path).state_dict(), load_file(config.base)
    assert not torch.equal(trained["blocks.0.ffn.0.weight"], base["blocks.0.ffn.0.weight"])


def test_resume_equals_the_unbroken_run_bit_for_bit(tmp_path):
    stages = [
        {"name": "audio", "steps": 3, "train": "audio", "global_anchor": False, "identity_anchors": "none"},
        {"name": "anchors", "steps": 5, "identity_anchors": "both"},
    ]
    common = {"ema_decay": 0.9, "lora": {"dropout": 0.2}, "checkpoints": {"every": 4}}
    whole = toy_config(tmp_path, stages=stages, output=str(tmp_path / "whole"), **common)
    assert train(whole)
    broken = toy_config(tmp_path, stages=stages, output=str(tmp_path / "broken"), **common)
    folder = Path(broken.output)
    stop_after(folder, 4, broken)
    assert read_status(folder)["state"] == "stopped"
    assert find_latest(folder).step < 8
    assert train(broken)
    assert losses_of(folder) == losses_of(Path(whole.output))
    assert_same(final_tensors(broken), final_tensors(whole))
    assert_same(find_latest(folder).load("ema"), find_latest(Path(whole.output)).load("ema"))
    for role in ("lora", "gloria"):
        assert_same(*(load_file(read_status(Path(run.output))["results"][role]) for run in (broken, whole)))


def test_a_checkpoint_of_before_a_setting_existed_belongs_to_runs_with_its_default(tmp_path):
    config = toy_config(tmp_path, stages=[{"name": "one", "steps": 4}])
    new = describe_run(config, read_index(Path(config.data.cache)), 1)
    older = [{key: value for key, value in stage.items() if key != "superset"} for stage in new["stages"]]
    check_same_run({**new, "stages": older}, new, config, 2, tmp_path)
    strict = [{**stage, "superset": False} for stage in new["stages"]]
    with pytest.raises(TrainingError, match=r"stages\[0\].superset was true, now false"):
        check_same_run({**new, "stages": older}, {**new, "stages": strict}, config, 2, tmp_path)


def stop_after(folder, step, config):
    """Asks the run to stop once it has made `step` steps; the request is a file, as the page's button makes it."""
    import threading
    import time

    def ask():
        while (read_status(folder) or {}).get("step", 0) < step and not finished.is_set():
            time.sleep(0.001)
        request(folder, "stop")

    finished = threading.Event()
    thread = threading.Thread(target=ask)
    thread.start()
    # Slow enough to be stopped before its end: the status is written twice a second.
    assert not train(replace(config, validation=replace(config.validation, loss_every=1)))
    finished.set()
    thread.join()


def test_overfitting_two_clips_brings_the_loss_near_zero(tmp_path):
    cache = write_cache(tmp_path / "cache", num_sources=1, clips_per_source=1)
    index = read_index(cache)
    write_index(cache, replace(index, clips=tuple(replace(clip, split="train") for clip in index.clips)))
    config = toy_config(
        tmp_path,
        method="full",
        optimizer={"lr": 3e-3, "schedule": "cosine"},
        stages=[{"name": "one", "steps": 300, "prefix_probability": 0.0, "text_dropout": 0.0, "audio_dropout": 0.0}],
        # At one noise level: the velocity is then a fixed function of what the model sees.
        timesteps={"min": 0.7, "max": 0.71},
        checkpoints={"every": 300},
    )
    train(config)
    losses = losses_of(Path(config.output))
    assert sum(losses[-20:]) / 20 < 0.2 * sum(losses[:5]) / 5


def test_at_step_0_the_audio_branch_leaves_the_loss_unchanged_and_hears(tmp_path):
    with_audio = toy_config(tmp_path, stages=[{"name": "one", "steps": 1, "audio_dropout": 0.0}])
    without = toy_config(
        tmp_path,
        output=str(tmp_path / "deaf"),
        audio_branch=False,
        stages=[{"name": "one", "steps": 1, "audio": False, "audio_dropout": 0.0}],
    )
    train(with_audio)
    train(without)
    assert losses_of(Path(with_audio.output))[0] == losses_of(Path(without.output))[0]
    moments = find_latest(Path(with_audio.output)).load("optimizer")
    values = [tensor for key, tensor in moments.items() if "exp_avg." in key and key.endswith("audio_attn.v.weight")]
    assert values
    assert all(tensor.abs().max() > 0 for tensor in values)


def test_accumulated_and_batched_samples_give_the_same_step(tmp_path):
    one = toy_config(tmp_path, batch_size=4, micro_batch_size=1, stages=[{"name": "one", "steps": 2}])
    four = toy_config(
        tmp_path, batch_size=4, micro_batch_size=4, stages=[{"name": "one", "steps": 2}], output=str(tmp_path / "four")
    )
    train(one)
    train(four)
    torch.testing.assert_close(losses_of(Path(one.output)), losses_of(Path(four.output)), rtol=1e-5, atol=1e-6)


def test_changed_settings_are_refused_by_name_and_later_stages_may_change(tmp_path):
    config = toy_config(tmp_path)
    train(config)
    with pytest.raises(TrainingError, match=r"optimizer\.lr was 0.001, now 0.002"):
        train(toy_config(tmp_path, optimizer={"lr": 2e-3}))
    longer = toy_config(tmp_path, stages=[{"name": "one", "steps": 7}, {"name": "two", "steps": 1}])
    assert train(longer)
    assert read_status(Path(config.output))["step"] == 8


def test_a_changed_dataset_is_reported(tmp_path):
    config = toy_config(tmp_path)
    train(config)
    cache = Path(config.data.cache)
    index = read_index(cache)
    write_index(cache, replace(index, clips=index.clips[1:]))
    with pytest.raises(TrainingError, match=r"data\.dataset has another content"):
        train(replace(config, stages=(replace(config.stages[0], steps=8),)))


def test_a_changed_base_file_is_reported(tmp_path):
    config = toy_config(tmp_path)
    train(config)
    weights = load_file(config.base)
    weights["head.head.bias"] = weights["head.head.bias"] + 1
    save_file(weights, config.base)
    with pytest.raises(TrainingError, match="base has another content"):
        train(replace(config, stages=(replace(config.stages[0], steps=8),)))


def test_steps_without_a_finite_loss_are_skipped_counted_and_end_the_run(tmp_path):
    cache = write_cache(tmp_path / "cache")
    base = write_base(tmp_path)
    weights = load_file(base)
    weights["head.head.weight"] = weights["head.head.weight"] * float("inf")
    save_file(weights, base)
    config = toy_config(tmp_path, max_bad_steps=3, data={"cache": str(cache)})
    with pytest.raises(TrainingError, match="3 steps in a row"):
        train(config)
    folder = Path(config.output)
    status = read_status(folder)
    assert status["state"] == "failed"
    assert "3 steps in a row" in status["error"]
    assert [line["loss"] for line in read_metrics(folder)[0]] == [None] * 3
    assert find_latest(folder) is None


def test_a_gpu_that_is_too_small_for_a_sample_ends_the_run_with_its_size_and_nothing_is_lost(tmp_path, monkeypatch):
    whole = toy_config(tmp_path, output=str(tmp_path / "whole"))
    train(whole)
    config = toy_config(tmp_path, checkpoints={"every": 2})

    def too_large(*args):
        if torch.is_grad_enabled() and find_latest(Path(config.output)) is not None:
            raise torch.OutOfMemoryError("no room")
        return batch_loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr("gloria_core.training.trainer.batch_loss", too_large)
        with pytest.raises(TrainingError, match=r"out of memory in step 3 on 1 sample\(s\) of .* Lower micro_"):
            train(config)
    assert read_status(Path(config.output))["state"] == "failed"
    assert find_latest(Path(config.output)).step == 2
    train(config)
    assert losses_of(Path(config.output)) == losses_of(Path(whole.output))
    assert_same(final_tensors(config), final_tensors(whole))


def test_a_damaged_cache_entry_is_named_and_left_out_up_to_a_limit(tmp_path, caplog):
    config = toy_config(tmp_path)
    cache = Path(config.data.cache)
    victim = next(clip for clip in read_index(cache).clips if clip.split == "train")
    (cache / "entries" / f"{victim.latents}.safetensors").write_bytes(b"torn")
    assert train(config)
    assert victim.latents in caplog.text
    assert victim.latents in read_status(Path(config.output))["warning"]
    assert len(losses_of(Path(config.output))) == 6
    strict = toy_config(tmp_path, output=str(tmp_path / "strict"), data={"max_bad_entries": 0})
    with pytest.raises((TrainingError, DatasetError), match="could not be read"):
        train(strict)


def test_single_pictures_are_trained_on_and_sampled(tmp_path):
    config = toy_config(
        tmp_path,
        data={"frames": [1]},
        stages=[{"name": "pictures", "steps": 2, "prefix_probability": 0.0}],
        validation={"loss_every": 1, "clips_every": 2},
    )
    assert train(config)
    folder = Path(config.output)
    held_out = [line["loss"] for line in read_validation(folder)[0] if "loss" in line]
    assert len(held_out) == 3
    assert torch.tensor(losses_of(folder) + held_out).isfinite().all()
    sampled = load_file(folder / "samples" / "step_000002_clip0.safetensors")["latents"]
    cache = CacheStore(tmp_path / "cache")
    truth = cache.load(validation_clips(read_index(tmp_path / "cache"), 1)[0].latents)["latents"]
    assert sampled.shape[1] == 1
    assert (sampled - truth[:, :1]).abs().mean() > 0.1


def test_validation_uses_the_same_noise_every_time_and_clips_are_saved(tmp_path):
    config = toy_config(
        tmp_path,
        optimizer={"lr": 1e-30},
        validation={"loss_every": 2, "clips_every": 3, "rollout_latents": 10},
        stages=[{"name": "one", "steps": 4}],
    )
    train(config)
    folder = Path(config.output)
    lines = read_validation(folder)[0]
    held_out = [line for line in lines if "loss" in line]
    assert [line["step"] for line in held_out] == [0, 2, 4]
    assert len({line["loss"] for line in held_out}) == 1
    clips = [line for line in lines if "clips" in line]
    assert [line["step"] for line in clips] == [3, 4]
    latents = {name: load_file(folder / "samples" / name)["latents"] for name in clips[0]["clips"]}
    assert [tuple(x.shape) for x in latents.values()] == [(16, 6, 4, 4), (16, 10, 4, 4)]
    assert all(x.isfinite().all() for x in latents.values())


def test_the_command_line_ends_with_a_status_that_tells_how(tmp_path, caplog):
    settings = toy_settings(tmp_path, stages=[{"name": "one", "steps": 1}])
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    assert main([str(path)]) == 0
    path.write_text(json.dumps({**settings, "stepz": 1}))
    assert main([str(path)]) == 1
    assert "unknown field(s) stepz" in caplog.text


def test_results_of_kept_steps_stay_beside_the_last(tmp_path):
    config = toy_config(tmp_path, stages=[{"name": "one", "steps": 5}], checkpoints={"every": 100, "keep_every": 2})
    train(config)
    folder = Path(config.output)
    loras = {step: load_file(folder / "results" / f"toy_step00000{step}_lora.safetensors") for step in (2, 4, 5)}
    assert len(list((folder / "results").glob("*_lora.safetensors"))) == 3
    assert sorted(path.name[-1] for path in (folder / "checkpoints").glob("step_*")) == ["2", "4", "5"]
    key = next(key for key in loras[2] if key.endswith("lora_B.weight"))
    assert not torch.equal(loras[2][key], loras[4][key])
    assert "_step000005_" in read_status(folder)["results"]["lora"]


def test_batch_sizes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch_size"):
        config_from_dict({**toy_settings(tmp_path), "batch_size": 0})
