"""Peak memory of an extraction over the length of its video, with a pose file and without (Linux).

Run: python benchmarks/extraction_memory.py [--minutes 2 60 240]
"""

import argparse
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))
sys.path.append(str(REPO / "tests" / "core" / "extraction"))

from long_footage import POSES_A_SECOND, peak_bytes, write_long_footage  # noqa: E402


def main() -> None:
    """Write, extract, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, nargs="+", default=[2, 60, 240])
    for minutes in parser.parse_args().minutes:
        peaks = []
        for with_poses in (False, True):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "footage"
                write_long_footage(folder, minutes)
                peaks.append(peak_bytes(folder, with_poses) / 1e6)
        print(f"{minutes} min: {peaks[0]:.0f} MB, with a pose file of {POSES_A_SECOND} a second {peaks[1]:.0f} MB")


if __name__ == "__main__":
    main()
