// @ts-check
// Requests to this pack's routes (nodes/bridge/routes.py) and to ComfyUI's own uploads and files. No side effects.
import { api } from '../../../scripts/api.js';

const HEADER = 'X-Gloria-Request';

/** @param {Response} response */
async function contentOf(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ?? `ComfyUI answered ${response.status} ${response.statusText}`);
  return content;
}

/**
 * Ask without changing anything.
 * @param {string} path below /gloria, for example `jobs`
 * @param {Record<string, string>} [query]
 */
export async function get(path, query = {}) {
  return contentOf(await api.fetchApi(`/gloria/${path}?${new URLSearchParams(query)}`));
}

/**
 * Change something, or ask what is too long for an address.
 * @param {string} path below /gloria
 * @param {object} body
 */
export async function post(path, body) {
  const headers = { 'Content-Type': 'application/json', [HEADER]: '1' };
  return contentOf(await api.fetchApi(`/gloria/${path}`, { method: 'POST', headers, body: JSON.stringify(body) }));
}

/**
 * Address of a media file that one of our GET routes serves, for `<img>`, `<video>` and `<audio>`.
 * @param {string} path below /gloria
 * @param {Record<string, string>} [query]
 */
export function mediaUrl(path, query = {}) {
  return api.apiURL(`/gloria/${path}?${new URLSearchParams(query)}`);
}

/**
 * Put a file into ComfyUI's input folder.
 * @param {File} file
 * @param {string} subfolder
 * @returns {Promise<string>} its name in ComfyUI's notation: `subfolder/name`
 */
export async function uploadImage(file, subfolder) {
  const body = new FormData();
  body.append('image', file);
  body.append('type', 'input');
  body.append('subfolder', subfolder);
  const saved = await contentOf(await api.fetchApi('/upload/image', { method: 'POST', body }));
  return saved.subfolder ? `${saved.subfolder}/${saved.name}` : saved.name;
}

/**
 * Address of a file in ComfyUI's folders.
 * @param {string} name `folder/picture.png [output]`; without a mark it is in the input folder
 * @param {Record<string, string>} [query] for example `{preview: 'webp;80'}`
 */
export function viewUrl(name, query = {}) {
  const [, path, type = 'input'] = /** @type {RegExpExecArray} */ (/^(.*?)(?: ?\[(input|output|temp)\])?$/s.exec(name));
  const cut = path.lastIndexOf('/');
  const place = { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type };
  return api.apiURL(`/view?${new URLSearchParams({ ...place, ...query })}`);
}
