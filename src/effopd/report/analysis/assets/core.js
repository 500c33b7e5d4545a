/* Data, theme, controls and lazy drawing: what every figure uses. */
const data = JSON.parse(document.getElementById("records").textContent);
const SCALE = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const VIRIDIS = SCALE.map((colour, index) => [index / (SCALE.length - 1), colour]);
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif';
const PALETTES = {
  light: { ink: "#1d2024", quiet: "#5d636b", grid: "#e8e5dd", line: "#c9c5ba", raised: "#ffffff", gap: "#dedbd2",
    runs: ["#0072b2", "#d98c00", "#009e73", "#d55e00", "#b8578f", "#3a9bd9", "#5c6670"] },
  dark: { ink: "#e7e5e0", quiet: "#a3a8af", grid: "#262a30", line: "#454a52", raised: "#1a1d21", gap: "#33373d",
    runs: ["#58b4ec", "#f0ad30", "#2cc497", "#f2874a", "#e59cc8", "#9cc9f5", "#aab2ba"] },
};
const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const coarse = window.matchMedia("(pointer: coarse)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}
function palette() { return isDark() ? PALETTES.dark : PALETTES.light; }
function runStyle(run) {
  const colours = palette().runs;
  const lap = Math.floor(run / colours.length);
  return { colour: colours[run % colours.length], symbol: SYMBOLS[run % SYMBOLS.length], dash: DASHES[lap % DASHES.length] };
}
/* Plotly reads a little HTML in texts; names and tokens are to be shown as they are. */
function plain(text) { return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
function cut(text, length = 34) { return text.length > length ? text.slice(0, length - 1) + "…" : text; }
function runLabel(run) { return plain(cut(data.runs[run])); }
function rgba(hex, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}
function format(value, percent) {
  if (value === null || value === undefined) return "–";
  const number = percent ? value * 100 : value;
  const size = Math.abs(number);
  let text;
  if (number === 0) text = "0";
  else if (Number.isInteger(number) && size < 1e7) text = number.toLocaleString("en");
  else if (size < 1e-3 || size >= 1e6) text = number.toExponential(2);
  else text = number.toLocaleString("en", { maximumSignificantDigits: 4 });
  return percent ? text + " %" : text;
}
function stepLabel(run, index) {
  const [checkpoint, step] = data.checkpoints[run][index];
  return step === null ? `checkpoint ${checkpoint}` : `step ${step.toLocaleString("en")}`;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
/* A labelled select; options are [value, text]. Returns it; hidden where there is nothing to choose. */
function choose(parent, label, options, changed) {
  const select = make("select", { name: label });
  const box = make("label", {}, label, select);
  parent.append(box);
  select.setOptions = (list) => {
    const before = select.options.length ? select.value : null;
    select.replaceChildren(...list.map(([value, text]) => make("option", { value, text: cut(String(text), 60) })));
    if (list.some(([value]) => String(value) === before)) select.value = before;
    box.style.display = list.length > 1 ? "" : "none";
  };
  select.setOptions(options);
  select.addEventListener("change", changed);
  return select;
}
function runOptions(runs) {
  const all = runs.length > 1 ? [["all", "all, side by side"]] : [];
  return [...all, ...runs.map((run) => [run, data.runs[run]])];
}
function chosenRuns(select, runs) { return select.value === "all" ? runs : [Number(select.value)]; }

/* A cosine, with as many decimals as show two digits of its distance from 1. */
function cosineText(value) {
  if (value === null || value === undefined) return "–";
  const distance = Math.abs(1 - value);
  return value.toFixed(distance ? Math.min(Math.max(1 - Math.floor(Math.log10(distance)), 3), 10) : 3);
}

function axis(title, extra = {}) {
  const colours = palette();
  return { title: { text: title, standoff: 8 }, gridcolor: colours.grid, linecolor: colours.line, tickcolor: colours.line,
    showline: true, ticks: "outside", ticklen: 4, zeroline: false, automargin: true, ...extra };
}
function draw(element, traces, layout, label, bar = true) {
  const colours = palette();
  const whole = {
    font: { family: FONT, size: 12, color: colours.quiet }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 52, r: 22, t: 10, b: 44 }, height: 320, showlegend: false, hovermode: "closest",
    dragmode: coarse.matches ? false : "zoom", barcornerradius: 2,
    hoverlabel: { bgcolor: colours.raised, bordercolor: colours.line, align: "left", font: { family: FONT, size: 12, color: colours.ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.line, activecolor: colours.ink }, ...layout,
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: coarse.matches || !bar ? false : "hover", showTips: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], showSendToCloud: false, doubleClickDelay: 400 };
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  return Plotly.react(element, traces, whole, config);
}
/* One plot under its own heading for each title, keeping those that are there. */
function panels(parent, titles, width) {
  parent.style.setProperty("--panel", width || "24rem");
  while (parent.children.length > titles.length) {
    Plotly.purge(parent.lastChild.lastChild);
    parent.lastChild.remove();
  }
  while (parent.children.length < titles.length) {
    parent.append(make("div", { class: "panel" }, make("h4"), make("div", { class: "plot" })));
  }
  return titles.map((title, index) => {
    parent.children[index].firstChild.textContent = title;
    parent.children[index].firstChild.title = title;
    return parent.children[index].lastChild;
  });
}
/* Runs with their colours, and perhaps something to say about each. */
function legend(parent, runs, notes = {}) {
  const list = make("ul", { class: "legend", "aria-label": "Runs" });
  for (const run of runs) {
    const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ width: 14, height: 14 })) swatch.setAttribute(key, value);
    for (const [key, value] of Object.entries({ y: 4, width: 14, height: 6, rx: 2, fill: runStyle(run).colour })) bar.setAttribute(key, value);
    swatch.append(bar);
    list.append(make("li", {}, swatch, data.runs[run] + (notes[run] || "")));
  }
  parent.replaceChildren(...(runs.length > 1 || notes[runs[0]] ? [list] : []));
}

const registered = [];
/* setup(controls, plots, legend, refresh) builds the controls and returns what draws; that runs when first seen. */
function figure(key, setup) {
  const element = document.querySelector(`[data-figure="${key}"]`);
  if (!element) return;
  const entry = { element, drawn: false };
  const [controls, keys, plots] = [".controls", ".keys", ".plots"].map((name) => element.querySelector(name));
  const refresh = () => { if (entry.drawn) entry.draw(); };
  entry.draw = setup(controls, plots, keys, refresh);
  registered.push(entry);
}
/* Whether training is shown as a share of its steps; one switch in several places. */
let overShare = false;
const switches = [];
function trainingSwitch(controls) {
  if (data.x !== "optimizer step") return;
  const select = choose(controls, "Axis", [["step", "optimizer step"], ["share", "share of training"]], () => {
    overShare = select.value === "share";
    switches.forEach((each) => { each.value = select.value; });
    registered.forEach((entry) => { if (entry.drawn) entry.draw(); });
  });
  select.value = overShare ? "share" : "step";
  switches.push(select);
}
/* A line over steps, as it is or over shares of its run's steps. */
function overTraining(line) {
  const steps = data.checkpoints[line.run];
  const last = steps[steps.length - 1][1] || 1;
  return overShare ? { ...line, x: line.x.map((step) => step / last) } : line;
}
function trainingLabel() { return overShare ? "share of training" : data.x; }
/* Plotly lies in the page as text, to be compiled only when the page is there to read. */
function loadPlotly() {
  const source = document.getElementById("plotly");
  if (!source) return;
  const script = document.createElement("script");
  script.textContent = source.textContent;
  source.remove();
  document.head.append(script);
}
function show(entry) {
  if (entry.drawn) return;
  loadPlotly();
  entry.drawn = true;
  entry.draw();
  entry.element.dataset.drawn = "true";
}
function start() {
  const seen = new IntersectionObserver((changes) => {
    for (const change of changes) {
      if (!change.isIntersecting) continue;
      seen.unobserve(change.target);
      show(registered.find((entry) => entry.element === change.target));
    }
  }, { rootMargin: "250px" });
  const begin = () => { loadPlotly(); registered.forEach((entry) => seen.observe(entry.element)); };
  const afterPaint = (then) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(then, 0)));
  window.addEventListener("load", () => afterPaint(begin));
  window.addEventListener("beforeprint", () => registered.forEach(show));

  const button = document.getElementById("theme");
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark()));
    button.setAttribute("aria-label", isDark() ? "Switch to the light theme" : "Switch to the dark theme");
  };
  const redraw = () => { label(); registered.forEach((entry) => { if (entry.drawn) entry.draw(); }); };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    redraw();
  });
  systemDark.addEventListener("change", redraw);
  label();

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("main > section")];
  const near = new Set();
  const current = new IntersectionObserver((changes) => {
    changes.forEach((change) => { if (change.isIntersecting) near.add(change.target); else near.delete(change.target); });
    const here = sections.filter((section) => near.has(section)).pop();
    if (here) links.forEach((link, id) => { if (id === here.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
  }, { rootMargin: "0px 0px -60% 0px" });
  sections.forEach((section) => current.observe(section));
}
