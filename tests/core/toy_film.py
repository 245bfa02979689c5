"""A toy film whose every latent depends on seed and prefix, for the tests of engine and journal."""

import os
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

from gloria_core.sampling.engine import run_chunks
from gloria_core.sampling.journal import Journal
from gloria_core.sampling.plan import plan_chunks

SHAPE_CHW = (4, 32, 32)
INPUTS = {"seed": {"value": 5}, "anchors": {"digest": "ab" * 32}}


def toy_denoise(chunk, seed, prefix, step_seconds=0.0):
    """Latents that depend on the seed and on the prefix, so that a wrong resume shows."""
    latents = torch.randn(1, SHAPE_CHW[0], chunk.length, *SHAPE_CHW[1:], generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        time.sleep(step_seconds)
        latents = torch.tanh(latents * 1.5)
    if prefix is not None:
        latents = latents + 0.5 * prefix.mean(dim=2, keepdim=True)
        latents[:, :, : chunk.prefix] = 0.9 * prefix + 0.1 * latents[:, :, : chunk.prefix]
    return latents


def open_toy_journal(root, total=40, job="toy", inputs=INPUTS):
    plan = plan_chunks(total, 9, 4)
    return Journal(Path(root), job, inputs, plan, SHAPE_CHW, {"torch": torch.__version__})


def make_toy_film(root, total=40, step_seconds=0.0, on_chunk=None, job="toy", inputs=INPUTS):
    """The whole film and the indices of the chunks that were denoised in this call."""
    sampled = []

    def denoise(chunk, seed, prefix):
        sampled.append(chunk.index)
        return toy_denoise(chunk, seed, prefix, step_seconds)

    with open_toy_journal(root, total, job, inputs) as journal:
        run_chunks(journal.plan, 5, journal, denoise, on_chunk)
        return journal.film(blend=True), sampled


def serve():
    """Fork a film run for each `start ROOT` line and answer its pid; `wait` answers its exit status.

    Forking from a process that has torch loaded makes a run start within milliseconds.
    """
    torch.set_num_threads(1)
    pid = 0
    for line in sys.stdin:
        command, _, root = line.strip().partition(" ")
        if command == "start":
            pid = os.fork()
            if pid == 0:
                make_toy_film(root, step_seconds=0.003)
                os._exit(0)
            answer = pid
        else:
            _, answer = os.waitpid(pid, 0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
