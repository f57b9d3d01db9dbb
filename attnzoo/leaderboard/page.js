"use strict";
// Names are set as text, never as markup.
const board = JSON.parse(document.getElementById("board").textContent);
const byId = id => document.getElementById(id);
const percent = (share, digits = 1) => (100 * share).toFixed(digits);

function element(name, attributes = {}, ...children) {
  const spaces = name.startsWith("svg:") ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(spaces, name.replace("svg:", ""));
  for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, value);
  made.append(...children.filter(child => child != null));
  return made;
}
const svg = (name, attributes, ...children) => element("svg:" + name, attributes, ...children);

// ---- Theme ----------------------------------------------------------------------------------------------------------

const themes = {system: "light dark", light: "light", dark: "dark"};
function paint(theme) {
  document.documentElement.style.colorScheme = themes[theme];
  byId("theme").textContent = `Theme: ${theme}`;
  byId("theme").dataset.theme = theme;
}
byId("theme").addEventListener("click", () => {
  const names = Object.keys(themes);
  const theme = names[(names.indexOf(byId("theme").dataset.theme) + 1) % names.length];
  paint(theme);
  try { localStorage.setItem("attnzoo-theme", theme); } catch { /* a browser may forbid it for files */ }
});
let kept = null;
try { kept = localStorage.getItem("attnzoo-theme"); } catch { /* likewise */ }
paint(kept in themes ? kept : "system");

// ---- Tooltips: whatever has data-tip, under the mouse, the finger or the focus ---------------------------------------

const tip = byId("tip");
function showTip(event) {
  const target = event.target.closest?.("[data-tip]");
  tip.hidden = !target;
  if (!target) return;
  tip.textContent = target.dataset.tip;
  const at = target.getBoundingClientRect();
  const left = Math.min(Math.max(4, at.x + at.width / 2 - tip.offsetWidth / 2), document.documentElement.clientWidth - tip.offsetWidth - 4);
  const above = at.y - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 0 ? above : at.bottom + 6}px`;
}
for (const kind of ["pointerover", "pointerdown", "focusin"]) document.addEventListener(kind, showTip);
document.addEventListener("focusout", () => tip.hidden = true);
document.addEventListener("scroll", () => tip.hidden = true, {capture: true, passive: true});
document.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });

// ---- The ranking: order, filter, open rows, copying -------------------------------------------------------------------

const table = document.querySelector(".ranking");
const headers = [...table.tHead.rows[0].cells];
const bodies = [...table.tBodies];
const shown = () => board.rows.filter((_, i) => !bodies[i].hidden);

function order(column, descending) {
  headers.forEach(header => header.removeAttribute("aria-sort"));
  headers[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  byId("sort").value = column;
  byId("direction").textContent = descending ? "↓" : "↑";
  const value = body => body.rows[0].cells[column].dataset.value;
  const words = bodies.some(body => value(body) !== undefined && isNaN(value(body)));
  const compare = (a, b) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // what is not known comes last
    return (descending ? -1 : 1) * (words ? a.localeCompare(b, undefined, {numeric: true}) : a - b);
  };
  table.append(...[...bodies].sort((a, b) => compare(value(a), value(b))));
}
const falls = column => [2, 4, 6, 7].includes(column); // where more is better: the first click sorts downwards
headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () =>
  order(column, header.ariaSort ? header.ariaSort === "ascending" : falls(column))));
byId("sort").addEventListener("change", event => order(+event.target.value, falls(+event.target.value)));
byId("direction").addEventListener("click", () => order(+byId("sort").value, byId("direction").textContent === "↑"));

byId("tools").addEventListener("submit", event => event.preventDefault());
byId("filter").addEventListener("input", () => {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  bodies.forEach(body => {
    body.hidden = !words.every(word => body.dataset.words.toLowerCase().includes(word));
  });
  byId("count").textContent = `${shown().length} of ${bodies.length} rows`;
  drawAll();
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // browsers keep the clipboard from some pages that are files
    const area = element("textarea", {readonly: ""}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
table.addEventListener("click", async event => {
  const button = event.target.closest("button");
  if (button?.matches(".open")) {
    const open = button.ariaExpanded === "false";
    button.ariaExpanded = open;
    byId(button.getAttribute("aria-controls")).hidden = !open;
  } else if (button?.matches(".copy")) {
    const {preparation, commands} = board.rows[button.dataset.row];
    const lines = button.dataset.run ? [commands[button.dataset.run]] : commands;
    await copy(preparation + lines.join("\n") + "\n");
    const before = button.textContent;
    button.textContent = "Copied";
    button.focus();
    setTimeout(() => button.textContent = before === "Copied" ? button.dataset.name : before, 1500);
    button.dataset.name ??= before;
  }
});

// ---- Charts -----------------------------------------------------------------------------------------------------------

function axis(values, from, to, {share = false, whole = false, log = false} = {}) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
  if (log) {
    [low, high] = [Math.log10(low), Math.log10(high)];
    const at = value => from + (Math.log10(value) - low + .05 * (high - low)) / (1.1 * (high - low)) * (to - from);
    const ticks = [];
    for (let e = Math.floor(low); e <= high; e++)
      for (const m of high - low > 2 ? [1] : [1, 2, 5]) ticks.push(m * 10 ** e);
    return {at, ticks: ticks.filter(t => Math.log10(t) >= low && Math.log10(t) <= high).map(t => [t, `${+t.toPrecision(2)}`])};
  }
  const pad = .06 * (high - low);
  low -= pad; high += pad;
  if (share) [low, high] = [Math.max(low, -.02), Math.min(high, 1.02)];
  const rough = (high - low) / Math.max(2, Math.abs(to - from) / (from < to ? 80 : 50)), power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 5, 10].find(m => m * power >= rough) * power, whole ? 1 : 0);
  const digits = Math.max(0, -Math.floor(Math.log10(step * (share ? 100 : 1)) + 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++)
    ticks.push([i * step, share ? `${percent(i * step, digits)} %` : (i * step).toFixed(digits)]);
  return {at: value => from + (value - low) / (high - low) * (to - from), ticks};
}

const apart = (a, b) => a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
const short = name => name.length > 24 ? name.slice(0, 23) + "…" : name;

// Each name as near to its point as it can be without touching another name, a point or a bar; else it is left out,
// and the tooltip tells it.
function label(root, points, room, bars) {
  const taken = [...points.map(p => ({x: p.px - 7, y: p.py - 7, w: 14, h: 14})), ...bars];
  for (const p of [...points].sort((a, b) => a.py - b.py)) {
    const text = svg("text", {class: "name"}, short(p.label));
    root.append(text);
    const w = text.getBBox().width + 4, h = 16;
    const place = spots(w, h).map(([dx, dy]) => ({x: p.px + dx, y: p.py + dy, w, h})).find(box =>
      box.x >= room.x && box.y >= room.y && box.x + w <= room.x + room.w && box.y + h <= room.y + room.h
      && taken.every(other => apart(box, other)));
    if (!place) { text.remove(); continue; }
    taken.push(place);
    text.setAttribute("x", place.x + 2);
    text.setAttribute("y", place.y + 12);
    const end = {x: Math.min(Math.max(p.px, place.x), place.x + w), y: Math.min(Math.max(p.py, place.y), place.y + h)};
    if (Math.hypot(end.x - p.px, end.y - p.py) > 14)
      root.prepend(svg("line", {class: "leader", x1: p.px, y1: p.py, x2: end.x, y2: end.y}));
  }
}
function* rings() { for (let r = 9; r < 200; r += 8) yield r; }
const spots = (w, h) => [...rings()].flatMap(r => [
  [r, -h / 2], [-r - w, -h / 2], [-w / 2, -r - h], [-w / 2, r], [r * .7, -r * .7 - h], [r * .7, r * .7],
  [-r * .7 - w, -r * .7 - h], [-r * .7 - w, r * .7]]);

// lines: [{name, look, points: [{x, y, low, high, label, tip, full, paper}]}]; a line without `look` has points alone.
function chart(place, {title, x, y, lines, levels = [], front = []}) {
  place.replaceChildren();
  const width = place.clientWidth, points = lines.flatMap(line => line.points);
  if (!width || !points.length) return;
  const lengths = (x.ticks ?? []).map(name => short(name).length);
  const slanted = lengths.reduce((sum, length) => sum + length * 7 + 16, 0) > width - 60;
  const below = slanted ? 4.5 * Math.max(...lengths) : 0;
  const height = Math.min(420, Math.max(280, width * .5)) + below;
  const room = {x: 64, y: 8, w: width - 74, h: height - (x.title ? 54 : 34) - below};
  const ys = points.flatMap(p => [p.y, p.low ?? p.y, p.high ?? p.y, p.paper ?? p.y]);
  // A level that is far below would press the points together: it is told in words.
  const least = Math.min(...ys), near = level => level.y >= least - (Math.max(...ys) - least) / 2;
  ys.push(...levels.filter(near).map(level => level.y));
  const across = x.ticks ? {at: i => room.x + (i + .5) / x.ticks.length * room.w, ticks: x.ticks.map((name, i) => [i, short(name)])}
    : axis(points.map(p => p.x), room.x, room.x + room.w, x);
  const up = axis(ys, room.y + room.h, room.y, y);
  const root = svg("svg", {height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title});
  place.append(root);

  for (const [value, name] of up.ticks) root.append(
    svg("line", {class: "grid", x1: room.x, x2: room.x + room.w, y1: up.at(value), y2: up.at(value)}),
    svg("text", {class: "tick", x: room.x - 6, y: up.at(value) + 4, "text-anchor": "end"}, name));
  for (const [value, name] of across.ticks) root.append(
    svg("line", {class: "grid", x1: across.at(value), x2: across.at(value), y1: room.y, y2: room.y + room.h}),
    svg("text", {class: "tick", "text-anchor": slanted ? "end" : "middle",
      transform: `translate(${across.at(value)} ${room.y + room.h + 16})${slanted ? " rotate(-38)" : ""}`}, name));
  root.append(
    svg("text", {class: "title", x: room.x + room.w / 2, y: height - 8, "text-anchor": "middle"}, x.title),
    svg("text", {class: "title", transform: `translate(12 ${room.y + room.h / 2}) rotate(-90)`, "text-anchor": "middle"}, y.title));
  const taken = [];
  for (const level of levels) {
    const at = near(level) ? up.at(level.y) : room.y + room.h, name = short(level.name) + (near(level) ? "" : ", far below");
    const text = svg("text", {class: "tick", x: room.x + room.w - 4, y: at - 5, "text-anchor": "end"}, name);
    root.append(text);
    if (near(level)) root.append(svg("line", {class: "level", x1: room.x, x2: room.x + room.w, y1: at, y2: at}));
    const box = text.getBBox();
    taken.push({x: box.x, y: box.y, w: box.width, h: box.height});
  }
  const steps = front.map(([a, b]) => [across.at(a), up.at(b)]);
  steps.slice(1).forEach(([a, b], i) => {
    const [from, at] = steps[i];
    root.append(svg("path", {class: "front", d: `M${from} ${at}H${a}V${b}`}));
    taken.push({x: from, y: at - 1, w: a - from, h: 2}, {x: a - 1, y: b, w: 2, h: at - b});
  });

  const every = lines.flatMap(line => line.points.map(p => ({...p, look: line.look, px: across.at(p.x), py: up.at(p.y)})));
  for (const line of lines.filter(line => line.look != null)) root.append(svg("path", {
    class: `curve ${looks(line.look)}`, d: line.points.map((p, i) => `${i ? "L" : "M"}${across.at(p.x)} ${up.at(p.y)}`).join("")}));
  for (const line of lines) {
    const printed = line.points.filter(p => p.paper != null).map(p => [across.at(p.x), up.at(p.paper)]);
    if (!printed.length) continue;
    const marks = printed.map(([a, b]) => svg("path", {d: `M${a} ${b - 6}l6 6l-6 6l-6 -6z`}));
    const joined = line.look == null ? null : svg("path", {"stroke-dasharray": "4 4", style: "fill:none", d: "M" + printed.map(at => at.join(" ")).join("L")});
    root.append(svg("g", {class: "paper"}, joined, ...marks));
  }
  const groups = [];
  for (const p of every) {
    const near = every.filter(other => Math.hypot(other.px - p.px, other.py - p.py) < 6);
    const told = [...new Set(near.map(other => other.tip))].join("\n");
    const bar = p.low == null ? null : svg("line", {class: "bar", x1: p.px, x2: p.px, y1: up.at(p.low), y2: up.at(p.high)});
    if (bar) taken.push({x: p.px - 2, y: up.at(p.high), w: 4, h: up.at(p.low) - up.at(p.high)});
    groups.push(svg("g", {class: looks(p.look ?? 0).split(" ")[0], "data-tip": told, tabindex: p.quiet ? null : 0, role: "img", "aria-label": told}, bar,
      svg("circle", {class: `point${p.full ? " full" : ""}`, cx: p.px, cy: p.py, r: p.quiet ? 2.5 : 5}),
      svg("circle", {class: "hit", cx: p.px, cy: p.py, r: p.quiet ? 6 : 10})));
  }
  root.append(...groups);
  label(root, every.filter(p => p.label), room, taken);
  const named = lines.filter(line => line.look != null && line.name);
  const entries = named.map(line => [svg("path", {class: `curve ${looks(line.look)}`, d: "M0 6H32"}), line.name]);
  if (points.some(p => p.paper != null)) entries.push([svg("g", {class: "paper"}, svg("path", {d: "M16 0l6 6l-6 6l-6 -6z"})), "paper"]);
  if (entries.length) place.append(element("ul", {class: "legend"}, ...entries.map(([mark, name]) =>
    element("li", {}, svg("svg", {viewBox: "0 0 32 12", "aria-hidden": "true"}, mark), name))));
}
const looks = i => `c${i % 7} d${Math.floor(i / 7) % 4}`;

const chance = () => ({y: board.chance, name: `chance ${percent(board.chance)} %`});
const costTip = (row, key) => {
  const {head, unit} = board.costs[key];
  return `${row.label}: ${row.told}; ${head} ${+row.costs[key].toPrecision(4)} ${unit}`;
};

function drawCosts() {
  const key = byId("cost").value, {head, unit} = board.costs[key];
  const rows = shown().filter(row => key in row.costs);
  const beaten = row => rows.some(other => other.costs[key] <= row.costs[key] && other.mean >= row.mean
    && (other.costs[key] < row.costs[key] || other.mean > row.mean));
  const values = rows.map(row => row.costs[key]);
  chart(byId("costs"), {
    title: `Accuracy against ${head}`,
    x: {title: `${head}, ${unit}`, log: Math.min(...values) > 0 && Math.max(...values) > 30 * Math.min(...values)},
    y: {title: "test accuracy", share: true},
    levels: [chance()],
    front: rows.filter(row => !beaten(row)).map(row => [row.costs[key], row.mean]).sort((a, b) => a[0] - b[0]),
    lines: [{points: rows.map(row => ({x: row.costs[key], y: row.mean, low: row.ci?.[0], high: row.ci?.[1], label: row.label,
      tip: costTip(row, key), full: !beaten(row)}))}],
  });
}

function drawAblation(made, place) {
  const visible = new Set(shown());
  const point = p => {
    const row = board.rows[p.row], printed = p.paper == null ? "" : `; paper ${percent(p.paper)} %`;
    return {x: p.x, y: row.mean, low: row.ci?.[0], high: row.ci?.[1], paper: p.paper, full: true,
      tip: `${row.label}: ${row.told}${printed}`};
  };
  const level = board.rows[made.level];
  chart(place, {
    title: `Accuracy by ${made.factor}`,
    x: {title: made.ticks.length ? "" : made.factor, ticks: made.ticks.length ? made.ticks : null},
    y: {title: "test accuracy", share: true},
    levels: level ? [{y: level.mean, name: `${level.label} ${percent(level.mean)} %`}] : [chance()],
    lines: made.lines.map((line, i) => ({name: line.name, look: made.ticks.length ? null : i,
      points: line.points.filter(p => visible.has(board.rows[p.row])).map(point)})),
  });
}

function drawCurves() {
  const key = byId("measure").value, name = key.replaceAll("_", " ");
  chart(byId("curves"), {
    title: `${name} by epoch`,
    x: {title: "epoch", whole: true},
    y: {title: name, share: key.endsWith("accuracy")},
    lines: board.rows.map((row, i) => ({name: row.label, look: i, row, points: (row.curves[key] ?? []).map(([x, y]) => ({x, y,
      quiet: true, full: true, tip: `${row.label}, epoch ${x}: ${key.endsWith("accuracy") ? percent(y) + " %" : y.toPrecision(3)}`}))}))
      .filter(line => line.points.length && shown().includes(line.row)),
  });
}

function drawConfusion() {
  const row = board.rows[byId("confused").value], {classes, samples} = board;
  const named = (scope, name) => element("th", {scope}, element("span", {}, name));
  byId("confusion").replaceChildren(
    element("thead", {}, element("tr", {}, element("td"), ...classes.map(name => named("col", name)))),
    element("tbody", {}, ...row.confusion.map((counts, i) => {
      const sum = counts.reduce((a, b) => a + b, 0);
      return element("tr", {}, named("row", classes[i]), ...counts.map((count, j) => element("td", {
        style: `--share: ${sum ? count / sum : 0}`, "data-tip": `${count} of ${sum} ${samples} of ${classes[i]} taken for ${classes[j]}`,
      }, sum ? percent(count / sum, 0) : "–")));
    })));
}

// ---- What is drawn, and when ------------------------------------------------------------------------------------------

const options = names => names.map(([value, name]) => element("option", {value}, name));
byId("cost").append(...options(Object.entries(board.costs).map(([key, {head, unit}]) => [key, `${head}, ${unit}`])));
byId("confused").append(...options(board.rows.map((row, i) => [i, row.label])));
byId("measure").append(...options(board.measures.map(key => [key, key.replaceAll("_", " ")])));
byId("learning").hidden = !board.measures.length;
if ("macs" in board.costs) byId("cost").value = "macs";
const ablations = board.ablations.map(made => [made, element("div", {class: "chart"})]);
for (const [made, place] of ablations) byId("ablations").append(
  element("h2", {}, made.factor === "row" ? "Beside the paper" : `Accuracy by ${made.factor}`), place,
  element("p", {class: "muted"}, "Bars are 95 % intervals; diamonds are what the paper prints, which has none."));

function drawAll() {
  drawCosts();
  ablations.forEach(([made, place]) => drawAblation(made, place));
  if (board.measures.length) drawCurves();
}
byId("cost").addEventListener("change", drawCosts);
byId("measure").addEventListener("change", drawCurves);
byId("confused").addEventListener("change", drawConfusion);
let width = 0;
new ResizeObserver(() => { // anew where the width is another one, as when a phone is turned
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  drawAll();
}).observe(document.body);
drawAll();
drawConfusion();
