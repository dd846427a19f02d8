"use strict";
// The board: a list that filters and sorts, a page for each run, and several side by side; addresses are in the hash.

const EVERY = 2000; // ms from look to look
const COLUMNS = [["name", "run"], ["kind", "kind"], ["env", "environment"], ["policy", "policy"], ["seed", "seed"],
  ["steps", "steps"], ["last_return", "last return"], ["best_return", "best return"], ["params", "parameters"],
  ["threshold", "collapse"], ["findings", "findings"]];
const NUMBERS = new Set(["seed", "steps", "last_return", "best_return", "params"]);
const WIDE = new Set(["policy", "seed", "best_return", "params", "threshold"]);
const held = document.getElementById("data") ? JSON.parse(document.getElementById("data").textContent) : null;
const main = document.getElementById("main"), state = document.getElementById("state");
let runs = [], tag = "", chosen = new Set(), shown = "", shownData = "";

async function get(path) {
  if (held) {
    const [, , what, id] = path.split("/");
    return what === "runs" ? held.runs : held.details[id];
  }
  const answer = await fetch(path, {headers: path === "/api/runs" && tag ? {"If-None-Match": tag} : {}});
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  if (path === "/api/runs") tag = answer.headers.get("ETag") || "";
  return answer.json();
}
const picture = (id, number) => held ? held.pictures[`${id}/${number}`] : `/picture/${id}/${number}`;
const byId = id => runs.find(run => run.id === id);
const link = run => make("a", {href: `#/run/${run.id}`}, run.name);
const heading = (level, text) => make(`h${level}`, {}, text);

function address() {
  const [path, query] = (location.hash.slice(1) || "/").split("?");
  const [, view, ids] = path.split("/");
  return {view: view || "list", ids: (ids || "").split(",").filter(Boolean), query: new URLSearchParams(query || "")};
}

function setQuery(changes) {
  const {query} = address();
  for (const [name, value] of Object.entries(changes)) value ? query.set(name, value) : query.delete(name);
  const text = query.toString();
  history.replaceState(null, "", `#/${text ? `?${text}` : ""}`);
  fillRows();
}

// --- the list ---------------------------------------------------------------------------------------

function drawList() {
  const {query} = address();
  const choice = (name, label, values) => make("label", {}, label, make("select", {id: name, onchange: e => setQuery({[name]: e.target.value})},
    make("option", {value: ""}, "all"), values.map(v => make("option", {value: v, selected: query.get(name) === v}, v))));
  const values = name => [...new Set(runs.map(run => run[name]).filter(Boolean))].sort();
  main.replaceChildren(
    make("div", {class: "filters", role: "search"},
      make("label", {}, "search", make("input", {id: "q", type: "search", value: query.get("q") || "", oninput: e => setQuery({q: e.target.value})})),
      choice("kind", "kind", values("kind")), choice("env", "environment", values("env")),
      choice("found", "findings", [...new Set(runs.flatMap(run => run.findings || []))].sort()),
      choice("now", "state", ["running", "stopped"]),
      make("button", {id: "compare", disabled: true, onclick: () => { location.hash = `#/compare/${[...chosen].join(",")}`; }}, "compare")),
    make("p", {id: "count", class: "faint", role: "status"}),
    make("div", {class: "scroll"}, make("table", {id: "runs"}, make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "pick"),
      COLUMNS.map(([key, text]) => make("th", {scope: "col", class: [NUMBERS.has(key) ? "number" : "", WIDE.has(key) ? "wide" : ""].join(" "),
        "data-key": key}, make("button", {onclick: () => sortBy(key)}, text))))), make("tbody", {}))));
  fillRows();
}

function sortBy(key) {
  const now = address().query.get("sort") || "";
  setQuery({sort: now === key ? `-${key}` : key});
}

function fillRows() {
  const body = document.querySelector("#runs tbody");
  if (!body) return;
  const {query} = address(), words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  let rows = runs.filter(run => words.every(word => [run.name, run.env, run.policy, run.path].some(x => (x || "").toLowerCase().includes(word)))
    && (!query.get("kind") || run.kind === query.get("kind")) && (!query.get("env") || run.env === query.get("env"))
    && (!query.get("found") || (run.findings || []).includes(query.get("found")))
    && (!query.get("now") || (query.get("now") === "running") === Boolean(run.running)));
  const sort = query.get("sort") || "", key = sort.replace("-", ""), sign = sort.startsWith("-") ? -1 : 1;
  const rank = run => Array.isArray(run[key]) ? run[key].join() : run[key];
  if (key) rows = [...rows].sort((a, b) => {
    const x = rank(a), y = rank(b);
    if (x == null || y == null) return (x == null) - (y == null);
    return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
  });
  for (const th of document.querySelectorAll("#runs th[data-key]")) {
    if (th.dataset.key === key) th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending"); else th.removeAttribute("aria-sort");
  }
  const focused = document.activeElement?.dataset?.id;
  body.replaceChildren(...rows.map(rowOf));
  if (focused) body.querySelector(`input[data-id="${focused}"]`)?.focus();
  document.getElementById("count").textContent = `${rows.length} of ${runs.length}`;
  pick();
}

function rowOf(run) {
  const cell = key => {
    const value = run[key];
    if (key === "name") return [link(run), run.running ? make("span", {class: "good"}, " running") : null,
      run.trouble ? make("div", {class: "bad"}, run.trouble) : null];
    if (key === "findings") return run.answer ? [make("span", {class: run.answer === "held" ? "good" : ""}, run.answer), " ", (value || []).join(", ")]
      : [make("span", {class: "bad"}, (value || []).join(", "))];
    return [typeof value === "number" ? short(value) : value ?? ""];
  };
  return make("tr", {}, make("td", {}, make("input", {type: "checkbox", "data-id": run.id, "aria-label": `pick ${run.name}`,
    checked: chosen.has(run.id), onchange: e => { e.target.checked ? chosen.add(run.id) : chosen.delete(run.id); pick(); }})),
    COLUMNS.map(([key]) => make("td", {class: [NUMBERS.has(key) ? "number" : "", WIDE.has(key) ? "wide" : "", key === "name" ? "name" : ""].join(" ")}, cell(key))));
}

function pick() {
  const button = document.getElementById("compare");
  button.disabled = chosen.size < 2;
  button.textContent = chosen.size ? `compare ${chosen.size}` : "compare";
}

// --- curves -----------------------------------------------------------------------------------------

function smoothed(y, width) {
  const mean = [], low = [], high = [];
  for (let i = 0; i < y.length; i++) {
    const some = y.slice(Math.max(0, i - width + 1), i + 1).filter(v => v !== null);
    if (!some.length) { mean.push(null); low.push(null); high.push(null); continue; }
    const m = some.reduce((a, b) => a + b, 0) / some.length;
    const s = Math.sqrt(some.reduce((a, b) => a + (b - m) ** 2, 0) / some.length);
    mean.push(m); low.push(m - s); high.push(m + s);
  }
  return {mean, low, high};
}

function returnsOf(name, data) {
  if (data.curves) return data.curves.map(curve => ({name: `${name} ${curve.name}`, x: curve.steps, y: curve.returns}));
  const x = data.metrics?.agent_steps || data.metrics?.epoch || [], y = data.metrics?.episode_return || [];
  const {mean, low, high} = smoothed(y, Math.max(1, Math.floor(y.length / 20)));
  return [{name, x, y: mean, low, high}];
}

// Mean over seeds of runs that differ in their seed alone, with the band of one standard deviation of the seeds.
function overSeeds(pairs) {
  const groups = new Map();
  for (const [run, data] of pairs) groups.set(run.group || run.id, [...(groups.get(run.group || run.id) || []), [run, data]]);
  return [...groups.values()].flatMap(members => {
    if (members.length < 2 || members.some(([, data]) => data.curves)) return members.flatMap(([run, data]) => returnsOf(run.name, data));
    const lines = members.map(([run, data]) => returnsOf(run.name, data)[0]);
    const x = lines.reduce((a, b) => b.x.length > a.length ? b.x : a, []);
    const at = (line, value) => { // between the places that are known
      const k = line.x.findIndex(v => v >= value);
      if (k < 0 || line.y[k] == null) return null;
      if (k === 0 || line.x[k] === value || line.y[k - 1] == null) return line.x[k] === value ? line.y[k] : null;
      return line.y[k - 1] + (line.y[k] - line.y[k - 1]) * (value - line.x[k - 1]) / (line.x[k] - line.x[k - 1]);
    };
    const rows = x.map(value => lines.map(line => at(line, value)).filter(v => v !== null));
    const mean = rows.map(row => row.length ? row.reduce((a, b) => a + b, 0) / row.length : null);
    const spread = rows.map((row, i) => row.length > 1 ? Math.sqrt(row.reduce((a, b) => a + (b - mean[i]) ** 2, 0) / (row.length - 1)) : null);
    return [{name: `${members[0][0].name} and ${members.length - 1} more seeds`, x, y: mean,
      low: mean.map((m, i) => spread[i] === null ? null : m - spread[i]), high: mean.map((m, i) => spread[i] === null ? null : m + spread[i])}];
  });
}

function stepsAt(data, epoch) {
  const epochs = data.metrics?.epoch || [], k = epochs.findIndex(e => e >= epoch);
  return k < 0 ? null : data.metrics.agent_steps?.[k] ?? epochs[k];
}

// --- one run ----------------------------------------------------------------------------------------

function tree(run) {
  let top = run;
  while (byId(top.parent)) top = byId(top.parent);
  const branch = one => make("li", {}, make("a", {href: `#/run/${one.id}`, "aria-current": one.id === run.id ? "page" : null}, one.name),
    one.threshold ? make("span", {class: "faint"}, ` ${one.collapse || one.threshold}: ${short(one.params_before)} to ${short(one.params)} parameters`) : null,
    make("span", {class: "faint"}, one.last_return == null ? "" : ` return ${short(one.last_return)}`),
    (kids => kids.length ? make("ul", {}, kids.map(branch)) : null)(runs.filter(other => other.parent === one.id)));
  return make("ul", {class: "tree"}, branch(top));
}

function drawRun(run, data) {
  const marks = (data.findings || []).map(f => ({x: stepsAt(data, f.onset), text: f.kind})).filter(m => m.x !== null);
  const parts = [make("p", {}, make("a", {href: "#/"}, "all runs")), heading(2, run.name),
    make("p", {class: "faint"}, [run.path, run.env, run.policy, run.running ? "running" : null].filter(Boolean).join(" · "))];
  for (const trouble of data.trouble || []) parts.push(make("p", {class: "bad"}, trouble));
  if (run.answer) parts.push(make("p", {}, `Hypothesis: ${run.answer}`));
  parts.push(chart({title: data.curves ? "returns that are meant" : "returns, a moving mean and its deviation", xlabel: "steps",
    ylabel: "episode return", lines: returnsOf(run.name, data), marks}));
  if (data.findings?.length) parts.push(heading(2, "Findings"), make("ul", {}, data.findings.map(f => make("li", {},
    make("strong", {}, f.kind), ` (${f.severity}${f.seed === undefined ? "" : `, seed ${f.seed}`}, since epoch ${f.onset}): `,
    Object.entries(f.evidence || {}).map(([k, v]) => `${k} ${short(v)}`).join(", "), ` Try: ${f.advice}`))));
  if (run.kind === "run" && (run.parent || runs.some(other => other.parent === run.id))) parts.push(heading(2, "Collapses"), tree(run));
  if (data.fibers) {
    const x = data.fibers.epochs, spaces = Object.entries(data.fibers.spaces).filter(([, s]) => s.units.some(u => u > 1));
    parts.push(heading(2, "Fibers and sizes"), chart({title: "fibers in parts of the units", xlabel: "epoch", ylabel: "fibers / units",
      lines: spaces.map(([name, s]) => ({name, x, y: s.fibers.map((f, i) => f === null ? null : f / s.units[i])}))}),
      chart({title: "parameters, and what a collapse would leave", xlabel: "epoch", ylabel: "parameters",
        lines: [{name: "policy", x, y: data.fibers.params}, {name: "collapsed", x, y: data.fibers.params_collapsed}]}));
  }
  if (data.lines?.length) parts.push(heading(2, "Lines in weight space"), ...data.lines.map(line => chart({
    title: line.name + (line.barrier ? `: barrier ${short(line.barrier.value)} [${short(line.barrier.low)}, ${short(line.barrier.high)}]` : ""),
    xlabel: "alpha", ylabel: "mean return", lines: [{name: "mean, and deviation of episodes", x: line.places.alpha, y: line.places.mean_reward,
      low: line.places.mean_reward.map((m, i) => m - line.places.std_reward[i]), high: line.places.mean_reward.map((m, i) => m + line.places.std_reward[i])}]})));
  const others = Object.keys(data.metrics || {}).filter(n => !["epoch", "agent_steps", "episode_return"].includes(n)).sort();
  if (others.length) {
    const box = make("div", {}), select = make("select", {id: "metric", onchange: e => drawMetric(e.target.value)},
      others.map(n => make("option", {value: n}, n)));
    const drawMetric = name => box.replaceChildren(chart({title: name, xlabel: "steps", ylabel: name, marks,
      lines: [{name, x: data.metrics.agent_steps || data.metrics.epoch, y: data.metrics[name]}]}));
    select.value = [drawRun.metric, "entropy"].find(name => others.includes(name)) || others[0];
    select.addEventListener("change", e => { drawRun.metric = e.target.value; });
    drawMetric(select.value);
    parts.push(heading(2, "Metrics"), make("label", {}, "metric ", select), box);
  }
  if (data.pictures?.length) parts.push(heading(2, "Pictures"), make("div", {class: "pictures"}, data.pictures.map((name, k) =>
    make("figure", {}, make("img", {src: picture(run.id, k), alt: name, loading: "lazy"}), make("figcaption", {}, name)))));
  if (data.report) parts.push(heading(2, "Report"), make("pre", {tabindex: 0}, data.report));
  if (data.log) parts.push(heading(2, "Log"), make("pre", {id: "log", tabindex: 0}, data.log));
  if (data.settings) parts.push(heading(2, "Settings"), settingsTable([run], [data]));
  main.replaceChildren(...parts.filter(Boolean));
  const log = document.getElementById("log");
  if (log) log.scrollTop = log.scrollHeight;
}

function settingsTable(some, datas, onlyDiffering = false) {
  const names = [...new Set(datas.flatMap(data => Object.keys(data.settings || {})))];
  const rows = names.map(name => [name, datas.map(data => data.settings?.[name] ?? "")]);
  const differ = values => new Set(values).size > 1;
  return make("div", {class: "scroll"}, make("table", {}, make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "setting"),
    some.map(run => make("th", {scope: "col", class: "name"}, run.name)))), make("tbody", {}, rows
    .filter(([, values]) => !onlyDiffering || differ(values)).map(([name, values]) => make("tr", {class: differ(values) ? "differs" : null},
      make("th", {scope: "row"}, name), values.map(value => make("td", {class: "name"}, value)))))));
}

function drawCompare(some, datas) {
  const pairs = some.map((run, i) => [run, datas[i]]), box = make("div", {}), sizes = make("div", {});
  const draw = together => box.replaceChildren(chart({title: "returns", xlabel: "steps", ylabel: "episode return",
    lines: together ? overSeeds(pairs) : pairs.flatMap(([run, data]) => returnsOf(run.name, data))}));
  const all = make("div", {}), show = only => all.replaceChildren(settingsTable(some, datas, only));
  draw(false); show(true);
  main.replaceChildren(make("p", {}, make("a", {href: "#/"}, "all runs")), heading(2, `${some.length} side by side`),
    make("label", {}, make("input", {type: "checkbox", id: "seeds", onchange: e => draw(e.target.checked)}), " seeds together"), box,
    make("ul", {}, some.map(run => make("li", {}, link(run), ` last return ${short(run.last_return)}, best ${short(run.best_return)}`))),
    heading(2, "Settings"), make("label", {}, make("input", {type: "checkbox", checked: true, onchange: e => show(e.target.checked)}), " only those that differ"), all, sizes);
}

// --- what is shown now ------------------------------------------------------------------------------

async function draw(afresh) {
  const {view, ids} = address();
  const key = view === "list" ? "list" : `${view}/${ids}`;
  if (view === "list") {
    const options = JSON.stringify(["kind", "env", "findings"].map(name => [...new Set(runs.flatMap(run => run[name] || []))].sort()));
    if (key !== shown || afresh || options !== shownData) {
      const focus = key === shown ? document.activeElement?.id : null;
      drawList();
      if (focus) document.getElementById(focus)?.focus();
    } else fillRows();
    shownData = options;
    document.title = "Board";
  } else {
    const some = ids.map(byId).filter(Boolean);
    if (!some.length) { main.replaceChildren(make("p", {class: "bad"}, "There is no such run here."), make("a", {href: "#/"}, "all runs")); shown = key; return; }
    const datas = await Promise.all(some.map(run => get(`/api/run/${run.id}`)));
    const text = JSON.stringify([some, datas]);
    if (key === shown && text === shownData) return;
    const at = scrollY, focus = document.activeElement?.id;
    view === "run" ? drawRun(some[0], datas[0]) : drawCompare(some, datas);
    shownData = text;
    document.title = `${some.map(run => run.name).join(", ")} - Board`;
    if (key === shown) { scrollTo(0, at); if (focus) document.getElementById(focus)?.focus(); }
  }
  if (key !== shown && shown) { scrollTo(0, 0); main.focus({preventScroll: true}); }
  shown = key;
}

async function look() {
  try {
    const found = await get("/api/runs");
    if (found) { runs = found; await draw(false); } else if (address().view !== "list") await draw(false);
    state.textContent = held ? `${runs.length} runs, as they were` : `${runs.length} runs, ${runs.filter(run => run.running).length} running`;
  } catch (error) { state.textContent = `no answer (${error.message}); is the board still running?`; }
  if (!held) setTimeout(look, EVERY);
}

addEventListener("hashchange", () => draw(true));
look();
