// @ts-check
// Style of the anchor board, in the colors of ComfyUI's theme. No side effects.

export const BOARD_STYLE = `
.gloria-board {
  --ink: var(--input-text, var(--fg-color));
  --line: color-mix(in srgb, var(--ink) 22%, transparent);
  --accent: var(--p-primary-color, var(--ink));
  --warning: var(--p-yellow-500, orange);
  --error: var(--p-red-500, var(--error-text));
  box-sizing: border-box; width: 100%; height: 100%; min-height: 220px; padding: 6px;
  display: grid; grid-template: minmax(0, 1fr) auto / minmax(0, 1fr) minmax(0, 1fr); gap: 8px;
  container-type: size; overflow: hidden; border-radius: 8px; user-select: none;
  background: var(--comfy-menu-bg); color: var(--ink); font: 11px/1.35 system-ui, sans-serif;
}
.gloria-board-left { display: grid; grid-template-rows: minmax(0, 1.15fr) minmax(0, 1fr); gap: 6px; min-height: 0; }
.gloria-board-faces { display: grid; grid-template: repeat(2, minmax(0, 1fr)) / repeat(4, minmax(0, 1fr)); gap: 5px; }
.gloria-board-views {
  display: grid; gap: 5px; min-height: 0;
  grid-template: minmax(0, 5fr) minmax(0, 3.4fr) minmax(0, 5fr) / minmax(0, 1fr) minmax(0, 1.1fr) minmax(0, 1fr);
  grid-template-areas: 'left back right' 'left figure right' 'left front right';
}
.gloria-slot:is([data-slot=left], [data-slot=right]) { align-self: center; height: 50%; }
.gloria-board-figure { grid-area: figure; display: grid; place-items: center; min-height: 0; color: var(--descrip-text); }
.gloria-board svg {
  width: 100%; height: 100%; fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linecap: round;
  stroke-linejoin: round;
}
.gloria-board svg * { vector-effect: non-scaling-stroke; }
.gloria-board svg .dot { stroke-width: 3.4; }
.gloria-slot {
  position: relative; min-width: 0; min-height: 0; overflow: hidden; border-radius: 6px; cursor: pointer; outline: none;
  border: 1px dashed var(--line); background: var(--comfy-input-bg); color: var(--descrip-text);
  transition: border-color .12s, box-shadow .12s;
}
.gloria-slot > svg, .gloria-slot > .art { position: absolute; inset: 12% 8% 24%; width: auto; height: auto; opacity: .55; }
.gloria-slot .art svg { position: absolute; inset: 0; }
.gloria-slot img {
  position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; object-position: 50% 25%;
  pointer-events: none; display: none;
}
.gloria-slot.filled, .gloria-slot.linked { border-style: solid; }
.gloria-slot.pictured img { display: block; }
.gloria-slot.pictured .art { display: none; }
.gloria-slot:hover { border-color: color-mix(in srgb, var(--ink) 55%, transparent); }
.gloria-slot:focus-visible, .gloria-slot.target { border-color: var(--accent); box-shadow: 0 0 0 2px var(--accent); }
.gloria-slot.target { border-style: solid; }
.gloria-slot.dragged { opacity: .35; }
.gloria-slot.warned { border-color: var(--warning); }
.gloria-slot.failed { border-color: var(--error); }
.gloria-slot .label {
  position: absolute; inset: auto 0 0; padding: 2px 5px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  text-align: center; color: var(--ink);
}
.gloria-board-faces .label { padding-inline: 3px; font-size: 10px; }
.gloria-slot.pictured .label {
  padding-top: 14px; text-align: left; color: #fff; background: linear-gradient(transparent, rgb(0 0 0 / .78));
}
.gloria-slot .badge {
  position: absolute; display: none; align-items: center; height: 15px; padding: 0 4px; border-radius: 8px;
  font-size: 9px; letter-spacing: -.2px; line-height: 15px; white-space: nowrap; color: #fff; background: rgb(0 0 0 / .66);
}
.gloria-slot .badge[data-on] { display: block; }
.gloria-slot .size { right: 3px; top: 3px; }
.gloria-slot:is(:hover, :focus-visible).filled .size { display: none; }
.gloria-slot .sign {
  left: 0; top: 0; width: 22px; height: 22px; padding: 0 0 0 4px; border-radius: 0; box-sizing: border-box;
  font-size: 11px; font-weight: 800; clip-path: polygon(0 0, 100% 0, 0 100%);
}
.gloria-slot.warned .sign { background: var(--warning); color: #000; }
.gloria-slot.failed .sign { background: var(--error); }
.gloria-slot .source { left: 3px; top: 3px; max-width: calc(100% - 14px); overflow: hidden; text-overflow: ellipsis; }
.gloria-slot.linked { border-color: var(--accent); cursor: default; }
.gloria-slot.linked .source { background: var(--accent); color: var(--comfy-menu-bg); font-weight: 600; }
.gloria-slot .used { right: 3px; bottom: 4px; padding: 0 4px; background: var(--p-green-600, green); }
.gloria-slot .clear {
  position: absolute; right: 3px; top: 3px; display: none; width: 18px; height: 18px; padding: 0; border: 0;
  border-radius: 9px; cursor: pointer; font: 700 12px/16px system-ui, sans-serif; color: #fff;
  background: rgb(0 0 0 / .7);
}
.gloria-slot .clear:hover { background: var(--error); }
.gloria-slot:is(:hover, :focus-visible).filled:not(.linked) .clear { display: block; }
.gloria-slot.busy::after {
  content: ''; position: absolute; inset: calc(50% - 9px); width: 18px; height: 18px; border-radius: 50%;
  border: 2px solid var(--line); border-top-color: var(--accent); animation: gloria-turn .8s linear infinite;
  box-sizing: border-box;
}
@keyframes gloria-turn { to { rotate: 1turn; } }
.gloria-board-status {
  grid-column: 1 / -1; height: 2.7em; overflow: hidden; color: var(--descrip-text); display: -webkit-box;
  -webkit-line-clamp: 2; -webkit-box-orient: vertical;
}
.gloria-board-status.warned { color: var(--warning); }
.gloria-board-status.failed { color: var(--error); }
@container (width < 430px) or (height < 330px) {
  .gloria-slot .size { display: none !important; }
  .gloria-board-faces .label { font-size: 9px; padding-inline: 2px; }
}
@container (width < 300px) {
  .gloria-board-faces .label { display: none; }
}
`;
