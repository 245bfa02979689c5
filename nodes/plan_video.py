"""MODEL and the LATENT of a film in; chunks, tokens, memory, disk and time out, before anything runs."""

from typing import Any

from comfy_api.latest import io, ui

from ..gloria_core.sampling.cost import forward_flops, lower_bound_seconds
from ..gloria_core.sampling.plan import PREFIX_LATENTS, Chunk, ChunkPlan, plan_chunks
from ..gloria_core.shapes import LatentSize, pixel_span_of_latent
from .bridge.estimate import ModelFacts, anchor_tokens, film_size, matmul_rate, model_facts, peak_memory_bytes
from .bridge.progress import format_seconds
from .bridge.sampling import chunk_latents_for
from .bridge.timeline import Timeline, cue_indices, film_timing, timeline_of, unused_cues, with_cue

_MAX_LISTED_CHUNKS = 24


class GloriaPlanVideo(io.ComfyNode):
    """Gloria Plan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaPlanVideo",
            display_name="Gloria Plan",
            category="Gloria/sampling",
            description="Says what a long video will take before it is sampled: chunks, the cue each one gets from a "
            "Gloria Timeline, tokens, memory, disk space and the time below which this machine cannot make it.",
            search_aliases=["estimate time", "vram estimate", "how long", "chunk plan"],
            inputs=_inputs(),
            outputs=[
                io.String.Output(display_name="report", tooltip="The plan as text, which is also shown under the node.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict[str, Any],
        chunk_frames: int,
        steps: int,
        cfg: float,
        positive: list[Any] | None = None,
        prefix_latents: int = PREFIX_LATENTS,
    ) -> io.NodeOutput:
        size = film_size(model, latent)
        plan = plan_chunks(size.frames, chunk_latents_for(chunk_frames), prefix_latents)
        pixel_frames, fps = film_timing(latent)
        positive = positive or []
        cues = cue_indices(positive, plan, latent)
        of_cue = {index: with_cue(positive, [], index)[0] for index in cues}
        anchors = [anchor_tokens(of_cue[index]) for index in cues]
        # Cues may switch anchors off: the dearest chunk decides about memory.
        dearest = max(range(len(cues)), key=lambda index: sum(anchors[index].values()))
        facts = model_facts(model, positive)
        lines = [
            *_length_lines(plan, pixel_frames, float(fps), positive, cues),
            *_token_lines(plan, size, anchors[dearest]),
            *_space_lines(model, of_cue[cues[dearest]], plan, size, facts),
            *_time_lines(model, plan, size, [sum(counts.values()) for counts in anchors], facts, steps, cfg),
        ]
        report = "\n".join(lines)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def _length_lines(
    plan: ChunkPlan, pixel_frames: int, fps: float, positive: list[Any], cues: tuple[int, ...]
) -> list[str]:
    lines = [
        f"{pixel_frames} frames, {pixel_frames / fps:.2f} s at {fps:g} fps; {plan.total_latents} latents "
        f"in {len(plan.chunks)} chunk{'s' if len(plan.chunks) > 1 else ''}"
    ]
    timeline = timeline_of(positive)
    listed = [_chunk_line(chunk, pixel_frames, fps, timeline, cues[chunk.index]) for chunk in plan.chunks]
    if len(listed) > _MAX_LISTED_CHUNKS:
        rest = len(listed) - _MAX_LISTED_CHUNKS
        listed = [*listed[:_MAX_LISTED_CHUNKS], f"  ... and {rest} more, the last one:", listed[-1]]
    unused = [f"cue {cue.time} covers most of no chunk: {cue.text}" for cue in unused_cues(positive, cues)]
    return [*lines, *listed, *unused]


def _chunk_line(chunk: Chunk, pixel_frames: int, fps: float, timeline: Timeline | None, cue_idx: int) -> str:
    first = pixel_span_of_latent(chunk.start)[0]
    stop = min(pixel_span_of_latent(chunk.stop - 1)[1], pixel_frames)
    seconds = f"{first / fps:.2f}-{stop / fps:.2f} s"
    overlap = f", first {chunk.prefix} latents from the chunk before" if chunk.prefix else ""
    line = f"  chunk {chunk.index}: frames {first}-{stop - 1}, {seconds}, {chunk.length} latents{overlap}"
    if timeline is None:
        return line
    labels = timeline.cues[cue_idx].labels
    anchors = f" [{', '.join(labels)}]" if labels else ""
    return f"{line}\n    cue {timeline.cues[cue_idx].time}{anchors}: {timeline.prompts[cue_idx]}"


def _token_lines(plan: ChunkPlan, size: LatentSize, tokens_of_slots: dict[str, int]) -> list[str]:
    video = size._replace(frames=plan.chunks[0].length).grid.count
    lines = [f"tokens per step: {video + sum(tokens_of_slots.values())}", f"  video {video}"]
    return lines + [f"  anchor {slot} {count}" for slot, count in tokens_of_slots.items()]


def _space_lines(model: Any, positive: list[Any], plan: ChunkPlan, size: LatentSize, facts: ModelFacts) -> list[str]:
    working = peak_memory_bytes(model, positive, size._replace(frames=plan.chunks[0].length))
    disk = sum(size._replace(frames=chunk.length).num_bytes_fp32 for chunk in plan.chunks) + size.num_bytes_fp32
    return [
        f"memory: weights {_gigabytes(facts.weight_bytes)}, working memory of a step about {_gigabytes(working)}; "
        "weights that do not fit beside it are offloaded",
        f"disk for latents: {_gigabytes(disk)} in output/gloria",
    ]


def _time_lines(
    model: Any, plan: ChunkPlan, size: LatentSize, num_anchor: list[int], facts: ModelFacts, steps: int, cfg: float
) -> list[str]:
    rate, device = matmul_rate(model)
    passes = steps * (1 if cfg == 1 else 2)

    def flops(chunk: Chunk) -> float:
        tokens = size._replace(frames=chunk.length).grid.count
        return passes * forward_flops(facts.shape, tokens, num_anchor[chunk.index])

    total = sum(flops(chunk) for chunk in plan.chunks)
    return [
        f"time: at least {format_seconds(lower_bound_seconds(total, rate))} in all, "
        f"{format_seconds(lower_bound_seconds(flops(plan.chunks[0]), rate))} for the first chunk",
        f"  a lower bound: {total / 1e15:.3g} PFLOP ({passes} passes per chunk) at {rate / 1e12:.3g} TFLOP/s, the rate",
        f"  of a plain matrix product on {device}. Sampling takes longer than that, and decoding comes on top;",
        "  only methods that skip or shrink work (EasyCache, 8-bit matrix modes) can be below it.",
    ]


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def _inputs() -> list[io.Input]:
    """In the order of the saved `widgets_values`: only ever append."""
    return [
        io.Model.Input("model", tooltip="The model that will be sampled."),
        io.Latent.Input("latent", tooltip="From Gloria Conditioning: size and length of the video."),
        io.Int.Input(
            "chunk_frames",
            default=121,
            min=5,
            max=100_001,
            step=4,
            tooltip="Video frames sampled at once, as in Gloria Long Video Sampler.",
        ),
        io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Denoising steps, as in the sampler."),
        io.Float.Input(
            "cfg",
            default=3.5,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="As in the sampler; 1 needs half the time because the negative prompt is not computed.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="From Gloria Conditioning: counts the tokens of the anchors and shows every chunk's cue too.",
        ),
        io.Int.Input(
            "prefix_latents",
            default=PREFIX_LATENTS,
            min=0,
            max=32,
            optional=True,
            advanced=True,
            tooltip="Latent frames that each chunk takes over from the one before, as in the sampler.",
        ),
    ]
