// @ts-check
// Small helpers for nodes of the graph. No side effects.
import { replaceStale } from './dom.js';

/** Call ours after what a node already does. */
export function follow(node, hook, ours) {
  const original = node[hook];
  node[hook] = function (...args) {
    const result = original?.apply(this, args);
    ours(...args);
    return result;
  };
}

/**
 * Put a panel on a node that holds nothing of its own: it is neither saved nor sent with the prompt.
 * @param {any} node
 * @param {string} name
 * @param {{root: HTMLElement, minHeight: number, size: number[], remove: () => void}} panel
 */
export function addPanel(node, name, { root, minHeight, size, remove }) {
  const widget = node.addDOMWidget(name, name, root, {
    getMinHeight: () => minHeight,
    hideOnZoom: false,
    serialize: false, // not sent with the prompt
  });
  widget.serialize = false; // not saved
  follow(node, 'onConfigure', () => replaceStale(node, root, `.${root.className.split(' ')[0]}`));
  follow(node, 'onRemoved', remove);
  node.setSize(size);
}
