// Works the anchor board in ComfyUI's real page as an artist does and reports what it saw as one JSON object on stdout.
//
// Usage: node board.mjs '{"url", "chromium", "vue", "screenshots", "pictures": {"front.png": path, ...}}'
// `vue` true is Nodes 2.0, false the canvas renderer. The pictures are those that test_anchor_board.py makes.
import fs from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

const READY_MS = 120_000;
const STEP_MS = 15_000;
// What every ComfyUI page reports about itself.
const HARMLESS = [/graph accessed before initialization/, /404 .*(user\.css|userdata)/, /Content Security Policy/s];

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

async function openPage(page) {
  await page.goto(options.url, { waitUntil: 'domcontentloaded' });
  const isReady = () => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.GloriaLoadAnchors;
  await page.waitForFunction(isReady, null, { timeout: READY_MS });
}

/** An empty board on an empty canvas, with a node that lets the queue run. */
async function makeGraph(page) {
  await page.evaluate(() => {
    const { app, LiteGraph } = window;
    app.graph.clear();
    const board = LiteGraph.createNode('GloriaLoadAnchors');
    const sink = LiteGraph.createNode('PreviewAny');
    board.pos = [420, 60];
    sink.pos = [1080, 60];
    app.graph.add(board);
    app.graph.add(sink);
    board.connect(0, sink, 0);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [40, 60];
    app.canvas.setDirty(true, true);
  });
  await page.waitForSelector('.gloria-board', { timeout: READY_MS });
  await page.waitForTimeout(500);
}

const slot = (page, name) => page.locator(`.gloria-board [data-slot=${name}]`).first();
const readText = (page) =>
  page.evaluate(() => window.app.graph.nodes.find((node) => node.type === 'GloriaLoadAnchors').widgets.find((w) => w.name === 'board').value);
const readFiles = async (page) => JSON.parse((await readText(page)) || '{}');

/** Wait until the board holds exactly these slots, and return its files. */
async function waitForSlots(page, names) {
  const wanted = [...names].sort().join();
  const deadline = Date.now() + STEP_MS;
  for (;;) {
    const files = await readFiles(page);
    if (Object.keys(files).sort().join() === wanted) return files;
    if (Date.now() > deadline) throw new Error(`slots are ${Object.keys(files)}, expected ${wanted}`);
    await page.waitForTimeout(50);
  }
}

/** Drop files from outside of the browser on a slot. */
async function dropFiles(page, target, names) {
  const files = names.map((name) => [name, fs.readFileSync(options.pictures[name]).toString('base64')]);
  const transfer = await page.evaluateHandle((packed) => {
    const made = new DataTransfer();
    for (const [name, content] of packed) {
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      made.items.add(new File([bytes], name, { type: 'image/png' }));
    }
    return made;
  }, files);
  await slot(page, target).dispatchEvent('dragover', { dataTransfer: transfer });
  await slot(page, target).dispatchEvent('drop', { dataTransfer: transfer });
}

async function dragSlot(page, from, to) {
  await slot(page, from).dragTo(slot(page, to));
}

/** Drag a picture that the page shows, as from a gallery. */
async function dragFromPage(page, address, target) {
  await page.evaluate((src) => {
    const image = Object.assign(document.createElement('img'), { src, id: 'gallery' });
    image.style.cssText = 'position:fixed;z-index:9999;left:60px;bottom:60px;width:80px;height:80px';
    document.body.append(image);
    return image.decode();
  }, address);
  await page.locator('#gallery').dragTo(slot(page, target));
  await page.evaluate(() => document.getElementById('gallery').remove());
}

/** Put a picture into the clipboard, another in each renderer, and press Ctrl+V on a slot. */
async function paste(page, target) {
  await page.evaluate(async (hue) => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 300, height: 300 });
    const context = canvas.getContext('2d');
    for (let i = 0; i < 225; i++) {
      context.fillStyle = `hsl(${(hue + i * 73) % 360} 70% ${20 + ((i * 29) % 60)}%)`;
      context.fillRect((i % 15) * 20, Math.floor(i / 15) * 20, 20, 20);
    }
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
  }, options.vue ? 40 : 0);
  await slot(page, target).focus();
  await page.keyboard.press('Control+V');
}

const look = (page) =>
  page.evaluate(() => {
    const seen = {};
    for (const slot of document.querySelectorAll('.gloria-board [data-slot]')) {
      const badge = (kind) => slot.querySelector(`.${kind}[data-on]`)?.textContent ?? '';
      seen[slot.dataset.slot] = {
        classes: [...slot.classList].filter((name) => name !== 'gloria-slot').sort(),
        size: badge('size'), source: badge('source'), used: badge('used'), line: slot.title,
      };
    }
    return { slots: seen, status: document.querySelector('.gloria-board-status').textContent };
  });

async function waitForLook(page, isReached, what) {
  const deadline = Date.now() + STEP_MS;
  for (;;) {
    const seen = await look(page);
    if (isReached(seen)) return seen;
    if (Date.now() > deadline) throw new Error(`${what}: ${JSON.stringify(seen)}`);
    await page.waitForTimeout(50);
  }
}

const isChecked = (names) => (seen) => names.every((name) => seen.slots[name].size && seen.slots[name].classes.includes('pictured'));
const focused = (page) => page.evaluate(() => document.activeElement?.dataset?.slot ?? null);
const shoot = async (page, name) =>
  options.screenshots && page.screenshot({ path: path.join(options.screenshots, `board_${name}_${renderer}.png`) });

async function fill(page) {
  report.empty = await look(page);
  await shoot(page, 'empty');
  await dropFiles(page, 'front', ['front.png']);
  report.dropped = await waitForSlots(page, ['front']);
  await dropFiles(page, 'back', ['her_happy.png', 'her_global.png', 'plain.png', 'her_left.png']);
  report.several = await waitForSlots(page, ['front', 'happy', 'global', 'back', 'left']);
  await dropFiles(page, 'sad', ['small.png']);
  await dropFiles(page, 'fear', ['blurred.png']);
  await dropFiles(page, 'angry', ['front.png']);
  const names = ['front', 'happy', 'global', 'back', 'left', 'sad', 'fear', 'angry'];
  await waitForSlots(page, names);
  await page.mouse.move(5, 500);
  report.checked = await waitForLook(page, isChecked(names), 'pictures and sizes');
  await shoot(page, 'filled');
}

async function rearrange(page) {
  const before = await readFiles(page);
  await dragSlot(page, 'happy', 'front');
  report.swapped = { before, after: await readFiles(page) };
  await dragSlot(page, 'fear', 'surprise');
  report.moved = await readFiles(page);
  await dragFromPage(page, '/api/view?filename=made.png&type=output&subfolder=', 'right');
  await dragFromPage(page, '/api/view?filename=known.png&type=input&subfolder=shelf', 'neutral');
  report.fromPage = await waitForSlots(page, [...Object.keys(report.moved), 'right', 'neutral']);
  await paste(page, 'contempt');
  report.pasted = await waitForSlots(page, [...Object.keys(report.fromPage), 'contempt']);
}

async function useKeys(page) {
  report.keys = {};
  await slot(page, 'front').focus();
  for (const [key, name] of [['ArrowUp', 'up'], ['ArrowLeft', 'left'], ['Tab', 'tab']]) {
    await page.keyboard.press(key);
    report.keys[name] = await focused(page);
  }
  await slot(page, 'sad').focus();
  await page.keyboard.press('Delete');
  report.deleted = await readFiles(page);
  report.nodesAfterDelete = await page.evaluate(() => window.app.graph.nodes.length);
  await page.keyboard.press('Control+Z');
  report.undone = await waitForSlots(page, Object.keys(report.pasted));
  await slot(page, 'disgust').focus();
  const chooser = page.waitForEvent('filechooser', { timeout: STEP_MS });
  await page.keyboard.press('Enter');
  await (await chooser).setFiles(options.pictures['her_left.png']);
  report.chosen = await waitForSlots(page, [...Object.keys(report.undone), 'disgust']);
  await slot(page, 'disgust').hover();
  await slot(page, 'disgust').locator('.clear').click();
  report.cleared = await readFiles(page);
}

async function keep(page) {
  report.text = await readText(page);
  report.prompt = (await page.evaluate(() => window.app.graphToPrompt())).output;
  report.copied = await page.evaluate(() => {
    const { app } = window;
    const node = app.graph.nodes.find((other) => other.type === 'GloriaLoadAnchors');
    const clone = node.clone();
    app.graph.add(clone);
    const text = clone.widgets.find((widget) => widget.name === 'board').value;
    app.graph.remove(clone);
    return text;
  });
  const saved = await page.evaluate(() => window.app.graph.serialize());
  report.savedWidgets = saved.nodes.find((node) => node.type === 'GloriaLoadAnchors').widgets_values;
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'board'), saved);
  report.loaded = await readText(page);
}

async function link(page) {
  await page.evaluate(() => {
    const { app, LiteGraph } = window;
    const loader = LiteGraph.createNode('LoadImage');
    loader.pos = [40, 60];
    loader.title = 'My photo';
    app.graph.add(loader);
    loader.widgets.find((widget) => widget.name === 'image').value = 'known_front.png';
    const board = app.graph.nodes.find((node) => node.type === 'GloriaLoadAnchors');
    loader.connect(0, board, board.inputs.findIndex((input) => input.name === 'front'));
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [40, 60];
    app.canvas.setDirty(true, true);
  });
  const isLinked = ({ slots }) => ['linked', 'pictured'].every((name) => slots.front.classes.includes(name));
  report.linked = await waitForLook(page, isLinked, 'front shows the linked picture');
  // Where a link is, the board neither swaps nor clears.
  await slot(page, 'front').focus();
  await page.keyboard.press('Delete');
  report.linkedText = await readText(page);
}

async function run(page) {
  await page.evaluate(() => {
    window.gloriaRun = new Promise((resolve) => {
      for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
        window.app.api.addEventListener(kind, (event) => resolve({ end: kind, detail: event.detail }));
      }
    });
  });
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const late = new Promise((resolve) => setTimeout(() => resolve({ end: 'timeout' }), 60_000).unref());
  return Promise.race([page.evaluate(() => window.gloriaRun), late]);
}

async function queue(page) {
  const isMarked = ({ slots }) => slots.happy.used;
  report.run = await run(page);
  report.used = await waitForLook(page, isMarked, 'used pictures are marked');
  await page.evaluate(() => window.app.graph.nodes.find((node) => node.gloriaBoard).gloriaBoard.markUsed({}));
  report.unmarked = await look(page);
  report.rerun = await run(page);
  report.usedFromCache = await waitForLook(page, isMarked, 'pictures of a result from the cache are marked');
  await page.mouse.move(5, 500);
  await page.waitForTimeout(300);
  await shoot(page, 'used');
}

async function unlinkAndReload(page) {
  await page.evaluate(() => {
    const board = window.app.graph.nodes.find((node) => node.type === 'GloriaLoadAnchors');
    board.disconnectInput(board.inputs.findIndex((input) => input.name === 'front'));
  });
  report.unlinked = await waitForLook(page, ({ slots }) => !slots.front.classes.includes('linked'), 'front is free');
  const before = await readText(page);
  await page.waitForTimeout(1500); // the page keeps a draft of the workflow, not at once
  await page.reload({ waitUntil: 'domcontentloaded' });
  await page.waitForSelector('.gloria-board', { timeout: READY_MS });
  report.reloaded = { before, after: await readText(page) };
  report.afterReload = await waitForLook(page, isChecked(['happy', 'global']), 'pictures after the reload');
}

async function main() {
  await setting('Comfy.TutorialCompleted', true);
  await setting('Comfy.VueNodes.Enabled', options.vue);
  const browser = await chromium.launch({
    executablePath: options.chromium,
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
  try {
    const context = await browser.newContext({ viewport: { width: 1500, height: 1000 } });
    await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: options.url });
    const page = await context.newPage();
    page.setDefaultTimeout(STEP_MS);
    page.on('filechooser', () => {}); // from here on choosers are caught, not only once one is waited for
    page.on('pageerror', (error) => note(`page error: ${error.message}`));
    page.on('console', (message) => message.type() === 'error' && note(`${message.text()} ${message.location().url}`));
    await openPage(page);
    for (const step of [makeGraph, fill, rearrange, useKeys, keep, link, queue, unlinkAndReload]) {
      try {
        await step(page);
      } catch (error) {
        await shoot(page, 'failed');
        throw new Error(`${step.name}: ${error.message} ${report.errors}`);
      }
    }
  } finally {
    await browser.close();
  }
  process.stdout.write(JSON.stringify(report));
}

await main();
