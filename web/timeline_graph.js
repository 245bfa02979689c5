// @ts-check
// A Gloria Timeline node enters; what the graph around it says of the film leaves: length, chunks, speech. No side
// effects. What cannot be known before a run (a length that another node computes) is left out.
import { mediaUrl } from './lib/api.js';

const MAX_STEPS = 200;
const DEFAULT_FPS = 24;

/** Nodes that get what this one gives, directly or through others, nearest first. */
function downstream(node) {
  return reach(node, (from) => (from.outputs ?? []).flatMap((_, slot) => from.getOutputNodes?.(slot) ?? []));
}

/** Nodes that a socket's value comes from, nearest first. */
function upstream(node, inputName) {
  const slot = node.inputs?.findIndex((input) => input.name === inputName) ?? -1;
  const origin = slot >= 0 ? node.getInputNode(slot) : null;
  if (!origin) return [];
  return [origin, ...reach(origin, (from) => (from.inputs ?? []).map((_, idx) => from.getInputNode(idx)))];
}

function reach(start, next) {
  const found = new Set([start]);
  for (const node of found) {
    for (const other of next(node)) if (other) found.add(other);
    if (found.size > MAX_STEPS) break;
  }
  found.delete(start);
  return [...found];
}

/** A widget's value, or that of a primitive linked in its place; undefined when only a run will tell. */
function valueOf(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name && input.link != null) ?? -1;
  if (slot < 0) return node.widgets?.find((widget) => widget.name === name)?.value;
  const origin = node.getInputNode(slot);
  return origin?.type?.startsWith('Primitive') ? origin.widgets?.[0]?.value : undefined;
}

/** The file that speech is loaded from. */
function audioFile(condition) {
  for (const node of upstream(condition, 'audio_features')) {
    const widget = node.widgets?.find((entry) => entry.name === 'audio' && typeof entry.value === 'string');
    if (widget?.value) return widget.value;
  }
  return null;
}

/**
 * Addresses of small pictures of the anchors that the film is made with, by slot; none of what only a run will tell.
 * @returns {Record<string, string>}
 */
export function anchorPictures(node) {
  const condition = downstream(node).find((entry) => entry.type === 'GloriaCondition');
  const board = condition && upstream(condition, 'anchors').find((entry) => entry.gloriaBoard)?.gloriaBoard;
  if (!board) return {};
  const files = Object.entries(board.state.files).map(([slot, name]) => [slot, mediaUrl('anchors/thumbnail', { name })]);
  const links = Object.entries(board.state.links).map(([slot, { picture }]) => [slot, picture]);
  return Object.fromEntries([...files, ...links].filter(([, picture]) => picture));
}

/**
 * What the graph says. `length` 0 is "as long as the speech"; `chunk` is null and `job` is missing without a sampler.
 * @returns {{length: number | undefined, fps: number, audio: string | null, job: string | undefined,
 *   chunk: {chunk_frames: number, prefix_latents: number} | null} | null} null outside of a film
 */
export function filmAround(node) {
  const after = downstream(node);
  const condition = after.find((entry) => entry.type === 'GloriaCondition');
  if (!condition) return null;
  const sampler = after.find((entry) => entry.type === 'GloriaSampleLongVideo');
  const encoder = upstream(condition, 'audio_features').find((entry) => entry.type === 'GloriaEncodeAudio');
  const chunk = sampler && {
    chunk_frames: valueOf(sampler, 'chunk_frames'),
    prefix_latents: valueOf(sampler, 'prefix_latents') ?? 4,
  };
  return {
    length: valueOf(condition, 'length'),
    fps: (encoder && valueOf(encoder, 'fps')) ?? DEFAULT_FPS,
    audio: audioFile(condition),
    job: sampler && valueOf(sampler, 'job_name'),
    chunk: chunk?.chunk_frames === undefined ? null : chunk,
  };
}
