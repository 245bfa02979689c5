// @ts-check
// The board as DOM: what it shows is given to `render`, what the user does is anchor_board_input.js. No side effects.
import { figureArt, slotArt } from './anchor_board_art.js';
import { BOARD_STYLE } from './anchor_board_style.js';
import { mediaUrl } from './lib/api.js';
import { element, styleSheet } from './lib/dom.js';

export const VIEWPOINTS = ['front', 'back', 'left', 'right'];
// In the order in which they are read on the board; the order in the model is another matter.
export const EXPRESSIONS = ['neutral', 'happy', 'surprise', 'sad', 'angry', 'fear', 'disgust', 'contempt'];
export const SLOTS = ['global', ...VIEWPOINTS, ...EXPRESSIONS];

/**
 * @typedef {{code: string, values: Record<string, any>, text: string}} Problem
 * @typedef {{width?: number, height?: number, problems?: Problem[], error?: string, missing?: boolean}} Report
 * @typedef {{title: string, picture: string | null}} Link
 * @typedef {object} BoardState
 * @property {Record<string, string>} files slot -> name in ComfyUI's notation
 * @property {Record<string, Report>} report slot -> what the core found
 * @property {Record<string, Link>} links slot -> the node whose image is used instead of the file
 * @property {Record<string, string>} used slot -> file or 'link' in the last run
 * @property {Set<string>} busy slots that wait for an upload
 * @property {boolean} showsWarnings
 * @property {string | null} fault why the text cannot be read
 */

function makeSlot(slot, text) {
  const parts = {
    art: element('div', { className: 'art', innerHTML: slotArt(slot) }),
    image: element('img', { alt: '', draggable: false }),
    label: element('span', { className: 'label', textContent: text(`board.slots.${slot}`) }),
    size: element('span', { className: 'badge size' }),
    sign: element('span', { className: 'badge sign' }),
    source: element('span', { className: 'badge source' }),
    used: element('span', { className: 'badge used', textContent: '✓', title: text('board.used') }),
    clear: element('button', { className: 'clear', tabIndex: -1, textContent: '×', title: text('board.clear') }),
  };
  const root = element('div', { className: 'gloria-slot', role: 'button', tabIndex: 0, 'data-slot': slot });
  root.append(...Object.values(parts));
  if (VIEWPOINTS.includes(slot)) root.style.gridArea = slot;
  // A file that is gone shows its drawing again; what is wrong is told by the check.
  parts.image.onerror = () => root.classList.remove('pictured');
  parts.image.onload = () => root.classList.add('pictured');
  return { root, ...parts };
}

export class BoardView {
  /** @param {(path: string, values?: Record<string, any>) => string} text */
  constructor(text) {
    this.text = text;
    /** @type {Record<string, ReturnType<typeof makeSlot>>} */
    this.slots = Object.fromEntries(SLOTS.map((slot) => [slot, makeSlot(slot, text)]));
    const at = (names) => names.map((slot) => this.slots[slot].root);
    const faces = element('div', { className: 'gloria-board-faces' }, ...at(EXPRESSIONS));
    const left = element('div', { className: 'gloria-board-left' }, ...at(['global']), faces);
    const figure = element('div', { className: 'gloria-board-figure', innerHTML: figureArt() });
    const views = element('div', { className: 'gloria-board-views' }, ...at(VIEWPOINTS), figure);
    this.status = element('div', { className: 'gloria-board-status', 'aria-live': 'polite' });
    this.root = element('div', { className: 'gloria-board', role: 'group', 'aria-label': text('board.title') });
    this.root.append(styleSheet(BOARD_STYLE), left, views, this.status);
    /** @type {BoardState} */
    this.state = { files: {}, report: {}, links: {}, used: {}, busy: new Set(), showsWarnings: true, fault: null };
    /** @type {string | null} the slot that the status line is about */
    this.subject = null;
  }

  /** @param {BoardState} state */
  render(state) {
    this.state = state;
    for (const slot of SLOTS) this.#renderSlot(slot);
    this.describe(this.subject);
  }

  /** Say in the status line what is in a slot, or how the board as a whole is. @param {string | null} slot */
  describe(slot) {
    this.subject = slot;
    const { level, line } = slot ? this.#slotLine(slot) : this.#boardLine();
    this.status.className = `gloria-board-status ${level}`;
    this.status.textContent = line;
  }

  #renderSlot(slot) {
    const { root, image, size, sign, source, used, clear } = this.slots[slot];
    const { files, report, links, busy } = this.state;
    const link = links[slot];
    const found = (!link && files[slot] && report[slot]) || {};
    const problems = this.#problems(slot);
    const picture = link ? link.picture : files[slot] && mediaUrl('anchors/thumbnail', { name: files[slot] });
    if (image.getAttribute('src') !== (picture || null)) {
      root.classList.remove('pictured');
      if (picture) image.src = picture;
      else image.removeAttribute('src');
    }
    root.classList.toggle('filled', Boolean(files[slot]));
    root.classList.toggle('linked', Boolean(link));
    root.classList.toggle('busy', busy.has(slot));
    root.classList.toggle('failed', Boolean(found.error));
    root.classList.toggle('warned', !found.error && problems.length > 0);
    root.draggable = Boolean(files[slot]) && !link;
    show(size, found.width ? `${found.width}×${found.height}` : '');
    show(sign, found.error || problems.length ? '!' : '');
    show(source, link ? `⇠ ${link.title}` : '');
    const last = this.state.used[slot];
    show(used, last && last === (link ? 'link' : files[slot]) ? '✓' : '');
    clear.setAttribute('aria-label', `${this.text('board.clear')}: ${this.text(`board.slots.${slot}`)}`);
    const { line } = this.#slotLine(slot);
    root.title = line;
    root.setAttribute('aria-label', line);
  }

  #problems(slot) {
    const { files, report, links, showsWarnings } = this.state;
    return (showsWarnings && !links[slot] && files[slot] && report[slot]?.problems) || [];
  }

  #slotLine(slot) {
    const { files, report, links } = this.state;
    const name = this.text(`board.slots.${slot}`);
    if (links[slot]) return { level: '', line: `${name}: ${this.text('board.linked', { title: links[slot].title })}` };
    if (!files[slot]) return { level: '', line: `${name}: ${this.text(`board.hints.${slot}`)}` };
    const found = report[slot] ?? {};
    if (found.error) {
      const reason = found.missing ? this.text('board.missing', { file: files[slot] }) : found.error;
      return { level: 'failed', line: `${name}: ${reason}` };
    }
    const problems = this.#problems(slot).map((problem) => this.#problemText(problem));
    const size = found.width ? ` · ${found.width}×${found.height}` : '';
    const line = [`${name}: ${files[slot]}${size}`, ...problems].join(' · ');
    return { level: problems.length ? 'warned' : '', line };
  }

  /** @param {Problem} problem */
  #problemText({ code, values }) {
    const shown = { ...values };
    if (values.other) shown.other = this.text(`board.slots.${values.other}`);
    if (values.subject) shown.subject = this.text(`board.subjects.${values.subject}`);
    return this.text(`board.problems.${code}`, shown);
  }

  #boardLine() {
    const { files, report, links, fault } = this.state;
    if (fault) return { level: 'failed', line: this.text('board.fault', { fault }) };
    const filled = SLOTS.filter((slot) => files[slot] || links[slot]);
    if (!filled.length) return { level: '', line: this.text('board.empty') };
    const warned = SLOTS.filter((slot) => this.#problems(slot).length);
    const failed = SLOTS.filter((slot) => !links[slot] && report[slot]?.error && files[slot]);
    const parts = [this.text('board.filled', { filled: filled.length, all: SLOTS.length })];
    if (failed.length) parts.push(this.text('board.failed', { count: failed.length }));
    if (warned.length) parts.push(this.text('board.warned', { count: warned.length }));
    return { level: failed.length ? 'failed' : '', line: parts.join(' · ') };
  }
}

function show(badge, text) {
  badge.textContent = text;
  badge.toggleAttribute('data-on', Boolean(text));
}
