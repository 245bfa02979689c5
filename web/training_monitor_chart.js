// @ts-check
// Points of a run enter, a chart of its loss leaves: raw, smoothed, held-out, where each stage begins, and the values
// under the pointer. No side effects.
import { element } from './lib/dom.js';

const SVG = 'http://www.w3.org/2000/svg';
// The drawing is stretched to the room there is; its lines keep their width.
const SIDE = 1000;
const NUM_GRID_LINES = 4;
const NUM_TICKS = 6;
// Single steps may be far out: the axis follows the middle of them, and never leaves the smoothed loss tiny.
const SHOWN_SHARE = 0.98;
const MAX_TIMES_SMOOTH = 3;
const MAX_DOTS = 60;

/** Step, lowest and highest loss, smoothed loss, learning rate. */
/** @typedef {[number, number | null, number | null, number | null, number | null]} Point */
/** @typedef {[number, number]} HeldOut step, loss */

export class LossChart {
  /** @param {(path: string, values?: Record<string, any>) => string} text */
  constructor(text) {
    this.text = text;
    this.lines = Object.fromEntries(['grid', 'stages', 'raw', 'smooth', 'held', 'dots', 'cursor'].map((name) => {
      const line = document.createElementNS(SVG, 'path');
      line.setAttribute('class', name);
      return [name, line];
    }));
    const drawing = document.createElementNS(SVG, 'svg');
    drawing.setAttribute('viewBox', `0 0 ${SIDE} ${SIDE}`);
    drawing.setAttribute('preserveAspectRatio', 'none');
    drawing.append(...Object.values(this.lines));
    this.labels = element('div', { className: 'labels' });
    this.tip = element('div', { className: 'tip', hidden: true });
    this.empty = element('div', { className: 'empty' });
    this.plot = element('div', { className: 'plot' }, this.labels, this.empty, this.tip);
    this.plot.prepend(drawing);
    this.root = element('div', { className: 'chart', role: 'img' }, this.plot);
    this.plot.addEventListener('pointermove', (event) => this.point(event));
    this.plot.addEventListener('pointerleave', () => this.leave());
    /** @type {number | null} where the pointer is, as a share of the width */
    this.pointer = null;
    this.shown = { points: /** @type {Point[]} */ ([]), heldOut: /** @type {HeldOut[]} */ ([]), last: 1, top: 1 };
  }

  /** @param {Point[]} points @param {HeldOut[]} heldOut @param {[number, string][]} stages */
  render(points, heldOut, stages) {
    const last = Math.max(1, points.at(-1)?.[0] ?? 0, heldOut.at(-1)?.[0] ?? 0);
    const step = niceStep(highest(points, heldOut) / NUM_GRID_LINES);
    const top = step * Math.max(1, Math.ceil(highest(points, heldOut) / step - 1e-9));
    this.shown = { points, heldOut, last, top };
    const heights = points.length ? Array.from({ length: Math.round(top / step) + 1 }, (_, idx) => idx * step) : [];
    this.draw('grid', heights.map((loss) => `M0 ${this.y(loss)}H${SIDE}`).join(''));
    this.draw('stages', stages.slice(1).map(([first]) => `M${this.x(first - 1)} 0V${SIDE}`).join(''));
    // Points of several steps are a band from the highest loss to the lowest.
    const isBand = points.some(([, low, high]) => low !== high);
    const lows = points.map(([at, low]) => [at, low]);
    const highs = isBand ? points.map(([at, , high]) => [at, high]).reverse() : [];
    this.draw('raw', path([...lows, ...highs], this));
    this.lines.raw.classList.toggle('band', isBand);
    this.draw('smooth', path(points.map(([at, , , smooth]) => [at, smooth]), this));
    this.draw('held', path(heldOut, this));
    const dots = heldOut.length > MAX_DOTS ? [] : heldOut;
    this.draw('dots', dots.map(([at, loss]) => `M${this.x(at)} ${this.y(loss)}h0`).join(''));
    this.labels.replaceChildren(...this.texts(heights, last, stages));
    this.empty.textContent = points.length ? '' : this.text('monitor.noSteps');
    const words = [this.text('monitor.chart'), this.text('monitor.at', { step: last }), this.text('monitor.smooth')];
    this.root.setAttribute('aria-label', `${words.join(', ')} ${short(points.at(-1)?.[3])}`);
    this.showTip();
  }

  texts(heights, last, stages) {
    const apart = niceStep(Math.max(1, last / NUM_TICKS));
    const ticks = heights.length ? Array.from({ length: Math.floor(last / apart) }, (_, idx) => (idx + 1) * apart) : [];
    const shown = stages.length > 1 ? stages : [];
    const places = [
      ...heights.slice(1).map((loss) => ['loss', short(loss), '0', `${this.y(loss) / 10}%`]),
      ...ticks.map((at) => [at > last * 0.95 ? 'step last' : 'step', String(at), `${this.x(at) / 10}%`, '100%']),
      ...shown.map(([first, name]) => ['stage', name, `${this.x(first - 1) / 10}%`, '0']),
    ];
    return places.map(([className, words, left, top]) => {
      const label = element('span', { className }, words);
      Object.assign(label.style, { left, top });
      return label;
    });
  }

  x(step) {
    return round((step / this.shown.last) * SIDE);
  }

  y(loss) {
    return round((1 - Math.min(loss / this.shown.top, 1)) * SIDE);
  }

  draw(name, data) {
    this.lines[name].setAttribute('d', data);
  }

  /** @param {PointerEvent} event */
  point(event) {
    const box = this.plot.getBoundingClientRect();
    this.pointer = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    this.showTip();
  }

  leave() {
    this.pointer = null;
    this.showTip();
  }

  showTip() {
    const { points, heldOut, last } = this.shown;
    this.tip.hidden = this.pointer === null || !points.length;
    if (this.tip.hidden) return this.draw('cursor', '');
    const [step, low, high, smooth, lr] = nearest(points, /** @type {number} */ (this.pointer) * last);
    const raw = low === high ? short(low) : `${short(low)} - ${short(high)}`;
    const held = heldOut.length ? nearest(heldOut, step) : null;
    const rows = [
      this.text('monitor.at', { step }),
      `${this.text('monitor.raw')} ${raw}`,
      `${this.text('monitor.smooth')} ${short(smooth)}`,
      held && `${this.text('monitor.heldOutAt', { step: held[0] })} ${short(held[1])}`,
      `${this.text('monitor.lr')} ${short(lr)}`,
    ];
    this.tip.replaceChildren(...rows.filter(Boolean).map((row) => element('div', {}, row)));
    const isRight = step > last / 2;
    Object.assign(this.tip.style, isRight ? { right: `${100 - this.x(step) / 10}%`, left: 'auto' }
      : { left: `${this.x(step) / 10}%`, right: 'auto' });
    this.draw('cursor', `M${this.x(step)} 0V${SIDE}`);
  }
}

/** @param {number | null | undefined} number */
export function short(number) {
  if (number === null || number === undefined) return '-';
  if (number !== 0 && Math.abs(number) < 1e-3) return number.toExponential(1).replace('.0e', 'e');
  return String(Number(number.toPrecision(3)));
}

/** @param {Point[]} points @param {HeldOut[]} heldOut */
function highest(points, heldOut) {
  const raw = points.map(([, , high]) => high).filter((loss) => loss !== null).sort((a, b) => a - b);
  const middle = raw[Math.floor(SHOWN_SHARE * (raw.length - 1))] ?? 0;
  const others = [...points.map(([, , , smooth]) => smooth ?? 0), ...heldOut.map(([, loss]) => loss)];
  const smooth = others.reduce((a, b) => Math.max(a, b), 0);
  return Math.max(smooth, Math.min(middle, MAX_TIMES_SMOOTH * smooth)) || 1;
}

/** The next of ..., 0.5, 1, 2, 5, 10, ... that is not below a number. */
function niceStep(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return ([1, 2, 5].find((factor) => factor * power >= number * (1 - 1e-9)) ?? 10) * power;
}

function path(points, chart) {
  const kept = points.filter(([, loss]) => loss !== null);
  if (kept.length === 1) return `M${chart.x(kept[0][0])} ${chart.y(kept[0][1])}h0`;
  return kept.map(([step, loss], idx) => `${idx ? 'L' : 'M'}${chart.x(step)} ${chart.y(loss)}`).join('');
}

/** The entry whose step is nearest; steps go up. */
function nearest(entries, step) {
  let [low, high] = [0, entries.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (entries[middle][0] > step) high = middle;
    else low = middle;
  }
  return step - entries[low][0] <= entries[high][0] - step ? entries[low] : entries[high];
}

function round(number) {
  return Math.round(number * 10) / 10;
}
