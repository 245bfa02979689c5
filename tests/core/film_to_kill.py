"""Writes one film in forked children, one per line of standard input, so that imports happen once for all kills.

Line: folder and the number of the progress report at which the child kills itself with SIGKILL (0: never).
Prints the child's process id, then its exit code (negative: the signal).
"""

import os
import signal
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from toy_decoder import LongMemoryDecoder, random_latents  # noqa: E402

from gloria_core.media.mux_film import AudioTrack  # noqa: E402
from gloria_core.media.write_video import FilmSettings, write_film  # noqa: E402

NUM_LATENTS = 81


def main() -> None:
    # Threads of the parent would not exist in its forks.
    torch.set_num_threads(1)
    decoder = LongMemoryDecoder()
    latents = random_latents(NUM_LATENTS, height=2, width=2)
    audio = AudioTrack.from_batch(torch.sin(torch.arange(32000) / 20)[None, None], 16000)
    for line in sys.stdin:
        folder, last_report = line.rsplit(" ", 1)
        child = os.fork()
        if child == 0:
            reports = 0

            def report(done, total, last=int(last_report)):
                nonlocal reports
                reports += 1
                if reports == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            settings = FilmSettings(segment_latents=10)
            write_film(Path(folder) / "film.mp4", decoder, latents, settings, audio=audio, on_progress=report)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
