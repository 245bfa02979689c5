"""Character files: exact round trips, and files from strangers. Run: python -m pytest tests/core/characters"""

import base64
import dataclasses
import hashlib
import io
import json
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gloria_core.characters.card import draw_card
from gloria_core.characters.character import MAX_CHARS, Character, Profile, describe
from gloria_core.characters.read_pack import content_fingerprint, read_character
from gloria_core.characters.record import (
    HASH_KEY,
    MAX_HEADER_BYTES,
    MAX_TOTAL_PIXELS,
    RECORD_KEY,
    LatentRecord,
    PictureRecord,
    Record,
    record_metadata,
    tensor_sha256,
)
from gloria_core.characters.write_pack import write_character
from gloria_core.conditioning.anchors import LABELS, Anchor, AnchorLatent, AnchorSet, Origin
from gloria_core.errors import CharacterError

DOCS = Path(__file__).resolve().parents[3] / "docs" / "characters.md"
PROFILE = Profile(
    name="Anna", prompt="a woman in a red coat", description="An explorer.", author="Somebody", license="CC BY 4.0",
    provenance="film.mp4, extraction of viewpoints", lora="anna.safetensors",
    notes="First line\nsecond line, \u5b89\u5a1c \U0001f469\u200d\U0001f680",
)  # fmt: skip
VAE = "ab" * 32


def bytes_picture(height, width, channels=3, seed=0):
    """What a picture file gives: whole steps of 1/255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, channels), generator=generator).to(torch.float32) / 255


def float_picture(height, width, seed=0):
    """What a resize or a VAE gives, overshoot included."""
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.1


def character():
    latent = torch.randn(1, 16, 1, 4, 8, generator=torch.Generator().manual_seed(1))
    anchors = (
        Anchor("global", "global", bytes_picture(40, 64)),
        Anchor("viewpoint", "back", bytes_picture(50, 40, 4, 1), Origin("film.mp4", 12.5)),
        Anchor("expression", "happy", float_picture(40, 40), Origin("scan.png"), AnchorLatent(VAE, latent)),
        Anchor("expression", "happy", float_picture(33, 47, 1).to(torch.bfloat16)),
        Anchor("expression", "sad", torch.full((32, 32, 3), -0.0)),
    )
    return Character(PROFILE, AnchorSet(anchors))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("characters") / "anna.safetensors"
    write_character(path, character())
    return path


def bits(image_HWC):
    return image_HWC.to(torch.float32).contiguous().view(torch.int32)


def test_a_character_comes_back_as_it_was_and_its_pictures_bit_for_bit(path):
    loaded, given = read_character(path), character()
    assert loaded.profile == given.profile
    assert loaded.anchors.slots() == given.anchors.slots()
    for mine, theirs in zip(loaded.anchors.anchors, given.anchors.anchors, strict=True):
        assert mine.image_HWC.dtype == torch.float32
        assert torch.equal(bits(mine.image_HWC), bits(theirs.image_HWC))
        assert mine.origin == theirs.origin
        assert (mine.latent is None) == (theirs.latent is None)
        if mine.latent is not None:
            assert mine.latent.vae == theirs.latent.vae
            assert torch.equal(mine.latent.latent_1C1HW, theirs.latent.latent_1C1HW)


def test_pictures_of_8_bits_are_stored_as_png_that_any_program_reads_and_others_as_floats(path):
    tensors = load_file(path)
    assert {key: str(tensor.dtype) for key, tensor in tensors.items()} == {
        "picture.0": "torch.uint8", "picture.1": "torch.uint8", "picture.2": "torch.float32",
        "picture.3": "torch.float32", "picture.4": "torch.float32", "latent.2": "torch.float32",
    }  # fmt: skip
    with Image.open(io.BytesIO(tensors["picture.1"].numpy().tobytes())) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (40, 50), "RGBA")


def test_equal_characters_give_equal_files_and_a_written_one_can_be_written_again(path, tmp_path):
    write_character(tmp_path / "again.safetensors", read_character(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.png", "again.safetensors"]


def test_whoever_may_read_the_card_may_read_the_character(path):
    assert path.stat().st_mode == path.with_suffix(".png").stat().st_mode


def test_what_was_read_stays_as_it_was_when_the_file_changes_later(path, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    loaded = read_character(copy)
    with copy.open("r+b") as file:
        file.write(b"\xff" * len(path.read_bytes()))
    for mine, theirs in zip(loaded.anchors.anchors, character().anchors.anchors, strict=True):
        assert torch.equal(bits(mine.image_HWC), bits(theirs.image_HWC))


def test_folders_of_the_creators_machine_stay_there(tmp_path):
    origins = (Origin("/a/b.mp4"), Origin("C:\\x\\b.mp4"))
    anchors = [Anchor("viewpoint", "left", bytes_picture(32, 32), origin) for origin in origins]
    write_character(tmp_path / "x.safetensors", Character(PROFILE, AnchorSet(anchors)))
    assert [each.origin.source for each in read_character(tmp_path / "x.safetensors").anchors.anchors] == ["b.mp4"] * 2


def test_the_longest_texts_of_the_widest_signs_fit_into_the_header(tmp_path):
    texts = {field: "\U0001f600" * most for field, most in MAX_CHARS.items()}
    anchors = [Anchor("viewpoint", "left", bytes_picture(32, 32), Origin("\u5b89" * 255, 1.0))] * 16
    path = tmp_path / "x.safetensors"
    write_character(path, Character(Profile(**texts), AnchorSet(anchors)))
    assert dataclasses.asdict(read_character(path).profile) == texts
    assert int.from_bytes(path.read_bytes()[:8], "little") < MAX_HEADER_BYTES / 2


def test_other_programs_find_title_author_licence_and_a_picture_in_the_header(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    named = {key.removeprefix("modelspec."): text for key, text in metadata.items() if key.startswith("modelspec.")}
    kind, thumbnail = named.pop("thumbnail").split(",")
    assert named == {
        "sai_model_spec": "1.0.1", "architecture": "gloria-character", "implementation": "gloria",
        "usage_hint": "ComfyUI: Gloria Load Character", "title": PROFILE.name, "description": PROFILE.description,
        "author": PROFILE.author, "license": PROFILE.license, "trigger_phrase": PROFILE.prompt,
    }  # fmt: skip
    assert kind == "data:image/jpeg;base64"
    assert json.loads(metadata["ssmd_cover_images"]) == [thumbnail]
    with Image.open(io.BytesIO(base64.b64decode(thumbnail))) as image:
        assert (image.format, image.size) == ("JPEG", (256, 256))


def test_the_fingerprint_follows_content_alone(path, tmp_path):
    copy = tmp_path / "other_name.safetensors"
    copy.write_bytes(path.read_bytes())
    assert content_fingerprint(copy) == content_fingerprint(path)
    changed = character().anchors.anchors[:4]
    write_character(copy, Character(PROFILE, AnchorSet(changed)))
    assert content_fingerprint(copy) != content_fingerprint(path)


def test_the_description_names_maker_licence_and_content(path):
    text = describe(read_character(path))
    for part in ("Anna, by Somebody", "CC BY 4.0", "scene, back, happy x2, sad", "film.mp4", "anna.safetensors"):
        assert part in text
    assert "Stored latents: 1" in text
    assert "ask whoever gave you the file" in describe(Character(Profile(name="x"), character().anchors))


# --- the card --------------------------------------------------------------------------------------------------------


def flat(color, height, width):
    return (torch.tensor(color) / 255).expand(height, width, 3)


@pytest.mark.parametrize("num_others", [0, 1, 4, 12])
def test_the_card_shows_every_picture_whole(num_others):
    slots = [(kind, label) for kind in ("viewpoint", "expression") for label in LABELS[kind]][:num_others]
    colors = [(230, 26, 13 * idx) for idx in range(num_others)]
    others = [Anchor(*slot, flat(color, 32, 64)) for slot, color in zip(slots, colors, strict=True)]
    scene = Anchor("global", "global", flat((0, 51, 255), 40, 60))
    card = draw_card(Character(Profile(name="\u5b89\u5a1c"), AnchorSet((*others, scene))))
    counts = {color: count for count, color in card.getcolors(card.width * card.height)}
    assert counts[(0, 51, 255)] == 480 * 320
    assert card.width == (528 if num_others == 0 else 1032)
    drawn = [counts[color] for color in colors]
    assert all(count > 5000 for count in drawn)
    assert len(set(drawn)) <= 1


def test_a_character_without_a_scene_has_a_card_too_and_transparency_is_no_color(path):
    glass = torch.zeros(40, 40, 4)
    anchors = AnchorSet((Anchor("viewpoint", "front", glass), Anchor("viewpoint", "left", glass)))
    card = draw_card(Character(Profile(name="x" * 120, author="y" * 200), anchors))
    assert (0, 0, 0) not in {color for _, color in card.getcolors(card.width * card.height)}


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": " "}, "has no name"),
        ({"name": "a\nb"}, "expected one line"),
        ({"notes": "a\x1b[31m"}, "expected plain text"),
        ({"prompt": "\ud800"}, "expected plain text"),
        ({"author": "x" * 201}, "201 characters, expected at most 200"),
        ({"lora": "../../x.safetensors"}, "without folders"),
        ({"lora": "a\\x.safetensors"}, "without folders"),
    ],
)
def test_a_profile_says_what_is_wrong_with_it(changes, message):
    with pytest.raises(CharacterError, match=message):
        dataclasses.replace(PROFILE, **changes)


def png(pixels_HWC):
    packed = io.BytesIO()
    Image.fromarray(pixels_HWC).save(packed, "PNG")
    return torch.from_numpy(np.frombuffer(packed.getvalue(), np.uint8).copy())


def write_hostile(path, tensors=None, metadata=None, **changes):
    """A file with a sound record and right hashes, except for what is changed: what bad intent can make."""
    tensors = {"picture.0": png(np.zeros((64, 64, 3), np.uint8)), **(tensors or {})}
    tensors = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    picture = {"kind": "viewpoint", "label": "left", "height": 64, "width": 64}
    picture["sha256"] = tensor_sha256(tensors["picture.0"]) if "picture.0" in tensors else "0" * 64
    if "latent.0" in tensors:
        picture["latent"] = {"vae": VAE, "sha256": tensor_sha256(tensors["latent.0"])}
    record = {"schema": 1, "profile": {"name": "x"}, "pictures": [picture | changes.pop("picture", {})], **changes}
    text = json.dumps(record)
    hashes = {RECORD_KEY: text, HASH_KEY: hashlib.sha256(text.encode()).hexdigest()}
    save_file(tensors, path, hashes | (metadata or {}))
    return path


def test_the_hostile_writer_of_these_tests_writes_sound_files_when_nothing_is_changed(tmp_path):
    assert read_character(write_hostile(tmp_path / "x.safetensors")).anchors.slots() == (("viewpoint", "left"),)


LATENT = torch.zeros(1, 16, 1, 8, 8)
REFUSED = {
    "newer": ({"schema": 2}, "newer version of Gloria .schema 2, this version reads up to 1.*Update"),
    "schema of another kind": ({"schema": "1"}, "schema '1', expected 1"),
    "unknown field": ({"masks": []}, r"unknown field\(s\) masks"),
    "unknown field of a picture": ({"picture": {"path": "/etc/passwd"}}, r"unknown field\(s\) path"),
    "unknown entry": ({"metadata": {"gloria.script": "x"}}, "entries gloria.script, which no character has"),
    "wrong hash of the record": ({"metadata": {HASH_KEY: "0" * 64}}, "its description is not the one that was saved"),
    "no JSON": ({"metadata": {RECORD_KEY: "{"}}, "damaged or was changed by another tool"),
    "deep JSON": ({"metadata": {RECORD_KEY: "[" * 100_000}}, "damaged or was changed by another tool"),
    "a list": ({"metadata": {RECORD_KEY: "[]"}}, "its description is not the one"),
    "no pictures": ({"pictures": []}, "0 pictures, expected 1 to 16"),
    "unknown label": ({"picture": {"label": "nose"}}, "'viewpoint' with the label 'nose'"),
    "path as source": ({"picture": {"source": "../x.mp4"}}, "without folders"),
    "time that is no number": ({"picture": {"time": float("nan")}}, "taken at nan s"),
    "negative size": ({"picture": {"height": -64}}, "64x-64 pixels"),
    "pixels beyond the limit": (
        {"pictures": [{"kind": "viewpoint", "label": "left", "height": 16384, "width": 16384, "sha256": "0" * 64}]},
        f"268435456 pixels in all, expected at most {MAX_TOTAL_PIXELS}",
    ),
    "hash of the picture": ({"picture": {"sha256": "0" * 64}}, "picture.0 is not what was saved"),
    "picture left out": ({"tensors": {"picture.0": None, "picture.1": LATENT}}, "picture.0, picture.1 is missing"),
    "something hidden": ({"tensors": {"weights": LATENT}}, "weights is missing or too much"),
    "bytes of another kind": ({"tensors": {"picture.0": torch.zeros(64, 64, 3).char()}}, r"I8 \[64, 64, 3\]"),
    "floats of another size": ({"tensors": {"picture.0": torch.zeros(64, 65, 3)}}, r"F32 \[64, 65, 3\]"),
    "floats out of range": ({"tensors": {"picture.0": torch.full((64, 64, 3), 9.0)}}, "values from 9 to 9"),
    "not a number": ({"tensors": {"picture.0": torch.full((64, 64, 3), float("nan"))}}, "not finite"),
    "no PNG": ({"tensors": {"picture.0": torch.zeros(500, dtype=torch.uint8)}}, "no PNG that can be read"),
    "gray PNG": ({"tensors": {"picture.0": png(np.zeros((64, 64), np.uint8))}}, r"64x64 pixels \(L\)"),
    "too many bytes": ({"tensors": {"picture.0": torch.zeros(99_999, dtype=torch.uint8)}}, "99999 bytes, far too many"),
    "a speck": ({"tensors": {"picture.0": torch.zeros(8, 8, 3)}, "picture": {"height": 8, "width": 8}}, "8x8 pixels"),
    "latent of the scene": (
        {"tensors": {"latent.0": LATENT}, "picture": {"kind": "global", "label": "global"}}, "follows the video's size",
    ),
    "latent of half floats": ({"tensors": {"latent.0": LATENT.half()}}, "expected one latent frame"),
    "latent with two frames": ({"tensors": {"latent.0": torch.zeros(1, 16, 2, 8, 8)}}, "expected one latent frame"),
    "latent of another VAE": ({"tensors": {"latent.0": torch.zeros(1, 4, 1, 8, 8)}}, "expected one latent frame"),
    "huge latent": ({"tensors": {"latent.0": torch.zeros(1, 16, 1, 129, 128)}}, "expected one latent frame"),
    "latent that is no number": ({"tensors": {"latent.0": LATENT / 0}}, "latent.0 holds values that are not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_from_a_stranger_is_refused_by_name_and_reason(case, tmp_path):
    changes, message = REFUSED[case]
    path = write_hostile(tmp_path / "gift.safetensors", **changes)
    with pytest.raises(CharacterError, match=message) as caught:
        read_character(path)
    assert "'gift.safetensors'" in str(caught.value)


def test_what_is_no_character_is_told_from_what_is_no_safetensors_file(tmp_path):
    save_file({"lora.weight": LATENT}, tmp_path / "lora.safetensors")
    (tmp_path / "notes.safetensors").write_text("not a file of tensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(CharacterError, match="'lora.safetensors' is a safetensors file, but no character"):
        read_character(tmp_path / "lora.safetensors")
    with pytest.raises(CharacterError, match=r"'notes.safetensors' is no character file: its header would have"):
        read_character(tmp_path / "notes.safetensors")
    for name in ("empty.safetensors", "gone.safetensors"):
        with pytest.raises(CharacterError, match=f"'{name}' cannot be read"):
            read_character(tmp_path / name)


def test_damage_anywhere_in_the_pictures_or_their_description_is_found(path, tmp_path):
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    record = whole.index(b'"gloria.character":"')
    places = np.random.default_rng(0).integers(start, len(whole), 40).tolist()
    places += np.random.default_rng(1).integers(record + 25, record + 600, 40).tolist()
    damaged = tmp_path / "damaged.safetensors"
    for place in places:
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CharacterError):
            read_character(damaged)


def test_a_file_that_was_cut_short_anywhere_is_refused(path, tmp_path):
    whole, cut = path.read_bytes(), tmp_path / "cut.safetensors"
    for length in np.linspace(0, len(whole) - 1, 50).astype(int):
        cut.write_bytes(whole[:length])
        with pytest.raises(CharacterError):
            read_character(cut)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    """A header of many bytes, and a PNG of many pixels, are refused before they are unpacked."""
    header = tmp_path / "header.safetensors"
    with header.open("wb") as file:
        file.write(struct.pack("<Q", 90_000_000))
        file.truncate(90_000_100)
    # The start of a PNG that says it has 9000 x 9000 pixels; unpacking it would fail with another message.
    size = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))
    data += struct.pack(">I", 4) + b"IDAT" + b"\0" * 8
    bomb = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    write_hostile(tmp_path / "bomb.safetensors", {"picture.0": bomb})
    tracemalloc.start()
    with pytest.raises(CharacterError, match="header would have 90000000 bytes"):
        read_character(header)
    with pytest.raises(CharacterError, match="9000x9000 pixels"):
        read_character(tmp_path / "bomb.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_the_writer_refuses_what_no_reader_takes():
    big = PictureRecord(kind="viewpoint", label="left", height=10_000, width=10_000, sha256="0" * 64)
    with pytest.raises(CharacterError, match="scale them down"):
        Record(profile=PROFILE, pictures=(big, big))


# --- the documentation -----------------------------------------------------------------------------------------------


def test_the_documented_table_has_every_field_of_the_code_and_no_other():
    rows = re.findall(r"^\| `([\w.]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    classes = (("", Record), ("profile.", Profile), ("pictures.", PictureRecord), ("pictures.latent.", LatentRecord))
    fields = [prefix + field.name for prefix, cls in classes for field in dataclasses.fields(cls)]
    assert sorted(rows) == sorted(set(fields) - {"profile", "pictures", "pictures.latent"})


def test_the_documented_limits_are_those_of_the_code():
    text = DOCS.read_text(encoding="utf-8")
    for field, most in MAX_CHARS.items():
        assert re.search(rf"^\| `profile\.{field}` \| text, at most {most} characters", text, re.MULTILINE), field
    assert f"{MAX_TOTAL_PIXELS // 1_000_000} million pixels" in text
    assert f"{MAX_HEADER_BYTES // 2**20} MiB" in text
    example = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL).group(1))
    sound = Record(
        profile=Profile(**example["profile"]),
        pictures=tuple(
            PictureRecord(**each | {"latent": each.get("latent") and LatentRecord(**each["latent"])})
            for each in example["pictures"]
        ),
    )
    assert json.loads(record_metadata(sound)[RECORD_KEY]) == example
