/* Heat maps of layer by module, trajectories in the plane, embeddings in the plane. */
const rowRanges = (() => {
  const ranges = data.runs.map(() => new Map());
  data.rows.run.forEach((run, row) => {
    const checkpoint = data.rows.checkpoint[row];
    if (!ranges[run].has(checkpoint)) ranges[run].set(checkpoint, [row, row]);
    ranges[run].get(checkpoint)[1] = row + 1;
  });
  return ranges;
})();

/* Means over the matrices of one layer and module: {modules: [..], layers: [..], value(module, layer), count(..)}. */
function grid(run, checkpoint, metric) {
  const [from, to] = rowRanges[run].get(checkpoint) || [0, 0];
  const { layer, matrices } = data.rows;
  const group = data.rows.group.codes;
  const values = data.rows[metric];
  const cells = new Map();
  for (let row = from; row < to; row += 1) {
    if (layer[row] === null || values[row] === null || outsideMaps(row)) continue;
    const key = `${group[row]},${layer[row]}`;
    const cell = cells.get(key) || { group: group[row], layer: layer[row], sum: 0, count: 0 };
    cell.sum += values[row] * matrices[row];
    cell.count += matrices[row];
    cells.set(key, cell);
  }
  return cells;
}
/* Rows that are neither attention nor MLP stay out of the maps. */
function outsideMaps(row) {
  const kind = data.rows.kind.names[data.rows.kind.codes[row]];
  return kind !== "attention" && kind !== "mlp";
}
function shortest(names) {
  const tails = (length) => names.map((name) => name.split(".").slice(-length).join("."));
  for (let length = 1; length < 5; length += 1) if (new Set(tails(length)).size === names.length) return tails(length);
  return names;
}
function checkpointOptions(which) {
  const most = Math.max(...data.checkpoints.map((list) => list.length));
  const longest = data.checkpoints.findIndex((list) => list.length === most);
  const same = data.checkpoints.every((list) => list.every(([, step], index) => step === data.checkpoints[longest][index][1]));
  const each = data.checkpoints[longest].map((_, index) => [index, same ? stepLabel(longest, index) : `number ${index}`]);
  const ends = most > 1 ? { first: ["first", "first of each run"], last: ["last", "last of each run"] } : { last: ["last", "last"] };
  return most > 1 ? [...which.map((name) => ends[name]), ...each] : [ends.last];
}
function checkpointAt(run, value) {
  const list = data.checkpoints[run];
  const index = value === "last" ? list.length - 1 : value === "first" ? 0 : Number(value);
  return index < list.length ? index : null;
}

function heatMaps(metrics, ends, limits) {
  return (controls, plots, keys, refresh) => {
    const known = data.metrics.filter(([key]) => metrics(key) && data.rows[key]);
    const metric = choose(controls, "Metric", known.map(([key, label]) => [key, label]), refresh);
    const when = choose(controls, "Checkpoint", checkpointOptions(ends), refresh);
    const which = choose(controls, "Run", runOptions(runNumbers), refresh);
    return () => drawHeatMaps(plots, keys, data.metrics.find(([key]) => key === metric.value), when.value, chosenRuns(which, runNumbers), limits);
  };
}
function drawHeatMaps(plots, keys, [metric, label, percent], when, runs, limits) {
  const found = runs.map((run) => {
    const index = checkpointAt(run, when);
    return { run, index, cells: index === null ? new Map() : grid(run, data.checkpoints[run][index][0], metric) };
  });
  const cells = found.flatMap((each) => [...each.cells.values()]);
  const modules = [...new Set(cells.map((cell) => cell.group))].sort((a, b) => a - b);
  const layers = [...new Set(cells.map((cell) => cell.layer))].sort((a, b) => a - b);
  const means = cells.map((cell) => cell.sum / cell.count);
  const signed = means.some((value) => value < 0);
  const [low, high] = limits || [signed ? Math.min(...means) : 0, cells.length ? Math.max(...means) : 1];
  drawScale(keys, label, low, high, percent);
  const titles = found.map((each) => `${data.runs[each.run]}${each.index === null ? ": no such checkpoint" : ` (${stepLabel(each.run, each.index)})`}`);
  const names = modules.map((group) => data.rows.group.names[group]);
  const short = shortest(names).map((name) => plain(cut(name, 26)));
  const widest = Math.max(4, ...names.map((_, index) => Math.min(shortest(names)[index].length, 26)));
  panels(plots, titles, layers.length > 24 ? "30rem" : "22rem").forEach((element, position) => {
    const value = modules.map(() => layers.map(() => null));
    const text = modules.map(() => layers.map(() => ""));
    for (const cell of found[position].cells.values()) {
      const [y, x] = [modules.indexOf(cell.group), layers.indexOf(cell.layer)];
      value[y][x] = cell.sum / cell.count;
      text[y][x] = `layer ${cell.layer}, ${plain(names[y])}<br><b>${format(value[y][x], percent)}</b>${cell.count > 1 ? ` (mean of ${cell.count} matrices)` : ""}`;
    }
    draw(element, [{ type: "heatmap", x: layers, y: modules.map((_, index) => index), z: value, text, hovertemplate: "%{text}<extra></extra>", colorscale: VIRIDIS,
      zmin: low, zmax: high > low ? high : low + 1, showscale: false, hoverongaps: false, xgap: element.clientWidth < 11 * layers.length ? 0 : 1, ygap: 1 }],
    { height: 78 + 26 * Math.max(modules.length, 2), plot_bgcolor: palette().gap, margin: { l: 16 + 6.6 * widest, r: 8, t: 8, b: 40 },
      xaxis: axis("layer", { showgrid: false, tickformat: "d", dtick: wholeTicks(layers.length), automargin: false, ticks: "", showline: false }),
      yaxis: axis("", { showgrid: false, autorange: "reversed", tickvals: modules.map((_, index) => index), ticktext: short, automargin: false, ticks: "", showline: false }) },
    `Heat map of ${label} by layer and module, run ${data.runs[found[position].run]}`, false);
  });
}
function drawScale(parent, label, low, high, percent) {
  const bar = make("i");
  bar.style.background = `linear-gradient(90deg, ${SCALE.join(", ")})`;
  parent.replaceChildren(make("div", { class: "scale", role: "img", "aria-label": `Colour scale of ${label} from ${format(low, percent)} to ${format(high, percent)}` },
    make("b", { text: label }), make("span", { text: format(low, percent) }), bar, make("span", { text: format(high, percent) })));
}
const ALIGNMENTS = ["first_vector_cosine", "vector_alignment", "subspace_alignment"];
figure("heat", heatMaps(() => true, ["last", "first"]));
figure("early", heatMaps((key) => ALIGNMENTS.includes(key), ["first", "last"], [0, 1]));

const PLANES = [["pc", "principal components"], ["tsne", "t-SNE"], ["authors_tsne", "t-SNE, the authors' recipe"]];
function planeOptions() { return PLANES.filter(([key]) => data.trajectories.some((each) => each[`${key}1`])); }
/* The range of the colours of training, which is drawn as a scale. */
function trainingColours(parent) {
  const steps = data.trajectories.flatMap((each) => overTraining(each).x);
  const [low, high] = [steps.reduce((a, b) => Math.min(a, b)), steps.reduce((a, b) => Math.max(a, b))];
  drawScale(parent, trainingLabel(), low, high, overShare);
  return [low, high];
}
figure("trajectory", (controls, plots, keys, refresh) => {
  const things = data.trajectories;
  const chosen = picker(controls, [...things.filter((each) => each.tsne1), ...things.filter((each) => !each.tsne1)], refresh, false);
  const plane = choose(controls, "Plane", planeOptions(), refresh);
  trainingSwitch(controls);
  return () => {
    const [matrix] = chosen();
    const shown = things.filter((each) => each.matrix === matrix && each[`${plane.value}1`]);
    const [low, high] = trainingColours(keys);
    const still = (each) => [...each.pc1, ...each.pc2].every((value) => value === 0);
    const note = (each) => (each.evr !== null ? `, EVR ${format(each.evr, true)}` : still(each) ? ": does not move" : "");
    const titles = shown.map((each) => data.runs[each.run] + (plane.value === "pc" ? note(each) : ""));
    if (!shown.length) keys.replaceChildren(make("p", { class: "notice", text: "No t-SNE picture was made of this matrix; choose principal components or another matrix." }));
    panels(plots, titles, "20rem").forEach((element, index) => drawTrajectory(element, overTraining(shown[index]), plane.value, low, high));
  };
});
function drawTrajectory(element, each, plane, low, high) {
  const [x, y] = [each[`${plane}1`], each[`${plane}2`]];
  const colours = palette();
  const last = x.length - 1;
  const square = { scaleanchor: "x", scaleratio: 1, automargin: false }; // automatic margins and equal scales chase each other
  draw(element, [
    { x, y, type: "scatter", mode: "lines+markers", line: { color: colours.line, width: 1.2 }, customdata: each.x,
      marker: { size: 9, color: each.x, colorscale: VIRIDIS, cmin: low, cmax: high > low ? high : low + 1, line: { color: isDark() ? colours.quiet : colours.raised, width: 1 } },
      hovertemplate: `${trainingLabel()} %{customdata${overShare ? ":.0%" : ""}}<extra></extra>` },
    { x: [x[0], x[last]], y: [y[0], y[last]], type: "scatter", mode: "markers+text", text: ["first", "last"], textposition: ["bottom center", "top center"], hoverinfo: "skip", cliponaxis: false,
      marker: { size: 15, symbol: ["square-open", "circle-open"], color: colours.ink, line: { width: 1.5 } }, textfont: { color: colours.ink } },
  ], { height: 340, margin: { l: 62, r: 16, t: 22, b: 48 }, xaxis: axis(plane === "pc" ? "first component" : "t-SNE 1", { automargin: false }), yaxis: axis(plane === "pc" ? "second component" : "t-SNE 2", square) },
  `Trajectory of the first singular vector, run ${data.runs[each.run]}`);
}

/* Every trajectory in its own cell of a grid of layers and modules. */
figure("paths", (controls, plots, keys, refresh) => {
  const [, layers, groups] = data.matrices;
  const plane = choose(controls, "Plane", [...planeOptions()].sort((a, b) => (a[0] === "tsne" ? -1 : 0) - (b[0] === "tsne" ? -1 : 0)), refresh);
  const which = choose(controls, "Run", runOptions(runNumbers), refresh);
  trainingSwitch(controls);
  return () => {
    const seen = new Set(); // of the experts of a module, the first
    const things = data.trajectories.filter((each) => {
      const cell = `${each.run},${layers[each.matrix]},${groups[each.matrix]}`;
      if (layers[each.matrix] === null || !each[`${plane.value}1`] || seen.has(cell)) return false;
      return seen.add(cell);
    });
    const modules = [...new Set(things.map((each) => groups[each.matrix]))];
    const [low, high] = trainingColours(keys);
    const runs = chosenRuns(which, runNumbers).filter((run) => things.some((each) => each.run === run));
    const span = Math.max(0, ...things.map((each) => layers[each.matrix])) + 1;
    panels(plots, runs.map((run) => data.runs[run]), span > 12 ? "60rem" : "24rem").forEach((element, index) => {
      drawPaths(element, things.filter((each) => each.run === runs[index]).map(overTraining), plane.value, modules, low, high);
    });
  };
});
function drawPaths(element, things, plane, modules, low, high) {
  const [names, layers, groups] = data.matrices;
  const points = { x: [], y: [], step: [], text: [] };
  const ends = { x: [], y: [], symbol: [] };
  for (const each of things) {
    const [x, y] = [each[`${plane}1`], each[`${plane}2`]];
    const middle = (list) => (Math.min(...list) + Math.max(...list)) / 2;
    const size = Math.max(Math.max(...x) - Math.min(...x), Math.max(...y) - Math.min(...y), 1e-12);
    const [column, row] = [layers[each.matrix], modules.indexOf(groups[each.matrix])];
    const at = x.map((value, index) => [column + (value - middle(x)) * 0.76 / size, row - (y[index] - middle(y)) * 0.76 / size]);
    at.forEach(([px, py], index) => {
      points.x.push(px); points.y.push(py); points.step.push(each.x[index]);
      points.text.push(`${plain(names[each.matrix])}<br>${trainingLabel()} ${format(each.x[index], overShare)}`);
    });
    for (const list of Object.values(points)) list.push(null);
    [[0, "square-open"], [at.length - 1, "circle-open"]].forEach(([index, symbol]) => { ends.x.push(at[index][0]); ends.y.push(at[index][1]); ends.symbol.push(symbol); });
  }
  const colours = palette();
  const columns = things.map((each) => layers[each.matrix]);
  const [first, last] = [Math.min(...columns), Math.max(...columns)];
  const cell = Math.min(64, Math.max(24, (element.clientWidth || 600) / (last - first + 2)));
  const short = shortest(modules).map((name) => plain(cut(name, 26)));
  const lines = [...modules.slice(1).map((_, index) => ({ x0: first - 0.5, x1: last + 0.5, y0: index + 0.5, y1: index + 0.5 })),
    ...Array.from({ length: last - first }, (_, index) => ({ x0: first + index + 0.5, x1: first + index + 0.5, y0: -0.5, y1: modules.length - 0.5 }))];
  const plot = { showgrid: false, ticks: "", showline: true, mirror: true, automargin: false };
  draw(element, [
    { x: points.x, y: points.y, text: points.text, type: "scatter", mode: "lines+markers", line: { color: colours.line, width: 1 },
      marker: { size: Math.max(cell / 14, 3), color: points.step, colorscale: VIRIDIS, cmin: low, cmax: high > low ? high : low + 1 }, hovertemplate: "%{text}<extra></extra>" },
    { x: ends.x, y: ends.y, type: "scatter", mode: "markers", hoverinfo: "skip", marker: { size: Math.max(cell / 8, 5), symbol: ends.symbol, color: colours.ink, line: { width: 1 } } },
  ], { height: 60 + cell * Math.max(modules.length, 2), margin: { l: 16 + 6.6 * Math.max(4, ...short.map((name) => name.length)), r: 8, t: 8, b: 40 },
    shapes: lines.map((line) => ({ type: "line", layer: "below", line: { color: colours.grid, width: 1 }, ...line })),
    xaxis: axis("layer", { ...plot, range: [first - 0.5, last + 0.5], tickformat: "d", dtick: wholeTicks(last - first + 1) }),
    yaxis: axis("", { ...plot, range: [modules.length - 0.5, -0.5], tickvals: modules.map((_, index) => index), ticktext: short }) },
  `Trajectories of the first singular vectors by layer and module, run ${data.runs[things[0].run]}`);
}
