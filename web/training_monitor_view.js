// @ts-check
// What the training monitor shows: state, curve, numbers, losses by noise level, clips and buttons. No side effects.
import { element, keepEvents, styleSheet } from './lib/dom.js';
import { clock } from './lib/text.js';
import { LossChart, short } from './training_monitor_chart.js';
import { ClipsView } from './training_monitor_clips.js';
import { MONITOR_STYLE } from './training_monitor_style.js';

const REQUESTS = /** @type {const} */ (['save', 'sample', 'stop']);
const BUTTONS = /** @type {const} */ (['save', 'sample', 'publish', 'stop']);
const ENDED_BADLY = ['failed', 'gone'];
const GIB = 2 ** 30;

/**
 * @typedef {{run: string, state: string, is_running: boolean, message: string | null, warning: string | null,
 *   error: string | null, step: number | null, total_steps: number | null, stage: string | null, lr: number | null,
 *   smooth_loss: number | null, seconds_per_step: number | null, eta_seconds: number | null,
 *   memory_bytes: number | null, elapsed_seconds: number | null, results: string[], asked: string[], version: string,
 *   clips: string, stages: [number, string][], bins: {first: (number | null)[], last: (number | null)[]}}} Run
 * @typedef {{run: Run | null, points: import('./training_monitor_chart.js').Point[],
 *   heldOut: import('./training_monitor_chart.js').HeldOut[], clips: import('./training_monitor_clips.js').ClipStep[],
 *   error: string | null, isStarting: boolean, listed: string | null}} State
 */
export class MonitorView {
  /** @param {(path: string, values?: Record<string, any>) => string} text @param {Record<string, Function>} actions */
  constructor(text, actions) {
    this.text = text;
    this.word = element('b');
    this.step = element('span', { className: 'step' });
    this.left = element('span', { className: 'left' });
    this.bar = element('div');
    this.name = element('span', { className: 'name' });
    this.legend = element('span', { className: 'legend' });
    this.chart = new LossChart(text);
    this.facts = element('dl', { className: 'facts' });
    this.bins = element('div', { className: 'bars' });
    this.binsTitle = element('span');
    this.clips = new ClipsView(text);
    this.news = element('div', { className: 'news', role: 'status' });
    this.buttons = Object.fromEntries(BUTTONS.map((name) => {
      const act = () => (name === 'publish' ? actions.publish() : actions.ask(name));
      return [name, element('button', { className: name, onclick: act, 'data-action': name })];
    }));
    this.root = element('div', { className: 'gloria-monitor' }, styleSheet(MONITOR_STYLE),
      element('div', { className: 'state' }, element('i', { className: 'lamp' }), this.word, this.step, this.left),
      element('div', { className: 'bar' }, this.bar),
      element('div', { className: 'names' }, this.name, this.legend),
      this.chart.root,
      element('div', { className: 'numbers' }, this.facts,
        element('div', { className: 'bins' }, this.bins, this.binsTitle)),
      this.clips.root, this.news,
      element('div', { className: 'tools' }, ...Object.values(this.buttons)));
    keepEvents(this.root, ['pointerdown', 'dblclick', 'keydown', 'wheel']);
    this.render({ run: null, points: [], heldOut: [], clips: [], error: null, isStarting: false, listed: null });
  }

  /** @param {State} state */
  render(state) {
    const { run, points, heldOut } = state;
    const word = state.isStarting ? 'starting' : (run?.state ?? 'none');
    this.root.dataset.state = word;
    this.word.textContent = this.text(`monitor.states.${word}`);
    const done = run?.step && run.total_steps ? Math.min(1, run.step / run.total_steps) : 0;
    const stage = run?.stage && (run.stages.length > 1 || word !== 'finished') ? run.stage : null;
    this.step.textContent = [
      run?.total_steps && this.text('monitor.step', { step: run.step ?? 0, all: run.total_steps }),
      stage && this.text('monitor.stage', { stage }),
    ].filter(Boolean).join(' · ');
    const isLeft = run?.is_running && run.state !== 'starting' && run.eta_seconds !== null;
    this.left.textContent = isLeft ? this.text('monitor.left', { time: clock(run.eta_seconds ?? 0) }) : '';
    this.bar.style.width = `${done * 100}%`;
    this.name.textContent = this.name.title = run?.run ?? '';
    this.renderLegend(points.length > 0, heldOut.length > 0);
    this.chart.render(points, heldOut, run?.stages ?? []);
    this.renderFacts(run, heldOut);
    this.renderBins(run?.bins ?? { first: [], last: [] });
    this.clips.render(run?.run ?? '', state.clips);
    this.renderNews(state, word);
    this.renderTools(run);
  }

  renderLegend(hasPoints, hasHeldOut) {
    const entries = [hasPoints && 'raw', hasPoints && 'smooth', hasHeldOut && 'heldOut'].filter(Boolean);
    this.legend.replaceChildren(...entries.map((name) =>
      element('span', { className: String(name) }, this.text(`monitor.${name}`))));
  }

  /** @param {Run | null} run @param {import('./training_monitor_chart.js').HeldOut[]} heldOut */
  renderFacts(run, heldOut) {
    const seconds = run?.seconds_per_step;
    const memory = run?.memory_bytes;
    const facts = {
      smooth: run?.smooth_loss && short(run.smooth_loss),
      heldOut: heldOut.length && short(/** @type {any} */ (heldOut.at(-1))[1]),
      lr: run?.lr && short(run.lr),
      speed: seconds && (seconds < 1 ? this.text('monitor.perSecond', { number: short(1 / seconds) })
        : this.text('monitor.perStep', { number: short(seconds) })),
      memory: memory && `${(memory / GIB).toFixed(1)} GiB`,
      time: run?.elapsed_seconds && clock(run.elapsed_seconds),
    };
    const known = Object.entries(facts).filter(([, value]) => value);
    this.facts.replaceChildren(...known.map(([name, value]) => element('div', { 'data-fact': name },
      element('dt', {}, this.text(`monitor.${name}`)), element('dd', {}, String(value)))));
  }

  /** @param {Run['bins']} bins */
  renderBins({ first, last }) {
    const highest = Math.max(...last.map(Number), ...first.map(Number), 1e-9);
    /** @type {HTMLElement} */ (this.bins.parentElement).hidden = !last.length;
    this.binsTitle.textContent = this.text('monitor.bins');
    this.bins.replaceChildren(...last.map((loss, idx) => {
      const [from, to] = [idx, idx + 1].map((edge) => Math.round((edge / last.length) * 100));
      const bar = element('div', {
        className: 'bin', title: this.text('monitor.bin', { from, to, now: short(loss), first: short(first[idx]) }),
      });
      bar.style.setProperty('--now', `${(Number(loss) / highest) * 100}%`);
      bar.style.setProperty('--first', `${(Number(first[idx]) / highest) * 100}%`);
      return bar;
    }));
  }

  /** @param {State} state @param {string} word */
  renderNews({ run, error, isStarting, listed }, word) {
    const asked = run?.is_running ? run.asked.map((name) => this.text(`monitor.asked.${name}`)) : [];
    const badly = run && ENDED_BADLY.includes(word) ? this.text(`monitor.${word}`, { run: run.run }) : null;
    const files = run && !badly && run.results.length ? run.results.join(', ') : null;
    const results = files && this.text(`monitor.${listed ? 'listed' : 'results'}`, { files: listed ?? files });
    const lines = [error, badly && run?.error, badly, ...asked, run?.is_running && run.message, run?.warning, results];
    if (!run && !error) lines.push(this.text(isStarting ? 'monitor.loading' : 'monitor.empty'));
    this.news.classList.toggle('failed', Boolean(error || badly));
    const shown = lines.filter(Boolean).map((line) => element('div', {}, String(line)));
    if (this.news.innerText !== shown.map((line) => line.textContent).join('\n')) this.news.replaceChildren(...shown);
  }

  /** @param {Run | null} run */
  renderTools(run) {
    for (const [name, button] of Object.entries(this.buttons)) {
      button.textContent = this.text(`monitor.ask.${name}`);
      button.title = this.text(`monitor.hints.${name}`);
    }
    for (const name of REQUESTS) this.buttons[name].disabled = !run?.is_running || run.asked.includes(name);
    this.buttons.publish.hidden = !run?.results.length;
  }
}
