"""What a picture of the toy world shows. Run: python -m pytest tests/core/toyworld/test_render.py"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.toyworld import doll
from gloria_core.toyworld.canvas import VIEW_HEIGHT
from gloria_core.toyworld.character import training_character
from gloria_core.toyworld.face import FACE_SHAPES, mouth_opening
from gloria_core.toyworld.look import look_of
from gloria_core.toyworld.poses import Poses, concatenate
from gloria_core.toyworld.program import VIEW_YAW
from gloria_core.toyworld.readout import MARK_WITHIN
from gloria_core.toyworld.render import pixels_per_unit, render
from gloria_core.toyworld.scene import Backdrop, make_scene, paint
from gloria_core.toyworld.source import make_source, render_sources

SIZE = 64
WHITE = torch.ones(1, 3)


def poses(yaws, expression="neutral", speech=0.0, camera=(0.0, 0.51, 1.0)):
    yaw_T = torch.tensor(yaws, dtype=torch.float32)
    zero_T = torch.zeros_like(yaw_T)
    worn = torch.full((len(yaws),), EXPRESSIONS.index(expression))
    return Poses(
        yaw_T=yaw_T, head_yaw_T=yaw_T.clone(), x_T=zero_T, bob_T=zero_T, lean_T=zero_T,
        expression_TE=F.one_hot(worn, len(EXPRESSIONS)).float(), speech_T=zero_T + speech,
        camera_T3=torch.tensor([camera] * len(yaws)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def look():
    return look_of([training_character(3)])


@pytest.fixture(scope="module")
def backdrop():
    return paint(make_scene(3), pixels_per_unit(SIZE))


def draw(look, states, backdrop, size=SIZE):
    return render(look, states, backdrop, WHITE, size, size)


@pytest.mark.parametrize("view", VIEWPOINTS)
def test_each_view_shows_the_mark_of_its_side(look, backdrop, view):
    """Recoloring one mark changes the picture of its own view most, and that of the opposite view not at all."""
    states = poses([VIEW_YAW[name] for name in VIEWPOINTS])
    colors = look.mark_color_T43.clone()
    colors[:, VIEWPOINTS.index(view)] = 1 - colors[:, VIEWPOINTS.index(view)]
    change = draw(replace(look, mark_color_T43=colors), states, backdrop) - draw(look, states, backdrop)
    by_view = dict(zip(VIEWPOINTS, change.abs().sum((1, 2, 3)).tolist(), strict=True))
    opposite = {"front": "back", "back": "front", "left": "right", "right": "left"}[view]
    assert by_view[view] == max(by_view.values()) > 20
    assert by_view[opposite] == 0


def test_left_is_the_characters_left():
    """A character that faces us has its left sleeve on the image's right; facing image-left it shows that sleeve."""
    character = training_character(3)
    look = look_of([character])
    black, red = look.mark_color_T43 * 0, look.mark_color_T43 * 0
    red[:, VIEWPOINTS.index("left"), 0] = 1
    room = Backdrop(torch.zeros(1, 3, 8, 8))
    states = poses([0.0, VIEW_YAW["left"]])
    sleeve = draw(replace(look, mark_color_T43=red), states, room) - draw(
        replace(look, mark_color_T43=black), states, room
    )
    column = torch.arange(SIZE) + 0.5
    weight = sleeve[..., 0].sum(1)
    center = (weight * column).sum(1) / weight.sum(1)
    assert center[0] > SIZE / 2 + 8
    assert center[1] == pytest.approx(SIZE / 2, abs=0.5)
    face = draw(look, replace(states, expression_TE=states.expression_TE.roll(1, 1)), room) - draw(look, states, room)
    faces = face.abs().sum((1, 3))
    assert ((faces * column).sum(1) / faces.sum(1))[1] < SIZE / 2 - 6


def test_a_full_turn_is_no_turn(look, backdrop):
    angles = np.linspace(-3, 3, 9)
    first = draw(look, poses(angles), backdrop)
    second = draw(look, poses(angles + 2 * math.pi), backdrop)
    torch.testing.assert_close(first, second, atol=2e-3, rtol=0)
    assert (first[1:] - first[:-1]).abs().mean((1, 2, 3)).min() > 0.01


def test_panning_by_a_pixel_moves_the_picture_by_a_pixel(look, backdrop):
    pixel = VIEW_HEIGHT / SIZE
    here = draw(look, poses([0.4]), backdrop)
    there = draw(look, poses([0.4], camera=(3 * pixel, 0.51 - 2 * pixel, 1.0)), backdrop)
    torch.testing.assert_close(here[:, 2:, 3:], there[:, :-2, :-3], atol=2e-4, rtol=0)


def test_edges_are_averages_of_what_a_larger_picture_shows(look):
    """Drawing at 64 pixels nearly equals drawing at 256 and averaging: nothing aliases."""
    scene = make_scene(3)
    states = poses(np.linspace(-3, 3, 7), "surprise")
    small = draw(look, states, paint(scene, pixels_per_unit(SIZE)))
    large = draw(look, states, paint(scene, pixels_per_unit(4 * SIZE)), 4 * SIZE)
    averaged = F.avg_pool2d(large.movedim(-1, 1), 4).movedim(1, -1)
    assert (small - averaged).abs().mean() < 0.012
    nearest = large[:, 1::4, 1::4]
    assert (nearest - averaged).abs().mean() > 1.5 * (small - averaged).abs().mean()


def test_a_quirk_shows_only_in_its_expression(look, backdrop):
    for idx, worn in enumerate(EXPRESSIONS):
        colors = look.quirk_color_TE3.clone()
        colors[:, idx] = 1 - colors[:, idx]
        other = replace(look, quirk_color_TE3=colors)
        for expression in EXPRESSIONS:
            states = poses([0.3], expression)
            is_same = torch.equal(draw(look, states, backdrop), draw(other, states, backdrop))
            assert is_same == (expression != worn)


def test_the_mouth_opens_by_the_larger_of_speech_and_expression(look, backdrop):
    weights = torch.eye(len(EXPRESSIONS))
    own = torch.tensor([FACE_SHAPES[name].mouth_open for name in EXPRESSIONS])
    for speech in (0.0, 0.2, 0.9):
        expected = torch.maximum(own, torch.tensor(speech))
        torch.testing.assert_close(mouth_opening(weights, torch.full((8,), speech)), expected)
    closed, quiet, loud = (draw(look, poses([0.0], "surprise", speech), backdrop) for speech in (0.0, 0.5, 1.0))
    assert torch.equal(closed, quiet)
    assert (loud - closed).abs().max() > 0.2


def test_a_frame_does_not_depend_on_its_neighbors(look, backdrop):
    states = concatenate([poses([0.1, 2.0]), poses([-1.2], "happy", 0.5, (0.1, 0.5, 1.1))])
    together = draw(look, states, backdrop)
    apart = torch.cat([draw(look, states[idx : idx + 1], backdrop) for idx in range(len(states))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_many_videos_in_one_call_are_the_same_pictures():
    sources = [make_source(training_character(idx), idx, 12.0, seconds=4) for idx in range(3)]
    states = [source.poses(5 * idx, 4) for idx, source in enumerate(sources)]
    together = render_sources(sources, states, "cpu")
    apart = torch.cat([source.picture(state) for source, state in zip(sources, states, strict=True)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize("view", VIEWPOINTS)
@pytest.mark.parametrize("away", [-MARK_WITHIN, 0.0, MARK_WITHIN])
def test_marks_that_are_read_are_visible_by_four_fifths(view, away):
    """Points of the mark in three dimensions, each hidden if it faces away or lies behind another part."""
    yaw = VIEW_YAW[view] + away
    torso = (np.array([0.0, doll._TORSO_Y, 0.0]), doll._TORSO_RADIUS, doll._TORSO_HALF_HEIGHT)
    arms = [
        (np.array([x, doll._ARM_Y, 0.0]), doll._ARM_RADIUS, doll._ARM_HALF_HEIGHT) for x in (doll._ARM_X, -doll._ARM_X)
    ]
    head = (np.array([0.0, doll.HEAD_Y, 0.0]), doll.HEAD_RADIUS, doll.HEAD_HALF_HEIGHT)
    part = {"front": torso, "back": torso, "left": arms[0], "right": arms[1]}[view]
    outward = {"front": (0, 0, 1), "back": (0, 0, -1), "left": (1, 0, 0), "right": (-1, 0, 0)}[view]
    points = mark_points(
        part,
        np.array(outward),
        *{True: (doll._TORSO_MARK, doll._TORSO_MARK_V), False: (doll._SLEEVE_MARK, doll._SLEEVE_MARK_V)}[
            view in ("front", "back")
        ],
    )
    toward = np.array([-math.sin(yaw), 0.0, math.cos(yaw)])
    others = [each for each in (torso, *arms, head) if each is not part]
    visible = [
        faces(point, part, toward) and not any(hides(point, each, toward) for each in others) for point in points
    ]
    assert np.mean(visible) >= 0.8


def mark_points(part, outward, half, height):
    """An even grid over the square of a mark, laid on its part along `outward`."""
    center, radius, half_height = part
    sideways = np.array([outward[2], 0, -outward[0]])
    points = []
    for a in np.linspace(-1, 1, 15) * half:
        for b in np.linspace(-1, 1, 15) * half:
            v = (b + height * half_height) / half_height
            u = a / radius
            if u * u + v * v < 1:
                points.append(
                    center + radius * (u * sideways + math.sqrt(1 - u * u - v * v) * outward) + [0, v * half_height, 0]
                )
    return points


def faces(point, part, toward):
    center, radius, half_height = part
    normal = (point - center) / np.array([radius, half_height, radius]) ** 2
    return normal @ toward > 0


def hides(point, part, toward):
    """Whether the ray from the point to the camera meets the ellipsoid."""
    center, radius, half_height = part
    scale = np.array([radius, half_height, radius])
    start, step = (point - center) / scale, toward / scale
    a, b, c = step @ step, start @ step, start @ start - 1
    return b * b - a * c > 0 and (-b + math.sqrt(b * b - a * c)) > 1e-9
