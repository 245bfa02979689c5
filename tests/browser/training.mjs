// Trains, queues beside a run and stops it in ComfyUI's real page, as an artist does, and reports what it saw as one
// JSON object on stdout.
//
// Usage: node training.mjs '{"url", "chromium", "vue", "screenshots", "train", "film", "resume", "values"}'
// `train`, `film` and `resume` are graphs, `values` is {node type: {widget: value}} of all of them.
import path from 'node:path';
import { chromium } from 'playwright-core';

const READY_MS = 120_000;
const STEP_MS = 150_000;
const RUN_MS = 200_000;
const ENDS = ['execution_success', 'execution_error', 'execution_interrupted'];
// What every ComfyUI page reports about itself; the graphs' models are not on this machine.
const HARMLESS = [/graph accessed before initialization/, /404/, /Content Security Policy/s];

const options = JSON.parse(process.argv[2]);
const renderer = options.vue ? 'vue' : 'canvas';
const report = { errors: [] };

async function setting(key, value) {
  const headers = { 'Content-Type': 'application/json' };
  await fetch(`${options.url}/api/settings/${key}`, { method: 'POST', headers, body: JSON.stringify(value) });
}

function note(text) {
  if (!HARMLESS.some((pattern) => pattern.test(text))) report.errors.push(text);
}

const shot = (page, name) => page.screenshot({ path: path.join(options.screenshots, `training_${name}_${renderer}.png`) });
const idOf = (page, type) => page.evaluate((wanted) => window.app.graph.nodes.find((node) => node.type === wanted).id, type);

/** Open a graph with the values set, all of it in sight. */
async function open(page, graph) {
  await page.evaluate((content) => window.app.loadGraphData(content, true, true, 'test'), graph);
  await set(page, options.values);
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView'));
  await page.waitForTimeout(1000);
}

function set(page, values) {
  return page.evaluate((wanted) => {
    for (const node of window.app.graph.nodes) {
      for (const [name, value] of Object.entries(wanted[node.type] ?? {})) {
        node.widgets.find((widget) => widget.name === name).value = value;
      }
    }
  }, values);
}

/** Start with `begin`, look with `look` on the way, and return how it ended and which nodes worked. */
async function run(page, begin, look = async () => {}) {
  await page.evaluate((kinds) => {
    const { api } = window.app;
    if (!window.gloriaRun) {
      api.addEventListener('executing', ({ detail }) => detail && window.gloriaRun.nodes.push(String(detail)));
      for (const kind of kinds) {
        api.addEventListener(kind, ({ detail }) => (window.gloriaRun.end = [kind, detail.exception_message ?? '']));
      }
    }
    window.gloriaRun = { nodes: [], end: null };
  }, ENDS);
  await page.evaluate(begin);
  await look();
  await page.waitForFunction(() => window.gloriaRun.end, null, { timeout: RUN_MS });
  await page.waitForTimeout(500);
  return page.evaluate(() => window.gloriaRun);
}

const queueAll = () => window.app.queuePrompt(0, 1);

/** Text that can be read somewhere in the page. */
async function read(page, pattern) {
  const found = page.getByText(pattern).first();
  await found.waitFor({ timeout: STEP_MS });
  return found.innerText();
}

/** Size of the picture on a node, when it is there. */
async function picture(page, id) {
  const size = ([node, isVue]) => {
    const drawn = isVue
      ? document.querySelector(`[data-node-id="${node}"] img`)
      : window.app.graph.getNodeById(node).imgs?.[0];
    return drawn?.naturalWidth && [drawn.naturalWidth, drawn.naturalHeight];
  };
  const found = await page.waitForFunction(size, [id, options.vue], { timeout: STEP_MS });
  return found.jsonValue();
}

/** Rectangles of nodes and groups in graph units, as they are drawn. */
function rectangles(page) {
  return page.evaluate((isVue) => {
    const { graph, canvas } = window.app;
    const { scale, offset } = canvas.ds;
    const page = canvas.canvas.getBoundingClientRect();
    const drawn = (node) => {
      const box = document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect();
      const corner = [(box.x - page.left) / scale - offset[0], (box.y - page.top) / scale - offset[1]];
      return [...corner, box.width / scale, box.height / scale];
    };
    const title = window.LiteGraph.NODE_TITLE_HEIGHT;
    const kept = ({ pos, size }) => [pos[0], pos[1] - title, size[0], size[1] + title];
    return {
      nodes: graph.nodes.map((node) => [node.type, isVue ? drawn(node) : kept(node)]),
      groups: graph.groups.map((group) => [...group.pos, ...group.size]),
    };
  }, options.vue);
}

async function train(page) {
  await open(page, options.train);
  const seen = {};
  const ended = await run(page, queueAll, async () => {
    seen.live = await read(page, /^(training|validating|saving), step [1-9]/);
    await shot(page, 'live');
  });
  seen.dataset = await read(page, /^1 videos, /);
  seen.text = await read(page, /^finished, step/);
  seen.picture = await picture(page, await idOf(page, 'GloriaTrainModel'));
  seen.drawn = await rectangles(page);
  await shot(page, 'done');
  return { ...ended, ...seen };
}

async function detach(page) {
  await set(page, { GloriaTrainModel: { run_name: `alone_${renderer}`, mode: 'detached', steps: 100_000 } });
  const ended = await run(page, queueAll);
  return { ...ended, text: await read(page, /is training on its own/) };
}

async function queueBeside(page) {
  await open(page, options.film);
  const seen = {};
  const ended = await run(page, queueAll, async () => {
    const toast = page.locator('.p-toast-message', { hasText: 'is training' });
    await toast.waitFor({ timeout: STEP_MS });
    seen.toast = await toast.innerText();
    seen.toasts = await toast.count();
    await shot(page, 'toast');
    await fetch(`${options.url}/interrupt`, { method: 'POST' });
  });
  return { ...ended, ...seen };
}

/** Queue the monitor alone, as its note says: with the play button above the selected node. */
async function stop(page) {
  await open(page, options.resume);
  await set(page, { GloriaMonitorTraining: { action: 'save and stop' } });
  const id = await idOf(page, 'GloriaMonitorTraining');
  await page.evaluate((node) => window.app.canvas.selectItems([window.app.graph.getNodeById(node)]), id);
  const play = page.locator('.selection-toolbox .icon-\\[lucide--play\\]').first();
  await play.waitFor({ timeout: STEP_MS });
  const ended = await run(page, () => {}, () => play.click());
  const text = await read(page, /asked for 'save and stop'/);
  const shown = await picture(page, id);
  await shot(page, 'monitor');
  return { ...ended, text, picture: shown, drawn: await rectangles(page) };
}

async function main() {
  await setting('Comfy.TutorialCompleted', true);
  await setting('Comfy.VueNodes.Enabled', options.vue);
  const browser = await chromium.launch({
    executablePath: options.chromium,
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 2200, height: 1200 } });
    page.on('pageerror', (error) => note(`page error: ${error.message}`));
    page.on('console', (message) => message.type() === 'error' && note(`${message.text()} ${message.location().url}`));
    await page.goto(options.url, { waitUntil: 'domcontentloaded' });
    const isReady = () => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.GloriaTrainModel;
    await page.waitForFunction(isReady, null, { timeout: READY_MS });
    try {
      for (const [name, part] of Object.entries({ train, detach, queueBeside, stop })) report[name] = await part(page);
    } catch (error) {
      await shot(page, 'failed');
      throw error;
    }
  } finally {
    await browser.close();
  }
  process.stdout.write(JSON.stringify(report));
}

await main();
