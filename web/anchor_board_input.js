// @ts-check
// What the user does on a board: drop, paste, keys and clicks, turned into calls on the board. No side effects.
import { element } from './lib/dom.js';
import { SLOTS } from './anchor_board_view.js';

const SLOT_DRAG = 'application/x-gloria-slot';
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @typedef {import('./anchor_board.js').AnchorBoard} AnchorBoard */

const slotOf = (target) => target?.closest?.('[data-slot]')?.dataset.slot ?? null;
const picturesOf = (files) => [...(files ?? [])].filter((file) => file.type.startsWith('image/'));

/**
 * The slots for several files: those that their names mention, then the target and the empty ones after it.
 * @param {{name: string}[]} files
 * @param {string | null} target
 * @param {Record<string, string>} taken
 */
export function slotsForFiles(files, target, taken) {
  const start = Math.max(target ? SLOTS.indexOf(target) : 0, 0);
  const free = [...SLOTS.slice(start), ...SLOTS.slice(0, start)].filter((slot) => slot === target || !taken[slot]);
  const named = files.map((file) => {
    const words = file.name.toLowerCase().split(/[^a-z]+/);
    return files.length > 1 ? SLOTS.find((slot) => words.includes(slot)) : undefined;
  });
  const rest = free.filter((slot) => !named.includes(slot));
  const used = new Set();
  return named.map((slot) => {
    const chosen = slot && !used.has(slot) ? slot : rest.shift();
    if (chosen) used.add(chosen);
    return chosen;
  });
}

/** @param {AnchorBoard} board @param {string | null} slot */
function pickFiles(board, slot) {
  const onchange = () => board.putFiles(picturesOf(input.files), slot);
  const input = element('input', { type: 'file', accept: 'image/*', multiple: true, onchange });
  input.click();
}

/** The slot next to another in the direction of an arrow key. */
function neighbour(board, slot, [right, down]) {
  const center = (name) => {
    const box = board.view.slots[name].root.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const [x, y] = center(slot);
  const far = (name) => {
    const [dx, dy] = [center(name)[0] - x, center(name)[1] - y];
    const ahead = dx * right + dy * down;
    // Slots of one group are nearer to each other than they look.
    const isOfGroup = board.view.slots[name].root.parentElement === board.view.slots[slot].root.parentElement;
    return ahead < 4 ? Infinity : (ahead + 2 * Math.abs(dx * down + dy * right)) * (isOfGroup ? 1 : 1.5);
  };
  const [nearest] = SLOTS.filter((name) => name !== slot).sort((a, b) => far(a) - far(b));
  return far(nearest) < Infinity ? nearest : slot;
}

function onKey(board, event) {
  const slot = slotOf(event.target);
  if (!slot || event.ctrlKey || event.metaKey || event.altKey) return;
  if (ARROWS[event.key]) board.view.slots[neighbour(board, slot, ARROWS[event.key])].root.focus();
  else if (event.key === 'Delete' || event.key === 'Backspace') board.clear(slot);
  else if (event.key === 'Enter' || event.key === ' ') pickFiles(board, slot);
  else if (event.key === 'Escape') event.target.blur();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function onClick(board, event) {
  const slot = slotOf(event.target);
  if (!slot) return;
  if (event.target.closest('.clear')) board.clear(slot);
  else if (!board.state.files[slot] || event.detail === 2) pickFiles(board, slot);
}

function onDragStart(board, event) {
  const slot = slotOf(event.target);
  if (!slot) return;
  board.dragged = slot;
  event.dataTransfer.setData(SLOT_DRAG, board.state.files[slot]);
  event.dataTransfer.effectAllowed = 'copyMove';
  const { root, image } = board.view.slots[slot];
  event.dataTransfer.setDragImage(image, image.clientWidth / 2, image.clientHeight / 2);
  root.classList.add('dragged');
  event.stopPropagation();
}

function markTarget(board, slot) {
  for (const name of SLOTS) board.view.slots[name].root.classList.toggle('target', name === slot);
}

function onDragOver(board, event) {
  event.preventDefault();
  event.stopPropagation();
  event.dataTransfer.dropEffect = board.dragged ? 'move' : 'copy';
  markTarget(board, slotOf(event.target));
}

function onDrop(board, event) {
  event.preventDefault();
  event.stopPropagation();
  markTarget(board, null);
  const slot = slotOf(event.target);
  const { dataTransfer } = event;
  const name = dataTransfer.getData(SLOT_DRAG);
  const address = dataTransfer.getData('text/uri-list').split(/\r?\n/).find((line) => line && !line.startsWith('#'));
  if (name) {
    if (slot && board.dragged) board.swap(board.dragged, slot);
    else if (slot) board.put(slot, name); // from another board
  } else if (address && new URL(address, location.href).origin === location.origin) {
    board.putAddress(address, slot);
  } else {
    const files = picturesOf(dataTransfer.files);
    if (files.length) board.putFiles(files, slot);
    else board.complain('board.noPicture');
  }
}

function onPaste(board, event) {
  const files = picturesOf(event.clipboardData?.files);
  if (!files.length) return;
  event.preventDefault();
  event.stopPropagation();
  board.putFiles(files, slotOf(event.target) ?? slotOf(document.activeElement));
}

/** @param {AnchorBoard} board */
export function listen(board) {
  const { root } = board.view;
  const on = (kind, handler) => root.addEventListener(kind, (event) => handler(board, event));
  on('keydown', onKey);
  on('click', onClick);
  on('paste', onPaste);
  on('dragstart', onDragStart);
  on('dragover', onDragOver);
  on('drop', onDrop);
  on('dragleave', () => markTarget(board, null));
  on('dragend', () => {
    board.view.slots[board.dragged]?.root.classList.remove('dragged');
    board.dragged = null;
  });
  // A press on a slot is not the start of moving the node; the middle button still moves the canvas.
  on('pointerdown', (_, event) => event.button === 0 && slotOf(event.target) && event.stopPropagation());
  on('dblclick', (_, event) => event.stopPropagation());
  on('focusin', (_, event) => board.view.describe(slotOf(event.target)));
  on('focusout', () => board.view.describe(null));
  on('pointerover', (_, event) => board.view.describe(slotOf(event.target)));
  on('pointerleave', () => board.view.describe(slotOf(document.activeElement)));
  on('pointerenter', () => board.readLinks());
}
