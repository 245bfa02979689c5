"""Warnings about anchor images, against closed forms. Run: python -m pytest tests/core/test_check_anchor_image.py

Legend: H W pixels, C colors.
"""

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gloria_core.conditioning.check_anchor_image import (
    ASPECTS,
    BLURRED_SIGMA,
    MAX_AREAS,
    TEXTS,
    Problem,
    blur_sigma,
    check_anchor_image,
    find_duplicates,
    signature,
)


def edges(sigma, height=200, width=240, low=0.2, high=0.9, num=1):
    """Vertical step edges blurred by a Gaussian, in closed form: the error function."""
    x_W = torch.arange(width, dtype=torch.float64) + 0.5
    places = [width * (idx + 0.5) / num for idx in range(num)]
    width_of_erf = sigma * math.sqrt(2)
    steps = [torch.special.erf((x_W - place) / width_of_erf) * (-1) ** idx for idx, place in enumerate(places)]
    luma_W = low + (high - low) * (sum(steps) - min(step.min() for step in steps)).div(2).clamp(0, 1)
    return luma_W.float().expand(height, -1)


def gray(luma_HW):
    return luma_HW.unsqueeze(-1).expand(-1, -1, 3).contiguous()


def picture(seed, height=256, width=256):
    """Smooth random shapes with sharp borders: like no other seed's."""
    noise = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, size=(height, width), mode="bicubic")[0].movedim(0, -1)
    return (smooth > 0.5).float() * 0.6 + 0.2


def codes(image_HWC, kind):
    return [problem.code for problem in check_anchor_image(image_HWC, kind)]


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize(("low", "high", "num"), [(0.2, 0.9, 1), (0.4, 0.5, 1), (0.0, 1.0, 3)])
def test_the_blur_of_an_edge_is_measured_whatever_its_contrast_and_however_many_there_are(sigma, low, high, num):
    # The difference of neighbours is a mean over one pixel, whose variance is 1/12.
    measured = blur_sigma(edges(sigma, low=low, high=high, num=num))
    assert measured == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=0.01)


def test_turning_a_picture_does_not_change_its_blur():
    luma_HW = edges(2.0)
    assert blur_sigma(luma_HW.T.contiguous()) == pytest.approx(blur_sigma(luma_HW), rel=1e-4)


def test_a_blurred_picture_is_told_and_a_sharp_one_is_not():
    assert "blurred" not in codes(gray(edges(BLURRED_SIGMA * 0.9, 256, 256)), "expression")
    assert "blurred" in codes(gray(edges(BLURRED_SIGMA * 1.1, 256, 256)), "expression")


def test_blur_counts_at_the_size_that_the_model_sees():
    sigma = BLURRED_SIGMA * 2
    large = gray(edges(sigma, 1024, 1024))  # becomes 256 x 256 as an expression: sigma / 4
    assert "blurred" not in codes(large, "expression")
    assert "blurred" in codes(gray(edges(sigma, 256, 256)), "expression")


@pytest.mark.parametrize("kind", MAX_AREAS)
def test_small_is_less_than_a_quarter_of_the_pixels_its_kind_may_take(kind):
    side = round(math.sqrt(MAX_AREAS[kind])) // 2
    assert "small" not in codes(picture(0, side, side), kind)
    (problem,) = [p for p in check_anchor_image(picture(0, side, side - 1), kind) if p.code == "small"]
    assert problem.values == {"width": side - 1, "height": side, "min_side": side}


@pytest.mark.parametrize("kind", ASPECTS)
def test_crops_of_the_wrong_shape_are_told(kind):
    narrowest, widest = ASPECTS[kind]
    for aspect, expected in (
        (narrowest * 0.97, ["narrow"]), (narrowest * 1.03, []), (widest * 0.97, []), (widest * 1.03, ["wide"]),
    ):  # fmt: skip
        height = round(600 / math.sqrt(aspect))
        assert codes(picture(1, height, round(height * aspect)), kind) == expected


def test_one_even_color_shows_nothing_and_is_not_called_blurred():
    assert codes(torch.full((256, 256, 3), 0.3), "expression") == ["empty"]


def test_alpha_does_not_disturb():
    opaque = torch.cat([picture(2), torch.ones(256, 256, 1)], dim=-1)
    assert check_anchor_image(opaque, "expression") == check_anchor_image(picture(2), "expression")


def test_every_problem_has_a_text_that_can_be_filled():
    values = {"width": 1, "height": 2, "min_side": 3, "subject": "scene", "pixels": 4.5, "other": "front"}
    for code in TEXTS:
        assert "{" not in Problem(code, values).text


def jpeg(image_HWC, quality, scale):
    pixels = Image.fromarray((image_HWC * 255).to(torch.uint8).numpy())
    pixels = pixels.resize((round(pixels.width * scale), round(pixels.height * scale)))
    packed = io.BytesIO()
    pixels.save(packed, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(packed))).float() / 255


def duplicates(**images):
    found = find_duplicates({slot: signature(image) for slot, image in images.items()})
    return {slot: [(p.code, p.values["other"]) for p in problems] for slot, problems in found.items()}


@pytest.mark.parametrize(("quality", "scale"), [(95, 1.0), (40, 1.0), (75, 0.5), (75, 1.7)])
def test_a_copy_is_found_however_compressed_and_scaled(quality, scale):
    found = duplicates(front=picture(3), sad=jpeg(picture(3), quality, scale), back=picture(4))
    assert found == {"front": [("same", "sad")], "sad": [("same", "front")]}


def test_a_brighter_copy_is_a_copy():
    assert duplicates(front=picture(5), sad=picture(5) * 0.5 + 0.3) == {
        "front": [("same", "sad")],
        "sad": [("same", "front")],
    }


def test_a_mirrored_copy_is_told_as_such():
    assert duplicates(left=picture(6), right=picture(6).flip(1)) == {
        "left": [("mirrored", "right")],
        "right": [("mirrored", "left")],
    }


def test_three_copies_name_each_other():
    found = duplicates(front=picture(7), back=picture(7), left=picture(7))
    assert found["front"] == [("same", "back"), ("same", "left")]
    assert found["left"] == [("same", "front"), ("same", "back")]


def test_other_pictures_and_even_ones_are_no_duplicates():
    others = {f"slot{seed}": picture(seed) for seed in range(20, 32)}
    assert duplicates(**others, flat=torch.full((64, 64, 3), 0.5), flat2=torch.full((64, 64, 3), 0.5)) == {}


def test_one_face_with_one_change_of_the_mouth_is_another_picture():
    # The same head, eyes and light in both; only the mouth (4 % of the picture) curves up or down.
    def face(bend):
        y_H1, x_1W = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 256), indexing="ij")
        luma_HW = 0.15 + 0.6 * (x_1W**2 / 0.5 + y_H1**2 / 0.8 < 1)
        for eye in (-0.3, 0.3):
            luma_HW -= 0.5 * ((x_1W - eye) ** 2 + (y_H1 + 0.2) ** 2 < 0.008)
        mouth_HW = ((y_H1 - 0.4 - bend * (x_1W**2 - 0.06)).abs() < 0.05) & (x_1W.abs() < 0.35)
        return gray(luma_HW - 0.5 * mouth_HW)

    assert duplicates(happy=face(-2.0), sad=face(2.0)) == {}
    assert duplicates(happy=face(2.0), sad=face(2.0)) != {}
