"""What an extraction left in a folder enters, the anchors for one video leave: the pictures themselves."""

from collections import defaultdict

from ..conditioning.anchors import MAX_ANCHORS, Anchor, AnchorSet, Origin
from ..data.manifest import ManifestAnchor, ManifestSource, inside
from ..data.read_clip import read_picture
from ..errors import DatasetError
from .extract import Extraction


def anchor_set(extraction: Extraction) -> AnchorSet:
    """The anchors of the source with the most labels: one whole frame, and the best of every label before second ones.

    A video starts from the whole frame, so it is the one nearest in time to a front view.

    Raises:
        DatasetError: All anchors were dropped.
    """
    source = max(extraction.decided.sources, key=lambda each: len({anchor.label for anchor in each.anchors}))
    video = inside(extraction.folder, source.video)
    anchors = [
        Anchor(each.kind, each.label, read_picture(video, each.time, each.box), Origin(source.video, each.time))
        for each in _chosen(source)
    ]
    if not anchors:
        raise DatasetError(f"No anchor of '{source.video}' is left: keep at least one.")
    return AnchorSet(tuple(anchors))


def _chosen(source: ManifestSource) -> list[ManifestAnchor]:
    groups: dict[tuple[str, str], list[ManifestAnchor]] = defaultdict(list)
    for anchor in source.anchors:
        groups[anchor.kind, anchor.label].append(anchor)
    fronts = groups.get(("viewpoint", "front"), [])
    scenes = groups.pop(("global", "global"), [])
    chosen = sorted(scenes, key=lambda each: min((abs(each.time - front.time) for front in fronts), default=0.0))[:1]
    # Within a label the manifest has the best first.
    rounds = [group[place] for place in range(MAX_ANCHORS) for group in groups.values() if place < len(group)]
    return (chosen + rounds)[:MAX_ANCHORS]
