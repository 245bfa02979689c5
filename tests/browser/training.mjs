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
const [TRAIN, WATCH] = ['GloriaTrainModel', 'GloriaMonitorTraining'];
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

/** What the training monitor on a node shows. */
function panel(page, type) {
  return page.evaluate((wanted) => {
    const node = window.app.graph?.nodes.find((entry) => entry.type === wanted);
    const root = node?.widgets.find((widget) => widget.name === 'training_monitor').element;
    if (!root) return {};
    const box = root.getBoundingClientRect();
    const words = (selector) => root.querySelector(selector).textContent;
    const all = (selector, tell) => [...root.querySelectorAll(selector)].map(tell);
    return {
      state: root.dataset.state, step: words('.step'), name: words('.name'), news: words('.news'), time: words('.left'),
      facts: all('[data-fact]', (fact) => fact.dataset.fact),
      curve: root.querySelector('path.raw').getAttribute('d'),
      bins: all('.bin', (bin) => bin.title),
      cells: all('.cell', (cell) => cell.textContent),
      shots: all('figure', (figure) => {
        const picture = figure.querySelector('video, img');
        const width = picture.videoWidth ?? picture.naturalWidth;
        return { step: figure.dataset.step, kind: picture.localName, width, plays: picture.paused === false };
      }),
      isOn: root.contains(document.elementFromPoint(box.x + box.width / 2, box.y + 4)),
      overflows: all('.state, .names, .facts, .news, .tools', (part) => part.scrollWidth > part.clientWidth + 1),
      pictures: (node.imgs?.length ?? 0)
        + document.querySelectorAll(`[data-node-id="${node.id}"] img:not(.gloria-monitor img)`).length,
    };
  }, type);
}

/** The panel, once it shows what is wanted. */
async function until(page, type, isThere, what) {
  let seen;
  for (const started = Date.now(); Date.now() - started < STEP_MS; await page.waitForTimeout(200)) {
    seen = await panel(page, type);
    if (seen.state && isThere(seen)) return seen;
  }
  throw new Error(`${what} was not shown: ${JSON.stringify(seen)}`);
}

const isUnderWay = ({ state, curve }) => ['training', 'validating', 'saving'].includes(state) && curve;
const stepOf = (seen) => Number(/\d+/.exec(seen.step)?.[0] ?? 0);

async function press(page, type, request) {
  const root = await page.evaluateHandle((wanted) => {
    const node = window.app.graph.nodes.find((entry) => entry.type === wanted);
    return node.widgets.find((widget) => widget.name === 'training_monitor').element;
  }, type);
  await (await root.$(`[data-action=${request}]`)).click();
}

/** One node, as large as it is drawn at full size. */
async function lookAt(page, type) {
  await page.waitForFunction((wanted) => window.app.graph?.nodes.some((node) => node.type === wanted), type);
  await page.evaluate((wanted) => {
    const { graph, canvas } = window.app;
    const node = graph.nodes.find((entry) => entry.type === wanted);
    canvas.ds.scale = 1;
    canvas.ds.offset = [500 - node.pos[0], 80 - node.pos[1]];
    canvas.setDirty(true, true);
  }, type);
  await page.waitForTimeout(800);
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
  const hasClips = ({ state, shots }) => state === 'finished' && shots.length && shots.every(({ width }) => width);
  await until(page, TRAIN, hasClips, 'the end of the run');
  seen.drawn = await rectangles(page);
  await shot(page, 'done');
  await lookAt(page, TRAIN);
  await hover(page);
  await shot(page, 'panel');
  seen.panel = await panel(page, TRAIN);
  seen.tip = await page.locator('.gloria-monitor .tip').innerText();
  return { ...ended, ...seen };
}

/** Point at the middle of the curve. */
async function hover(page) {
  const box = await page.locator('.gloria-monitor .plot').boundingBox();
  await page.mouse.move(box.x + box.width * 0.4, box.y + box.height / 2);
  await page.waitForTimeout(200);
}

async function detach(page) {
  const settings = 'validation: {loss_every: 0, clips_every: 0, steps: 2}\nlora: {targets: [self_attn]}';
  await set(page, { GloriaTrainModel: { run_name: `alone_${renderer}`, mode: 'detached', steps: 100_000, settings } });
  const ended = await run(page, queueAll);
  return { ...ended, text: await read(page, /is training on its own/) };
}

/** Watch a run that goes on by itself, ask it for things, and find it again after a reload. */
async function control(page) {
  const seen = { first: await until(page, TRAIN, isUnderWay, 'a run under way') };
  const step = stepOf(seen.first);
  seen.later = await until(page, TRAIN, (now) => stepOf(now) > step && now.curve !== seen.first.curve, 'a later step');
  await press(page, TRAIN, 'save');
  seen.saved = await until(page, TRAIN, ({ news }) => news.includes('_lora.safetensors'), 'results');
  await press(page, TRAIN, 'sample');
  seen.sampled = await until(page, TRAIN, ({ shots }) => shots[0]?.width, 'a clip');
  await shot(page, 'asked');
  seen.unseen = await requestsWhile(page, () => {
    window.app.canvas.ds.offset[0] += 5000;
    window.app.canvas.setDirty(true, true);
  });
  await page.reload({ waitUntil: 'domcontentloaded' });
  await ready(page);
  await lookAt(page, TRAIN);
  seen.reloaded = await until(page, TRAIN, isUnderWay, 'the run after a reload');
  return seen;
}

/** How often the page asks about training in four seconds after a change. */
async function requestsWhile(page, change) {
  await page.evaluate(change);
  await page.waitForTimeout(1500);
  let count = 0;
  const counted = (request) => (count += request.url().includes('/gloria/training'));
  page.on('request', counted);
  await page.waitForTimeout(4000);
  page.off('request', counted);
  return count;
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

/**
 * Another node finds the run. Queue it alone, as its note says: with the play button above the selected node. Then end
 * the run with the panel's own button.
 */
async function stop(page) {
  await open(page, options.resume);
  await set(page, { GloriaMonitorTraining: { action: 'save now' } });
  const found = await until(page, WATCH, isUnderWay, 'the run on the monitor');
  const id = await idOf(page, 'GloriaMonitorTraining');
  await page.evaluate((node) => window.app.canvas.selectItems([window.app.graph.getNodeById(node)]), id);
  const play = page.locator('.selection-toolbox .icon-\\[lucide--play\\]').first();
  await play.waitFor({ timeout: STEP_MS });
  const ended = await run(page, () => {}, () => play.click());
  const text = await page.evaluate((node) => window.app.nodeOutputs[node].text.join(''), id);
  const drawn = await rectangles(page);
  await press(page, WATCH, 'stop');
  const stopped = await until(page, WATCH, ({ state, news }) => state === 'stopped' && news, 'the end of the run');
  await press(page, WATCH, 'publish');
  const listed = await until(page, WATCH, ({ news }) => news.startsWith('In the loaders'), 'the names in the loaders');
  await shot(page, 'stopped');
  return { ...ended, text, found, stopped, listed: listed.news, drawn };
}

async function ready(page) {
  const isReady = (type) => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.[type];
  await page.waitForFunction(isReady, TRAIN, { timeout: READY_MS });
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
    await ready(page);
    // What does not depend on how nodes are drawn is done in one renderer.
    const parts = { train, detach, ...(options.vue ? {} : { control }), queueBeside, stop };
    try {
      for (const [name, part] of Object.entries(parts)) report[name] = await part(page);
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
