// @ts-check
// The training monitor on Gloria Train and Gloria Train Monitor: losses, state, validation clips, and what can be asked
// of a run. All it shows is read from the run's folder (nodes/bridge/routes_training.py), so it does not matter which
// tab started the run, and a reload or a restart loses nothing.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { get, post } from './lib/api.js';
import { isSeen } from './lib/dom.js';
import { addPanel } from './lib/node.js';
import { texts } from './lib/text.js';
import { MonitorView } from './training_monitor_view.js';

const TRAIN = 'GloriaTrainModel';
const WATCH = 'GloriaMonitorTraining';
const WIDGET = 'training_monitor';
const NEWEST = 'newest';
const MIN_HEIGHT = 500;
const NEW_NODE_SIZES = { [TRAIN]: [600, 980], [WATCH]: [600, 740] };
const LOOK_MS = 400;
// A run is asked about this often while it trains and is seen; what does not run, less and less often.
const RUNNING_MS = 1500;
const IDLE_MS = [3000, 15_000];
const NEWS = ['execution_start', 'executing', 'execution_success', 'execution_error', 'execution_interrupted'];

let text = (path) => path;

class TrainingMonitor {
  constructor(node) {
    this.node = node;
    this.wanted = '';
    this.isReading = false;
    this.due = 0;
    this.idle = IDLE_MS[0];
    this.forget();
    this.view = new MonitorView((path, values) => text(path, values), {
      ask: (request) => this.ask(request), publish: () => this.publish(),
    });
    this.listener = (event) => this.hear(event);
    for (const kind of NEWS) api.addEventListener(kind, this.listener);
    // Names come from a widget, a workflow or an undo; and a node comes into sight in many ways.
    this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  forget() {
    /** @type {import('./training_monitor_view.js').State} */
    this.state = { run: null, points: [], heldOut: [], clips: [], error: null, isStarting: false, listed: null };
    this.clipsVersion = '';
  }

  /** Which runs the node means: those of a name, or all; the first of them is shown unless one is named. */
  query() {
    const value = (name) => String(this.node.widgets?.find((widget) => widget.name === name)?.value ?? '');
    if (this.node.comfyClass === TRAIN) return { name: value('run_name') };
    return value('run') === NEWEST ? {} : { run: value('run') };
  }

  look() {
    if (!this.node.graph) return;
    const wanted = JSON.stringify(this.query());
    if (wanted !== this.wanted) {
      this.wanted = wanted;
      this.forget();
      this.due = 0;
    }
    if (!this.isReading && performance.now() >= this.due && isSeen(this.view.root)) this.read();
  }

  async read() {
    this.isReading = true;
    const { wanted } = this;
    try {
      const news = await this.ofRun();
      if (wanted === this.wanted) this.take(news);
    } catch (error) {
      if (wanted === this.wanted) this.state.error = error.message;
    }
    const isRunning = this.state.run?.is_running || this.state.isStarting;
    this.idle = isRunning ? IDLE_MS[0] : Math.min(this.idle * 2, IDLE_MS[1]);
    this.due = wanted === this.wanted ? performance.now() + (isRunning ? RUNNING_MS : this.idle) : 0;
    this.isReading = false;
    this.view.render(this.state);
  }

  /** What is new of the run, and its clips when there are others; null when there is no run. */
  async ofRun() {
    const { run, points, heldOut } = this.state;
    const query = this.query();
    const name = query.run ?? (run?.is_running ? run.run : (await get('training', query))[0]);
    if (!name) return null;
    // The newest point still grows: it is asked for again.
    const known = run?.run === name ? { version: run.version, after: points.at(-2)?.[0] ?? -1 } : {};
    const answer = await get(`training/${encodeURIComponent(name)}`, {
      ...known, held_out_after: heldOut.at(-1)?.[0] ?? -1,
    });
    const hasOtherClips = answer.clips !== this.clipsVersion || run?.run !== name;
    return { answer, clips: hasOtherClips ? await get(`training/${encodeURIComponent(name)}/clips`) : null };
  }

  take(news) {
    this.state.error = null;
    if (!news) {
      this.state.run = null;
      return;
    }
    const { answer, clips } = news;
    const { run, points, heldOut } = this.state;
    const goesOn = run?.run === answer.run && run.version === answer.version;
    this.state.points = goesOn ? [...points.slice(0, -1), ...answer.points] : answer.points;
    this.state.heldOut = goesOn ? [...heldOut, ...answer.held_out] : answer.held_out;
    if (run?.run !== answer.run || String(run.results) !== String(answer.results)) this.state.listed = null;
    this.state.run = answer;
    if (clips) [this.state.clips, this.clipsVersion] = [clips, answer.clips];
    if (answer.is_running) this.state.isStarting = false;
  }

  /** ComfyUI began or ended something: a run may have begun or ended. */
  hear({ type, detail }) {
    if (type === 'executing') this.state.isStarting = this.isOurs(detail) && !this.state.run?.is_running;
    else if (type !== 'execution_start') this.state.isStarting = false;
    this.idle = IDLE_MS[0];
    this.due = 0;
  }

  isOurs(detail) {
    const id = typeof detail === 'object' ? detail?.node : detail;
    return this.node.comfyClass === TRAIN && String(id).split(':').at(-1) === String(this.node.id);
  }

  /** @param {'stop' | 'save' | 'sample'} request */
  ask(request) {
    return this.change('request', { request }, (run, answer) => (run.asked = answer.asked));
  }

  /** Put the results into the loaders' folders, and what is new there into the nodes' lists. */
  publish() {
    return this.change('publish', {}, async (_run, names) => {
      this.state.listed = Object.values(names).join(', ');
      await app.refreshComboInNodes();
    });
  }

  async change(path, body, then) {
    const { run } = this.state;
    if (!run) return;
    try {
      await then(run, await post(`training/${encodeURIComponent(run.run)}/${path}`, body));
    } catch (error) {
      this.state.error = error.message;
    }
    this.view.render(this.state);
  }

  remove() {
    clearInterval(this.timer);
    for (const kind of NEWS) api.removeEventListener(kind, this.listener);
  }
}

app.registerExtension({
  name: 'gloria.TrainingMonitor',
  async init() {
    text = await texts();
  },
  nodeCreated(node) {
    const size = NEW_NODE_SIZES[node.comfyClass];
    if (!size) return;
    const monitor = new TrainingMonitor(node);
    addPanel(node, WIDGET, { root: monitor.view.root, minHeight: MIN_HEIGHT, size, remove: () => monitor.remove() });
  },
});
