"""Faults of the disk and of people: each ends in the right film or in an error that says what to do.

Run: python -m pytest tests/core/test_journal.py
"""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.append(str(Path(__file__).parent))
from toy_film import INPUTS, SHAPE_CHW, make_toy_film, open_toy_journal, toy_denoise

from gloria_core.errors import JournalError
from gloria_core.sampling.engine import run_chunks
from gloria_core.sampling.job_folder import check_job_name, describe_changes
from gloria_core.sampling.journal import Journal
from gloria_core.sampling.plan import plan_chunks

HERE = Path(__file__).parent
NUM_CHUNKS = 8


@pytest.fixture
def job(tmp_path):
    film, _ = make_toy_film(tmp_path)
    (folder,) = tmp_path.glob("toy-*")
    return tmp_path, folder, film.clone()


def flip_byte(path, offset=-1):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def flip_data(folder):
    flip_byte(folder / "chunk_00003.safetensors")


def flip_header(folder):
    flip_byte(folder / "chunk_00003.safetensors", 20)


def truncate_data(folder):
    path = folder / "chunk_00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty_data(folder):
    (folder / "chunk_00003.safetensors").write_bytes(b"")


def delete_data(folder):
    (folder / "chunk_00003.safetensors").unlink()


def cut_record(folder):
    path = folder / "chunk_00003.json"
    path.write_bytes(path.read_bytes()[:40])


def empty_record(folder):
    (folder / "chunk_00003.json").write_bytes(b"")


def delete_record(folder):
    (folder / "chunk_00003.json").unlink()


def wrong_types_in_record(folder):
    path = folder / "chunk_00003.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": "12"}))


def list_as_record(folder):
    (folder / "chunk_00003.json").write_text("[1, 2]")


def deeply_nested_record(folder):
    (folder / "chunk_00003.json").write_text("[" * 200_000)


def record_of_another_prefix(folder):
    path = folder / "chunk_00003.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prefix_sha256": "0" * 64}))


def record_of_another_chunk(folder):
    (folder / "chunk_00003.json").write_bytes((folder / "chunk_00002.json").read_bytes())


@pytest.mark.parametrize(
    "damage",
    [
        flip_data, flip_header, truncate_data, empty_data, delete_data, cut_record, empty_record, delete_record,
        wrong_types_in_record, list_as_record, deeply_nested_record, record_of_another_prefix, record_of_another_chunk,
    ],
)  # fmt: skip
def test_a_damaged_chunk_is_redone_and_the_film_is_the_same(job, damage):
    root, folder, film = job
    damage(folder)
    with open_toy_journal(root) as journal:
        assert 3 not in journal.kept
        assert journal.kept[:3] == (0, 1, 2)
    repaired, sampled = make_toy_film(root)
    # The redone chunk has the same bits, so what follows it still continues it and stays.
    assert sampled == [3]
    assert torch.equal(repaired, film)


def test_chunks_behind_a_chunk_that_came_out_different_are_redone(job):
    root, folder, _film = job
    (folder / "chunk_00003.json").unlink()
    sampled = []

    def other_kernels(chunk, seed, prefix):
        sampled.append(chunk.index)
        return toy_denoise(chunk, seed, prefix) + 1e-6

    with open_toy_journal(root) as journal:
        run_chunks(journal.plan, 5, journal, other_kernels)
    assert sampled == [3, 4, 5, 6, 7]


def test_chunks_of_another_length_are_not_used(tmp_path):
    longer, _ = make_toy_film(tmp_path, total=40)
    shorter, sampled = make_toy_film(tmp_path, total=12)
    assert sampled == [1]
    assert shorter.shape[2] == 12
    assert torch.equal(shorter[:, :, :5], longer[:, :, :5])


def test_stray_files_are_ignored(job):
    root, folder, film = job
    for name in ("chunk_00099.safetensors", "chunk_00003.safetensors.tmp", "notes.txt", "chunk_x.json", ".DS_Store"):
        (folder / name).write_bytes(b"stray")
    again, sampled = make_toy_film(root)
    assert sampled == []
    assert torch.equal(again, film)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"inputs": 3, "environments": {"a": 1}}'])
def test_a_damaged_job_file_costs_no_chunk(job, content):
    root, folder, _ = job
    (folder / "job.json").write_bytes(content)
    _, sampled = make_toy_film(root)
    assert sampled == []
    assert json.loads((folder / "job.json").read_text())["inputs"] == INPUTS


@pytest.mark.parametrize("name", ["film.safetensors", "film.json"])
def test_a_damaged_film_is_joined_again(job, name):
    root, folder, film = job
    flip_byte(folder / name, -5)
    again, sampled = make_toy_film(root)
    assert sampled == []
    assert torch.equal(again, film)


def test_a_valid_film_is_used_as_it_is(job):
    root, folder, _ = job
    before = (folder / "film.safetensors").stat().st_mtime_ns
    make_toy_film(root)
    assert (folder / "film.safetensors").stat().st_mtime_ns == before


def test_film_without_blend_keeps_the_earlier_chunk(job):
    root, _, film = job
    with open_toy_journal(root) as journal:
        cut = journal.film(blend=False)
        first, second = (journal.prefix_for(journal.plan.chunks[k]) for k in (1, 2))
    assert torch.equal(cut[:, :, 5:9], first)
    assert torch.equal(cut[:, :, 10:14], second)
    assert not torch.equal(cut, film)


def test_the_film_is_mapped_not_loaded_and_is_a_plain_safetensors_file(job):
    root, folder, _film = job
    with open_toy_journal(root) as journal:
        mapped = journal.film(blend=True)
        if Path("/proc/self/maps").exists():
            assert str(folder / "film.safetensors") in Path("/proc/self/maps").read_text()
    with safe_open(folder / "film.safetensors", framework="pt") as file:
        frames = file.get_tensor("frames")
    assert frames.shape == (40, *SHAPE_CHW)
    assert torch.equal(frames.transpose(0, 1)[None], mapped)


def test_writing_into_the_film_tensor_does_not_change_the_file(job):
    root, folder, _ = job
    before = (folder / "film.safetensors").read_bytes()
    with open_toy_journal(root) as journal:
        journal.film(blend=True).zero_()
    assert (folder / "film.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_latents_keep_their_dtype(tmp_path, dtype):
    with open_toy_journal(tmp_path, 14) as journal:
        run_chunks(journal.plan, 5, journal, lambda *args: toy_denoise(*args).to(dtype))
        assert journal.film(blend=True).dtype == dtype


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused_and_nothing_is_lost(tmp_path, value):
    def broken(chunk, seed, prefix):
        latents = toy_denoise(chunk, seed, prefix)
        if chunk.index == 2:
            latents[0, 1, 5, 3, 3] = value
        return latents

    with pytest.raises(JournalError, match=r"(?s)Chunk 2 .*fp8.*Sage"), open_toy_journal(tmp_path) as journal:
        run_chunks(journal.plan, 5, journal, broken)
    with open_toy_journal(tmp_path) as journal:
        assert journal.kept == (0, 1)


def test_a_chunk_of_the_wrong_shape_is_refused(tmp_path):
    with open_toy_journal(tmp_path) as journal, pytest.raises(JournalError, match="shape"):
        journal.commit(journal.plan.chunks[0], 5, None, torch.zeros(1, 4, 8, 32, 32))


def test_other_inputs_make_another_folder_and_say_what_changed(tmp_path):
    make_toy_film(tmp_path)
    changed = {"seed": {"value": 6}, "anchors": {"digest": "cd" * 32}, "audio": {"digest": "ef"}}
    with open_toy_journal(tmp_path, inputs=changed) as journal:
        assert journal.changes == ("anchors changed", "audio added", "seed: 5 -> 6")
        assert journal.kept == ()
    assert len(list(tmp_path.glob("toy-*"))) == 2
    with open_toy_journal(tmp_path) as journal:
        assert journal.changes == ()
        assert len(journal.kept) == NUM_CHUNKS


def test_another_job_name_is_not_compared(tmp_path):
    make_toy_film(tmp_path, job="toy-deadbeef", total=14)
    with open_toy_journal(tmp_path, inputs={"seed": {"value": 6}}) as journal:
        assert journal.changes == ()


def test_long_values_are_cut_in_the_description_of_changes():
    (line,) = describe_changes({"prompt": {"value": "a" * 500}}, {"prompt": {"value": "b"}})
    assert len(line) < 100


def test_a_change_of_versions_is_reported_and_recorded_but_resumes(job, caplog):
    root, folder, _ = job
    plan = plan_chunks(40, 9, 4)
    with Journal(root, "toy", INPUTS, plan, SHAPE_CHW, {"torch": "9.9"}) as journal:
        assert len(journal.kept) == NUM_CHUNKS
    assert "torch: " in caplog.text
    assert [e["torch"] for e in json.loads((folder / "job.json").read_text())["environments"]][-1] == "9.9"


def test_a_job_open_elsewhere_is_refused(tmp_path):
    script = textwrap.dedent(f"""
        import sys; sys.path.append({str(HERE)!r})
        from toy_film import open_toy_journal
        with open_toy_journal({str(tmp_path)!r}):
            print("open", flush=True); sys.stdin.read()
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match=r"another process.*another job name"):
            open_toy_journal(tmp_path)
    finally:
        process.kill()
        process.wait()
    with open_toy_journal(tmp_path):
        pass


def test_a_job_open_twice_in_one_process_is_refused(tmp_path):
    with open_toy_journal(tmp_path), pytest.raises(JournalError, match="locked"):
        open_toy_journal(tmp_path)


def test_a_film_that_cannot_fit_on_the_disk_is_refused_before_the_first_chunk(tmp_path):
    with pytest.raises(JournalError, match=r"(?s)bytes free.*needs \d+ bytes"):
        Journal(tmp_path, "huge", INPUTS, plan_chunks(10**4, 31, 4), (16, 10**5, 10**4), {})


def test_a_full_disk_names_the_bytes_loses_nothing_and_resumes(tmp_path):
    """A limit on file size makes the kernel refuse the write just as a full disk does."""
    script = textwrap.dedent(f"""
        import resource, sys; sys.path.append({str(HERE)!r})
        from toy_film import open_toy_journal, toy_denoise, make_toy_film
        def fill_the_disk(chunk, kept):
            if chunk.index == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            make_toy_film({str(tmp_path)!r}, on_chunk=fill_the_disk)
        except ValueError as error:
            print(type(error).__name__, error)
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("JournalError Disk full")
    assert "chunk_00002.safetensors: 147544 bytes needed" in result.stdout
    assert "bytes free" in result.stdout
    assert not list(tmp_path.rglob("*.tmp"))
    _, sampled = make_toy_film(tmp_path)
    assert sampled == [2, 3, 4, 5, 6, 7]


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_is_refused_before_the_first_chunk():
    """In a subprocess without root's privileges, which would ignore the permissions."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    script = textwrap.dedent(f"""
        import os, sys; sys.path.append({str(HERE)!r})
        from toy_film import open_toy_journal
        if os.getuid() == 0: os.setuid(65534)
        try:
            open_toy_journal({str(folder)!r})
        except ValueError as error:
            print(type(error).__name__, error)
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    folder.chmod(0o755)
    folder.rmdir()
    assert result.stdout.startswith("JournalError")
    assert "not writable" in result.stdout


def test_a_root_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="Cannot write"):
        open_toy_journal(tmp_path / "file" / "gloria")


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "/etc", "a/b", "a\\b", "C:", "\\\\host\\x", "a\0b", "a b", "a.b", "\u00e9", "x" * 65,
        "film\n", "%2e",
    ],
)  # fmt: skip
def test_names_that_could_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(JournalError, match="job name"):
        check_job_name(name)
    with pytest.raises(JournalError, match="job name"):
        open_toy_journal(tmp_path, job=name)
    assert list(tmp_path.iterdir()) == []


def test_paths_in_a_job_file_from_a_stranger_are_never_followed(job, tmp_path_factory):
    root, folder, film = job
    outside = tmp_path_factory.mktemp("outside")
    content = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**content, "folder": str(outside), "job": "../../x"}))
    again, sampled = make_toy_film(root)
    assert sampled == []
    assert torch.equal(again, film)
    assert list(outside.iterdir()) == []
