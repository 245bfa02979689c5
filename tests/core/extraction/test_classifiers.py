"""Model folders in their real formats, with small random weights: transformers and ONNX.

Run: python -m pytest tests/core/extraction/test_classifiers.py
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.errors import CheckpointError
from gloria_core.extraction.backends import Moment
from gloria_core.extraction.onnx_backend import MODEL_NAME, OnnxExpressionModel, expression_model
from gloria_core.extraction.transformers_backends import ExpressionModel, PersonModel, expression_order

NAMES = ("Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")


def test_classes_are_mapped_by_name_and_seven_are_refused():
    order = expression_order(NAMES, "here")
    named = dict(zip(EXPRESSIONS, (NAMES[idx] for idx in order), strict=True))
    assert (named["angry"], named["happy"], named["sad"]) == ("Anger", "Happiness", "Sadness")
    with pytest.raises(CheckpointError, match="exactly these eight"):
        expression_order([name for name in NAMES if name != "Contempt"], "here")
    with pytest.raises(CheckpointError, match="exactly these eight"):
        expression_order([*NAMES, "Sad"], "here")


def test_an_image_classifier_in_its_real_format_is_read(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label=dict(enumerate(NAMES)), label2id={name: idx for idx, name in enumerate(NAMES)},
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "vit")
    model = ExpressionModel(tmp_path / "vit")
    model.setup()
    crops = [torch.randint(0, 255, (40, 50, 3), dtype=torch.uint8) for _ in range(2)]
    found = model.classify(crops)
    with torch.no_grad():
        logits = network(**processor([crop.numpy() for crop in crops], return_tensors="pt")).logits.softmax(-1)
    assert found[1]["happy"] == pytest.approx(logits[1, NAMES.index("Happiness")].item(), rel=1e-4)
    assert sum(found[0].values()) == pytest.approx(1, rel=1e-5)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        ExpressionModel(tmp_path / "vit").setup()
    with pytest.raises(CheckpointError, match="There is no model"):
        ExpressionModel(tmp_path / "nowhere").setup()


def test_a_person_detector_in_its_real_format_is_read(tmp_path):
    model = PersonModel(tiny_detector(tmp_path / "detr", {0: "person", 1: "dog"}), min_score=0.0)
    model.setup()
    picture = torch.randint(0, 255, (48, 64, 3), dtype=torch.uint8)
    everybody = model.people(Moment(Path("v.mp4"), 0.0, picture))
    assert everybody
    assert everybody == sorted(everybody)
    assert all(box.right >= box.left and box.bottom >= box.top for box in everybody)
    assert replace(model, min_score=1.0).name != model.name
    with pytest.raises(CheckpointError, match="knows no class 'person'"):
        PersonModel(tiny_detector(tmp_path / "dogs", {0: "cat", 1: "dog"})).setup()


def tiny_detector(folder, names):
    """An RT-DETR with random weights."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"], out_indices=[2, 3, 4],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 8, 8], encoder_ffn_dim=16, d_model=16,
        encoder_attention_heads=2, decoder_attention_heads=2, decoder_ffn_dim=16, decoder_layers=1, encoder_layers=1,
        num_queries=10, decoder_in_channels=[16, 16, 16], num_denoising=0, id2label=names,
        label2id={name: idx for idx, name in names.items()},
    )  # fmt: skip
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


DOCS = (Path(__file__).resolve().parents[3] / "docs" / "extraction.md").read_text(encoding="utf-8")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def onnx_folder(tmp_path):
    """A linear network over mean colors, laid out as docs/extraction.md says for EmotiEffLib's files."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is the extra 'expressions'")
    folder = tmp_path / "enet"
    folder.mkdir()
    example = next(text for text in DOCS.split("```") if "id2label" in text)
    (folder / "config.json").write_text(example[example.index("config.json <<") :].split("\n", 1)[1].split("EOF")[0])
    text = example[example.index("preprocessor_config.json <<") :]
    (folder / "preprocessor_config.json").write_text(text.split("\n", 1)[1].split("EOF")[0])

    def write(num_classes=8, batch=1):
        rng = np.random.default_rng(0)
        weights, bias = rng.normal(size=(3, num_classes)).astype("f"), rng.normal(size=num_classes).astype("f")
        nodes = [
            onnx.helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
            onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
            onnx.helper.make_node("Gemm", ["flat", "weights", "bias"], ["output"]),
        ]
        graph = onnx.helper.make_graph(
            nodes, "toy",
            [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [batch, 3, 224, 224])],
            [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [batch, num_classes])],
            [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(bias, "bias")],
        )  # fmt: skip
        opset = [onnx.helper.make_opsetid("", 13)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), folder / MODEL_NAME)
        return folder, weights, bias

    return write


def test_an_onnx_classifier_is_read_as_its_network_says(onnx_folder):
    folder, weights, bias = onnx_folder()
    model = expression_model(folder, "cpu")
    assert isinstance(model, OnnxExpressionModel)
    model.setup()
    crops = [torch.full((60, 50, 3), level, dtype=torch.uint8) for level in (40, 200)]
    for crop, found in zip(crops, model.classify(crops), strict=True):
        mean = (crop[0, 0].double().numpy() / 255 - MEAN) / STD
        scores = torch.from_numpy(mean @ weights + bias).softmax(-1)
        assert found["happy"] == pytest.approx(scores[NAMES.index("Happiness")].item(), rel=1e-3)
        assert found["angry"] == pytest.approx(scores[NAMES.index("Anger")].item(), rel=1e-3)
        assert sum(found.values()) == pytest.approx(1)


def test_onnx_folders_that_do_not_fit_are_refused(onnx_folder):
    folder, _, _ = onnx_folder(num_classes=10)
    with pytest.raises(CheckpointError, match="answers with 10 numbers, config.json names 8"):
        OnnxExpressionModel(folder).setup()
    name = OnnxExpressionModel(folder).name
    (folder / MODEL_NAME).write_bytes(b"no network")
    assert OnnxExpressionModel(folder).name != name
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        OnnxExpressionModel(folder).setup()
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "Anger", "1": "Sadness"}}))
    with pytest.raises(CheckpointError, match="exactly these eight"):
        OnnxExpressionModel(folder).setup()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not name the classes"):
        OnnxExpressionModel(folder).setup()
