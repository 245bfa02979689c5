"""No string of a workflow leads outside the output folder. Run: python -m pytest tests/nodes/test_paths.py"""

from pathlib import Path

import pytest

from gloria_pack.gloria_core.errors import GloriaError, JournalError
from gloria_pack.nodes.bridge.paths import jobs_root, output_path

OUTSIDE = [
    "", "..", ".", "../x", "a/../../x", "/etc/passwd", "/", "a//b", "a/", "a\\b", "..\\x", "C:/x", "C:x",
    "\\\\host\\share", "a\0b", "a\nb", "a/./b", "x" * 201, "a?b", "a*b", 'a"b', "a<b", "a|b",
]  # fmt: skip


def files_under(folder):
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("prefix", OUTSIDE)
def test_a_prefix_that_leads_outside_is_refused_and_makes_no_folder(output_directory, prefix):
    before = files_under(output_directory.parent)
    with pytest.raises(GloriaError, match="filename prefix"):
        output_path(prefix, "mp4")
    assert files_under(output_directory.parent) == before


@pytest.mark.parametrize("name", [*OUTSIDE, "a/b", "a b", "film.mp4", "x" * 65])
def test_a_job_name_that_is_not_a_plain_name_is_refused(output_directory, name):
    with pytest.raises(JournalError, match="job name"):
        jobs_root(name)
    assert files_under(output_directory) == []


def test_files_are_numbered_inside_the_output_folder(output_directory):
    first = output_path("gloria/film", "mp4")
    assert first == output_directory / "gloria" / "film_00001_.mp4"
    first.write_bytes(b"")
    assert output_path("gloria/film", "mp4").name == "film_00002_.mp4"


def test_spaces_and_other_scripts_are_fine(output_directory):
    assert output_path("my film/\u00e9\u6620\u753b", "mp4").parent == output_directory / "my film"


def test_a_link_that_leads_outside_is_refused(output_directory, tmp_path):
    (output_directory / "gloria").symlink_to(tmp_path, target_is_directory=True)
    for make in (lambda: jobs_root("film"), lambda: output_path("gloria/film", "mp4")):
        with pytest.raises(GloriaError, match="outside"):
            make()
    assert files_under(tmp_path) == []


def test_a_linked_output_folder_itself_is_fine(output_directory, tmp_path, monkeypatch):
    import folder_paths

    link = tmp_path / "link"
    link.symlink_to(output_directory, target_is_directory=True)
    monkeypatch.setattr(folder_paths, "output_directory", str(link))
    assert jobs_root("film") == link / "gloria"
    assert isinstance(output_path("film", "mp4"), Path)
