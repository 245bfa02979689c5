"""The two widgets that limit how large anchors are encoded, the same in Gloria Conditioning and Gloria Dataset."""

from comfy_api.latest import io


def anchor_size_inputs(advice_on_views: str, advice_on_faces: str) -> list[io.Input]:
    """`viewpoint_size` and `expression_size`, sides of squares in pixels; the advice ends their tooltips."""
    return [
        _input("viewpoint", 512, advice_on_views),
        _input("expression", 256, advice_on_faces),
    ]


def _input(kind: str, default: int, advice: str) -> io.Input:
    return io.Int.Input(
        f"{kind}_size", default=default, min=32, max=2048, step=8, optional=True, advanced=True,
        tooltip=f"{kind.capitalize()} anchors are scaled down to at most as many pixels as a square of this side. "
        f"{advice}",
    )  # fmt: skip
