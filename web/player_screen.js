// @ts-check
// Small videos that follow one another on one screen: while one plays the next is loaded behind it. No side effects.
import { element } from './lib/dom.js';

export class Screen {
  /** @param {() => void} onEnded */
  constructor(onEnded) {
    this.videos = [0, 1].map(() => element('video', {
      controls: true, playsInline: true, preload: 'auto', hidden: true, onended: onEnded,
    }));
    this.front = 0;
  }

  /**
   * Show a video, and load the one that will follow.
   * @param {string | null} address
   * @param {string | null} following
   * @param {boolean} plays
   */
  show(address, following, plays) {
    const shown = this.videos[this.front];
    if (address === null || address !== shown.dataset.address) {
      shown.pause();
      // What was loaded behind the scene has only to step forward.
      if (address !== null && this.videos[1 - this.front].dataset.address === address) this.front = 1 - this.front;
      else load(shown, address);
    }
    this.videos.forEach((video, idx) => (video.hidden = address === null || idx !== this.front));
    const [front, back] = [this.videos[this.front], this.videos[1 - this.front]];
    if (following !== null && following !== back.dataset.address) load(back, following);
    back.volume = front.volume;
    back.muted = front.muted;
    if (plays && address !== null) front.play().catch(() => {}); // a browser may want a click before any sound
  }

  get isPlaying() {
    return !this.videos[this.front].paused;
  }

  remove() {
    for (const video of this.videos) load(video, null);
  }
}

/** @param {HTMLVideoElement} video @param {string | null} address */
function load(video, address) {
  if (address === null) {
    delete video.dataset.address;
    video.removeAttribute('src');
    video.load();
  } else {
    video.dataset.address = address;
    video.src = address;
  }
}
