// @ts-check
// A recording in ComfyUI's folders enters, its duration and the loudest sample of each piece leave. No side effects.
import { viewUrl } from './lib/api.js';

const NUM_PEAKS = 1200;
// Speech shows its shape at this rate, and ten minutes of it take 20 MB.
const SAMPLE_RATE = 8000;

/**
 * @param {string} name in ComfyUI's notation
 * @returns {Promise<{seconds: number, peaks: Float32Array}>}
 */
export async function readWave(name) {
  const response = await fetch(viewUrl(name));
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  const sound = await context.decodeAudioData(await response.arrayBuffer());
  const samples = sound.getChannelData(0);
  const peaks = new Float32Array(Math.min(NUM_PEAKS, samples.length));
  for (let idx = 0; idx < samples.length; idx++) {
    const place = Math.floor((idx * peaks.length) / samples.length);
    peaks[place] = Math.max(peaks[place], Math.abs(samples[idx]));
  }
  return { seconds: sound.duration, peaks };
}

/**
 * Draw the wave over the part of the canvas that its seconds take.
 * @param {HTMLCanvasElement} canvas
 * @param {{seconds: number, peaks: Float32Array} | null} wave
 * @param {number} seconds that the whole width stands for
 */
export function drawWave(canvas, wave, seconds) {
  const width = (canvas.width = canvas.clientWidth * devicePixelRatio);
  const height = (canvas.height = canvas.clientHeight * devicePixelRatio);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  if (!wave || !width) return;
  context.fillStyle = getComputedStyle(canvas).color;
  const step = (wave.seconds / seconds / wave.peaks.length) * width;
  const loudest = wave.peaks.reduce((a, b) => Math.max(a, b), 1e-4);
  wave.peaks.forEach((peak, idx) => {
    const tall = Math.max(devicePixelRatio, (peak / loudest) * height * 0.92);
    context.fillRect(idx * step, (height - tall) / 2, Math.max(step * 0.75, 0.5), tall);
  });
}
