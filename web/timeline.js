// @ts-check
// The strip under the cues of a Gloria Timeline. The text widget holds everything; the strip only shows what the core
// (nodes/bridge/routes_timeline.py) makes of it and of the graph around the node.
import { app } from '../../scripts/app.js';
import { Attention } from './attention.js';
import { post } from './lib/api.js';
import { addPanel } from './lib/node.js';
import { texts } from './lib/text.js';
import { filmAround } from './timeline_graph.js';
import { TimelineView } from './timeline_view.js';
import { readWave } from './timeline_wave.js';

const NODE = 'GloriaEncodeTimeline';
const WIDGET = 'timeline_strip';
const MIN_HEIGHT = 150;
const NEW_NODE_SIZE = [560, 520];
// Texts, widgets and links change in many ways and in two renderers; looking now and then sees all of them.
const LOOK_MS = 400;
// Of a film whose length is not known, this much is shown behind the last cue.
const OPEN_END_SECONDS = 5;

let text = (path) => path;

class Timeline {
  constructor(node) {
    this.node = node;
    this.view = new TimelineView((path, values) => text(path, values));
    this.attention = new Attention(node, this.view, (path, values) => text(path, values));
    this.seen = '';
    this.waves = new Map();
    this.shown = { cues: [], chunks: null, seconds: 1, wave: null, error: null, hint: null };
    this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  /** Bring the strip up to date when anything it shows has changed. */
  look() {
    if (!this.node.graph) return;
    const cues = String(this.node.widgets?.find((widget) => widget.name === 'cues')?.value ?? '');
    const film = filmAround(this.node);
    const wave = film?.audio ? this.wave(film.audio) : null;
    const now = JSON.stringify([cues, film, wave?.seconds]);
    if (now === this.seen) return;
    this.seen = now;
    this.update(cues, film, wave, now);
  }

  async update(cues, film, wave, asked) {
    const frames = framesOf(film, wave);
    const sizes = frames && film?.chunk ? { frames, fps: film.fps, ...film.chunk } : {};
    const answer = await post('timeline', { cues, ...sizes }).catch((error) => ({ error: error.message }));
    if (asked !== this.seen) return; // typed on meanwhile
    if (answer.error) {
      Object.assign(this.shown, { error: answer.error });
    } else {
      const open = Math.max(answer.cues.at(-1).seconds + OPEN_END_SECONDS, wave?.seconds ?? 0);
      const seconds = answer.seconds ?? (frames && film ? frames / film.fps : open);
      const hint = film ? text(film.chunk ? 'timeline.noLength' : 'timeline.noSampler') : text('timeline.noFilm');
      this.shown = { cues: answer.cues, chunks: answer.chunks ?? null, seconds, wave, error: null, hint };
    }
    this.view.render(this.shown);
    this.attention.place(film?.job, this.shown.seconds);
  }

  /** The recording's shape; null until it is read or when it cannot be. */
  wave(name) {
    if (!this.waves.has(name)) {
      this.waves.set(name, null);
      readWave(name).then((wave) => this.waves.set(name, wave)).catch(() => {});
    }
    return this.waves.get(name);
  }

  remove() {
    clearInterval(this.timer);
    this.view.remove();
    this.attention.remove();
  }
}

/** Frames of the film, or undefined when only a run will tell. */
function framesOf(film, wave) {
  if (!film || film.length === undefined) return undefined;
  if (film.length > 0) return film.length;
  // As the core counts; the page's resampling makes the sound longer by less than a sample.
  return wave ? Math.ceil(wave.seconds * film.fps - 0.01) : undefined;
}

app.registerExtension({
  name: 'gloria.Timeline',
  async init() {
    text = await texts();
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const timeline = new Timeline(node);
    addPanel(node, WIDGET, {
      root: timeline.view.root, minHeight: MIN_HEIGHT, size: NEW_NODE_SIZE, remove: () => timeline.remove(),
    });
  },
});
