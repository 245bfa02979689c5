"""A folder with one video of any length enters, the peak memory of its extraction leaves."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from toy_scene import toy_source, write_smpl_file

REPO = Path(__file__).resolve().parents[3]
POSES_A_SECOND = 10
_SETTINGS = "{clip_frames: 49, hold_out_every: 0, footage: {shots: none, min_side: 64}, anchors: {min_body_height: 64}}"
# A process of its own: nothing else counts, and its peak is known.
_RUN = """
import sys
from pathlib import Path
from gloria_core.extraction.backends import Backends
from gloria_core.extraction.extract import extract, read_settings
from gloria_core.extraction.pose_files import PoseFiles
from gloria_core.extraction.runners import LocalRunner
folder, poses = Path(sys.argv[1]), PoseFiles() if sys.argv[2] == "poses" else None
extract(folder, read_settings(folder / "settings.yaml"), Backends(body=poses, people=poses, faces=poses), LocalRunner())
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def write_long_footage(folder, minutes):
    """Two small pictures a second, and a pose file."""
    folder.mkdir()
    stills = np.random.default_rng(0).integers(0, 255, size=(7, 96, 96, 3)).astype(np.uint8)
    with av.open(str(folder / "long.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=2)
        video.width = video.height = 96
        for idx in range(minutes * 120):
            container.mux(video.encode(av.VideoFrame.from_ndarray(stills[idx % 7], format="rgb24")))
        container.mux(video.encode())
    moments = np.arange(0, minutes * 60, 1 / POSES_A_SECOND)
    fields = dict(np.load(write_smpl_file(folder / "one.npz", toy_source(0, seconds=4.0, size=96))))
    fields = {name: np.repeat(values[:1], len(moments), 0) for name, values in fields.items() if name != "fps"}
    np.savez(folder / "long.smpl.npz", times=moments, **fields)
    (folder / "settings.yaml").write_text(_SETTINGS)


def peak_bytes(folder, with_poses):
    """Of a whole extraction, the interpreter and its libraries included."""
    command = [sys.executable, "-c", _RUN, str(folder), "poses" if with_poses else "none"]
    out = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    return int(out.split()[-1]) * 1024
