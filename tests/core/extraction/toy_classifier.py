"""A small network that reads toy faces, trained here on characters that no test video shows."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.toyworld.anchors import CropSizes, expression_anchors
from gloria_core.toyworld.character import training_character
from gloria_core.toyworld.source import make_source

SIDE = 48


class ToyFaces:
    """The `ExpressionClassifier` of the toy world."""

    name = "toy faces"

    def __init__(self, network):
        self.network = network

    def setup(self):
        pass

    @torch.no_grad()
    def classify(self, crops):
        batch = torch.stack([prepared(crop_HWC) for crop_HWC in crops])
        return [dict(zip(EXPRESSIONS, row, strict=True)) for row in self.network(batch).softmax(-1).tolist()]


def prepared(crop_HWC):
    """[3, SIDE, SIDE], and again when read back from whatever size the video gave it."""
    image = crop_HWC.float().movedim(-1, 0)[None] / 255
    return F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0] - 0.5


@functools.cache
def toy_faces(num_characters=160, steps=420):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images, labels = [], torch.arange(len(EXPRESSIONS)).repeat(num_characters)
    for idx in range(num_characters):
        source = make_source(training_character(idx), idx, 24.0, 2.0)
        for anchor in expression_anchors(source, rng, sizes=CropSizes(expression=(64, 64))).anchors:
            images.append((anchor.image_HWC * 255).round().byte())
    images = torch.stack(images)
    network = nn.Sequential(
        nn.Conv2d(3, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.BatchNorm2d(48),
        nn.ReLU(), nn.Conv2d(48, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(64 * 36, 8),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        chosen = torch.from_numpy(rng.integers(len(images), size=64))
        network.train()
        batch = torch.stack([prepared(jittered(images[idx], rng)) for idx in chosen])
        loss = F.cross_entropy(network(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == steps * 2 // 3:
            for group in optimizer.param_groups:
                group["lr"] = 4e-4
    return ToyFaces(network.eval())


def jittered(image_HWC, rng):
    """Crops from a little outside to a little inside of the head, at any brightness."""
    image = image_HWC.float()
    pad = 14
    image = F.pad(image.movedim(-1, 0)[None], (pad,) * 4, mode="replicate")[0].movedim(0, -1)
    side = int(rng.uniform(60, 92))
    room = image.shape[0] - side
    top, left = (int(rng.uniform(0.2, 0.8) * room) for _ in range(2))
    return (image[top : top + side, left : left + side] * rng.uniform(0.8, 1.1)).clamp(0, 255)
