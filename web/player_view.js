// @ts-check
// What the player shows: a screen, the chunks as cells, what is going on, and the buttons. No side effects.
import { element, keepEvents, styleSheet } from './lib/dom.js';
import { clock } from './lib/text.js';
import { Screen } from './player_screen.js';
import { PLAYER_STYLE } from './player_style.js';

// So many cells still have room for their numbers.
const MAX_NUMBERED = 24;

/**
 * @typedef {{index: number, is_done: boolean, start: number, seconds: number, seed: string, preview: string | null,
 *   is_rough: boolean, prompt: string | null, anchors: string | null}} Chunk
 * @typedef {{folder: string, chunks: Chunk[], running: any}} Film
 * @typedef {{film: Film | null, takes: {folder: string}[], chosen: number, running: any, error: string | null}} State
 */
export class PlayerView {
  /** @param {(path: string, values?: Record<string, any>) => string} text @param {Record<string, Function>} actions */
  constructor(text, actions) {
    this.text = text;
    this.screen = new Screen(() => actions.next());
    this.badge = element('div', { className: 'badge', hidden: true });
    this.note = element('div', { className: 'note' });
    this.bar = element('div');
    this.doing = element('span');
    this.left = element('span');
    this.cells = element('div', { className: 'cells' });
    this.about = element('div', { className: 'about', role: 'status' });
    this.run = element('button', { onclick: () => actions.run(), 'data-action': 'run' });
    this.redo = element('button', { onclick: () => actions.redo(this.seed.value), 'data-action': 'redo' });
    this.seed = element('input', { inputMode: 'numeric', 'aria-label': 'seed' });
    this.takes = element('select', { onchange: () => actions.choose(this.takes.value) });
    const screen = element('div', { className: 'screen' }, ...this.screen.videos, this.badge, this.note);
    this.root = element('div', { className: 'gloria-player' }, styleSheet(PLAYER_STYLE), screen,
      element('div', { className: 'bar' }, this.bar),
      element('div', { className: 'state' }, this.doing, this.left), this.cells, this.about,
      element('div', { className: 'tools' }, this.run, this.redo, this.seed, this.takes));
    keepEvents(this.root, ['pointerdown', 'dblclick', 'keydown', 'wheel']);
    this.choose = (index) => actions.show(index);
  }

  /** @param {State} state */
  render(state) {
    const { film, running } = state;
    const chunks = film?.chunks ?? [];
    const isShown = running?.folder === film?.folder;
    const numDone = chunks.filter((chunk) => chunk.is_done).length;
    const isSampling = isShown && running?.num_steps && !chunks[running.chunk]?.is_done;
    const part = isSampling ? running.step / running.num_steps : 0;
    this.bar.style.width = `${chunks.length ? ((numDone + part) / chunks.length) * 100 : 0}%`;
    this.doing.textContent = this.doingText(chunks, numDone, isShown ? running : null);
    const eta = running?.eta_seconds;
    this.left.textContent = eta === undefined ? '' : this.text('player.left', { time: clock(eta) });
    this.renderCells(state, part);
    this.renderAbout(state);
    this.renderTools(state, chunks.length > 0 && numDone === chunks.length);
  }

  doingText(chunks, numDone, running) {
    if (running?.step && !chunks[running.chunk]?.is_done) {
      const values = { chunk: running.chunk, step: running.step, steps: running.num_steps };
      return this.text('player.sampling', { ...values, done: numDone, all: running.num_chunks });
    }
    if (running) return this.text('player.starting', { done: numDone, all: running.num_chunks });
    return chunks.length ? this.text('player.done', { done: numDone, all: chunks.length }) : '';
  }

  /** @param {State} state @param {number} part */
  renderCells({ film, running, chosen }, part) {
    const chunks = film?.chunks ?? [];
    if (this.cells.childElementCount !== chunks.length) {
      this.cells.replaceChildren(...chunks.map(({ index }) => {
        const properties = { className: 'cell', onclick: () => this.choose(index), 'data-chunk': String(index) };
        return element('button', properties, element('span', {}, String(index)));
      }));
    }
    this.cells.classList.toggle('many', chunks.length > MAX_NUMBERED);
    for (const { index, is_done: isDone, seconds, start, seed } of chunks) {
      const cell = /** @type {HTMLElement} */ (this.cells.children[index]);
      const isSampling = !isDone && running?.folder === film?.folder && running?.chunk === index;
      cell.className = ['cell', isDone && 'done', isSampling && 'sampling', index === chosen && 'chosen']
        .filter(Boolean).join(' ');
      cell.style.flexGrow = String(seconds);
      cell.style.setProperty('--part', `${isSampling ? part * 100 : 0}%`);
      cell.title = this.text('player.cell', { chunk: index, start: clock(start), stop: clock(start + seconds), seed });
    }
  }

  /** @param {State} state */
  renderAbout({ film, chosen, running, error }) {
    const chunk = film?.chunks[chosen];
    const problem = error ?? running?.problem;
    this.badge.hidden = !chunk?.preview;
    this.badge.textContent = chunk?.is_rough ? this.text('player.rough', { chunk: chosen }) : String(chosen);
    this.note.hidden = Boolean(chunk?.preview);
    this.note.textContent = this.text(!chunk ? 'player.empty' : chunk.is_done ? 'player.noPreview' : 'player.notYet');
    this.about.classList.toggle('failed', Boolean(problem));
    if (problem || !chunk) {
      this.about.replaceChildren(problem ?? '');
      return;
    }
    const [start, stop] = [clock(chunk.start), clock(chunk.start + chunk.seconds)];
    const anchors = chunk.anchors && chunk.anchors !== 'all' ? ` [${chunk.anchors}]` : '';
    this.about.replaceChildren(
      element('b', {}, this.text('player.chunk', { chunk: chosen, start, stop })),
      ` ${this.text('player.seed', { seed: chunk.seed })}`,
      chunk.prompt ? element('div', {}, `${chunk.prompt}${anchors}`) : '',
    );
    this.about.title = chunk.prompt ?? '';
  }

  /** @param {State} state @param {boolean} isComplete */
  renderTools({ film, takes, chosen, running }, isComplete) {
    const action = running ? 'cancel' : !film ? 'render' : isComplete ? 'complete' : 'resume';
    this.run.textContent = this.text(`player.${action}`);
    this.run.className = running ? 'cancel' : 'main';
    this.run.disabled = !running && isComplete;
    this.redo.textContent = this.text('player.redo', { chunk: chosen });
    this.redo.disabled = !film?.chunks[chosen]?.is_done;
    this.seed.placeholder = this.text('player.newSeed');
    this.takes.hidden = takes.length < 2;
    const names = takes.map(({ folder }, idx) => {
      const label = this.text('player.take', { number: takes.length - idx });
      return element('option', { value: folder, title: folder, selected: folder === film?.folder }, label);
    });
    if (document.activeElement !== this.takes) this.takes.replaceChildren(...names);
  }
}
