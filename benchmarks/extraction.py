"""How fast footage becomes anchors, and which share each stage takes, on rendered toy footage of any size.

Run: python benchmarks/extraction.py [--height 1080] [--seconds 30] [--shots]

Poses come from files and faces from a classifier of one layer, so the shares are those of decoding, measuring and
choosing; models come on top.
"""

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))
sys.path.append(str(REPO / "tests" / "core" / "extraction"))

import torch  # noqa: E402
from toy_scene import toy_source, write_joints_file, write_toy_video  # noqa: E402

from gloria_core.conditioning.anchors import EXPRESSIONS  # noqa: E402
from gloria_core.extraction.backends import Backends  # noqa: E402
from gloria_core.extraction.pipeline import fingerprint, make_stages  # noqa: E402
from gloria_core.extraction.pose_files import PoseFiles  # noqa: E402
from gloria_core.extraction.runners import LocalRunner  # noqa: E402
from gloria_core.extraction.settings import ExtractionSettings, FootageThresholds  # noqa: E402
from gloria_core.extraction.units import PartStore, find_videos  # noqa: E402


class OneLayer:
    """A classifier that costs nothing and is sure of something."""

    name = "one layer"

    def setup(self) -> None:
        """Nothing to load."""

    def classify(self, crops):
        """The expression by the crop's brightness."""
        shares = []
        for crop_HWC in crops:
            label = EXPRESSIONS[int(crop_HWC.float().mean()) // 8 % len(EXPRESSIONS)]
            shares.append({name: float(name == label) for name in EXPRESSIONS})
        return shares


def main() -> None:
    """Render, extract, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--shots", action="store_true", help="look for cuts too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facings = [(3.0 * idx, view) for idx, view in enumerate(("front", "right", "back", "left") * 20)]
        moods = [(2.0 * idx, EXPRESSIONS[idx % 8]) for idx in range(60)]
        source = toy_source(0, facings, moods, options.seconds, options.height)
        write_toy_video(folder / "toy.mp4", source)
        write_joints_file(folder / "toy.joints.npz", source)
        poses = PoseFiles()
        backends = Backends(body=poses, people=poses, faces=poses, expressions=OneLayer())
        settings = ExtractionSettings(footage=FootageThresholds(shots="detect" if options.shots else "none"))
        store = PartStore(folder / "parts", fingerprint(settings, backends))
        runner = LocalRunner()
        started = time.perf_counter()
        (unit,) = runner.run(folder, find_videos(folder), make_stages(folder, settings, backends), store, _quiet)
        total = time.perf_counter() - started
        anchors = [each for record in store.read(unit).records for each in record.candidates if not each.rejected]
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{options.seconds:g} s of {options.height}x{options.height} at 24 fps: {total:.1f} s, ", end="")
    print(f"{options.seconds / total:.2f} times real time, {len(anchors)} anchors kept")
    for stage, seconds in runner.seconds.items():
        print(f"  {stage:<12} {seconds:7.2f} s {100 * seconds / total:5.1f} %")


def _quiet(*_: object) -> None:
    pass


if __name__ == "__main__":
    main()
