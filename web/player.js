// @ts-check
// The player on Gloria Long Video Sampler: finished chunks with sound while the rest renders, cancel, resume, redo.
// All it shows is read from the job folders (nodes/bridge/routes_films.py), so a reload or a restart loses nothing.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { get, mediaUrl } from './lib/api.js';
import { addPanel } from './lib/node.js';
import { texts } from './lib/text.js';
import { PlayerView } from './player_view.js';

const NODE = 'GloriaSampleLongVideo';
const WIDGET = 'film_player';
const FILM_EVENT = 'gloria.film';
const MIN_HEIGHT = 320;
const NEW_NODE_SIZE = [420, 860];
const LOOK_MS = 700;
const SEED_LIMIT = 2 ** 53;

let text = (path) => path;

class Player {
  constructor(node) {
    this.node = node;
    this.job = '';
    this.isReading = false;
    this.isStale = false;
    /** @type {string | null} a take picked by hand; otherwise the newest is shown */
    this.picked = null;
    /** @type {import('./player_view.js').State} */
    this.state = { film: null, takes: [], chosen: 0, running: null, error: null };
    this.view = new PlayerView((path, values) => text(path, values), {
      next: () => this.next(),
      show: (index) => this.show(index, true),
      run: () => (this.state.running ? this.cancel() : this.queue()),
      redo: (seed) => this.redo(seed),
      choose: (folder) => this.choose(folder),
    });
    this.listener = ({ detail }) => this.hear(detail);
    api.addEventListener(FILM_EVENT, this.listener);
    // The name may come from a workflow, an undo or a keyboard.
    this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  widget(name) {
    return this.node.widgets.find((entry) => entry.name === name);
  }

  look() {
    const job = String(this.widget('job_name')?.value ?? '');
    if (!this.node.graph || job === this.job) return;
    this.job = job;
    this.picked = null;
    this.state = { film: null, takes: [], chosen: 0, running: null, error: null };
    this.refresh();
  }

  /** Read takes, chunks and what is going on; news that come meanwhile are read once, afterwards. */
  async refresh() {
    this.isStale = true;
    if (this.isReading) return;
    this.isReading = true;
    while (this.isStale) {
      this.isStale = false;
      await this.read();
    }
    this.isReading = false;
  }

  async read() {
    const { job } = this;
    try {
      const takes = await get('films', { job });
      const folder = this.picked ?? takes[0]?.folder;
      const film = folder ? await get(`films/${folder}`) : null;
      if (job !== this.job) return;
      const hasNew = film?.folder !== this.state.film?.folder;
      const goesOn = takes.some((take) => take.running);
      const running = film?.running ?? (goesOn ? this.state.running : null);
      Object.assign(this.state, { takes, film, running, error: null });
      if (hasNew) this.state.chosen = 0;
    } catch (error) {
      this.state.error = error.message;
    }
    this.render();
  }

  /** What the sampler says while it works. */
  hear(detail) {
    if (detail.job !== this.job) return;
    this.state.running = detail.ended ? null : detail;
    const isElsewhere = !this.picked && detail.folder !== this.state.film?.folder;
    if (detail.ended || detail.finished !== undefined || isElsewhere) this.refresh();
    else this.render();
  }

  render() {
    this.view.render(this.state);
    this.screen(this.view.screen.isPlaying);
  }

  address(index) {
    const { film } = this.state;
    const preview = film?.chunks[index]?.preview;
    return preview ? mediaUrl(`films/${film.folder}/previews/${index}`, { of: preview }) : null;
  }

  screen(plays) {
    this.view.screen.show(this.address(this.state.chosen), this.address(this.state.chosen + 1), plays);
  }

  show(index, plays) {
    this.state.chosen = index;
    this.view.render(this.state);
    this.screen(plays);
  }

  next() {
    if (this.address(this.state.chosen + 1)) this.show(this.state.chosen + 1, true);
  }

  choose(folder) {
    this.picked = folder;
    this.refresh();
  }

  async cancel() {
    await api.interrupt(this.state.running?.prompt_id ?? null);
  }

  /** Queue the graph: chunks that are on disk are kept, so this is how a film goes on. */
  async queue() {
    this.picked = null;
    await app.queuePrompt(0, 1);
  }

  /** Another take from the chosen chunk on: its seed goes into the `seeds` widget, and the graph into the queue. */
  async redo(typed) {
    const { chosen, running } = this.state;
    const seed = /^\d{1,20}$/.test(typed.trim()) ? typed.trim() : String(Math.floor(Math.random() * SEED_LIMIT));
    const widget = this.widget('seeds');
    const others = String(widget.value ?? '').split(/[,\n]/).map((part) => part.trim())
      .filter((part) => part && Number(part.split(':')[0]) !== chosen);
    widget.value = [...others, `${chosen}: ${seed}`]
      .sort((a, b) => Number(a.split(':')[0]) - Number(b.split(':')[0])).join(', ');
    this.view.seed.value = '';
    this.node.graph?.setDirtyCanvas(true, true);
    app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
    if (running) await this.cancel();
    await this.queue();
  }

  remove() {
    clearInterval(this.timer);
    api.removeEventListener(FILM_EVENT, this.listener);
    this.view.screen.remove();
  }
}

app.registerExtension({
  name: 'gloria.Player',
  async init() {
    text = await texts();
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const player = new Player(node);
    addPanel(node, WIDGET, {
      root: player.view.root, minHeight: MIN_HEIGHT, size: NEW_NODE_SIZE, remove: () => player.remove(),
    });
  },
});
