"""Save and load a character in ComfyUI. Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_characters.py"""

import dataclasses
import io as bytes_io
import os
import shutil
from pathlib import Path

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from app.model_manager import ModelFileManager
from comfy_api.latest import io
from PIL import Image

import gloria_core.toy_weights
from gloria_pack.gloria_core.characters.read_pack import read_character
from gloria_pack.gloria_core.conditioning.anchors import Anchor, AnchorSet, AnchorSizes, Origin
from gloria_pack.gloria_core.errors import CharacterError, GloriaError
from gloria_pack.nodes.bridge.characters import (
    CHARACTERS_FOLDER,
    character_path,
    list_characters,
    register_character_folders,
)
from gloria_pack.nodes.bridge.images import encode_anchors, with_latents
from gloria_pack.nodes.condition import GloriaCondition
from gloria_pack.nodes.load_character import GloriaLoadCharacter
from gloria_pack.nodes.save_character import GloriaSaveCharacter

SIZES = AnchorSizes(32, 64)
SAVED = "anna_00001_.safetensors"


def picture(height, width, seed, is_8_bit=True):
    image_HWC = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))
    return (image_HWC * 255).round() / 255 if is_8_bit else image_HWC


@pytest.fixture(scope="module")
def anchors():
    """Pictures as they come from files, from a resize (floats between the steps of 8 bits), and with alpha."""
    return AnchorSet(
        (
            Anchor("global", "global", picture(50, 90, 1)),
            Anchor("viewpoint", "back", picture(120, 80, 2, is_8_bit=False), Origin("film.mp4", 2.5)),
            Anchor("expression", "happy", torch.cat([picture(70, 40, 3), picture(70, 40, 4)[..., :1]], dim=-1)),
        )
    )


def toy_vae(folder, seed):
    path = folder / f"vae_{seed}.safetensors"
    gloria_core.toy_weights.write_toy_vae(path, width=8, seed=seed)
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return toy_vae(tmp_path_factory.mktemp("vae"), 0)


def run(node, **inputs):
    """The node as ComfyUI's executor runs it, hidden inputs set."""
    hidden = {io.Hidden.prompt: None, io.Hidden.extra_pnginfo: None, io.Hidden.unique_id: "7"}
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": hidden})
    with torch.inference_mode():
        return clone.execute(**inputs)


def save(anchors, **changes):
    inputs = {"name": "Anna", "prompt": "a woman", "author": "Somebody", "license": "CC0", "filename_prefix": "anna"}
    return run(GloriaSaveCharacter, anchors=anchors, **{**inputs, **changes})


def condition(vae, anchors):
    prompt = [[torch.zeros(1, 7, 32), {}]]
    inputs = {"positive": prompt, "negative": prompt, "width": 64, "height": 32, "length": 5}
    return run(GloriaCondition, vae=vae, anchors=anchors, **inputs).result


def equal(mine, theirs):
    if isinstance(mine, torch.Tensor):
        return torch.equal(mine, theirs)
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(equal(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, (list, tuple)):
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    return mine == theirs


def test_the_public_contract_of_the_nodes():
    saver, loader = GloriaSaveCharacter.define_schema(), GloriaLoadCharacter.define_schema()
    assert [(i.id, i.get_io_type(), bool(i.optional)) for i in saver.inputs] == [
        ("anchors", "GLORIA_ANCHORS", False), ("name", "STRING", False), ("prompt", "STRING", False),
        ("author", "STRING", False), ("license", "STRING", False), ("filename_prefix", "STRING", False),
        ("vae", "VAE", True), ("description", "STRING", True), ("notes", "STRING", True),
        ("provenance", "STRING", True), ("lora", "STRING", True),
    ]  # fmt: skip
    assert saver.is_output_node
    assert [i.id for i in loader.inputs] == ["character"]
    assert [o.get_io_type() for o in loader.outputs] == ["GLORIA_ANCHORS", "STRING", "STRING"]


@pytest.mark.parametrize("with_vae", [False, True])
def test_conditioning_from_the_file_equals_conditioning_from_the_anchors_bit_for_bit(
    with_vae, vae, anchors, output_directory
):
    before = condition(vae, anchors)
    save(anchors, **({"vae": vae} if with_vae else {}))
    loaded, prompt, info = run(GloriaLoadCharacter, character=SAVED).result
    assert [anchor.latent is not None for anchor in loaded.anchors] == [False, with_vae, with_vae]
    assert equal(condition(vae, loaded), before)
    assert equal([anchor.image_HWC for anchor in loaded.anchors], [anchor.image_HWC for anchor in anchors.anchors])
    assert [anchor.origin for anchor in loaded.anchors] == [anchor.origin for anchor in anchors.anchors]
    assert prompt == "a woman"
    assert "Anna, by Somebody" in info
    assert "CC0" in info


def test_stored_latents_are_used_with_their_own_vae_at_their_size_alone(vae, anchors, tmp_path):
    stored = with_latents(vae, anchors)
    # Other pictures beside the latents show which of the two was used.
    others = [dataclasses.replace(anchor, image_HWC=1 - anchor.image_HWC) for anchor in stored.anchors]
    swapped, plain = AnchorSet(tuple(others)), AnchorSet(tuple(dataclasses.replace(a, latent=None) for a in others))
    with torch.inference_mode():
        used, told = encode_anchors(vae, swapped, SIZES)
        assert equal(used[1:], [anchor.latent.latent_1C1HW for anchor in stored.anchors[1:]])
        assert equal(used[0], encode_anchors(vae, plain, SIZES)[0][0])
        assert told == "2 of 2 latents of the character file used"
        small = AnchorSizes(32, 64, 64 * 64, 256 * 256)
        one, told = encode_anchors(vae, swapped, small)
        assert told.startswith("1 of 2 latents")
        assert told.endswith("size and were encoded anew")
        assert equal(one[1], encode_anchors(vae, plain, small)[0][1])
        other_vae = toy_vae(tmp_path, 1)
        anew, told = encode_anchors(other_vae, swapped, SIZES)
        assert told.startswith("0 of 2 latents")
        assert equal(anew, encode_anchors(other_vae, plain, SIZES)[0])
        assert encode_anchors(vae, plain, SIZES)[1] == ""


def test_files_are_numbered_and_older_ones_kept(anchors, output_directory):
    save(anchors)
    folder = output_directory / "gloria" / "characters"
    first = (folder / SAVED).read_bytes()
    shown = save(anchors, name="Berta", filename_prefix="anna").ui["images"]
    assert (folder / SAVED).read_bytes() == first
    assert sorted(path.name for path in folder.iterdir()) == [
        "anna_00001_.png", SAVED, "anna_00002_.png", "anna_00002_.safetensors",
    ]  # fmt: skip
    assert shown == [{"filename": "anna_00002_.png", "subfolder": "gloria/characters", "type": "output"}]
    save(anchors, filename_prefix="friends/carl")
    assert list_characters() == [SAVED, "anna_00002_.safetensors", str(Path("friends", "carl_00001_.safetensors"))]


@pytest.mark.parametrize("prefix", ["", "/etc/x", "../x", "a/../../x", "C:x", "a\\x"])
def test_a_prefix_that_leads_elsewhere_is_refused(prefix, anchors, output_directory):
    with pytest.raises(GloriaError, match="filename prefix"):
        save(anchors, filename_prefix=prefix)
    assert not [path for path in output_directory.rglob("*") if path.is_file()]


def test_a_failed_save_leaves_nothing(anchors, output_directory):
    with pytest.raises(CharacterError, match="has no name"):
        save(anchors, name="")
    assert not [path for path in output_directory.rglob("*") if path.is_file()]


def test_files_in_the_models_folder_are_offered_too(anchors, output_directory, base_directory):
    save(anchors)
    models = base_directory / "models" / "gloria_characters"
    models.mkdir(exist_ok=True)
    target = models / "given_to_me.safetensors"
    shutil.copy(output_directory / "gloria" / "characters" / SAVED, target)
    (models / "readme.txt").write_text("x")
    try:
        assert list_characters() == [SAVED, "given_to_me.safetensors"]
        assert run(GloriaLoadCharacter, character="given_to_me.safetensors").result[0].slots() == anchors.slots()
    finally:
        shutil.rmtree(models)


def test_folders_that_the_user_named_come_first(anchors, output_directory, tmp_path):
    paths = folder_paths.folder_names_and_paths[CHARACTERS_FOLDER][0]
    paths.insert(0, str(tmp_path))  # as extra_model_paths.yaml does before the pack is loaded
    try:
        register_character_folders()
        save(anchors)
        (tmp_path / SAVED).write_bytes(b"mine")
        assert list_characters() == [SAVED]
        assert character_path(SAVED) == tmp_path / SAVED
    finally:
        paths.remove(str(tmp_path))


def test_no_name_leads_out_of_the_folders(anchors, output_directory, base_directory):
    save(anchors)
    inside = output_directory / "gloria" / "characters" / SAVED
    outside = base_directory / "outside.safetensors"
    shutil.copy(inside, outside)
    for name in ("../../../outside.safetensors", str(outside), f"./{SAVED}", f"../characters/{SAVED}", "", "gone"):
        with pytest.raises(CharacterError, match="There is no character file"):
            character_path(name)


def test_a_changed_file_is_read_again_and_a_touched_one_is_not(anchors, output_directory):
    save(anchors)
    path = character_path(SAVED)
    first = GloriaLoadCharacter.fingerprint_inputs(character=SAVED)
    os.utime(path, (1, 1))
    assert GloriaLoadCharacter.fingerprint_inputs(character=SAVED) == first
    save(AnchorSet(anchors.anchors[:2]))
    shutil.copy(path.with_name("anna_00002_.safetensors"), path)
    assert GloriaLoadCharacter.fingerprint_inputs(character=SAVED) != first
    assert GloriaLoadCharacter.fingerprint_inputs(character="gone.safetensors") == ""


def test_comfyuis_browser_of_models_finds_the_card_and_without_it_the_picture_inside(anchors, output_directory):
    save(anchors)
    path = character_path(SAVED)
    card = path.with_suffix(".png")
    assert ModelFileManager().get_model_previews(str(path))[0] == str(card)
    card.unlink()
    (cover,) = ModelFileManager().get_model_previews(str(path))
    assert isinstance(cover, bytes_io.BytesIO)
    with Image.open(cover) as image:
        assert image.size == (256, 256)


def test_the_loader_shows_the_card_that_the_saver_showed(anchors, output_directory, base_directory):
    (saved,) = save(anchors).ui["images"]
    (shown,) = run(GloriaLoadCharacter, character=SAVED).ui.as_dict()["images"]
    with (
        Image.open(output_directory / saved["subfolder"] / saved["filename"]) as mine,
        Image.open(base_directory / "temp" / shown["subfolder"] / shown["filename"]) as theirs,
    ):
        assert mine.size == theirs.size
        difference = torch.tensor(list(mine.tobytes())).sub(torch.tensor(list(theirs.convert("RGB").tobytes())))
        assert difference.abs().max() <= 1  # ComfyUI rounds its previews down


def test_what_is_loaded_can_be_saved_again_with_everything_in_it(vae, anchors, output_directory):
    save(anchors, vae=vae, notes="a\nb", provenance="film.mp4", lora="anna.safetensors", description="d")
    loaded = run(GloriaLoadCharacter, character=SAVED).result[0]
    save(loaded, notes="a\nb", provenance="film.mp4", lora="anna.safetensors", description="d", filename_prefix="again")
    again = character_path("again_00001_.safetensors")
    assert again.read_bytes() == character_path(SAVED).read_bytes()
    assert read_character(again).profile.notes == "a\nb"
