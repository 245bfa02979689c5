// @ts-check
// Validation clips of a run, side by side over the steps; without a VAE the rough pictures of their latents. No side
// effects.
import { mediaUrl } from './lib/api.js';
import { element } from './lib/dom.js';

const MAX_SHOWN = 4;

/** @typedef {{step: number, clips: Record<string, boolean>}} ClipStep whether each clip is decoded, by its name */

export class ClipsView {
  /** @param {(path: string, values?: Record<string, any>) => string} text */
  constructor(text) {
    this.text = text;
    this.run = '';
    /** @type {ClipStep[]} */
    this.steps = [];
    /** @type {number[]} steps picked by hand, the last picked last; none: the newest are shown */
    this.picked = [];
    this.clip = '';
    this.names = element('select', { onchange: () => this.choose(this.names.value) });
    this.cells = element('div', { className: 'cells' });
    this.shots = element('div', { className: 'shots', onclick: () => this.playOrPause() });
    this.root = element('div', { className: 'clips', hidden: true },
      element('div', { className: 'row' }, this.names, this.cells), this.shots);
    this.seen = '';
  }

  /** @param {string} run @param {ClipStep[]} steps */
  render(run, steps) {
    if (run !== this.run) this.picked = [];
    [this.run, this.steps] = [run, steps];
    const names = [...new Set(steps.flatMap(({ clips }) => Object.keys(clips)))].sort();
    if (!names.includes(this.clip)) this.clip = names[0] ?? '';
    this.root.hidden = !names.length;
    const having = steps.filter(({ clips }) => this.clip in clips);
    this.picked = this.picked.filter((step) => having.some((entry) => entry.step === step));
    const shown = having.filter(({ step }, idx) =>
      this.picked.length ? this.picked.includes(step) : idx >= having.length - MAX_SHOWN);
    const now = JSON.stringify([run, names, this.clip, having, shown]);
    if (now === this.seen) return; // clips that play are left alone
    this.seen = now;
    this.renderNames(names);
    this.renderCells(having, shown);
    this.renderShots(shown);
  }

  renderNames(names) {
    this.names.hidden = names.length < 2;
    this.names.replaceChildren(...names.map((name) => {
      const number = /^clip(\d+)$/.exec(name)?.[1];
      const label = number ? this.text('monitor.clip', { number: Number(number) + 1 }) : this.text('monitor.rollout');
      return element('option', { value: name, selected: name === this.clip }, label);
    }));
  }

  renderCells(having, shown) {
    const isAtEnd = this.cells.scrollLeft + this.cells.clientWidth >= this.cells.scrollWidth - 4;
    this.cells.replaceChildren(...having.map((entry) => {
      const isShown = shown.includes(entry);
      return element('button', {
        className: isShown ? 'cell chosen' : 'cell', 'data-step': String(entry.step), 'aria-pressed': String(isShown),
        title: this.text('monitor.pick', { step: entry.step }), onclick: () => this.pick(entry.step),
      }, String(entry.step));
    }));
    if (isAtEnd) this.cells.scrollLeft = this.cells.scrollWidth;
  }

  renderShots(shown) {
    const before = new Map([...this.shots.children].map((figure) => [figure.getAttribute('data-key'), figure]));
    this.shots.replaceChildren(...shown.map(({ step, clips }) => {
      const key = `${this.run} ${step} ${this.clip} ${clips[this.clip]}`;
      return before.get(key) ?? this.figure(key, step, clips[this.clip]);
    }));
    // Side by side means at the same moment.
    for (const video of this.videos()) video.currentTime = 0;
  }

  figure(key, step, isDecoded) {
    const file = `step_${String(step).padStart(6, '0')}_${this.clip}.${isDecoded ? 'mp4' : 'webp'}`;
    const src = mediaUrl(`training/${encodeURIComponent(this.run)}/clips/${file}`);
    const words = this.text(isDecoded ? 'monitor.at' : 'monitor.roughAt', { step });
    const picture = isDecoded
      ? element('video', { muted: true, loop: true, autoplay: true, playsInline: true, preload: 'auto', src })
      : element('img', { alt: words, src, draggable: false, title: this.text('monitor.rough') });
    return element('figure', { 'data-key': key, 'data-step': String(step) }, picture, element('figcaption', {}, words));
  }

  videos() {
    return [...this.shots.querySelectorAll('video')];
  }

  playOrPause() {
    const videos = this.videos();
    const isPlaying = videos.some((video) => !video.paused);
    for (const video of videos) {
      if (isPlaying) video.pause();
      else video.play().catch(() => {}); // a clip that cannot be played stays a still picture
    }
  }

  choose(name) {
    this.clip = name;
    this.render(this.run, this.steps);
  }

  /** Show a step or leave it out; of too many the one that was picked first goes. */
  pick(step) {
    const shown = [...this.cells.querySelectorAll('.chosen')].map((cell) => Number(cell.getAttribute('data-step')));
    const before = this.picked.length ? this.picked : shown;
    const without = before.filter((other) => other !== step);
    this.picked = without.length < before.length ? without : [...before, step].slice(-MAX_SHOWN);
    this.render(this.run, this.steps);
  }
}
