"""Peak memory of decoding and writing films of growing length, each in a process of its own.

Run: python benchmarks/memory_curve.py [--minutes 1 2 5 10] [--height 32 --width 48]
The toy Wan VAE has the real architecture; its width only scales the constant part of the curve.
Needs diffusers and PyAV. Prints a line of JSON per film; fails if memory grows by more than 5 % from first to last.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FPS = 24


def measure(minutes: float, height: int, width: int, vae_width: int) -> dict[str, float]:
    """Write one film from a mapped latent file and report this process's peak memory."""
    sys.path.append(str(REPO))
    import numpy as np
    import torch
    from diffusers import AutoencoderKLWan

    from gloria_core.media.decode_latents import DiffusersWanDecoder
    from gloria_core.media.mux_film import AudioTrack
    from gloria_core.media.write_video import FilmSettings, write_film
    from gloria_core.shapes import LatentSize

    torch.manual_seed(0)
    size = LatentSize.from_pixels(16, int(minutes * 60 * FPS), height, width)
    with tempfile.TemporaryDirectory() as folder:
        shape_TCHW = (size.frames, size.channels, size.height, size.width)
        film = np.lib.format.open_memmap(Path(folder, "film.npy"), mode="w+", dtype=np.float32, shape=shape_TCHW)
        for index in range(size.frames):
            film[index] = np.random.default_rng(index).standard_normal(shape_TCHW[1:])
        latents_BCTHW = torch.from_numpy(film).movedim(0, 1)[None]
        decoder = DiffusersWanDecoder(AutoencoderKLWan(base_dim=vae_width).eval())
        audio = AudioTrack.from_batch(torch.zeros(1, 1, 16000), 16000)
        started = time.monotonic()
        path = write_film(Path(folder, "film.mp4"), decoder, latents_BCTHW, FilmSettings(), audio=audio)
        seconds, num_bytes = time.monotonic() - started, path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "minutes": minutes,
        "latents": size.frames,
        "peak_mb": peak,
        "seconds": seconds,
        "film_mb": num_bytes / 2**20,
    }


def main() -> None:
    """Measure each length in its own process and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--vae-width", type=int, default=4)
    parser.add_argument("--alone", action="store_true", help="measure the first length in this process")
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(measure(args.minutes[0], args.height, args.width, args.vae_width)))
        return
    peaks = []
    sizes = ["--height", str(args.height), "--width", str(args.width), "--vae-width", str(args.vae_width)]
    for minutes in args.minutes:
        command = [sys.executable, __file__, "--alone", "--minutes", str(minutes), *sizes]
        line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        print(line, flush=True)
        peaks.append(json.loads(line)["peak_mb"])
    growth = peaks[-1] / peaks[0] - 1
    print(json.dumps({"growth_percent": round(100 * growth, 2)}))
    if growth > 0.05:
        raise SystemExit("Memory grows with length.")


if __name__ == "__main__":
    main()
