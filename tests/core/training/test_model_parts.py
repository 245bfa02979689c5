"""LoRA, checkpointing, streaming, quantisation, memory plan. Run: pytest tests/core/training/test_model_parts.py"""

import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parent))
from toy_run import BASES, toy_config

from gloria_core.errors import CheckpointError, TrainingError
from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import WAN21_I2V_14B, WAN22_TI2V_5B
from gloria_core.toy_weights import random_state_dict
from gloria_core.training.activation_checkpointing import checkpoint_blocks
from gloria_core.training.block_stream import stream_blocks
from gloria_core.training.config import LoraConfig, MemoryConfig, config_from_dict
from gloria_core.training.lora import add_lora, load_lora_tensors, lora_tensors
from gloria_core.training.memory_plan import Free, plan_memory, require_memory
from gloria_core.training.place_model import room_on_disk
from gloria_core.training.presets import merge_settings, preset
from gloria_core.training.quantized_base import QuantizedLinear, dequantize, quantize, quantize_frozen
from gloria_core.training.trainable import prepare_trainable, trainable_parameters

CONFIG = replace(BASES["t2v"], num_layers=4).with_audio(2, 8)
GIB = 2**30


def make_model(config=CONFIG, dtype=torch.float32):
    model = GloriaDiT(config, dtype=dtype)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(random_state_dict(shapes, 0, torch.float32))
    return model.requires_grad_(False)


def inputs(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "x_BCTHW": random(1, 16, 3, 8, 8), "timestep": torch.tensor([600.0]), "context_BLD": random(1, 5, 16),
        "anchors": [random(1, 16, 1, 4, 6)], "anchor_slots": [("global", "global")],
        "audio_windows": random(1, 3, 4, 2, 8),
    }  # fmt: skip


def gradients(model):
    model(**inputs()).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def with_trained_lora(model, rank=2):
    add_lora(model, LoraConfig(rank=rank))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


# --- LoRA ------------------------------------------------------------------------------------------------------------


def test_fresh_adapters_change_nothing_and_only_they_are_trained():
    model = make_model()
    before = model(**inputs())
    names = add_lora(model, LoraConfig(rank=2))
    assert len(names) == 4 * 10
    assert torch.equal(model(**inputs()), before)
    assert all(".lora_" in name for name, p in model.named_parameters() if p.requires_grad)


def test_targets_choose_layers_and_unknown_ones_are_refused():
    assert len(add_lora(make_model(), LoraConfig(targets=("ffn",)))) == 4 * 2
    assert not any("audio" in name for name in add_lora(make_model(), LoraConfig()))


def test_the_adapters_are_the_formula():
    model = make_model()
    add_lora(model, LoraConfig(rank=2, alpha=3.0, targets=("ffn",)))
    layer = model.blocks[0].ffn[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x = torch.randn(5, 128)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 3.0 / 2 * (x @ a.T @ b.T))


def test_saved_adapters_load_into_a_fresh_model_and_other_ones_are_refused():
    model = with_trained_lora(make_model())
    tensors = lora_tensors(model)
    assert all(key.startswith("diffusion_model.blocks.") for key in tensors)
    other = make_model()
    add_lora(other, LoraConfig(rank=2))
    load_lora_tensors(other, tensors)
    assert torch.equal(other(**inputs()), model(**inputs()))
    wider = make_model()
    add_lora(wider, LoraConfig(rank=4))
    with pytest.raises(CheckpointError, match="80 have another shape"):
        load_lora_tensors(wider, tensors)
    with pytest.raises(CheckpointError, match="1 tensors are missing, 1 are not known"):
        load_lora_tensors(other, {"x": torch.ones(1), **dict(list(tensors.items())[1:])})


def test_stages_choose_what_is_trained(tmp_path):
    config = toy_config(
        tmp_path,
        stages=[{"name": "a", "steps": 1, "train": "audio"}, {"name": "b", "steps": 1}],
    )
    model = make_model()
    prepare_trainable(model, config)
    audio, both = (set(trainable_parameters(model, config, stage)) for stage in config.stages)
    assert audio < both
    assert all("audio" in name for name in audio)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == both
    full = replace(config, method="full")
    prepare_trainable(model, full)
    assert set(trainable_parameters(model, full, full.stages[1])) == {name for name, _ in model.named_parameters()}


# --- checkpointing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_attention", [False, True])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("prepare", [with_trained_lora, lambda model: model.requires_grad_(True)], ids=["lora", "full"])
def test_checkpointed_blocks_have_the_same_gradients_bit_for_bit(prepare, offload, keep_attention):
    plain = gradients(prepare(make_model()))
    model = prepare(make_model())
    checkpoint_blocks(model, offload, keep_attention)
    recomputed = gradients(model)
    assert plain.keys() == recomputed.keys()
    assert any(name.startswith("blocks.0.") for name in plain)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


class Calls(TorchDispatchMode):
    """Counts calls of operations, and matrix products by their (inner, outer) size."""

    def __init__(self):
        super().__init__()
        self.operations, self.products = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations[func] += 1
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            self.products[tuple(args[-1].shape)] += 1
        return func(*args, **kwargs or {})


def backward_calls(model, *options):
    if options:
        checkpoint_blocks(model, *options)
    loss = model(**inputs()).square().mean()
    with Calls() as calls:
        loss.backward()
    return calls


@pytest.mark.parametrize("quantized", [False, True])
def test_a_frozen_block_is_recomputed_without_its_last_layer(quantized):
    def model():
        made = with_trained_lora(make_model(replace(CONFIG, ffn_dim=192)))
        if quantized:
            quantize_frozen(made)
        return made

    plain, recomputed = (backward_calls(model(), *options).products for options in ((), (False,)))
    into, out_of = (CONFIG.dim, 192), (192, CONFIG.dim)
    assert recomputed[into] == plain[into] + CONFIG.num_layers
    assert recomputed[out_of] == plain[out_of] > 0


def test_kept_self_attention_is_not_computed_again_and_only_it_is_kept():
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    assert backward_calls(with_trained_lora(make_model())).operations[attention] == 0
    # Text in every block, speech in every second one.
    assert backward_calls(with_trained_lora(make_model()), False).operations[attention] == 4 + 4 + 2
    assert backward_calls(with_trained_lora(make_model()), False, True).operations[attention] == 4 + 2


def kept_bytes(model):
    """Bytes of distinct tensors that wait for the backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**inputs())
    del output
    return sum(kept.values())


def test_checkpointing_keeps_little_more_than_the_blocks_inputs():
    plain = kept_bytes(with_trained_lora(make_model()))
    model = with_trained_lora(make_model())
    checkpoint_blocks(model)
    checkpointed = kept_bytes(model)
    block_inputs = 4 * (3 * 16 + 6) * 128 * 4
    assert checkpointed < 0.2 * plain
    assert checkpointed < 4 * block_inputs


def test_compiled_blocks_have_the_same_gradients():
    config = replace(CONFIG, num_layers=1)
    expected = gradients(with_trained_lora(make_model(config)))
    model = with_trained_lora(make_model(config))
    checkpoint_blocks(model)
    # The tracing of forward and backward is what our code could break; PyTorch's own code generator takes a minute.
    model.blocks[0].compile(backend="aot_eager", fullgraph=True)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-3, msg=name)


# --- streaming and quantisation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_streamed", [1, 2, 4, 40])
def test_streamed_blocks_compute_the_same_bit_for_bit_and_only_two_are_there(num_streamed):
    plain = with_trained_lora(make_model())
    expected_output, expected = plain(**inputs()), gradients(plain)
    model = with_trained_lora(make_model())
    stream_blocks(model, num_streamed, torch.device("cpu"))
    checkpoint_blocks(model)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(**inputs()), expected_output)
    for _ in range(2):
        model.zero_grad()
        found = gradients(model)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    resident = {
        p.untyped_storage().data_ptr()
        for block in list(model.blocks)[-min(num_streamed, 4) :]
        for p in block.parameters()
        if not p.requires_grad and p.numel()
    }
    largest = max(sum(not p.requires_grad for p in block.parameters()) for block in model.blocks)
    assert len(resident) <= 2 * largest


def test_streaming_needs_frozen_blocks():
    model = make_model().requires_grad_(True)
    with pytest.raises(TrainingError, match="needs frozen blocks"):
        stream_blocks(model, 1, torch.device("cpu"))


def test_eight_bit_weights_are_close_and_take_half_the_space():
    weight = torch.randn(64, 128) * torch.logspace(-3, 2, 64)[:, None]
    small, scale = quantize(weight)
    back = dequantize(small, scale, torch.float32)
    # e4m3 has 3 bits of mantissa: half a unit is 1/16 of the value, or of the smallest normal number of the row.
    bound = torch.maximum(weight.abs() / 16, weight.abs().amax(dim=1, keepdim=True) * 2**-6 / 448 / 8)
    assert ((back - weight).abs() <= bound * 1.01).all()
    assert small.element_size() == 1


def test_a_quantised_base_trains_the_adapters_nearly_as_the_whole_one_does():
    whole = with_trained_lora(make_model())
    expected_output, expected = whole(**inputs()), gradients(whole)
    model = with_trained_lora(make_model())
    assert quantize_frozen(model) == 4 * 10 + 2 * 3
    assert not any(type(m) is nn.Linear and not m.weight.requires_grad for b in model.blocks for m in b.modules())
    layer = model.blocks[0].self_attn.q.base_layer
    assert isinstance(layer, QuantizedLinear)
    output, found = model(**inputs()), gradients(model)
    relative = (output - expected_output).norm() / expected_output.norm()
    assert relative < 0.1
    for name, gradient in expected.items():
        cosine = torch.cosine_similarity(gradient.flatten(), found[name].flatten(), dim=0)
        assert cosine > 0.9, name


def test_quantised_streamed_checkpointed_together_equal_quantised_alone():
    plain = with_trained_lora(make_model())
    quantize_frozen(plain)
    model = with_trained_lora(make_model())
    quantize_frozen(model)
    stream_blocks(model, 3, torch.device("cpu"))
    checkpoint_blocks(model, offload=True)
    expected, found = gradients(plain), gradients(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- memory plan -----------------------------------------------------------------------------------------------------


def config_for(**changes):
    base = {"name": "a", "base": "b", "output": "o", "data": {"cache": "c"}, "stages": [{"name": "s", "steps": 1}]}
    return config_from_dict(merge_settings(base, changes))


def planned_model(dit, config):
    model = GloriaDiT(dit, device="meta", dtype=torch.bfloat16)
    prepare_trainable(model, config)
    return model


def test_the_exact_parts_of_the_plan_are_exact():
    config = config_for(precision={"compute": "float32"}, ema_decay=0.9, lora={"rank": 2})
    model = make_model()
    prepare_trainable(model, config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() * p.element_size() for p in model.parameters())
    plan = plan_memory(model, config, tokens=54)
    assert plan.weights == everything
    assert (plan.gradients, plan.optimizer, plan.averages) == (4 * trained, 8 * trained, 4 * trained)


def test_the_estimate_of_activations_is_near_what_is_kept():
    config = config_for(precision={"compute": "float32"}, memory={"checkpointing": False}, lora={"rank": 2})
    model = make_model()
    prepare_trainable(model, config)
    plan = plan_memory(model, config, tokens=3 * 16 + 6)
    assert 0.5 < plan.activations / kept_bytes(model) < 2


def test_kept_attention_is_planned_and_given_up_first():
    config = config_for(precision={"compute": "float32"}, memory={"keep_attention": True}, lora={"rank": 2})
    model = make_model()
    prepare_trainable(model, config)
    plan = plan_memory(model, config, tokens=54)
    slim = plan_memory(model, replace(config, memory=MemoryConfig()), tokens=54)
    assert plan.activations - slim.activations == CONFIG.num_layers * 54 * CONFIG.dim * 4
    with pytest.raises(TrainingError, match=r"Set memory\.keep_attention: false\."):
        require_memory(model, config, 54, 1, Free(slim.device, GIB, 10 * GIB), has_gpu=True)


def test_a_14b_lora_on_24_gb_is_told_how_many_blocks_to_stream():
    dit = WAN21_I2V_14B.with_audio()
    stages = [{"name": "s", "steps": 1, "train": "lora"}]
    config = config_for(precision={"base": "fp8"}, memory={"checkpointing": True}, stages=stages)
    model = planned_model(dit, config)
    tokens = 21 * 30 * 52 + 3 * 1560
    free = Free(device=int(23.5 * GIB), host=64 * GIB, disk=500 * GIB)
    with pytest.raises(TrainingError, match=r"memory\.streamed_blocks: (\d+)") as caught:
        require_memory(model, config, tokens, 1, free, has_gpu=True)
    count = int(str(caught.value).rsplit("streamed_blocks: ", 1)[1].split(".")[0])
    offload = "offload_activations: true" in str(caught.value)
    changed = replace(config, memory=MemoryConfig(streamed_blocks=count, offload_activations=offload))
    assert require_memory(model, changed, tokens, 1, free, has_gpu=True).device <= free.device


def test_a_full_14b_needs_eight_gpus_of_80_gb():
    config = config_for(method="full")
    model = planned_model(WAN21_I2V_14B.with_audio(), config)
    free = Free(device=79 * GIB, host=500 * GIB, disk=5000 * GIB)
    with pytest.raises(TrainingError, match="8 GPUs"):
        require_memory(model, config, 21 * 30 * 52, 1, free, has_gpu=True)
    assert require_memory(model, config, 21 * 30 * 52, 8, free, has_gpu=True).device < free.device


@pytest.mark.parametrize(
    ("name", "dit", "gigabytes", "tokens"),
    [
        ("lora_24gb", WAN21_I2V_14B, 24, 21 * 30 * 52 + 4000),
        ("lora_16gb", WAN21_I2V_14B, 16, 13 * 30 * 52 + 4000),
        ("lora_5b", WAN22_TI2V_5B, 24, 31 * 22 * 40 + 2000),
    ],
)
def test_presets_fit_the_cards_they_are_named_after(name, dit, gigabytes, tokens):
    own = {"name": "a", "base": "b", "output": "o", "data": {"cache": "c"}}
    config = config_from_dict(merge_settings(preset(name), own))
    plan = plan_memory(planned_model(dit.with_audio(), config), config, tokens)
    assert plan.device < 0.97 * gigabytes * GIB, plan.lines()


def test_kept_checkpoints_are_planned_with_their_results():
    stages = [{"name": "s", "steps": 1000}]
    plain = config_for(precision={"compute": "float32"}, stages=stages)
    model = make_model()
    prepare_trainable(model, plain)
    kept = config_for(precision={"compute": "float32"}, stages=stages, checkpoints={"keep_every": 250})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # A snapshot is the float32 weights and Adam's two moments; a result the weights alone.
    assert plan_memory(model, plain, 54).disk == 12 * trained * 3 + 4 * trained
    assert plan_memory(model, kept, 54).disk == 12 * trained * 7 + 4 * trained * 5


def test_what_a_run_holds_already_counts_as_free_for_going_on(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert room_on_disk(tmp_path) == 1000
    for name, size in (("checkpoints/step_00000001/weights.safetensors", 300), ("results/a.safetensors", 20)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert room_on_disk(tmp_path) == 1320


def test_disk_and_host_are_planned_too():
    config = config_for(memory={"checkpointing": True, "streamed_blocks": 4}, precision={"compute": "float32"})
    model = make_model()
    prepare_trainable(model, config)
    plenty = 2**50
    with pytest.raises(TrainingError, match=r"of disk.*keep_last"):
        require_memory(model, config, 54, 1, Free(plenty, plenty, 1000), has_gpu=False)
    with pytest.raises(TrainingError, match=r"of host memory.*streamed_blocks"):
        require_memory(model, config, 54, 1, Free(plenty, 1000, plenty), has_gpu=False)
