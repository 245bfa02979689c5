// @ts-check
// Style of the training monitor, in the colors of ComfyUI's theme. No side effects.

export const MONITOR_STYLE = `
.gloria-monitor {
  --ink: var(--input-text, var(--fg-color));
  --soft: var(--descrip-text);
  --line: color-mix(in srgb, var(--ink) 16%, transparent);
  --accent: var(--p-primary-color, var(--ink));
  --raw: color-mix(in srgb, #6b93c4 55%, transparent); --smooth: #60afff; --held: #ffaa40;
  --done: var(--p-green-600, green);
  --error: var(--p-red-400, var(--error-text));
  box-sizing: border-box; width: 100%; height: 100%; min-height: 500px; padding: 8px; overflow: hidden;
  display: flex; flex-direction: column; gap: 6px; border-radius: 8px; user-select: none;
  background: var(--comfy-menu-bg); color: var(--ink); font: 11px/1.35 system-ui, sans-serif;
  font-variant-numeric: tabular-nums;
}
.gloria-monitor > * { flex: none; min-width: 0; }
.gloria-monitor [hidden] { display: none !important; }
.gloria-monitor .state, .gloria-monitor .names { display: flex; align-items: center; gap: 8px; white-space: nowrap; }
.gloria-monitor .state { font-size: 12px; min-height: 17px; }
.gloria-monitor .step { overflow: hidden; text-overflow: ellipsis; }
.gloria-monitor .left { margin-left: auto; color: var(--soft); }
.gloria-monitor .lamp { width: 8px; height: 8px; border-radius: 4px; background: var(--soft); }
.gloria-monitor:is([data-state=training], [data-state=saving], [data-state=validating]) .lamp {
  background: var(--smooth);
}
.gloria-monitor:is([data-state=training], [data-state=saving], [data-state=validating], [data-state=starting]) .lamp {
  animation: gloria-monitor-lamp 1.6s ease-in-out infinite;
}
.gloria-monitor[data-state=finished] .lamp { background: var(--done); }
.gloria-monitor:is([data-state=failed], [data-state=gone]) .lamp { background: var(--error); }
@keyframes gloria-monitor-lamp { 50% { opacity: .35; } }
.gloria-monitor .bar { height: 4px; overflow: hidden; border-radius: 2px; background: var(--comfy-input-bg); }
.gloria-monitor .bar > div { height: 100%; width: 0; background: var(--accent); transition: width .4s; }
.gloria-monitor[data-state=finished] .bar > div { background: var(--done); }
.gloria-monitor:is([data-state=failed], [data-state=gone]) .bar > div { background: var(--error); }
.gloria-monitor .name {
  flex: 1 1 0; overflow: hidden; text-overflow: ellipsis; color: var(--soft); user-select: text;
}
.gloria-monitor .legend { display: flex; gap: 10px; color: var(--soft); }
.gloria-monitor .legend span::before {
  content: ''; display: inline-block; width: 12px; height: 2px; margin-right: 4px; vertical-align: middle;
  background: var(--raw);
}
.gloria-monitor .legend .smooth::before { background: var(--smooth); }
.gloria-monitor .legend .heldOut::before { background: var(--held); }
.gloria-monitor .chart {
  flex: 3 1 0; min-height: 150px; padding: 4px 8px 16px 0; border-radius: 6px; background: var(--comfy-input-bg);
}
.gloria-monitor .plot { position: relative; height: 100%; margin-left: 38px; }
.gloria-monitor svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.gloria-monitor path { fill: none; stroke-width: 1px; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.gloria-monitor path.grid { stroke: var(--line); }
.gloria-monitor path.stages { stroke: var(--soft); stroke-dasharray: 3 3; }
.gloria-monitor path.raw { stroke: var(--raw); }
.gloria-monitor path.raw.band { stroke: none; fill: var(--raw); opacity: .5; }
.gloria-monitor path.smooth { stroke: var(--smooth); stroke-width: 2px; }
.gloria-monitor path.held { stroke: var(--held); stroke-width: 1.5px; }
.gloria-monitor path.dots { stroke: var(--held); stroke-width: 5px; stroke-linecap: round; }
.gloria-monitor path.cursor { stroke: var(--soft); }
.gloria-monitor .labels span {
  position: absolute; font-size: 10px; line-height: 12px; color: var(--soft); white-space: nowrap;
}
.gloria-monitor .labels .loss { transform: translate(calc(-100% - 5px), -50%); }
.gloria-monitor .labels .step { transform: translate(-50%, 2px); overflow: visible; }
.gloria-monitor .labels .step.last { transform: translate(calc(4px - 100%), 2px); }
.gloria-monitor .labels .stage { padding-left: 4px; max-width: 30%; overflow: hidden; text-overflow: ellipsis; }
.gloria-monitor .empty { position: absolute; inset: 0; display: grid; place-items: center; color: var(--soft); }
.gloria-monitor .tip {
  position: absolute; top: 4px; z-index: 1; margin: 0 8px; padding: 4px 7px; border: 1px solid var(--line);
  border-radius: 6px; background: var(--comfy-menu-bg); white-space: nowrap; pointer-events: none;
}
.gloria-monitor .tip div:first-child { font-weight: 600; }
.gloria-monitor .numbers { display: flex; gap: 12px; }
.gloria-monitor .facts {
  flex: 1 1 0; display: grid; grid-template-columns: repeat(3, auto); gap: 3px 14px; margin: 0;
  align-content: start;
}
.gloria-monitor .facts dt { color: var(--soft); font-size: 10px; }
.gloria-monitor .facts dd { margin: 0; font-size: 12px; white-space: nowrap; }
.gloria-monitor .bins { flex: none; width: 150px; color: var(--soft); font-size: 10px; text-align: center; }
.gloria-monitor .bars { display: flex; gap: 2px; height: 48px; margin-bottom: 2px; }
.gloria-monitor .bin {
  position: relative; flex: 1 1 0; border-radius: 2px; background: var(--comfy-input-bg); overflow: hidden;
}
.gloria-monitor .bin::before {
  content: ''; position: absolute; inset: auto 0 0; height: var(--now); background: var(--smooth); opacity: .75;
}
.gloria-monitor .bin::after {
  content: ''; position: absolute; inset: auto 0 var(--first); height: 1px; background: var(--ink);
}
.gloria-monitor .clips { flex: 2 1 0; min-height: 132px; display: flex; flex-direction: column; gap: 5px; }
.gloria-monitor .row { display: flex; gap: 5px; }
.gloria-monitor .cells { flex: 1 1 0; display: flex; gap: 2px; min-width: 0; overflow-x: auto; scrollbar-width: thin; }
.gloria-monitor .cell {
  flex: none; min-width: 24px; height: 20px; padding: 0 6px; border: 0; border-radius: 4px; cursor: pointer;
  font: inherit; font-size: 10px; color: var(--soft); background: var(--comfy-input-bg); outline: none;
}
.gloria-monitor .cell.chosen { color: #fff; background: color-mix(in srgb, var(--smooth) 45%, #223); }
.gloria-monitor .cell:is(:hover, :focus-visible) { box-shadow: inset 0 0 0 1px var(--ink); }
.gloria-monitor .shots {
  flex: 1 1 0; min-height: 0; display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 4px;
}
.gloria-monitor figure {
  position: relative; min-height: 0; margin: 0; overflow: hidden; border-radius: 6px; background: #000;
}
.gloria-monitor :is(video, img) { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.gloria-monitor figcaption {
  position: absolute; left: 4px; top: 4px; padding: 0 6px; border-radius: 8px; line-height: 15px; font-size: 10px;
  color: #fff; background: rgb(0 0 0 / .6); pointer-events: none;
}
.gloria-monitor .news {
  min-height: 15px; max-height: 76px; overflow: auto; overflow-wrap: anywhere; color: var(--soft);
  user-select: text;
}
.gloria-monitor .news.failed { color: var(--error); }
.gloria-monitor .tools { display: flex; gap: 5px; }
.gloria-monitor :is(.tools button, select) {
  box-sizing: border-box; height: 24px; padding: 0 10px; border: 1px solid var(--line); border-radius: 6px;
  font: inherit; color: var(--ink); background: var(--comfy-input-bg); outline: none;
}
.gloria-monitor .row select { height: 20px; padding: 0 4px; }
.gloria-monitor .tools button { cursor: pointer; font-weight: 600; }
.gloria-monitor .tools .stop { margin-left: auto; color: #fff; background: var(--p-red-600, #b3261e); }
.gloria-monitor .tools button:hover:not(:disabled), .gloria-monitor :is(button, select):focus-visible {
  border-color: var(--accent);
}
.gloria-monitor .tools button:disabled { opacity: .4; cursor: default; }
`;
