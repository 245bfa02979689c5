// @ts-check
// Style of the attention curves on the timeline strip, in the colors of ComfyUI's theme. No side effects.

export const ATTENTION_STYLE = `
.gloria-timeline.watched { grid-template-rows: minmax(56px, 1fr) 18px 14px auto auto; }
.gloria-timeline.watched .cue > * { opacity: .35; }
.gloria-timeline canvas.attention { z-index: 3; color: var(--ink); }
.gloria-timeline .attention-toggle {
  position: absolute; right: 3px; top: 3px; z-index: 4; width: 22px; height: 20px; padding: 0; cursor: pointer;
  display: grid; place-items: center; border: 1px solid var(--line); border-radius: 6px; outline: none;
  color: var(--descrip-text); background: var(--comfy-menu-bg);
}
.gloria-timeline .attention-toggle:is(:hover, :focus-visible) { color: var(--ink); border-color: var(--ink); }
.gloria-timeline .attention-toggle[aria-pressed=true] {
  color: var(--p-primary-contrast-color, #fff); background: var(--p-primary-color, #3b82c4);
}
.gloria-timeline .attention-legend {
  display: flex; flex-wrap: wrap; gap: 3px; max-height: 84px; overflow: hidden auto; color: var(--descrip-text);
}
.gloria-timeline [hidden] { display: none; }
.gloria-timeline .attention-legend.failed { color: var(--p-red-400, var(--error-text)); }
.gloria-timeline .looked {
  display: grid; grid-template: auto auto / auto auto; column-gap: 5px; align-items: center; padding: 2px 6px 2px 2px;
  border-radius: 6px; border-left: 4px solid var(--color); background: var(--comfy-input-bg);
}
.gloria-timeline .looked :is(img, i) {
  grid-row: 1 / 3; width: 22px; height: 30px; border-radius: 4px; object-fit: cover;
}
.gloria-timeline .looked i { width: 2px; }
.gloria-timeline .looked span { font-size: 9px; color: var(--descrip-text); white-space: nowrap; }
.gloria-timeline .looked b { font-weight: 600; color: var(--ink); font-variant-numeric: tabular-nums; }
`;
