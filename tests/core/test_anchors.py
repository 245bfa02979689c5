"""Anchors: what is refused, and resizing that never distorts. Run: python -m pytest tests/core/test_anchors.py"""

import random

import pytest
import torch

from gloria_core.conditioning.anchors import (
    EXPRESSIONS,
    LABELS,
    MAX_ANCHORS,
    MAX_SIDE,
    MIN_SIDE,
    VIEWPOINTS,
    Anchor,
    AnchorSet,
    AnchorSizes,
    check_image,
    fit_anchor,
    fitted_size,
    resize_for_tokens,
    resize_to_cover,
    size_for_tokens,
    token_count,
)
from gloria_core.errors import AnchorError, GloriaError
from gloria_core.shapes import LatentSize

GRAY = torch.full((64, 48, 3), 0.5)


def random_sides(rng):
    """Half of them plain sizes, half anything up to the limit, so that extreme aspect ratios are common."""
    return tuple(rng.randint(MIN_SIDE, rng.choice([400, MAX_SIDE])) for _ in range(2))


def ramps(height, width):
    """Channel 0 grows along x, channel 1 along y, both with the same slope per pixel."""
    longest = max(height, width)
    y, x = torch.meshgrid(torch.arange(height) / longest, torch.arange(width) / longest, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1)


def slopes(image_HWC):
    """Change per pixel of the ramps along x and y, away from the borders, where resizing flattens them."""
    rows, columns = (side // 4 for side in image_HWC.shape[:2])
    inner = image_HWC[rows:-rows, columns:-columns]
    return inner[:, :, 0].diff(dim=1).mean(), inner[:, :, 1].diff(dim=0).mean()


def test_labels_are_in_the_order_of_their_rope_sub_offsets():
    assert VIEWPOINTS == ("front", "back", "left", "right")
    assert EXPRESSIONS == ("surprise", "angry", "disgust", "fear", "contempt", "sad", "neutral", "happy")
    assert LABELS == {"global": ("global",), "viewpoint": VIEWPOINTS, "expression": EXPRESSIONS}


def test_a_set_lists_its_anchors_by_kind_and_slot():
    anchors = AnchorSet(
        [Anchor("expression", "happy", GRAY), Anchor("global", "global", GRAY), Anchor("viewpoint", "left", GRAY)]
    )
    assert anchors.slots() == (("expression", "happy"), ("global", "global"), ("viewpoint", "left"))
    assert [anchor.label for anchor in anchors.of_kind("viewpoint")] == ["left"]
    assert isinstance(anchors.anchors, tuple)


@pytest.mark.parametrize(
    ("kind", "label", "named"),
    [("pose", "front", "pose"), ("viewpoint", "top", "front, back, left, right"), ("expression", "left", "surprise")],
)
def test_unknown_kinds_and_labels_are_refused_with_the_choices(kind, label, named):
    with pytest.raises(AnchorError, match=named):
        Anchor(kind, label, GRAY)
    with pytest.raises(AnchorError, match="viewpoints"):
        AnchorSet((Anchor("global", "global", GRAY),)).of_kind("viewpoints")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 1, 3), "1x1 pixels.*at least 32x32"),
        (torch.zeros(31, 640, 3), "640x31 pixels"),
        (torch.zeros(1, 1, 1).expand(MAX_SIDE + 1, 64, 3), f"64x{MAX_SIDE + 1} pixels.*at most {MAX_SIDE}"),
        (torch.zeros(64, 64), r"shape \[64, 64\].*masks"),
        (torch.zeros(64, 64, 1), r"shape \[64, 64, 1\].*RGB"),
        (torch.zeros(1, 64, 64, 3), r"shape \[1, 64, 64, 3\]"),
        (torch.zeros(3, 64, 64), r"shape \[3, 64, 64\]"),
        (torch.full((64, 64, 3), float("nan")), "not finite"),
        (torch.full((64, 64, 3), float("inf")), "not finite"),
        (torch.full((64, 64, 3), 255.0), "from 255 to 255, expected 0 to 1"),
        (torch.full((64, 64, 3), -1.0), "from -1 to -1"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), "torch.uint8"),
        ([[0.0]], "is a list"),
    ],
)
def test_what_cannot_be_a_picture_is_refused_and_the_message_says_which_and_why(image, message):
    with pytest.raises(AnchorError, match=f"the left anchor .*{message}"):
        Anchor("viewpoint", "left", image)


def test_a_single_bad_pixel_is_found():
    image = GRAY.clone()
    image[10, 10, 1] = float("nan")
    with pytest.raises(AnchorError, match="not finite"):
        check_image(image, "image")


def test_overshoot_of_a_bicubic_resize_is_accepted_and_clamped():
    image = torch.tensor([-0.2, 1.2]).repeat_interleave(48)[:, None, None].expand(96, 64, 3)
    check_image(image, "image")
    resized = resize_to_cover(image, 64, 32)
    assert resized.min() == 0
    assert resized.max() == 1


def test_anchor_errors_are_value_errors_of_this_library():
    assert issubclass(AnchorError, GloriaError)
    assert issubclass(AnchorError, ValueError)


def test_sets_without_anchors_too_many_or_two_global_ones_are_refused():
    with pytest.raises(AnchorError, match="at least one image"):
        AnchorSet(())
    happy = Anchor("expression", "happy", GRAY)
    assert len(AnchorSet((happy,) * MAX_ANCHORS).slots()) == MAX_ANCHORS
    with pytest.raises(AnchorError, match=f"{MAX_ANCHORS + 1} anchors.*at most {MAX_ANCHORS}"):
        AnchorSet((happy,) * (MAX_ANCHORS + 1))
    with pytest.raises(AnchorError, match="2 global anchors"):
        AnchorSet((Anchor("global", "global", GRAY),) * 2)


def test_every_slot_of_the_paper_fits_into_one_set():
    slots = [(kind, label) for kind, labels in LABELS.items() for label in labels]
    assert len(slots) == 13
    assert AnchorSet(tuple(Anchor(*slot, GRAY) for slot in slots)).slots() == tuple(slots)


def test_token_sizes_hold_their_promises_for_random_sizes_up_to_the_limit():
    rng = random.Random(0)
    for _ in range(20000):
        height, width = random_sides(rng)
        multiple, max_area = rng.choice([16, 32]), rng.choice([1, 256**2, 512**2, rng.randint(1, 4096**2)])
        rows, columns = size_for_tokens(height, width, multiple, max_area)
        case = f"{height}x{width}, multiple {multiple}, {max_area} px -> {rows}x{columns}"
        scale = max(rows / height, columns / width)
        cropped = sorted((height * scale - rows, width * scale - columns))
        assert (rows % multiple, columns % multiple) == (0, 0), case
        assert min(rows, columns) >= multiple, case
        assert abs(cropped[0]) < 1e-6, case
        assert cropped[1] < multiple, case
        assert rows * columns <= height * width, case
        assert rows * columns <= max_area or min(rows, columns) == multiple, case


def test_token_sizes_use_most_of_the_budget_of_a_large_picture():
    assert size_for_tokens(4320, 7680, 16, 512**2) == (384, 672)
    assert size_for_tokens(512, 512, 16, 512**2) == (512, 512)
    assert size_for_tokens(1000, 1000, 32, 512**2) == (512, 512)
    assert size_for_tokens(100, 100, 16, 512**2) == (96, 96)
    # The square root of this pair is a hair too small in floating point.
    assert size_for_tokens(278, 278, 16, 256**2) == (256, 256)


def test_a_picture_below_the_multiple_is_the_only_one_enlarged():
    assert size_for_tokens(20, 30, 32, 512**2) == (32, 32)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(AnchorError, match="largest area"):
        size_for_tokens(64, 64, 16, 0)


def test_resized_pictures_have_the_promised_size_type_and_range():
    rng = random.Random(1)
    for _ in range(30):
        height, width = rng.randint(32, 700), rng.randint(32, 700)
        image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(height))
        multiple, max_area = rng.choice([16, 32]), rng.choice([128**2, 256**2])
        resized = resize_for_tokens(image, multiple, max_area)
        assert tuple(resized.shape) == (*size_for_tokens(height, width, multiple, max_area), 3)
        assert resized.dtype == torch.float32
        assert resized.is_contiguous()
        assert resized.min() >= 0
        assert resized.max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "out"),
    [
        (300, 500, (128, 128)),
        (500, 300, (480, 832)),
        (64, 2000, (64, 64)),
        (2000, 64, (256, 96)),
        (97, 131, (480, 832)),
        (33, 40, (480, 832)),
        (1080, 1920, (480, 832)),
    ],
)
def test_covering_scales_both_axes_alike_and_keeps_the_center(height, width, out):
    resized = resize_to_cover(ramps(height, width), *out)
    assert tuple(resized.shape[:2]) == out
    along_x, along_y = slopes(resized)
    scale = max(out[0] / height, out[1] / width)
    expected = 1 / (max(height, width) * scale)
    assert along_x == pytest.approx(expected, rel=0.01)
    assert along_y == pytest.approx(expected, rel=0.01)
    center = ramps(height, width).mean(dim=(0, 1))
    tolerance = 1.0 / max(height, width) + expected
    assert torch.allclose(resized.mean(dim=(0, 1)), center, atol=tolerance)


def test_an_extreme_strip_costs_no_more_memory_than_its_result():
    strip = torch.zeros(1, 1, 1).expand(32, MAX_SIDE, 3)
    sizes_seen = []

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes_seen.append(result.untyped_storage().nbytes())
            return result

    with Spy():
        resize_to_cover(strip, 480, 832)
    assert max(sizes_seen) <= 2 * 480 * 832 * 3 * 4


def test_an_8k_picture_is_reduced_without_aliasing():
    rows, columns = torch.meshgrid(torch.arange(4320), torch.arange(7680), indexing="ij")
    checkerboard = ((rows + columns) % 2).float().unsqueeze(-1).expand(-1, -1, 3)
    resized = resize_for_tokens(checkerboard, 16, 256**2)
    assert tuple(resized.shape) == (192, 336, 3)
    assert (resized - 0.5).abs().max() < 0.02


def test_a_picture_of_the_right_size_is_returned_unchanged():
    image = torch.rand(480, 832, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_to_cover(image, 480, 832), image)
    assert torch.equal(resize_for_tokens(image, 16, 832**2), image)


def test_transparent_pixels_become_gray_instead_of_their_hidden_color():
    image = torch.zeros(64, 64, 4)
    image[..., 0] = 1
    image[:, :32, 3] = 1
    resized = resize_to_cover(image, 64, 64)
    assert torch.equal(resized[:, :32], torch.tensor([1.0, 0.0, 0.0]).expand(64, 32, 3))
    assert torch.equal(resized[:, 32:], torch.full((64, 32, 3), 0.5))


def test_global_anchors_take_the_videos_size_and_crops_their_own_budget():
    sizes = AnchorSizes(video_height=96, video_width=160, viewpoint_max_area=128**2, expression_max_area=64**2)
    image = torch.rand(300, 200, 3, generator=torch.Generator().manual_seed(0))
    expected = {"global": (96, 160), "viewpoint": (144, 96), "expression": (64, 48)}
    for kind, labels in LABELS.items():
        anchor = Anchor(kind, labels[0], image)
        assert fitted_size(anchor, sizes, 16) == expected[kind]
        assert tuple(fit_anchor(anchor, sizes, 16).shape) == (*expected[kind], 3)


@pytest.mark.parametrize("channels", [16, 48])
def test_token_counts_equal_those_of_the_latent_the_vae_makes(channels):
    sizes = AnchorSizes(video_height=480, video_width=832)
    for kind, label in (("global", "global"), ("viewpoint", "back"), ("expression", "sad")):
        anchor = Anchor(kind, label, torch.zeros(1000, 700, 3))
        height, width = fit_anchor(anchor, sizes, channels).shape[:2]
        assert token_count(anchor, sizes, channels) == LatentSize.from_pixels(channels, 1, height, width).grid.count
    global_anchor = Anchor("global", "global", GRAY)
    assert token_count(global_anchor, sizes, 16) == 30 * 52
    assert token_count(global_anchor, sizes, 48) == 15 * 26
