// @ts-check
// Which anchor is looked at, when: curves over the timeline strip, read from the film's job folder
// (nodes/bridge/routes_films.py). Off until its button is pressed. No side effects.
import { api } from '../../scripts/api.js';
import { AttentionView } from './attention_view.js';
import { get } from './lib/api.js';
import { anchorPictures } from './timeline_graph.js';

const FILM_EVENT = 'gloria.film';

export class Attention {
  /**
   * @param {any} node a Gloria Timeline
   * @param {import('./timeline_view.js').TimelineView} strip
   * @param {(path: string, values?: Record<string, any>) => string} text
   */
  constructor(node, strip, text) {
    this.node = node;
    this.isOn = false;
    this.job = '';
    this.seconds = 1;
    this.view = new AttentionView(strip, text, () => this.toggle());
    this.listener = ({ detail }) => {
      const isNews = detail.ended || detail.finished !== undefined;
      if (this.isOn && isNews && detail.job === this.job) this.read();
    };
    api.addEventListener(FILM_EVENT, this.listener);
  }

  /** Fit the curves to the strip. @param {string | undefined} job the film's @param {number} seconds the strip's */
  place(job, seconds) {
    this.seconds = seconds;
    const isOther = job !== this.job;
    this.job = job ?? '';
    if (this.isOn && isOther) this.read();
    else this.view.fit(seconds);
  }

  toggle() {
    this.isOn = !this.isOn;
    this.view.toggle(this.isOn);
    if (this.isOn) this.read();
  }

  async read() {
    const { job } = this;
    const pictures = anchorPictures(this.node);
    try {
      const [newest] = job ? await get('films', { job }) : [];
      const film = newest ? await get(`films/${newest.folder}/attention`) : { seconds: [], curves: [] };
      if (job === this.job) this.view.render({ ...film, pictures, error: null }, this.seconds);
    } catch (error) {
      this.view.render({ seconds: [], curves: [], pictures, error: error.message }, this.seconds);
    }
  }

  remove() {
    api.removeEventListener(FILM_EVENT, this.listener);
    this.view.remove();
  }
}
