// @ts-check
// Line drawings for empty slots: a face for each expression, a figure for each viewpoint. No side effects.

const HEAD = '<circle cx="24" cy="24" r="19"/>';
const FACES = {
  surprise: '<path d="M13 13q4-4 8-1M27 12q4-3 8 1"/><circle cx="17" cy="21" r="2.6"/><circle cx="31" cy="21" r="2.6"/><ellipse cx="24" cy="34" rx="4" ry="5"/>',
  angry: '<path d="M12 14l9 4M36 14l-9 4M16 35q8-6 16 0"/><path class="dot" d="M17 22v.1M31 22v.1"/>',
  disgust: '<path d="M12 17l9 1M27 18l9-3M14 22h6M28 22h6M15 34q4-5 8-1t10-2M22 26q2-2 4 0"/>',
  fear: '<path d="M12 17l8-5M36 17l-8-5M14 35l4-4 4 3 4-3 4 3 4-3"/><circle cx="17" cy="22" r="3"/><circle cx="31" cy="22" r="3"/>',
  contempt: '<path d="M13 16h8M27 14q4-2 8 0M13 21h8M27 21h8M17 34h9q6-1 7-5"/>',
  sad: '<path d="M12 17l8-4M36 17l-8-4M16 36q8-7 16 0M34 25q3 4 0 6-3-2 0-6"/><path class="dot" d="M17 22v.1M31 22v.1"/>',
  neutral: '<path d="M13 16h8M27 16h8M17 33h14"/><path class="dot" d="M17 22v.1M31 22v.1"/>',
  happy: '<path d="M13 15q4-3 8 0M27 15q4-3 8 0M14 22q3-4 6 0M28 22q3-4 6 0M14 30q10 11 20 0z"/>',
};
const BODY = '<path d="M17 27h14l3 17h-4l-1 23h-4l-1-18-1 18h-4l-1-23h-4z"/>';
const PROFILE = '<path d="M20 27h8q3 8 2 17l-2 23h-7l-2-23q-2-9 1-17z"/>';
const VIEWS = {
  front: `${BODY}<circle cx="24" cy="14" r="9"/><path class="dot" d="M21 13v.1M27 13v.1"/><path d="M21 18q3 2 6 0"/>`,
  back: `${BODY}<path d="M15 15a9 9 0 0 1 18 0v9H15z"/><path d="M19 11v9M24 9v11M29 11v9"/>`,
  left: `${PROFILE}<path d="M16 12a9 9 0 1 1 8 11h-4v-3h-4l1-3-3-1z"/><path class="dot" d="M20 13v.1"/>`,
  right: `${PROFILE}<path d="M32 12a9 9 0 1 0-8 11h4v-3h4l-1-3 3-1z"/><path class="dot" d="M28 13v.1"/>`,
};
const SCENE =
  '<rect x="2" y="2" width="60" height="36" rx="3"/><circle cx="50" cy="11" r="4"/><path d="M2 32l14-12 10 9 8-6 28 15"/><circle cx="34" cy="15" r="4"/><path d="M29 31v-6q0-4 5-4t5 4v8"/>';
const TURNTABLE =
  '<ellipse cx="24" cy="68" rx="20" ry="6"/><path d="M21 77l3 3 3-3M3 65l-3 3 3 3M45 65l3 3-3 3"/>';

function drawing(width, height, shapes) {
  return `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true">${shapes}</svg>`;
}

/**
 * SVG of an empty slot.
 * @param {string} slot
 */
export function slotArt(slot) {
  if (FACES[slot]) return drawing(48, 48, HEAD + FACES[slot]);
  return VIEWS[slot] ? drawing(48, 70, VIEWS[slot]) : drawing(64, 40, SCENE);
}

/** SVG of the figure in the middle of the viewpoints. */
export function figureArt() {
  return drawing(50, 82, `<g transform="translate(1)">${VIEWS.front}${TURNTABLE}</g>`);
}
