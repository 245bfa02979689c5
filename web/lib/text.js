// @ts-check
// Texts of the page in the user's language, from locales/<language>/main.json under `gloria`. No side effects.
import { app } from '../../../scripts/app.js';
import { api } from '../../../scripts/api.js';

/** @type {Promise<(path: string, values?: Record<string, any>) => string> | undefined} */
let loaded;

/** A function that gives the text at a path such as `board.clear`, with `{name}` filled in from values. */
export function texts() {
  loaded ??= api.fetchApi('/i18n').then(async (response) => {
    const languages = await response.json();
    const locale = app.extensionManager?.setting.get('Comfy.Locale') ?? 'en';
    const english = languages.en.gloria;
    const chosen = (languages[locale] ?? languages[locale.split('-')[0]])?.gloria ?? english;
    const at = (tree, path) => path.split('.').reduce((branch, key) => branch?.[key], tree);
    return (path, values = {}) => {
      const text = at(chosen, path) ?? at(english, path) ?? path;
      return text.replace(/\{(\w+)\}/g, (gap, name) => values[name] ?? gap);
    };
  });
  return loaded;
}

/** Hours, minutes and seconds, for example 1:02:03. @param {number} seconds */
export function clock(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, '0');
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}
