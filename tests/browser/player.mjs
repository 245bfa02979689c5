// Works timeline and player in ComfyUI's real page as an artist does and reports what it saw as one JSON object on
// stdout.
//
// Usage: node player.mjs <<< '{"url", "chromium", "vue", "screenshots", "phase", "timeline", "film", "change", "job"}'
// Phase "start" types cues, renders until a chunk can be watched, cancels and reloads; phase "resume", on a server that
// was started anew, goes on from there and makes another take. `timeline` and `film` are graphs, `change` is
// {node id: {widget: value}} of the film's graph, `job` its job name.
import fs from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

const READY_MS = 120_000;
const STEP_MS = 30_000;
const RUN_MS = 200_000;
// What every ComfyUI page reports about itself; the timeline's models are not on this machine.
const HARMLESS = [/graph accessed before initialization/, /404/, /Content Security Policy/s];

// Graphs are too long for a command line.
const options = JSON.parse(fs.readFileSync(0, 'utf8'));
const renderer = options.vue ? 'vue' : 'canvas';
const report = { errors: [] };

async function setting(key, value) {
  const headers = { 'Content-Type': 'application/json' };
  await fetch(`${options.url}/api/settings/${key}`, { method: 'POST', headers, body: JSON.stringify(value) });
}

function note(text) {
  if (!HARMLESS.some((pattern) => pattern.test(text))) report.errors.push(text);
}

async function ready(page) {
  const isReady = () => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.GloriaEncodeTimeline;
  await page.waitForFunction(isReady, null, { timeout: READY_MS });
}

/** Open a graph with one node in sight. */
async function open(page, graph, type) {
  await page.evaluate((content) => window.app.loadGraphData(content, true, true, 'test'), graph);
  await look(page, type);
}

async function look(page, type) {
  await page.waitForFunction((wanted) => window.app.graph?.nodes.some((node) => node.type === wanted), type);
  await page.evaluate((wanted) => {
    const { graph, canvas } = window.app;
    const node = graph.nodes.find((entry) => entry.type === wanted);
    canvas.ds.scale = 1;
    canvas.ds.offset = [300 - node.pos[0], 120 - node.pos[1]];
    canvas.setDirty(true, true);
    window.gloriaEnds = [];
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
      window.app.api.addEventListener(kind, (event) => window.gloriaEnds.push([kind, event.detail]));
    }
  }, type);
  await page.waitForTimeout(1000);
}

const shot = (page, name) => page.screenshot({ path: path.join(options.screenshots, `player_${name}_${renderer}.png`) });
const texts = (page, selector) => page.locator(selector).allTextContents();

function setCues(page, cues) {
  return page.evaluate((text) => {
    const node = window.app.graph.nodes.find((entry) => entry.type === 'GloriaEncodeTimeline');
    node.widgets.find((widget) => widget.name === 'cues').value = text;
  }, cues);
}

async function timeline(page) {
  await open(page, options.timeline, 'GloriaEncodeTimeline');
  await page.waitForSelector('.gloria-timeline .chunk', { timeout: STEP_MS });
  await page.waitForTimeout(1000);
  const seen = {
    cues: await texts(page, '.gloria-timeline .cue span'),
    labels: await texts(page, '.gloria-timeline .cue b'),
    chunks: await texts(page, '.gloria-timeline .chunk'),
    status: await page.locator('.gloria-timeline .status').innerText(),
    drawn: await page.evaluate(() => {
      const canvas = document.querySelector('.gloria-timeline canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, idx) => idx % 4 === 3 && value > 0).length / (canvas.width * canvas.height);
    }),
  };
  await shot(page, 'timeline');
  seen.attention = await attention(page);
  await setCues(page, '0:00 he talks\nhe waves');
  await page.waitForSelector('.gloria-timeline.failed', { timeout: STEP_MS });
  seen.mistake = await page.locator('.gloria-timeline .status').innerText();
  await setCues(page, '0:00 he talks\n0:10 [happy] he waves\n0:10.5 he blinks');
  const hasThree = () => document.querySelectorAll('.gloria-timeline .cue').length === 3;
  await page.waitForFunction(hasThree, null, { timeout: STEP_MS });
  seen.unused = await texts(page, '.gloria-timeline .cue.unused span');
  seen.warning = await page.locator('.gloria-timeline .status').innerText();
  seen.saved = await page.evaluate(() => {
    const saved = window.app.graph.serialize().nodes.find((node) => node.type === 'GloriaEncodeTimeline');
    return saved.widgets_values;
  });
  return seen;
}

/** Press the eye on the strip, point at its middle, and press the eye again. */
async function attention(page) {
  const canvas = page.locator('.gloria-timeline canvas.attention');
  const eye = page.locator('.gloria-timeline .attention-toggle');
  const numbers = () => texts(page, '.gloria-timeline .looked b');
  const isShown = async () => [await canvas.isVisible(), await page.locator('.attention-legend').isVisible()];
  const seen = { before: await isShown() };
  await eye.click();
  await page.waitForSelector('.gloria-timeline .looked', { timeout: STEP_MS });
  await page.waitForTimeout(500);
  seen.names = await texts(page, '.gloria-timeline .looked span');
  seen.means = await numbers();
  seen.pictures = await page.evaluate(() =>
    [...document.querySelectorAll('.gloria-timeline .looked img')].map((image) => image.naturalWidth > 0));
  const { x, y, width, height } = await page.locator('.gloria-timeline .strip').boundingBox();
  await page.mouse.move(x + width / 2, y + height / 2);
  await page.waitForTimeout(300);
  seen.pointed = await numbers();
  seen.title = await page.locator('.gloria-timeline .looked').first().getAttribute('title');
  await shot(page, 'attention');
  seen.drawn = await canvas.evaluate((element) => {
    const { data } = element.getContext('2d').getImageData(0, 0, element.width, element.height);
    return data.filter((value, idx) => idx % 4 === 3 && value > 0).length / (element.width * element.height);
  });
  await eye.click();
  seen.after = await isShown();
  return seen;
}

const cells = (page, kind) => page.locator(`.gloria-player .cell.${kind}`).count();
const allCells = (page) => page.locator('.gloria-player .cell').count();
const button = (page, action) => page.locator(`.gloria-player [data-action=${action}]`);

const actionOf = (page) => button(page, 'run').innerText();
const waitForAllDone = (page) =>
  page.waitForFunction(() => !document.querySelector('.gloria-player .cell:not(.done)'), null, { timeout: STEP_MS });

async function waitForEnd(page, count, wanted) {
  await page.waitForFunction((number) => window.gloriaEnds.length >= number, count, { timeout: RUN_MS });
  const [kind, detail] = await page.evaluate((number) => window.gloriaEnds[number - 1], count);
  if (kind !== wanted) throw new Error(`the run ended with ${kind}: ${JSON.stringify(detail).slice(0, 2000)}`);
}

/** Play the chosen chunk and say what the video element made of it. */
async function watch(page) {
  return page.evaluate(async () => {
    const video = [...document.querySelectorAll('.gloria-player video')].find((entry) => !entry.hidden);
    video.muted = true; // this browser has no sound card
    await video.play();
    await new Promise((resolve) => {
      video.ontimeupdate = () => video.currentTime > 0 && resolve();
    });
    video.pause();
    const heard = video.webkitAudioDecodedByteCount;
    return { seconds: video.duration, width: video.videoWidth, position: video.currentTime, heard };
  });
}

const doing = (page) => page.locator('.gloria-player .state').innerText();

async function start(page) {
  report.timeline = await timeline(page);
  await open(page, options.film, 'GloriaSampleLongVideo');
  await page.evaluate((change) => {
    for (const [id, values] of Object.entries(change)) {
      const node = window.app.graph.getNodeById(id);
      for (const [name, value] of Object.entries(values)) {
        node.widgets.find((widget) => widget.name === name).value = value;
      }
    }
  }, options.change);
  await page.waitForTimeout(1500);
  report.before = { action: await actionOf(page), cells: await allCells(page) };
  await button(page, 'run').click();
  await page.waitForSelector('.gloria-player .cell.done', { timeout: RUN_MS });
  await page.waitForSelector('.gloria-player video[data-address]:not([hidden])', { timeout: STEP_MS });
  report.watched = await watch(page);
  const numEnds = await page.evaluate(() => window.gloriaEnds.length);
  report.during = { doing: await doing(page), action: await actionOf(page), ended: numEnds };
  await shot(page, 'run');
  await button(page, 'run').click();
  await waitForEnd(page, 1, 'execution_interrupted');
  await page.waitForSelector('.gloria-player [data-action=run]:text("Resume")', { timeout: STEP_MS });
  report.cancelled = { done: await cells(page, 'done'), all: await allCells(page) };
  await page.reload({ waitUntil: 'domcontentloaded' });
  await ready(page);
  await look(page, 'GloriaSampleLongVideo');
  await page.waitForSelector('.gloria-player .cell.done', { timeout: STEP_MS });
  report.reloaded = { done: await cells(page, 'done'), action: await actionOf(page), doing: await doing(page) };
  report.graph = await page.evaluate(() => window.app.graph.serialize());
}

async function resume(page) {
  await open(page, options.film, 'GloriaSampleLongVideo');
  await page.waitForSelector('.gloria-player .cell.done', { timeout: STEP_MS });
  report.found = { done: await cells(page, 'done'), action: await actionOf(page) };
  await button(page, 'run').click();
  await waitForEnd(page, 1, 'execution_success');
  await waitForAllDone(page);
  report.finished = { doing: await doing(page), action: await actionOf(page) };
  await page.locator('.gloria-player .cell[data-chunk="2"]').click();
  await page.waitForTimeout(500);
  report.chosen = await page.locator('.gloria-player .about').innerText();
  await page.locator('.gloria-player input').fill('77');
  await button(page, 'redo').click();
  await waitForEnd(page, 2, 'execution_success');
  await page.waitForSelector('.gloria-player select:not([hidden])', { timeout: STEP_MS });
  await waitForAllDone(page);
  await page.locator('.gloria-player .cell[data-chunk="2"]').click();
  await page.waitForTimeout(500);
  report.redone = {
    about: await page.locator('.gloria-player .about').innerText(),
    takes: await texts(page, '.gloria-player option'),
    seeds: await page.evaluate(() => {
      const sampler = window.app.graph.nodes.find((node) => node.type === 'GloriaSampleLongVideo');
      return sampler.widgets.find((widget) => widget.name === 'seeds').value;
    }),
  };
  await shot(page, 'redone');
}

async function main() {
  await setting('Comfy.TutorialCompleted', true);
  await setting('Comfy.VueNodes.Enabled', options.vue);
  const args = ['--no-sandbox', '--disable-dev-shm-usage', '--autoplay-policy=no-user-gesture-required'];
  const browser = await chromium.launch({ executablePath: options.chromium, args });
  const page = await browser.newPage({ viewport: { width: 1500, height: 1250 } });
  page.on('pageerror', (error) => note(`page error: ${error.message}`));
  page.on('console', (message) => message.type() === 'error' && note(`${message.text()} ${message.location().url}`));
  try {
    await page.goto(options.url, { waitUntil: 'domcontentloaded' });
    await ready(page);
    await (options.phase === 'start' ? start : resume)(page);
  } catch (error) {
    await shot(page, 'failed');
    throw new Error(`${error.message}\nThe page reported: ${report.errors.join('\n')}`);
  } finally {
    await browser.close();
  }
  process.stdout.write(JSON.stringify(report));
}

await main();
