// @ts-check
// Small helpers for building DOM. No side effects.

/**
 * An element with properties and children: `element('button', { className: 'x', onclick }, 'Save')`.
 * Keys with a hyphen (`aria-label`, `data-slot`) and `role` become attributes; children may be null.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * The style sheet of a widget, to be put into it: the page's own head stays untouched.
 * @param {string} css
 */
export const styleSheet = (css) => element('style', { textContent: css });

/**
 * Keys, pointers and drops inside `root` are the widget's own and do not also act on the graph.
 * @param {HTMLElement} root
 * @param {string[]} kinds names of events
 */
export function keepEvents(root, kinds) {
  for (const kind of kinds) root.addEventListener(kind, (event) => event.stopPropagation());
}

/**
 * Call from a DOM widget's `onConfigure`. After an undo, Nodes 2.0 may go on showing the element of the node that was
 * there before under the same id: it puts a widget's element into the page only once. Ours takes its place.
 * @param {{id: string | number}} node
 * @param {HTMLElement} root the widget's element
 * @param {string} selector finds such an element
 */
export function replaceStale(node, root, selector) {
  // Two frames: the page has then taken over the new graph.
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      const shown = document.querySelector(`[data-node-id="${node.id}"] ${selector}`);
      if (shown && shown !== root) shown.replaceWith(root);
    }),
  );
}

/**
 * Whether anybody can see an element now: in a window that is shown, and not beside it.
 * @param {HTMLElement} root
 */
export function isSeen(root) {
  if (document.hidden || !root.isConnected || !root.checkVisibility()) return false;
  const { left, top, right, bottom } = root.getBoundingClientRect();
  return right > Math.max(left, 0) && bottom > Math.max(top, 0) && left < innerWidth && top < innerHeight;
}
