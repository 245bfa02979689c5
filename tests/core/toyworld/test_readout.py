"""Readings against known truth. Run: python -m pytest tests/core/toyworld/test_readout.py

Thresholds are those the world promises; docs/toyworld.md has the errors measured on many more pictures.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.errors import ToyWorldError
from gloria_core.toyworld.character import Mark, held_out_character
from gloria_core.toyworld.palette import to_lab
from gloria_core.toyworld.puppet import Puppet
from gloria_core.toyworld.read_details import PALETTE, Window, palette_of, read_palette
from gloria_core.toyworld.readout import Reader
from gloria_core.toyworld.source import make_source

NUM_CHARACTERS, NUM_FRAMES = 3, 16
FACE = math.radians(40)


@pytest.fixture(scope="module")
def films():
    """Sources, readers and the poses of random frames."""
    result = []
    for number in range(NUM_CHARACTERS):
        source = make_source(held_out_character(number), 1000 + number, 12.0)
        frames = torch.randperm(source.num_frames, generator=torch.Generator().manual_seed(number))[:NUM_FRAMES]
        result.append((source, Reader(source), source.poses(0, source.num_frames)[frames]))
    return result


def read_all(films, change=lambda source, poses: source.picture(poses)):
    """(source, truth, reading) of every film, its pictures made by `change`."""
    return [(source, truth, reader.read(change(source, truth))) for source, reader, truth in films]


def degrees_apart(first, second):
    return torch.rad2deg((torch.remainder(first - second + math.pi, 2 * math.pi) - math.pi).abs())


def marks_right(reading, character):
    shape = torch.tensor([mark.shape for mark in character.marks])
    color = torch.tensor([mark.color for mark in character.marks])
    is_right = (reading.mark_shape_TV == shape) & (reading.mark_color_TV == color)
    return is_right[reading.sees_mark_TV]


def faces_settled(truth):
    """Frames in which one expression is worn and can be seen."""
    return (truth.expression_TE.amax(1) > 0.95) & (truth.head_yaw_T.abs() < FACE)


@pytest.fixture(scope="module")
def clean(films):
    return read_all(films)


def test_turns_of_clean_pictures_are_read_to_two_degrees(clean):
    errors = torch.cat([degrees_apart(reading.poses.yaw_T, truth.yaw_T) for _, truth, reading in clean])
    assert errors.median() < 0.5
    assert errors.quantile(0.95) < 4


def test_place_and_zoom_are_read_to_half_a_pixel_and_two_percent(clean):
    for source, truth, reading in clean:
        unit = source.height / 1.16
        place = (reading.poses.x_T - reading.poses.camera_T3[:, 0]) - (truth.x_T - truth.camera_T3[:, 0])
        assert (place * unit).abs().quantile(0.9) < 0.5
        assert (reading.poses.camera_T3[:, 2] / truth.camera_T3[:, 2] - 1).abs().quantile(0.9) < 0.02


def test_details_of_clean_pictures_are_read_right(clean):
    marks, expressions, quirks, mouths = [], [], [], []
    for source, truth, reading in clean:
        face, worn = faces_settled(truth), truth.expression_TE.argmax(1)
        marks.append(marks_right(reading, source.character))
        expressions.append((reading.expressions() == worn)[face])
        quirks.append((reading.quirk_T == torch.tensor(source.character.quirks)[worn])[face])
        mouths.append((reading.poses.mouth() - truth.mouth()).abs()[face])
        assert reading.is_readable_T.all()
    for is_right in (marks, expressions, quirks):
        assert torch.cat(is_right).float().mean() >= 0.98
    assert torch.cat(mouths).quantile(0.9) < 0.1


def test_noise_hides_little(films):
    def noisy(source, truth):
        clean = source.picture(truth)
        return clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))

    readings = read_all(films, noisy)
    yaws = torch.cat([degrees_apart(reading.poses.yaw_T, truth.yaw_T) for _, truth, reading in readings])
    assert yaws.median() < 2
    assert torch.cat([marks_right(reading, source.character) for source, _, reading in readings]).float().mean() > 0.95
    assert torch.cat([reading.is_readable_T for *_, reading in readings]).float().mean() > 0.98


def test_wrong_details_are_read_as_they_are_drawn(films):
    """The reader knows the true character, but must not see it where another one's marks are drawn."""
    rng = np.random.default_rng(0)
    marks, quirks, yaws = [], [], []
    for source, reader, truth in films:
        other = replace(
            source.character,
            marks=tuple(Mark(*(int(value) for value in rng.integers(8, size=2))) for _ in VIEWPOINTS),
            quirks=tuple(int(value) for value in rng.integers(8, size=len(EXPRESSIONS))),
        )
        reading = reader.read(replace(source, character=other).picture(truth))
        face, worn = faces_settled(truth), truth.expression_TE.argmax(1)
        marks.append(marks_right(reading, other))
        quirks.append((reading.quirk_T == torch.tensor(other.quirks)[worn])[face])
        yaws.append(degrees_apart(reading.poses.yaw_T, truth.yaw_T))
    assert torch.cat(marks).float().mean() > 0.95
    assert torch.cat(quirks).float().mean() > 0.95
    assert torch.cat(yaws).quantile(0.9) < 4


def test_pictures_of_nothing_are_unreadable(films):
    _, reader, _ = films[0]
    noise = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert not reader.read(torch.cat([noise, torch.full((1, 64, 64, 3), 0.5)])).is_readable_T.any()


def test_a_palette_that_drifted_is_measured(films):
    """The shirt's new color comes back from the pictures, the other colors stay."""
    source, reader, truth = films[1]
    shirt = tuple(min(1.0, value + 0.1) for value in source.character.shirt)
    puppet = Puppet.of(replace(source, character=replace(source.character, shirt=shirt)), "cpu")
    _, trust = reader.puppet.draw(truth, with_marks=False)
    colors_TK3, pixels_TK = read_palette(Window(puppet.draw(truth)[0], truth, reader.puppet), trust)
    expected_K3 = palette_of(puppet.look)[0]
    for idx, name in enumerate(PALETTE):
        seen = pixels_TK[:, idx] > 30
        assert (colors_TK3[seen, idx] - expected_K3[idx]).abs().max() < 0.03, name
    drifted = reader.read(puppet.draw(truth)[0].movedim(1, -1))
    steady = reader.read(source.picture(truth))
    distance = np.linalg.norm(to_lab(np.array(shirt)) - to_lab(np.array(source.character.shirt)))
    share = (pixels_TK[:, PALETTE.index("shirt")] / pixels_TK.sum(1)).mean()
    assert (drifted.palette_delta_T - steady.palette_delta_T).mean() == pytest.approx(distance * share.item(), rel=0.35)


def test_a_room_that_drifted_is_measured(films):
    """A wall 4 % darker is a known color difference away."""
    source, reader, truth = films[0]
    scene = source.scene
    darker = replace(scene, tint=tuple(0.96 * value for value in scene.tint))
    reading = reader.read(replace(source, scene=darker).picture(truth))
    room = reader.puppet.backdrop.shot(truth.camera_T3, 64, 64, 1.16).movedim(1, -1) * reader.puppet.tint_T3
    expected = np.linalg.norm(to_lab(room.numpy()) - to_lab(0.96 * room.numpy()), axis=-1).mean()
    steady = reader.read(source.picture(truth))
    assert (reading.room_delta_T - steady.room_delta_T).mean() == pytest.approx(expected, rel=0.3)


def test_frames_of_another_size_are_refused(films):
    with pytest.raises(ToyWorldError, match=r"Expected frames \[T, 64, 64, 3\], got \[2, 32, 64, 3\]"):
        films[0][1].read(torch.zeros(2, 32, 64, 3))
