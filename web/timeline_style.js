// @ts-check
// Style of the timeline strip, in the colors of ComfyUI's theme. No side effects.

export const TIMELINE_STYLE = `
.gloria-timeline {
  --ink: var(--input-text, var(--fg-color));
  --line: color-mix(in srgb, var(--ink) 22%, transparent);
  box-sizing: border-box; width: 100%; height: 100%; min-height: 150px; padding: 6px 8px; overflow: hidden;
  display: grid; grid-template: minmax(40px, 1fr) 18px 14px auto / minmax(0, 1fr); gap: 3px;
  border-radius: 8px; user-select: none;
  background: var(--comfy-menu-bg); color: var(--ink); font: 11px/1.35 system-ui, sans-serif;
}
.gloria-timeline .strip {
  position: relative; min-height: 0; overflow: hidden; border-radius: 6px; background: var(--comfy-input-bg);
}
.gloria-timeline canvas {
  position: absolute; inset: 0; width: 100%; height: 100%; z-index: 1; pointer-events: none;
  color: color-mix(in srgb, var(--ink) 38%, transparent);
}
.gloria-timeline .cues { position: absolute; inset: 0; }
.gloria-timeline .cue {
  position: absolute; inset-block: 0; box-sizing: border-box; padding: 3px 5px; overflow: hidden;
  border-left: 2px solid hsl(var(--hue) 60% 55%); background: hsl(var(--hue) 55% 50% / .24);
  transition: background .12s;
}
.gloria-timeline .cue:hover { background: hsl(var(--hue) 55% 50% / .42); }
.gloria-timeline .cue > * { position: relative; z-index: 2; display: block; }
.gloria-timeline .cue small { font-size: 9px; color: var(--descrip-text); font-variant-numeric: tabular-nums; }
.gloria-timeline .cue span {
  display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden;
  text-shadow: 0 0 3px var(--comfy-input-bg), 0 0 3px var(--comfy-input-bg);
}
.gloria-timeline .cue b {
  display: inline-block; margin: 2px 3px 0 0; padding: 0 5px; border-radius: 7px; font-weight: 600; font-size: 9px;
  line-height: 14px; color: #fff; background: hsl(var(--hue) 45% 38%);
}
.gloria-timeline .cue.unused {
  opacity: .6;
  background: repeating-linear-gradient(-45deg, hsl(var(--hue) 30% 50% / .3) 0 4px, transparent 4px 8px);
}
.gloria-timeline .cue.unused span { text-decoration: line-through; }
.gloria-timeline .chunks, .gloria-timeline .axis { position: relative; }
.gloria-timeline .chunk {
  position: absolute; inset-block: 0; box-sizing: border-box; overflow: hidden; text-align: center; line-height: 18px;
  font-size: 10px; border-radius: 4px; border: 1px solid var(--comfy-menu-bg); color: #fff;
  background: hsl(var(--hue) 45% 40%); font-variant-numeric: tabular-nums;
}
.gloria-timeline .axis span {
  position: absolute; padding-left: 3px; border-left: 1px solid var(--line); font-size: 9px; color: var(--descrip-text);
  font-variant-numeric: tabular-nums; white-space: nowrap;
}
.gloria-timeline .status {
  min-height: 1.35em; max-height: 2.7em; overflow: hidden; color: var(--descrip-text);
}
.gloria-timeline.warned .status { color: var(--p-yellow-500, orange); }
.gloria-timeline.failed .status { color: var(--p-red-400, var(--error-text)); }
.gloria-timeline.failed :is(.strip, .chunks) { opacity: .5; }
`;
