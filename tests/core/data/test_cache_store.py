"""Entries on disk: whole or named. Run: python -m pytest tests/core/data/test_cache_store.py"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.data import cache as module
from gloria_core.data.cache import CacheStore
from gloria_core.durable_files import file_sha256
from gloria_core.errors import DatasetError

ROOT = Path(__file__).resolve().parents[3]


def stored(folder, key="clip_1", made_from="anna.mp4 clip 0"):
    store = CacheStore(folder)
    tensors = {"latents": torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).half()}
    store.put(key, tensors, "clip", made_from)
    return store, tensors, folder / "entries" / f"{key}.safetensors"


def test_what_is_put_comes_out(tmp_path):
    store, tensors, path = stored(tmp_path)
    assert store.has("clip_1")
    assert not store.has("clip_2")
    loaded = CacheStore(tmp_path).load("clip_1")
    assert loaded.keys() == tensors.keys()
    assert loaded["latents"].dtype == torch.float16
    assert torch.equal(loaded["latents"], tensors["latents"])
    assert store.num_bytes("clip_1") == path.stat().st_size
    assert store.num_bytes("clip_2") == 0


def test_any_damage_to_the_bytes_is_found_and_named(tmp_path):
    _, _, path = stored(tmp_path)
    whole, rng = path.read_bytes(), random.Random(0)
    damages = [whole[: rng.randrange(len(whole))] for _ in range(5)] + [b"", whole + b"\0"]
    for _ in range(10):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damages.append(bytes(flipped))
    for damaged in damages:
        path.write_bytes(damaged)
        store = CacheStore(tmp_path)
        assert not store.has("clip_1")
        with pytest.raises(DatasetError, match=r"clip_1\.safetensors \(of 'anna\.mp4 clip 0'\) is damaged\. Build"):
            store.load("clip_1")
    path.write_bytes(whole)
    assert CacheStore(tmp_path).has("clip_1")


def test_a_lost_file_or_record_is_named_by_who_refers_to_it(tmp_path):
    store, _, path = stored(tmp_path)
    index = {
        "clips": [{"id": "anna/0", "latents": "clip_1"}, {"id": "anna/1", "latents": "clip_2"}],
        "sources": [{"id": "anna", "anchors": [{"key": "anchor_7"}]}],
    }
    (tmp_path / "cache.json").write_text(json.dumps(index))
    path.unlink()
    with pytest.raises(DatasetError, match=r"\(of 'anna\.mp4 clip 0'\) is missing"):
        store.load("clip_1")
    path.with_suffix(".json").write_text('{"kind": "cl')
    for key, owner in (("clip_1", "anna/0"), ("clip_2", "anna/1"), ("anchor_7", "anna")):
        with pytest.raises(DatasetError, match=rf"{key}\.safetensors \(of '{owner}'\) is missing \(it has no record\)"):
            store.load(key)


def recorded(path, tensors, shapes):
    save_file(tensors, path)
    record = {"kind": "clip", "made_from": "anna", "sha256": file_sha256(path), "shapes": shapes}
    path.with_suffix(".json").write_text(json.dumps(record))


def test_wrong_shapes_and_values_are_refused_even_when_the_digest_fits(tmp_path):
    _, _, path = stored(tmp_path)
    recorded(path, {"latents": torch.zeros(4, 2)}, {"latents": [4, 3]})
    with pytest.raises(DatasetError, match=r"\(of 'anna'\) has the shapes .*\[4, 2\].*\[4, 3\]"):
        CacheStore(tmp_path).load("clip_1")
    recorded(path, {"latents": torch.full((4, 2), torch.inf)}, {"latents": [4, 2]})
    with pytest.raises(DatasetError, match=r"\(of 'anna'\) holds NaN or infinite values"):
        CacheStore(tmp_path).load("clip_1")
    path.write_bytes(b"no safetensors")
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, "sha256": file_sha256(path)}))
    with pytest.raises(DatasetError, match="cannot be read"):
        CacheStore(tmp_path).load("clip_1")


def test_bytes_are_compared_once_per_process_and_again_by_has(tmp_path, monkeypatch):
    _, tensors, path = stored(tmp_path)
    hashed = []
    monkeypatch.setattr(module, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    store = CacheStore(tmp_path)
    for _ in range(3):
        store.load("clip_1")
    assert len(hashed) == 1
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.has("clip_1")
    with pytest.raises(DatasetError, match="is damaged"):
        store.load("clip_1")
    store.put("clip_1", tensors, "clip", "anna")
    assert torch.equal(store.load("clip_1")["latents"], tensors["latents"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_put(tmp_path, bad):
    store = CacheStore(tmp_path)
    with pytest.raises(DatasetError, match="NaN or infinite values for the text of 'hello'"):
        store.put("text_1", {"text": torch.tensor([1.0, bad])}, "text", "hello")
    assert not store.has("text_1")


@pytest.mark.parametrize("key", ["../x", "a/b", "", "a" * 129, "a.b"])
def test_keys_are_plain_names(tmp_path, key):
    with pytest.raises(DatasetError, match="is not a key"):
        CacheStore(tmp_path).load(key)


def test_two_builds_do_not_share_a_folder(tmp_path):
    with (
        CacheStore(tmp_path).building(),
        pytest.raises(DatasetError, match="Another process builds"),
        CacheStore(tmp_path).building(),
    ):
        pass
    with CacheStore(tmp_path).building():
        pass


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(DatasetError, match="cannot be written"), CacheStore(tmp_path / "cache").building():
        pass


def test_too_small_a_disk_is_refused_with_both_figures(tmp_path):
    store = CacheStore(tmp_path)
    store.require_free_bytes(0)
    with pytest.raises(DatasetError, match=r"needs about 1000000000\.00 GB more.* GB free"):
        store.require_free_bytes(10**18)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from gloria_core.data.cache import CacheStore
from gloria_core.errors import DatasetError
store = CacheStore(Path(sys.argv[2]))
store.put("clip_1", {"latents": torch.zeros(100)}, "clip", "anna")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.put("clip_2", {"latents": torch.zeros(100_000)}, "clip", "bert")
except DatasetError as error:
    print(error)
print(store.has("clip_1"), store.has("clip_2"), sorted(path.name for path in Path(sys.argv[2]).rglob("clip_2*")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_a_full_disk_keeps_what_was_finished(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(ROOT), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    message, state = run.stdout.splitlines()
    assert message.startswith("The clip of 'bert' could not be written to the dataset cache")
    assert "free space and build again" in message
    assert state == "True False []"
