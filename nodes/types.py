"""The sockets this pack adds to ComfyUI; everything else travels through stock sockets."""

from comfy_api.latest import io

GloriaAnchors = io.Custom("GLORIA_ANCHORS")  # gloria_core.conditioning.anchors.AnchorSet
GloriaAudio = io.Custom("GLORIA_AUDIO")  # gloria_core.conditioning.audio.AudioFeatures
GloriaDataset = io.Custom("GLORIA_DATASET")  # pathlib.Path of a dataset cache
GloriaFootage = io.Custom("GLORIA_FOOTAGE")  # pathlib.Path of a folder that an extraction was made in
GloriaProbe = io.Custom("GLORIA_PROBE")  # gloria_core.analysis.attention_probe.ProbeSettings
