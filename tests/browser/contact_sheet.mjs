// Works the contact sheet of an extraction in Chromium as a person does and reports what it saw as JSON on stdout.
//
// Usage: node contact_sheet.mjs <<< '{"url", "chromium", "choices": {number: value}, "download", "screenshot"}'
import fs from 'node:fs';
import { chromium } from 'playwright-core';

const options = JSON.parse(fs.readFileSync(0, 'utf8'));
const errors = [];
const browser = await chromium.launch({
  executablePath: options.chromium,
  args: ['--no-sandbox', '--disable-dev-shm-usage'],
});
const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
page.on('pageerror', (error) => errors.push(error.message));
page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
await page.goto(options.url);
for (const [number, value] of Object.entries(options.choices))
  await page.selectOption(`figure[data-number="${number}"] select`, value);
const changed = await page.$$eval('figure.changed', (figures) => figures.map((figure) => figure.dataset.number));
const lines = await page.inputValue('#lines');
const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')]);
await download.saveAs(options.download);
await page.screenshot({ path: options.screenshot });
const first = Object.keys(options.choices)[0];
await page.selectOption(`figure[data-number="${first}"] select`, '');
const fewer = await page.inputValue('#lines');
const broken = await page.$$eval('img', (images) => images.filter((image) => !image.naturalWidth).length);
await browser.close();
console.log(JSON.stringify({ changed, lines, fewer, broken, errors, name: download.suggestedFilename() }));
