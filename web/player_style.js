// @ts-check
// Style of the player, in the colors of ComfyUI's theme. No side effects.

export const PLAYER_STYLE = `
.gloria-player {
  --ink: var(--input-text, var(--fg-color));
  --line: color-mix(in srgb, var(--ink) 22%, transparent);
  --accent: var(--p-primary-color, var(--ink));
  --done: var(--p-green-600, green);
  --error: var(--p-red-400, var(--error-text));
  box-sizing: border-box; width: 100%; height: 100%; min-height: 320px; padding: 6px; overflow: hidden;
  display: grid; gap: 6px;
  grid-template: minmax(80px, 1fr) 4px auto 22px auto auto / minmax(0, 1fr); border-radius: 8px;
  background: var(--comfy-menu-bg); color: var(--ink); font: 11px/1.35 system-ui, sans-serif; user-select: none;
}
.gloria-player .screen { position: relative; min-height: 0; overflow: hidden; border-radius: 6px; background: #000; }
.gloria-player video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.gloria-player .screen .note {
  position: absolute; inset: 0; display: grid; place-items: center; padding: 20px; text-align: center; color: #bbb;
}
.gloria-player .screen .badge {
  position: absolute; left: 6px; top: 6px; padding: 0 6px; border-radius: 8px; line-height: 16px; font-size: 10px;
  color: #fff; background: rgb(0 0 0 / .6); pointer-events: none;
}
.gloria-player [hidden] { display: none !important; }
.gloria-player video[hidden] { display: block !important; visibility: hidden; }
.gloria-player .bar { overflow: hidden; border-radius: 2px; background: var(--comfy-input-bg); }
.gloria-player .bar > div { height: 100%; width: 0; background: var(--accent); transition: width .3s; }
.gloria-player .state { display: flex; justify-content: space-between; gap: 8px; font-variant-numeric: tabular-nums; }
.gloria-player .state span:last-child { color: var(--descrip-text); white-space: nowrap; }
.gloria-player .cells { display: flex; gap: 2px; min-width: 0; }
.gloria-player .cell {
  position: relative; flex: 1 1 0; min-width: 15px; padding: 0; overflow: hidden; border: 0; border-radius: 4px;
  cursor: pointer; font: 10px/22px system-ui, sans-serif; text-align: center; color: var(--descrip-text);
  background: var(--comfy-input-bg); font-variant-numeric: tabular-nums; outline: none;
}
.gloria-player .cells.many { gap: 1px; font-size: 0; }
.gloria-player .cells.many .cell { min-width: 1px; font-size: 0; border-radius: 2px; }
.gloria-player .cell.done { color: #fff; background: var(--done); }
.gloria-player .cell.sampling { color: var(--ink); }
.gloria-player .cell.sampling::before {
  content: ''; position: absolute; inset: 0 auto 0 0; width: var(--part, 0%); background: var(--accent); opacity: .55;
  transition: width .3s;
}
.gloria-player .cell span { position: relative; }
.gloria-player .cell:is(:hover, :focus-visible), .gloria-player .cell.chosen { box-shadow: inset 0 0 0 2px var(--ink); }
.gloria-player .about { color: var(--descrip-text); height: 2.7em; overflow: hidden; overflow-wrap: anywhere; }
.gloria-player .about b { color: var(--ink); font-weight: 600; }
.gloria-player .about.failed { color: var(--error); }
.gloria-player .tools { display: flex; flex-wrap: wrap; gap: 5px; align-items: center; }
.gloria-player :is(.tools button, select, input) {
  box-sizing: border-box; height: 24px; padding: 0 9px; border: 1px solid var(--line); border-radius: 6px;
  font: inherit; color: var(--ink); background: var(--comfy-input-bg); outline: none;
}
.gloria-player .tools button { cursor: pointer; font-weight: 600; }
.gloria-player .tools button:hover:not(:disabled), .gloria-player :is(button, input, select):focus-visible {
  border-color: var(--accent);
}
.gloria-player .tools button:disabled { opacity: .45; cursor: default; }
.gloria-player .tools .main { color: var(--p-primary-contrast-color, #fff); background: var(--accent); }
.gloria-player .tools .cancel { color: #fff; background: var(--p-red-600, #b3261e); }
.gloria-player .tools input { flex: 1 1 90px; min-width: 60px; user-select: text; font-variant-numeric: tabular-nums; }
.gloria-player .tools select { max-width: 110px; padding: 0 4px; }
`;
