"""Gloria for ComfyUI: long videos of one character from content anchors, text and speech."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """Return the extension; imported here so that the folder also imports where there is no ComfyUI."""
    from .nodes import GloriaExtension

    return GloriaExtension()
