// @ts-check
// Curves over the timeline strip and, below it, the anchors in the curves' colors with their share at the pointer.
// No side effects.
import { ATTENTION_STYLE } from './attention_style.js';
import { element, styleSheet } from './lib/dom.js';

const EYE = '<svg viewBox="0 0 24 24" width="14" height="14" fill="none" stroke="currentColor" stroke-width="2">'
  + '<path d="M2 12s3.6-7 10-7 10 7 10 7-3.6 7-10 7S2 12 2 12Z"/><circle cx="12" cy="12" r="3"/></svg>';
const HEADROOM = 1.08;

/**
 * @typedef {{kind: string, label: string, color: string, shares: (number | null)[], even: (number | null)[]}} Curve
 * @typedef {{seconds: number[], curves: Curve[], pictures: Record<string, string>, error: string | null}} Film
 */
export class AttentionView {
  /**
   * @param {import('./timeline_view.js').TimelineView} strip
   * @param {(path: string, values?: Record<string, any>) => string} text
   * @param {() => void} onToggle
   */
  constructor(strip, text, onToggle) {
    this.text = text;
    this.root = strip.root;
    this.place = /** @type {HTMLElement} */ (strip.canvas.parentElement);
    this.button = element('button', {
      className: 'attention-toggle', innerHTML: EYE, onclick: onToggle, title: text('attention.toggle'),
      'aria-pressed': 'false', 'aria-label': text('attention.toggle'),
    });
    this.canvas = element('canvas', { className: 'attention', hidden: true });
    this.legend = element('div', { className: 'attention-legend', hidden: true });
    this.place.append(styleSheet(ATTENTION_STYLE), this.canvas, this.button);
    strip.axis.after(this.legend);
    this.place.addEventListener('pointermove', (event) => this.point(event));
    this.place.addEventListener('pointerleave', () => this.point());
    /** @type {Film} */
    this.film = { seconds: [], curves: [], pictures: {}, error: null };
    this.seconds = 1;
    /** @type {number | null} the latent frame under the pointer */
    this.pointed = null;
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.place);
  }

  /** @param {boolean} isOn */
  toggle(isOn) {
    this.root.classList.toggle('watched', isOn);
    this.button.setAttribute('aria-pressed', String(isOn));
    this.canvas.hidden = this.legend.hidden = !isOn;
    this.draw();
  }

  /** @param {number} seconds that the strip stands for */
  fit(seconds) {
    this.seconds = seconds;
    this.draw();
  }

  /** @param {Film} film @param {number} seconds */
  render(film, seconds) {
    this.film = film;
    this.pointed = null;
    this.legend.classList.toggle('failed', film.error !== null);
    if (film.curves.length) this.legend.replaceChildren(...this.shown.map((curve) => this.item(curve)));
    else this.legend.replaceChildren(film.error ?? this.text('attention.none'));
    this.fit(seconds);
    this.tell();
  }

  /** The rest of the video is what is left of 1: its curve would only press the others down. */
  get shown() {
    return this.film.curves.filter((curve) => curve.label !== 'video');
  }

  /** @param {Curve} curve */
  item(curve) {
    const picture = this.film.pictures[curve.label];
    const image = element(picture ? 'img' : 'i', picture ? { src: picture, alt: '', draggable: false } : {});
    const made = element('div', { className: 'looked', 'data-anchor': curve.label },
      image, element('span', {}, this.nameOf(curve)), element('b'));
    made.style.setProperty('--color', curve.color);
    return made;
  }

  /** @param {Curve} curve */
  nameOf({ kind, label }) {
    return this.text(kind === 'chunk' ? 'attention.prefix' : `board.slots.${label}`);
  }

  /** @param {PointerEvent} [event] none when the pointer has left */
  point(event) {
    if (this.canvas.hidden || !this.film.curves.length) return;
    const { left, width } = this.place.getBoundingClientRect();
    this.pointed = event ? this.nearest(((event.clientX - left) / width) * this.seconds) : null;
    this.draw();
    this.tell();
  }

  /** Index of the latent frame nearest in time. @param {number} seconds */
  nearest(seconds) {
    const distances = this.film.seconds.map((time) => Math.abs(time - seconds));
    return distances.indexOf(Math.min(...distances));
  }

  /** Numbers at the pointer; without one, means of the film. */
  tell() {
    this.shown.forEach((curve, idx) => {
      const [share, even] = [curve.shares, curve.even].map((values) => this.valueOf(values));
      const made = /** @type {HTMLElement} */ (this.legend.children[idx]);
      const percent = share === null ? '–' : `${(share * 100).toFixed(1)} %`;
      /** @type {HTMLElement} */ (made.lastChild).textContent = percent;
      const times = share === null || !even ? '–' : (share / even).toFixed(2);
      made.title = this.text('attention.item', { name: this.nameOf(curve), share: percent, times });
    });
  }

  /** @param {(number | null)[]} values */
  valueOf(values) {
    if (this.pointed !== null) return values[this.pointed];
    const known = /** @type {number[]} */ (values.filter((value) => value !== null));
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  draw() {
    const { canvas } = this;
    const width = (canvas.width = canvas.clientWidth * devicePixelRatio);
    const height = (canvas.height = canvas.clientHeight * devicePixelRatio);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    if (canvas.hidden || !width || !this.film.curves.length) return;
    const peak = HEADROOM * Math.max(...this.shown.flatMap(({ shares }) => shares.map((share) => share ?? 0)));
    const x = (idx) => (this.film.seconds[idx] / this.seconds) * width;
    const y = (share) => height * (1 - share / peak);
    if (this.pointed !== null) {
      context.fillStyle = getComputedStyle(canvas).color;
      context.fillRect(x(this.pointed), 0, devicePixelRatio, height);
    }
    context.lineJoin = 'round';
    for (const { shares, color } of this.shown) {
      const path = new Path2D();
      shares.forEach((share, idx) => {
        if (share === null) return;
        const isGap = idx === 0 || shares[idx - 1] === null;
        if (isGap) path.moveTo(x(idx), y(share));
        else path.lineTo(x(idx), y(share));
      });
      // A dark rim keeps the lines apart from the cues below them.
      for (const [style, thickness] of [['rgb(0 0 0 / .55)', 4], [color, 2]]) {
        context.strokeStyle = String(style);
        context.lineWidth = Number(thickness) * devicePixelRatio;
        context.stroke(path);
      }
    }
  }

  remove() {
    this.observer.disconnect();
  }
}
