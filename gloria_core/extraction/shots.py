"""A video's pictures enter, the moments of its cuts leave, found by PySceneDetect (the extra `anchors`)."""

import logging
from collections.abc import Iterable

from torch import Tensor

from ..errors import DatasetError
from .frames import sample_times, scaled_down
from .records import Span

# Cuts are looked for on an even grid, so that a variable frame rate is no matter.
_RATE = 24.0
_HEIGHT = 144
_MIN_SHOT_SECONDS = 0.6


def require_scenedetect() -> None:
    """Say what is missing before any work.

    Raises:
        DatasetError: PySceneDetect cannot be imported.
    """
    try:
        import scenedetect  # noqa: F401
    except ImportError as error:
        raise DatasetError(
            f"Finding cuts needs PySceneDetect ({error}): pip install scenedetect opencv-python-headless. Or set "
            "shots to none: then every video is taken as one shot."
        ) from error


def times_for_cuts(seconds: float) -> list[float]:
    """The moments of a video that `find_cuts` looks at."""
    return sample_times(Span(start=0.0, end=seconds), _RATE)


def find_cuts(pictures: Iterable[tuple[float, Tensor]]) -> list[float]:
    """Seconds of the first picture of every shot but the first.

    Args:
        pictures: the moments of `times_for_cuts` and what they show.

    Raises:
        DatasetError: PySceneDetect cannot be imported.
    """
    require_scenedetect()
    from scenedetect import AdaptiveDetector, FrameTimecode

    logging.getLogger("pyscenedetect").setLevel(logging.WARNING)
    detector = AdaptiveDetector(min_scene_len=round(_MIN_SHOT_SECONDS * _RATE))
    found = []
    last = None
    for idx, (_, picture_HWC) in enumerate(pictures):
        last = FrameTimecode(idx, fps=_RATE)
        bgr = scaled_down(picture_HWC, _HEIGHT).flip(-1).contiguous().numpy()
        found += detector.process_frame(last, bgr)
    if last is not None:
        found += detector.post_process(last)
    return [cut.frame_num / _RATE for cut in found]
