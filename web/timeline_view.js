// @ts-check
// The strip under the cues: the speech, the cues as spans, and below them the chunks in the color of the cue they get.
// No side effects.
import { element, keepEvents, styleSheet } from './lib/dom.js';
import { TIMELINE_STYLE } from './timeline_style.js';
import { drawWave } from './timeline_wave.js';

const HUES = [205, 35, 150, 330, 265, 85, 185, 10];
const MIN_TICKS_APART = 56;
const TICK_SECONDS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];

/** @param {number} seconds */
export function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  const rest = seconds - minutes * 60;
  const [whole, part] = rest.toFixed(1).split('.');
  return `${minutes}:${whole.padStart(2, '0')}${part === '0' ? '' : `.${part}`}`;
}

/**
 * @typedef {{seconds: number, time: string, text: string, labels: string[]}} Cue
 * @typedef {{start: number, stop: number, cue: number}} Chunk
 * @typedef {{cues: Cue[], chunks: Chunk[] | null, seconds: number, wave: any, error: string | null,
 *   hint: string | null}} Shown
 */
export class TimelineView {
  /** @param {(path: string, values?: Record<string, any>) => string} text */
  constructor(text) {
    this.text = text;
    this.canvas = element('canvas');
    this.cues = element('div', { className: 'cues' });
    this.chunks = element('div', { className: 'chunks' });
    this.axis = element('div', { className: 'axis' });
    this.status = element('div', { className: 'status', role: 'status' });
    this.root = element('div', { className: 'gloria-timeline' }, styleSheet(TIMELINE_STYLE),
      element('div', { className: 'strip' }, this.canvas, this.cues), this.chunks, this.axis, this.status);
    keepEvents(this.root, ['pointerdown', 'dblclick']);
    /** @type {Shown | null} */
    this.shown = null;
    this.observer = new ResizeObserver(() => this.shown && this.render(this.shown));
    this.observer.observe(this.root);
  }

  /** @param {Shown} shown */
  render(shown) {
    this.shown = shown;
    const used = new Set(shown.chunks?.map((chunk) => chunk.cue));
    this.cues.replaceChildren(...shown.cues.map((cue, idx) => this.cue(shown, idx, shown.chunks && !used.has(idx))));
    this.chunks.replaceChildren(...(shown.chunks ?? []).map((chunk, idx) => this.chunk(shown, chunk, idx)));
    this.axis.replaceChildren(...this.ticks(shown.seconds));
    drawWave(this.canvas, shown.wave, shown.seconds);
    this.root.classList.toggle('failed', shown.error !== null);
    const unused = shown.cues.filter((cue, idx) => shown.chunks && !used.has(idx) && (cue.text || cue.labels.length));
    this.root.classList.toggle('warned', unused.length > 0);
    this.status.textContent = shown.error ?? this.summary(shown, unused);
  }

  /** @param {Shown} shown @param {Cue[]} unused */
  summary(shown, unused) {
    if (!shown.chunks) return shown.hint ?? '';
    if (unused.length) return this.text('timeline.lost', { times: unused.map((cue) => cue.time).join(', ') });
    return this.text('timeline.summary', { chunks: shown.chunks.length, time: clock(shown.seconds) });
  }

  /** @param {Shown} shown @param {number} idx @param {boolean | null} isUnused */
  cue(shown, idx, isUnused) {
    const cue = shown.cues[idx];
    const stop = shown.cues[idx + 1]?.seconds ?? shown.seconds;
    const what = cue.text || this.text('timeline.base');
    const anchors = cue.labels.map((label) => element('b', {}, label));
    const title = [`${cue.time}  ${what}`, cue.labels.length ? `[${cue.labels.join(', ')}]` : null,
      isUnused ? this.text('timeline.unused') : null].filter(Boolean).join('\n');
    const made = element('div', { className: 'cue', title, 'data-cue': String(idx) },
      element('small', {}, cue.time), element('span', {}, what), ...anchors);
    made.classList.toggle('unused', Boolean(isUnused));
    return this.place(made, cue.seconds, Math.max(stop, cue.seconds), shown.seconds, idx);
  }

  /** @param {Shown} shown @param {Chunk} chunk @param {number} idx */
  chunk(shown, chunk, idx) {
    const cue = shown.cues[chunk.cue];
    const title = this.text('timeline.chunk', {
      chunk: idx, start: clock(chunk.start), stop: clock(chunk.stop), cue: cue.text || this.text('timeline.base'),
    });
    const made = element('div', { className: 'chunk', title, 'data-chunk': String(idx) }, String(idx));
    return this.place(made, chunk.start, chunk.stop, shown.seconds, chunk.cue);
  }

  place(made, start, stop, seconds, color) {
    const [left, right] = [start, stop].map((time) => Math.min(100, (time / seconds) * 100));
    made.style.left = `${left}%`;
    made.style.width = `${right - left}%`;
    made.style.setProperty('--hue', String(HUES[color % HUES.length]));
    made.hidden = right <= left;
    return made;
  }

  /** @param {number} seconds */
  ticks(seconds) {
    const room = Math.max(1, Math.floor(this.root.clientWidth / MIN_TICKS_APART));
    const step = TICK_SECONDS.find((entry) => seconds / entry <= room) ?? seconds;
    const times = Array.from({ length: Math.floor(seconds / step) + 1 }, (_, idx) => idx * step);
    return times.map((time) => {
      const tick = element('span', {}, clock(time));
      tick.style.left = `${(time / seconds) * 100}%`;
      return tick;
    });
  }

  remove() {
    this.observer.disconnect();
  }
}
