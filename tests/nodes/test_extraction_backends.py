"""ComfyUI's own model classes with small random weights behind the pipeline's protocols: their answers, unchanged.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_extraction_backends.py
"""

import json
import math
import tempfile
from pathlib import Path

import av
import comfy.clip_vision
import comfy.model_base
import comfy.model_detection
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfyui_version
import numpy as np
import pytest
import torch
from comfy.taesd.taesd import TAESD
from comfy.text_encoders.qwen_image import QwenImageTokenizer

from gloria_pack.gloria_core.errors import AnchorError, CheckpointError, DatasetError
from gloria_pack.gloria_core.extraction.backends import Box, Moment
from gloria_pack.gloria_core.toy_weights import write_toy_dit
from gloria_pack.nodes.bridge import backend_rtdetr, backend_sam3, backend_sdpose, backend_text_generation
from gloria_pack.nodes.bridge.backend_clip_vision import ClipVisionLooks
from gloria_pack.nodes.bridge.backend_mediapipe import MediaPipeFaces, psi_of_matrix
from gloria_pack.nodes.bridge.backend_rtdetr import RtDetrPeople
from gloria_pack.nodes.bridge.backend_sam3 import Sam3People
from gloria_pack.nodes.bridge.backend_sdpose import SdPoseBody, _joints
from gloria_pack.nodes.bridge.backend_text_generation import LocalModel
from gloria_pack.nodes.bridge.crops import boxes_of_faces, boxes_of_people
from gloria_pack.nodes.bridge.extraction_backends import Connected, make_backends
from gloria_pack.nodes.bridge.kept_work import ANSWERS_NAME, KEYPOINTS_NAME, KeptAnswers
from gloria_pack.nodes.bridge.model import load_gloria_model


def stock(module):
    """A module of ComfyUI; tests of a model that this release does not have yet are left out."""
    return pytest.importorskip(module, reason=f"ComfyUI {comfyui_version.__version__} has no {module}")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def moment(tmp_path_factory):
    generator = torch.Generator().manual_seed(3)
    picture = torch.randint(0, 255, (90, 160, 3), dtype=torch.uint8, generator=generator)
    return Moment(tmp_path_factory.mktemp("none") / "v.mp4", 0.0, picture)


def randomized(module, seed=0, scale=0.05):
    """Small random weights of the module's own shapes; norms and variances stay near one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, weight in module.state_dict().items():
        state[name] = weight
        if weight.is_floating_point():
            is_scale = weight.ndim == 1 and name.endswith(("weight", "running_var"))
            state[name] = torch.randn(weight.shape, generator=generator) * scale + is_scale
    return state


def patched(model):
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


@pytest.fixture(scope="module")
def rtdetr():
    """The public file's format, through the loader behind Load Diffusion Model; half of what it sees is people."""
    rtdetr_v4 = stock("comfy.ldm.rt_detr.rtdetr_v4")
    network = rtdetr_v4.RTv4(enc_h=256, device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    state = randomized(network)
    constants = ("anchors", "valid_mask", "up", "reg_scale", "decoder.project")
    state |= {f"decoder.{name}": network.decoder.state_dict()[name] for name in constants}
    model = comfy.sd.load_diffusion_model_state_dict(state)
    decoder = model.model.diffusion_model.decoder
    with torch.inference_mode():
        logits_C = model.model.diffusion_model._forward(torch.rand(1, 3, 640, 640))["pred_logits"][0].mean(0)
        decoder.dec_score_head[-1].bias[0] += logits_C.max() - logits_C[0]
    return model


def test_rtdetrs_people_are_the_networks_sure_persons_in_pixels(rtdetr, moment, monkeypatch):
    image = torch.nn.functional.interpolate(
        moment.picture_HWC.movedim(-1, 0)[None].float() / 255, (640, 640), mode="bilinear"
    )
    (found,) = rtdetr.model.diffusion_model(image, (160, 90))
    assert len(found["labels"].unique()) > 1, "not all that it sees is a person"
    scores = found["scores"][found["labels"] == 0]
    assert len(scores) >= 2, "a random network calls something a person"
    assert torch.isfinite(scores).all()
    threshold = float(scores.sort(descending=True).values[1]) - 1e-6
    monkeypatch.setattr(backend_rtdetr, "MIN_SCORE", threshold)
    boxes = RtDetrPeople(rtdetr).people(moment)
    keep = (found["labels"] == 0) & (found["scores"] > threshold)
    expected = found["boxes"][keep][found["scores"][keep].argsort(descending=True)]
    torch.testing.assert_close(torch.tensor(boxes), expected, atol=0.05, rtol=1e-3)


TOPOLOGY = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips", "irises", "nose",
            "tesselation")  # fmt: skip


@pytest.fixture(scope="module")
def mediapipe():
    """The public file's keys; its detectors see one face in the middle of every picture."""
    face_landmarker = stock("comfy_extras.mediapipe.face_landmarker")
    generator = torch.Generator().manual_seed(0)
    state = {f"topology.{name}": torch.tensor([[0, 1]], dtype=torch.int32) for name in TOPOLOGY}
    state["canonical_vertices"] = torch.randn(478, 3, generator=generator)
    state["procrustes_indices"] = torch.arange(0, 478, 14, dtype=torch.int32)
    state["procrustes_weights"] = torch.ones(len(state["procrustes_indices"]))
    for variant in ("short", "full"):
        for name, weight in randomized(face_landmarker.FaceLandmarker(detector_variant=variant), seed=1).items():
            part, _, rest = name.partition(".")
            state[f"detector_{variant}.{rest}" if part == "detector" else name] = weight
    for name in [name for name in state if name.startswith("detector_") and "reg" in name.split(".")[1]]:
        state[name] = torch.zeros_like(state[name])
        if name.endswith(("reg_16.bias", "reg_8.bias")):
            state[name].view(-1, 16)[:, 2:4] = 100.0
    for name in ("cls_16.bias", "cls_8.bias"):
        state[f"detector_short.{name}"] += 3.0
    state["detector_full.cls_dw.bias"] -= 9.0
    return stock("comfy_extras.nodes_mediapipe").FaceLandmarkerModel(state)


def test_mediapipes_faces_are_those_of_its_own_landmarks(mediapipe, moment):
    faces = MediaPipeFaces(mediapipe).find(moment)
    (found,) = mediapipe.detect_batch([moment.picture_HWC.numpy()], num_faces=0, score_thresh=0.5, variant="short")
    assert len(faces) == len(found) >= 1
    for face, landmarks in zip(faces, found, strict=True):
        assert np.allclose(face.box, landmarks["bbox_xyxy"])
        assert set(landmarks["blendshapes"]) == set(stock("comfy_extras.mediapipe.face_landmarker").BLENDSHAPE_NAMES)
        assert face.score == pytest.approx(landmarks["score"])
        assert -180 <= face.psi <= 180


@pytest.mark.parametrize("column", [-0.25, 0.0, 0.3])
@pytest.mark.parametrize("yaw", [-70.0, -20.0, 0.0, 35.0, 80.0])
def test_a_known_face_turns_as_far_as_it_does(yaw, column):
    """A cloud of points turned about gravity and seen by MediaPipe's own camera of 63 degrees, small and far away."""
    rng = np.random.default_rng(0)
    canonical = rng.normal(size=(478, 3))
    distance, (height, width) = 300.0, (720, 1280)
    focal = height / (2 * math.tan(math.radians(63 / 2)))
    middle = np.array([column * width / focal * distance, 0.0, distance])
    # psi is measured from the line of sight: the face looks to the camera where it stands, then turns.
    angle = math.radians(yaw) - math.atan2(middle[0], middle[2])
    turn = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    seen = canonical @ turn.T * [1, -1, -1] + middle  # x right, y down, z into the picture
    pixels = seen[:, :2] / seen[:, 2:] * focal + [width / 2, height / 2]
    depth = (seen[:, 2:] - distance) * focal / distance
    face = {"landmarks_xy": pixels.astype(np.float32), "landmarks_3d": np.concatenate([pixels, depth], 1)}
    model = {"canonical_vertices": canonical, "procrustes_indices": np.arange(478), "procrustes_weights": np.ones(478)}
    geometry = stock("comfy_extras.mediapipe.face_geometry")
    psi = psi_of_matrix(geometry.transformation_matrix_from_detection(face, width, height, model))
    assert psi == pytest.approx(yaw, abs=1.5)


@pytest.fixture(scope="module")
def sam3():
    """SAM 3 with one narrow block instead of 32, larger patches and a tenth of its queries."""
    sizes = {"depth": 1, "global_att_blocks": (), "embed_dim": 128, "d_model": 64, "num_queries": 20,
             "patch_size": 56, "window_size": 6}  # fmt: skip
    stock("comfy.ldm.sam3.detector")
    config = comfy.supported_models.SAM3({"image_model": "SAM3", **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SAM3(config, device="cpu")
    model.diffusion_model.load_state_dict(randomized(model.diffusion_model, scale=0.03))
    return patched(model)


def test_sam3_counts_everybody_its_text_names(sam3, moment, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    embedding, mask = torch.randn(1, 4, 128, generator=generator), torch.tensor([[1, 1, 1, 0]])
    prompt = [[embedding, {"attention_mask": mask}]]
    image = moment.picture_HWC.movedim(-1, 0)[None].float() / 255
    image = torch.nn.functional.interpolate(image, (1008, 1008), mode="bilinear")
    with torch.inference_mode():
        found = sam3.model.diffusion_model(image, text_embeddings=embedding, text_mask=mask, orig_size=(90, 160))
    scores = found["scores"][0].sigmoid()
    threshold = float(scores.sort(descending=True).values[2]) - 1e-6
    monkeypatch.setattr(backend_sam3, "MIN_SCORE", threshold)
    boxes = Sam3People(sam3, prompt).people(moment)
    assert len(boxes) == int((scores > threshold).sum()) >= 3
    torch.testing.assert_close(torch.tensor(boxes), found["boxes"][0][scores > threshold], atol=0.05, rtol=1e-3)
    with pytest.raises(DatasetError, match="one word"):
        Sam3People(sam3, [*prompt, *prompt])


def test_people_detectors_are_known_by_their_networks(rtdetr, sam3, tmp_path):
    prompt = [[torch.zeros(1, 4, 128), {}]]
    assert isinstance(make_backends(Connected(person_detector=rtdetr), False, print, tmp_path).people, RtDetrPeople)
    sam = Connected(person_detector=sam3, person_prompt=prompt)
    assert isinstance(make_backends(sam, False, print, tmp_path).people, Sam3People)
    with pytest.raises(DatasetError, match="connect person_prompt"):
        make_backends(Connected(person_detector=sam3), False, print, tmp_path)
    write_toy_dit(tmp_path / "wan.safetensors")
    wan = load_gloria_model(tmp_path / "wan.safetensors", None, {})
    with pytest.raises(CheckpointError, match=r"person_detector \(ComfyGloriaDiT\) finds no people"):
        make_backends(Connected(person_detector=wan), False, print, tmp_path)
    with pytest.raises(CheckpointError, match=r"\(SAM3Model\) is no RT-DETR v4"):
        boxes_of_people(torch.zeros(1, 8, 8, 3), sam3)
    with pytest.raises(CheckpointError, match="no SDPose model"):
        SdPoseBody(rtdetr, None, None, print, tmp_path)


@pytest.fixture(scope="module")
def sdpose():
    """SDPose's keypoint head on a small UNet, and the smallest VAE that ComfyUI knows."""
    sizes = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 160, "num_res_blocks": [1, 1],
             "channel_mult": (1, 4), "transformer_depth": [0, 0], "transformer_depth_output": [0, 0, 0, 0],
             "transformer_depth_middle": -1, "use_linear_in_transformer": True, "context_dim": 1024,
             "use_spatial_transformer": True, "num_head_channels": 64, "adm_in_channels": None,
             "use_temporal_attention": False, "heatmap_head": True}  # fmt: skip
    config = comfy.supported_models.SD20(sizes)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS, device="cpu")
    model.diffusion_model.load_state_dict(randomized(model.diffusion_model))
    return patched(model), comfy.sd.VAE(sd=randomized(TAESD(), scale=0.1))


class OnePerson:
    """Always at the same place."""

    name = "one person"
    box = Box(20.0, 10.0, 60.0, 80.0)

    def __init__(self):
        self.asked = 0

    def people(self, moment):
        self.asked += 1
        return [self.box]


def test_sdposes_keypoints_of_the_persons_box_become_one_track_of_a_video(sdpose, tmp_path):
    video = noise_video(tmp_path / "v.mp4", 2)
    people, works = OnePerson(), []
    body = SdPoseBody(*sdpose, people, works.append, tmp_path)
    track = body.track(video)
    assert body.track(video) is track
    assert (people.asked, works) == (1, ["poses"])
    # Joints lie inside the box that was looked at; the track's box is a little larger than they reach.
    (box,) = body.people(Moment(video, 0.0, torch.zeros(90, 160, 3, dtype=torch.uint8)))
    assert box.height > 0.5 * OnePerson.box.height
    grown = 0.12 * box.height
    assert OnePerson.box.left - grown < box.left < box.right < OnePerson.box.right + grown
    assert OnePerson.box.top - grown < box.top < box.bottom < OnePerson.box.bottom + grown
    assert body.name != SdPoseBody(*sdpose, None, works.append, tmp_path).name


def noise_video(path, num_frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height = 160, 90
        for idx in range(num_frames):
            picture = np.random.default_rng(idx).integers(0, 255, (90, 160, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


class Standing(SdPoseBody):
    """The same class, whose keypoints are given: a pass of the network takes many seconds here."""

    def _find(self, waiting, joints_TJ3):
        for idx, picture_HWC, _ in waiting:
            joints_TJ3[idx] = np.random.default_rng(int(picture_HWC.sum())).uniform(10, 60, (24, 3))


def test_poses_that_were_found_before_a_cancel_are_not_found_again(sdpose, tmp_path, monkeypatch):
    monkeypatch.setattr(backend_sdpose, "_TOGETHER", 2)
    video = noise_video(tmp_path / "v.mp4", 24)
    whole = Standing(*sdpose, OnePerson(), print, tmp_path / "whole").track(video)
    asked = OnePerson()

    def cancel_at_the_sixth(_work):
        if asked.asked == 5:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        Standing(*sdpose, asked, cancel_at_the_sixth, tmp_path / "work").track(video)
    rest = OnePerson()
    resumed = Standing(*sdpose, rest, print, tmp_path / "work").track(video)
    assert (asked.asked, rest.asked) == (5, 4), "what was not yet looked at together is looked at again"
    assert np.array_equal(resumed.psi_T, whole.psi_T, equal_nan=True)
    assert np.array_equal(resumed.boxes_T4, whole.boxes_T4, equal_nan=True)
    # Other footage, or a file that is no longer whole, is looked at anew.
    (tmp_path / "work" / KEYPOINTS_NAME).write_bytes(b"PK torn")
    for again in (video, noise_video(tmp_path / "w.mp4", 25)):
        people = OnePerson()
        Standing(*sdpose, people, print, tmp_path / "work").track(again)
        assert people.asked == 8 + (again != video)


def test_joints_that_were_not_found_count_as_not_seen():
    person = {"pose_keypoints_2d": [5.0, 6.0, 0.9, -1.0, -1.0, 0.8] + [1.0] * 48, "foot_keypoints_2d": [2.0] * 18}
    joints_J3 = _joints([person])
    assert joints_J3[0].tolist() == [5.0, 6.0, 0.9]
    assert joints_J3[1].tolist() == [0, 0, 0]
    assert joints_J3[18].tolist() == [2, 2, 2]
    assert not _joints([]).any()


def clip_vision(seed):
    config = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3,
              "num_channels": 3, "image_size": 32, "patch_size": 8, "projection_dim": 16, "layer_norm_eps": 1e-5,
              "hidden_act": "gelu", "model_type": "clip_vision_model"}  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:  # ComfyUI 0.16 takes no dictionary
        file.write(json.dumps(config))
        file.flush()
        encoder = comfy.clip_vision.ClipVisionModel(file.name)
    encoder.load_sd(randomized(encoder.model, seed, 0.3))
    return encoder


def test_clip_visions_looks_are_directions_of_its_embeddings(moment):
    encoder = clip_vision(0)
    looks = ClipVisionLooks(encoder)
    direction = looks.embed(moment.picture_HWC)
    expected = encoder.encode_image(moment.picture_HWC[None].float() / 255).image_embeds[0]
    torch.testing.assert_close(direction, torch.nn.functional.normalize(expected, dim=0))
    other = looks.embed(255 - moment.picture_HWC)
    assert float((direction - other).norm()) > 1e-3
    assert looks.name == ClipVisionLooks(clip_vision(0)).name != ClipVisionLooks(clip_vision(1)).name


@pytest.fixture(scope="module")
def vision_language_model():
    """Qwen3-VL as ComfyUI builds it, with two narrow layers; its real tokenizer."""
    qwen3vl = stock("comfy.text_encoders.qwen3vl")
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 1}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"hidden_size": 32, "intermediate_size": 32, "depth": 2, "deepstack_visual_indexes": [0, 1]}
        patch.setitem(qwen3vl.QWEN3VL_VISION, "qwen3vl_4b", sizes)
        patch.setitem(qwen3vl.QWEN3VL_VISION_COMMON, "num_heads", 2)
        target = comfy.supported_models_base.ClipTarget(
            qwen3vl.tokenizer(model_type="qwen3vl_4b"), qwen3vl.te(model_type="qwen3vl_4b")
        )
        clip = comfy.sd.CLIP(target, model_options={"qwen3vl_4b_model_config": small, "model_name": "qwen3vl_4b"})
    clip.cond_stage_model.load_state_dict(randomized(clip.cond_stage_model, scale=0.2))
    return clip


def test_a_model_that_talks_nonsense_finds_no_expression_and_confirms_none(
    vision_language_model, moment, monkeypatch, tmp_path
):
    for limit in ("_ANSWER_TOKENS", "_CAPTION_TOKENS"):
        monkeypatch.setattr(backend_text_generation, limit, 5)
    model = LocalModel(vision_language_model, KeptAnswers(tmp_path))
    (shares,) = model.classify([moment.picture_HWC])
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares.values()) == pytest.approx(1 / 8)
    verdict = model.judge(moment.picture_HWC, "sad")
    assert (verdict.outcome, verdict.label) == ("drop", None)
    assert "no usable answer" in verdict.reason
    first = model.caption([moment.picture_HWC] * 4)
    assert first != ""
    (tmp_path / ANSWERS_NAME).unlink()
    assert first == LocalModel(vision_language_model, KeptAnswers(tmp_path)).caption([moment.picture_HWC] * 4)
    assert first != model.caption([255 - moment.picture_HWC] * 4), "it sees the pictures"


def test_a_text_encoder_without_eyes_is_refused(vision_language_model, tmp_path):
    blind = vision_language_model.clone()
    blind.tokenizer = QwenImageTokenizer()
    with pytest.raises(CheckpointError, match="reads no pictures"):
        LocalModel(blind, KeptAnswers(tmp_path))


def test_a_detector_of_another_pack_is_refused_and_an_old_comfyui_is_named(monkeypatch):
    with pytest.raises(CheckpointError, match="not ComfyUI's own") as error:
        MediaPipeFaces(object())
    is_old = comfyui_version.__version__.startswith("0.16")
    assert ("need 0.24 or newer" in str(error.value)) == is_old
    monkeypatch.setattr(comfyui_version, "__version__", "0.16.3")
    with pytest.raises(AnchorError, match=r"Connect a face_detector.*This is ComfyUI 0\.16\.3.*need 0\.24 or newer"):
        boxes_of_faces(torch.zeros(1, 8, 8, 3), None)


class Saying(LocalModel):
    """The same model, whose words are given."""

    def __init__(self, clip, *texts, work=None):
        super().__init__(clip, KeptAnswers(work or Path(tempfile.mkdtemp())))
        self.texts = list(texts)

    def _generate(self, prompt, picture_HWC, max_tokens):
        return self.texts.pop(0)


def test_what_a_model_said_before_a_crash_is_not_asked_again(vision_language_model, moment, tmp_path):
    first = Saying(vision_language_model, '{"label": "happy", "confidence": 0.79}', work=tmp_path)
    shares = first.classify([moment.picture_HWC])
    with (tmp_path / ANSWERS_NAME).open("a") as file:
        file.write('\n["half of an ans')
    later = Saying(vision_language_model, "It smiles.", work=tmp_path)
    assert later.classify([moment.picture_HWC]) == shares
    other = later.caption([moment.picture_HWC] * 4)
    assert other == "It smiles."
    last = Saying(vision_language_model, work=tmp_path)
    assert (last.classify([moment.picture_HWC]), last.caption([moment.picture_HWC] * 4)) == (shares, other)
    with pytest.raises(IndexError):
        last.classify([255 - moment.picture_HWC])


def test_answers_in_the_form_that_was_asked_for_are_used(vision_language_model, moment):
    model = Saying(vision_language_model, '```json\n{"label": "happy", "confidence": 0.79}\n```')
    (shares,) = model.classify([moment.picture_HWC])
    assert shares["happy"] == pytest.approx(0.79)
    assert shares["sad"] == pytest.approx(0.03)
    model = Saying(vision_language_model, '{"label": "happy", "confidence": 0.9}', 'Sure: {"answer": "yes"}')
    verdict = model.judge(moment.picture_HWC, "sad")
    assert (verdict.outcome, verdict.label) == ("relabel", "happy")
    model = Saying(vision_language_model, '{"label": "sad", "confidence": 0.4}', '{"answer": "no"}')
    assert model.judge(moment.picture_HWC, "sad").outcome == "drop"
    assert model.texts == []
