"""Character files by the name that a combo shows: in models/gloria_characters and in the output folder."""

from pathlib import Path

import folder_paths

from ...gloria_core.characters.read_pack import content_fingerprint
from ...gloria_core.errors import CharacterError
from .paths import output_path

CHARACTERS_FOLDER = "gloria_characters"
_SAVED_IN = "gloria/characters"
_EXTENSION = "safetensors"


def register_character_folders() -> None:
    """Puts both folders on ComfyUI's list, behind those that the user's extra_model_paths.yaml names."""
    for folder in (Path(folder_paths.models_dir) / CHARACTERS_FOLDER, _saved_folder()):
        folder_paths.add_model_folder_path(CHARACTERS_FOLDER, str(folder))
    paths, _ = folder_paths.folder_names_and_paths[CHARACTERS_FOLDER]
    folder_paths.folder_names_and_paths[CHARACTERS_FOLDER] = (paths, {f".{_EXTENSION}"})


def list_characters() -> list[str]:
    """Names that a combo offers; not through ComfyUI's cache, which fails once a folder in it was deleted."""
    files = (folder_paths.recursive_search(folder)[0] for folder in folder_paths.get_folder_paths(CHARACTERS_FOLDER))
    return folder_paths.filter_files_extensions({name for names in files for name in names}, {f".{_EXTENSION}"})


def character_path(name: str) -> Path:
    """The file of a name.

    Raises:
        CharacterError: Not a name that the combo offers.
    """
    path = folder_paths.get_full_path(CHARACTERS_FOLDER, name) if name in list_characters() else None
    if path is None:
        places = " or ".join(folder_paths.get_folder_paths(CHARACTERS_FOLDER))
        raise CharacterError(
            f"There is no character file {name[:80]!r}. Put it into {places} and refresh the page (press R)."
        )
    return Path(path)


def character_state(name: str) -> str:
    """Changes with what is in the file, not with its date; empty while there is no such file."""
    try:
        return content_fingerprint(character_path(name))
    except CharacterError:
        return ""


def new_character_path(filename_prefix: str) -> Path:
    """A numbered file where `list_characters` finds it.

    Raises:
        GloriaError: A prefix that leads out of that folder.
    """
    return output_path(f"{_SAVED_IN}/{filename_prefix}", _EXTENSION)


def _saved_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / _SAVED_IN
