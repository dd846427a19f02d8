"use strict";
// Charts: lines with bands and marks as SVG, each with a legend and the same numbers as a table.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

function make(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}

function ticks(low, high, count = 5) {
  const span = high - low || 1, raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= raw);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(Math.abs(x) < step * 1e-9 ? 0 : x);
  return found;
}

function short(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "";
  const size = Math.abs(x);
  if (size >= 1e6) return `${+(x / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(x / 1e3).toPrecision(3)}k`;
  return String(+x.toPrecision(4));
}

// lines: [{name, x: [], y: [], low: [], high: []}]; marks: [{x, text}]; empty values are null
function chart({title, xlabel, ylabel, lines, marks = []}) {
  const known = lines.map(line => ({...line, points: line.x.map((x, i) => [x, line.y[i], i])
    .filter(([x, y]) => x !== null && y !== null && x !== undefined && y !== undefined)})).filter(line => line.points.length);
  if (!known.length) return make("p", {class: "faint"}, `${title}: nothing yet.`);
  const xs = known.flatMap(line => line.points.map(p => p[0]));
  const ys = known.flatMap(line => line.points.flatMap(([, y, i]) => [y, line.low?.[i] ?? y, line.high?.[i] ?? y]));
  const range = values => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  let [x0, x1] = range(xs), [y0, y1] = range(ys);
  if (x0 === x1) { x0 -= .5; x1 += .5; }
  if (y0 === y1) { y0 -= .5; y1 += .5; }
  const W = Math.min(760, Math.max(330, document.getElementById("main").clientWidth - 24)), H = 300, L = 62, R = 12, T = 10, B = 44;
  const px = x => L + (x - x0) / (x1 - x0) * (W - L - R), py = y => H - B - (y - y0) / (y1 - y0) * (H - T - B);
  const svg = make("svg:svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${ylabel} over ${xlabel}`});
  for (const y of ticks(y0, y1)) svg.append(make("svg:line", {class: "axis", x1: L, x2: W - R, y1: py(y), y2: py(y)}),
    make("svg:text", {x: L - 6, y: py(y) + 4, "text-anchor": "end"}, short(y)));
  for (const x of ticks(x0, x1)) svg.append(make("svg:text", {x: px(x), y: H - B + 18, "text-anchor": "middle"}, short(x)));
  svg.append(make("svg:text", {x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle"}, xlabel),
    make("svg:text", {x: -(T + H - B) / 2, y: 14, transform: "rotate(-90)", "text-anchor": "middle"}, ylabel));
  known.forEach((line, k) => {
    const color = `var(--c${k % 8})`, banded = line.points.filter(p => line.low?.[p[2]] != null && line.high?.[p[2]] != null);
    if (banded.length > 1) svg.append(make("svg:polygon", {fill: color, opacity: .18, points: [
      ...banded.map(([x, , i]) => `${px(x)},${py(line.high[i])}`), ...banded.reverse().map(([x, , i]) => `${px(x)},${py(line.low[i])}`)].join(" ")}));
    const d = line.points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
    svg.append(make("svg:path", {d, fill: "none", stroke: color, "stroke-width": 1.8, "stroke-dasharray": DASHES[Math.floor(k / 8) % 4]}));
    if (line.points.length < 30) for (const [x, y] of line.points) svg.append(make("svg:circle", {cx: px(x), cy: py(y), r: 2.4, fill: color}));
  });
  for (const mark of marks) if (mark.x >= x0 && mark.x <= x1) svg.append(
    make("svg:line", {class: "mark", x1: px(mark.x), x2: px(mark.x), y1: T, y2: H - B}),
    make("svg:text", {class: "mark-text", x: px(mark.x) + 4, y: T + 12}, mark.text));
  const legend = make("ul", {class: "legend"}, known.map((line, k) => make("li", {},
    make("svg:svg", {viewBox: "0 0 32 12", "aria-hidden": "true"}, make("svg:line", {x1: 0, x2: 32, y1: 6, y2: 6,
      stroke: `var(--c${k % 8})`, "stroke-width": 3, "stroke-dasharray": DASHES[Math.floor(k / 8) % 4]})), line.name)));
  const numbers = make("details", {}, make("summary", {}, "as a table"));
  numbers.addEventListener("toggle", () => {
    if (!numbers.open || numbers.querySelector("table")) return;
    const rows = known.flatMap(line => line.points.map(([x, y]) => [line.name, x, y]));
    numbers.append(make("div", {class: "scroll"}, make("table", {}, make("thead", {}, make("tr", {},
      ["line", xlabel, ylabel].map(text => make("th", {scope: "col"}, text)))),
      make("tbody", {}, rows.map(row => make("tr", {}, row.map(cell => make("td", {}, typeof cell === "number" ? short(cell) : cell))))))));
  });
  return make("figure", {}, make("figcaption", {}, title), svg, legend, numbers);
}
