"""MODEL and the LATENT of a film in; chunks, tokens, memory, disk and time out, before anything runs."""

from typing import Any

from comfy_api.latest import io, ui

from ..gloria_core.sampling.cost import forward_flops, lower_bound_seconds
from ..gloria_core.sampling.plan import PREFIX_LATENTS, Chunk, ChunkPlan, plan_chunks
from ..gloria_core.shapes import LatentSize, pixel_frames_for, pixel_span_of_latent
from .bridge.estimate import ModelFacts, anchor_tokens, film_size, matmul_rate, model_facts, peak_memory_bytes
from .bridge.progress import format_seconds
from .bridge.sampling import chunk_latents_for

FPS = 24.0
_MAX_LISTED_CHUNKS = 24


class GloriaPlanVideo(io.ComfyNode):
    """Gloria Plan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GloriaPlanVideo",
            display_name="Gloria Plan",
            category="Gloria/sampling",
            description="Says what a long video will take before it is sampled: chunks, tokens, memory, disk space and "
            "the time below which this machine cannot make it.",
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
        pixel_frames = latent.get("gloria_pixel_frames", pixel_frames_for(size.frames))
        tokens_of_slots = anchor_tokens(positive or [])
        facts = model_facts(model, positive or [])
        lines = [
            *_length_lines(plan, pixel_frames),
            *_token_lines(plan, size, tokens_of_slots),
            *_space_lines(model, positive or [], plan, size, facts),
            *_time_lines(model, plan, size, sum(tokens_of_slots.values()), facts, steps, cfg),
        ]
        report = "\n".join(lines)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def _length_lines(plan: ChunkPlan, pixel_frames: int) -> list[str]:
    lines = [
        f"{pixel_frames} frames, {pixel_frames / FPS:.2f} s at {FPS:g} fps; {plan.total_latents} latents "
        f"in {len(plan.chunks)} chunk{'s' if len(plan.chunks) > 1 else ''}"
    ]
    lines += [_chunk_line(chunk, pixel_frames) for chunk in plan.chunks[:_MAX_LISTED_CHUNKS]]
    if len(plan.chunks) > _MAX_LISTED_CHUNKS:
        lines.append(f"  ... and {len(plan.chunks) - _MAX_LISTED_CHUNKS} more, the last one:")
        lines.append(_chunk_line(plan.chunks[-1], pixel_frames))
    return lines


def _chunk_line(chunk: Chunk, pixel_frames: int) -> str:
    first = pixel_span_of_latent(chunk.start)[0]
    stop = min(pixel_span_of_latent(chunk.stop - 1)[1], pixel_frames)
    seconds = f"{first / FPS:.2f}-{stop / FPS:.2f} s"
    overlap = f", first {chunk.prefix} latents from the chunk before" if chunk.prefix else ""
    return f"  chunk {chunk.index}: frames {first}-{stop - 1}, {seconds}, {chunk.length} latents{overlap}"


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
    model: Any, plan: ChunkPlan, size: LatentSize, num_anchor: int, facts: ModelFacts, steps: int, cfg: float
) -> list[str]:
    rate, device = matmul_rate(model)
    passes = steps * (1 if cfg == 1 else 2)

    def flops(chunk: Chunk) -> float:
        return passes * forward_flops(facts.shape, size._replace(frames=chunk.length).grid.count, num_anchor)

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
            "positive", optional=True, tooltip="From Gloria Conditioning: counts the tokens of the anchors too."
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
