// @ts-check
// A toast for whoever queues a prompt while a training run has the device. Sent by nodes/bridge/training_notice.py.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';

const SHOWN_MS = 15_000;

app.registerExtension({
  name: 'gloria.TrainingNotice',
  setup() {
    const { toast } = app.extensionManager;
    let shown;
    api.addEventListener('gloria.training', (/** @type {CustomEvent<{title: string, text: string}>} */ { detail }) => {
      // A batch of prompts gives one toast, not a pile.
      if (shown) toast.remove(shown);
      shown = { severity: 'warn', summary: detail.title, detail: detail.text, life: SHOWN_MS };
      toast.add(shown);
    });
  },
});
