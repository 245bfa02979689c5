"""A manifest enters, dataset.json leaves, unless somebody else wrote or mended the one that is there."""

from pathlib import Path

from ..data.manifest import MANIFEST_NAME, Manifest, write_manifest
from ..durable_files import commit_json, file_sha256, read_json
from ..errors import DatasetError

_RECORD_NAME = "published.json"


def publish(folder: Path, work: Path, manifest: Manifest) -> None:
    """Replace `folder`/dataset.json as a whole; a crash leaves the old one or the new one, and both are known as ours.

    Raises:
        DatasetError: The one that is there is not ours.
    """
    path = folder / MANIFEST_NAME
    require_ours(folder, work)
    write_manifest(work, manifest)
    hashes = {file_sha256(work / MANIFEST_NAME), file_sha256(path)} - {None}
    commit_json(work / _RECORD_NAME, {"manifest_sha256": sorted(hashes)})
    write_manifest(folder, manifest)


def require_ours(folder: Path, work: Path) -> None:
    """Refuse before any work what `publish` would refuse at its end."""
    path = folder / MANIFEST_NAME
    known = (read_json(work / _RECORD_NAME) or {}).get("manifest_sha256", [])
    if path.exists() and file_sha256(path) not in known:
        raise DatasetError(
            f"{path} was not written by the extraction, or was mended by hand since, and would be lost. Rename it or "
            "delete it to extract anew."
        )
