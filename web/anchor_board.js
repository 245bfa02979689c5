// @ts-check
// The anchor board on Gloria Anchors: pictures in slots, kept as one text widget (nodes/load_anchors.py reads it).
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { listen, slotsForFiles } from './anchor_board_input.js';
import { BoardView, SLOTS } from './anchor_board_view.js';
import { mediaUrl, post, uploadImage } from './lib/api.js';
import { replaceStale } from './lib/dom.js';
import { follow } from './lib/node.js';
import { texts } from './lib/text.js';

const NODE = 'GloriaLoadAnchors';
const WIDGET = 'GLORIA_ANCHOR_BOARD';
const WARNINGS = 'Gloria.AnchorBoard.Warnings';
const UPLOADS = 'gloria';
const MIN_HEIGHT = 240;
const NEW_NODE_SIZE = [620, 760];
const [MUTED, BYPASSED] = [2, 4];

let text = (path) => path;

const toText = (files) => {
  const filled = SLOTS.filter((slot) => files[slot]);
  return filled.length ? JSON.stringify(Object.fromEntries(filled.map((slot) => [slot, files[slot]]))) : '';
};

/** Files of a text and what is wrong with it; the strict reading is the core's. */
function fromText(content) {
  if (!content.trim()) return { files: {}, fault: null };
  try {
    const entries = Object.entries(JSON.parse(content));
    const isFine = ([slot, name]) => SLOTS.includes(slot) && typeof name === 'string';
    if (entries.every(isFine)) return { files: Object.fromEntries(entries), fault: null };
    return { files: {}, fault: content.slice(0, 80) };
  } catch {
    return { files: {}, fault: content.slice(0, 80) };
  }
}

/** Whether a linked node gives an image when the queue runs. */
function delivers(origin) {
  if (origin.mode === MUTED) return false;
  return origin.mode !== BYPASSED || origin.inputs?.some((input) => input.type === 'IMAGE' && input.link != null);
}

export class AnchorBoard {
  constructor(node) {
    this.node = node;
    this.view = new BoardView(text);
    this.value = '';
    /** @type {string | null} the slot that is being dragged */
    this.dragged = null;
    this.state = { ...this.view.state, showsWarnings: app.extensionManager.setting.get(WARNINGS) ?? true };
    this.render();
    listen(this);
  }

  /** Take over a text: from a workflow, an undo, a copy, or our own change. @param {unknown} content */
  read(content) {
    this.value = typeof content === 'string' ? content : '';
    const report = Object.fromEntries(Object.entries(this.state.report).filter(([slot]) => this.isKept(slot)));
    Object.assign(this.state, fromText(this.value), { report });
    this.readLinks();
    this.check();
  }

  isKept(slot) {
    return fromText(this.value).files[slot] === this.state.files[slot];
  }

  render() {
    this.view.render(this.state);
  }

  /** Ask the core about size, crop, blur and doubles of all pictures. */
  async check() {
    const asked = this.value;
    if (!Object.keys(this.state.files).length) return;
    const report = await post('anchors/check', { anchors: this.state.files }).catch((error) => this.fail(error));
    if (report && asked === this.value) {
      this.state.report = report;
      this.render();
    }
  }

  /** Show which slots a link overrides. */
  readLinks() {
    this.state.links = {};
    for (const slot of SLOTS) {
      const name = slot === 'global' ? 'global_image' : slot;
      const idx = this.node.inputs?.findIndex((input) => input.name === name && input.link != null) ?? -1;
      const origin = idx >= 0 ? this.node.getInputNode(idx) : null;
      if (idx >= 0 && (origin === null || delivers(origin))) this.state.links[slot] = linkShown(origin);
    }
    this.render();
  }

  /** @param {Record<string, string>} [used] what ran; a result from the cache came from what is shown now */
  markUsed(used) {
    this.readLinks();
    const linked = Object.fromEntries(Object.keys(this.state.links).map((slot) => [slot, 'link']));
    this.state.used = used ?? { ...this.state.files, ...linked };
    this.render();
  }

  clear(slot) {
    if (this.state.files[slot] && !this.state.links[slot]) this.change({ [slot]: undefined });
  }

  swap(from, to) {
    const { files } = this.state;
    if (from !== to) this.change({ [from]: files[to], [to]: files[from] });
  }

  put(slot, name) {
    this.change({ [slot]: name });
  }

  /** @param {File[]} files @param {string | null} target */
  async putFiles(files, target) {
    const slots = slotsForFiles(files, target, { ...this.state.files, ...this.state.links });
    const pairs = files.map((file, idx) => ({ file, slot: slots[idx] })).filter(({ slot }) => slot);
    if (pairs.length < files.length) this.complain('board.full');
    for (const { slot } of pairs) this.state.busy.add(slot);
    this.render();
    for (const { file, slot } of pairs) {
      const name = await uploadImage(file, UPLOADS).catch((error) => this.fail(error));
      this.state.busy.delete(slot);
      if (name) this.put(slot, name);
      else this.render();
    }
  }

  /** A picture that the page itself shows: one in the input folder is used as it is, any other is copied there. */
  async putAddress(address, target) {
    const query = new URL(address, location.href).searchParams;
    const name = query.get('filename');
    const subfolder = query.get('subfolder');
    const slot = slotsForFiles([{ name: name ?? '' }], target, { ...this.state.files, ...this.state.links })[0];
    if (!slot) return this.complain('board.full');
    if (name && query.get('type') === 'input') return this.put(slot, subfolder ? `${subfolder}/${name}` : name);
    query.delete('preview');
    const path = name ? api.apiURL(`/view?${query}`) : address;
    const blob = await fetch(path).then((answer) => (answer.ok ? answer.blob() : null)).catch(() => null);
    if (!blob?.type.startsWith('image/')) return this.complain('board.noPicture');
    return this.putFiles([new File([blob], name ?? 'picture.png', { type: blob.type })], slot);
  }

  /** Change some slots as one step that can be undone. @param {Record<string, string | undefined>} changes */
  change(changes) {
    this.widget.value = toText({ ...this.state.files, ...changes });
    this.node.graph?.setDirtyCanvas(true, true);
    const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
    if (tracker?.captureCanvasState) tracker.captureCanvasState();
    else tracker?.checkState?.(); // its name before frontend 1.45
  }

  complain(path) {
    app.extensionManager.toast.add({ severity: 'warn', summary: text('board.title'), detail: text(path), life: 6000 });
  }

  fail(error) {
    app.extensionManager.toast.add({
      severity: 'error', summary: text('board.title'), detail: error.message, life: 10_000,
    });
  }
}

function linkShown(origin) {
  const name = origin?.widgets?.find((widget) => widget.name === 'image')?.value;
  const picture = typeof name === 'string' ? mediaUrl('anchors/thumbnail', { name }) : (origin?.imgs?.[0]?.src ?? null);
  return { title: origin?.title ?? text('board.link'), picture };
}

function makeWidget(node, name) {
  const board = new AnchorBoard(node);
  board.widget = node.addDOMWidget(name, WIDGET.toLowerCase(), board.view.root, {
    getValue: () => board.value,
    setValue: (content) => board.read(content),
    getMinHeight: () => MIN_HEIGHT,
    hideOnZoom: false,
  });
  // Links change one by one while a workflow opens: look once, when it is done.
  follow(node, 'onConnectionsChange', () => queueMicrotask(() => board.readLinks()));
  follow(node, 'onConfigure', () => {
    queueMicrotask(() => board.readLinks());
    replaceStale(node, board.view.root, '.gloria-board');
  });
  follow(node, 'onExecuted', (output) => board.markUsed(JSON.parse(output?.gloria_anchors?.[0] ?? '{}')));
  node.gloriaBoard = board;
  return { widget: board.widget };
}

app.registerExtension({
  name: 'gloria.AnchorBoard',
  settings: [
    {
      id: WARNINGS,
      category: ['Gloria', 'Anchor board', 'Warnings'],
      name: 'Warn about small, badly cropped, blurred or doubled anchor pictures',
      type: 'boolean',
      defaultValue: true,
      onChange: (isOn) => {
        for (const { gloriaBoard } of app.graph?.nodes ?? []) {
          if (!gloriaBoard) continue;
          gloriaBoard.state.showsWarnings = isOn;
          gloriaBoard.render();
        }
      },
    },
  ],
  async init() {
    text = await texts();
    api.addEventListener('execution_cached', ({ detail }) => {
      for (const { id, gloriaBoard } of app.graph?.nodes ?? []) {
        if (detail.nodes.includes(String(id))) gloriaBoard?.markUsed();
      }
    });
  },
  getCustomWidgets: () => ({ [WIDGET]: makeWidget }),
  nodeCreated(node) {
    if (node.comfyClass === NODE) node.setSize(NEW_NODE_SIZE);
  },
});
