// Opens workflows in ComfyUI's real page with Chromium and reports what it saw as one JSON object on stdout.
//
// Usage: node drive.mjs <<< '{"url", "chromium", "vue", "screenshots", "workflows": {name: graph}, "run": name, "change"}'
// `vue` true is Nodes 2.0, false the canvas renderer; the workflow named by `run` is queued and waited for, after its
// widgets were set as `change` says: {node id: {widget: value}}.
import fs from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

const READY_MS = 120_000;
const RUN_MS = 240_000;
const READY_NODE = 'GloriaDecodeVideo';
// What every ComfyUI page reports about itself; the last two because the test server keeps the page offline.
const HARMLESS = [
  /graph accessed before initialization/,
  /404 .*(user\.css|userdata)/,
  /huggingface\.co.*Content Security Policy/s,
];

// Graphs are too long for a command line.
const options = JSON.parse(fs.readFileSync(0, 'utf8'));
const report = { renderer: options.vue ? 'vue' : 'canvas', workflows: {} };
let errors = [];

async function setting(key, value) {
  const answer = await fetch(`${options.url}/api/settings/${key}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(value),
  });
  if (!answer.ok) throw new Error(`setting ${key}: ${answer.status}`);
}

function note(text) {
  if (!HARMLESS.some((pattern) => pattern.test(text))) errors.push(text);
}

async function openPage(browser) {
  const page = await browser.newPage({ viewport: { width: 2200, height: 1200 } });
  page.on('pageerror', (error) => note(`page error: ${error.message}`));
  page.on('console', (message) => message.type() === 'error' && note(`${message.text()} ${message.location().url}`));
  await page.goto(options.url, { waitUntil: 'domcontentloaded' });
  const isReady = (type) => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.[type];
  await page.waitForFunction(isReady, READY_NODE, { timeout: READY_MS });
  return page;
}

// Rectangles in graph units as they are drawn: by the canvas from the nodes, by Vue from the page's elements.
function readGraph(isVue) {
  const { graph, canvas } = window.app;
  const { scale, offset } = canvas.ds;
  const left = canvas.canvas.getBoundingClientRect().left;
  const top = canvas.canvas.getBoundingClientRect().top;
  const onPage = (node) => {
    const box = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    return box && [(box.x - left) / scale - offset[0], (box.y - top) / scale - offset[1], box.width / scale, box.height / scale];
  };
  const title = window.LiteGraph.NODE_TITLE_HEIGHT;
  const onCanvas = ({ pos, size }) => [pos[0], pos[1] - title, size[0], size[1] + title];
  return {
    missing: graph.nodes.filter((node) => !window.LiteGraph.registered_node_types[node.type]).map((node) => node.type),
    rectangles: graph.nodes.map((node) => [`${node.id} ${node.title}`, isVue ? onPage(node) : onCanvas(node)]),
    groups: graph.groups.map((group) => [group.title, [...group.pos, ...group.size]]),
    notes: graph.nodes.filter((node) => node.type === 'MarkdownNote').map((node) => node.widgets[0].value),
  };
}

// A busy machine draws late: what is read counts when it reads the same again.
async function settledGraph(page) {
  let before = '';
  for (let started = Date.now(); Date.now() - started < READY_MS; ) {
    await page.waitForTimeout(1000);
    const seen = await page.evaluate(readGraph, options.vue);
    const now = JSON.stringify(seen);
    if (now === before) return seen;
    before = now;
  }
  throw new Error('the page did not come to rest');
}

async function openWorkflow(page, name, workflow) {
  errors = [];
  await page.evaluate(([graph, title]) => window.app.loadGraphData(graph, true, true, title), [workflow, name]);
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, workflow.nodes.length);
  // Wide notes and small nodes alike must be on the page before Vue's sizes can be read.
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView'));
  const seen = await settledGraph(page);
  seen.prompt = (await page.evaluate(() => window.app.graphToPrompt())).output;
  if (options.screenshots) {
    await page.screenshot({ path: path.join(options.screenshots, `${name}_${report.renderer}.png`) });
  }
  return seen;
}

async function runWorkflow(page) {
  await page.evaluate((change) => {
    for (const [id, values] of Object.entries(change)) {
      const node = window.app.graph.getNodeById(id);
      for (const [name, value] of Object.entries(values)) node.widgets.find((widget) => widget.name === name).value = value;
    }
    window.gloriaRun = new Promise((resolve) => {
      for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
        window.app.api.addEventListener(kind, (event) => resolve({ end: kind, detail: event.detail }));
      }
    });
  }, options.change);
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const refused = await page.evaluate(() => window.app.lastNodeErrors);
  if (refused && Object.keys(refused).length) return { end: 'refused', detail: refused };
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(() => resolve({ end: 'timeout' }), RUN_MS)));
  const ended = await Promise.race([page.evaluate(() => window.gloriaRun), late]);
  clearTimeout(timer);
  if (ended.end === 'timeout') await fetch(`${options.url}/interrupt`, { method: 'POST' });
  await page.waitForTimeout(1500);
  return { ...ended, outputs: await page.evaluate(() => window.app.nodeOutputs) };
}

async function main() {
  await setting('Comfy.TutorialCompleted', true);
  await setting('Comfy.VueNodes.Enabled', options.vue);
  const browser = await chromium.launch({
    executablePath: options.chromium,
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
  try {
    const page = await openPage(browser);
    report.startErrors = errors;
    for (const [name, workflow] of Object.entries(options.workflows)) {
      const seen = await openWorkflow(page, name, workflow);
      if (name === options.run) seen.run = await runWorkflow(page);
      if (seen.run && options.screenshots) {
        await page.screenshot({ path: path.join(options.screenshots, `${name}_${report.renderer}_done.png`) });
      }
      report.workflows[name] = { ...seen, errors };
    }
  } finally {
    await browser.close();
  }
  process.stdout.write(JSON.stringify(report));
}

await main();
