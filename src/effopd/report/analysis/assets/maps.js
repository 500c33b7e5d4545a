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

figure("trajectory", (controls, plots, keys, refresh) => {
  const things = data.trajectories;
  const chosen = picker(controls, [...things.filter((each) => each.tsne1), ...things.filter((each) => !each.tsne1)], refresh, false);
  const plane = choose(controls, "Plane", things.some((each) => each.tsne1) ? [["pc", "principal components"], ["tsne", "t-SNE"]] : [["pc", "principal components"]], refresh);
  return () => {
    const [matrix] = chosen();
    const shown = things.filter((each) => each.matrix === matrix && (plane.value === "pc" || each.tsne1));
    const steps = things.flatMap((each) => each.x);
    const [low, high] = [steps.reduce((a, b) => Math.min(a, b)), steps.reduce((a, b) => Math.max(a, b))];
    drawScale(keys, data.x, low, high);
    const still = (each) => [...each.pc1, ...each.pc2].every((value) => value === 0);
    const note = (each) => (each.evr !== null ? `, EVR ${format(each.evr, true)}` : still(each) ? ": does not move" : "");
    const titles = shown.map((each) => data.runs[each.run] + (plane.value === "pc" ? note(each) : ""));
    if (!shown.length) keys.replaceChildren(make("p", { class: "notice", text: "No t-SNE picture was made of this matrix; choose principal components or another matrix." }));
    panels(plots, titles, "20rem").forEach((element, index) => drawTrajectory(element, shown[index], plane.value, low, high));
  };
});
function drawTrajectory(element, each, plane, low, high) {
  const [x, y] = plane === "pc" ? [each.pc1, each.pc2] : [each.tsne1, each.tsne2];
  const colours = palette();
  const last = x.length - 1;
  const square = { scaleanchor: "x", scaleratio: 1, automargin: false }; // automatic margins and equal scales chase each other
  draw(element, [
    { x, y, type: "scatter", mode: "lines+markers", line: { color: colours.line, width: 1.2 }, customdata: each.x,
      marker: { size: 9, color: each.x, colorscale: VIRIDIS, cmin: low, cmax: high > low ? high : low + 1, line: { color: isDark() ? colours.quiet : colours.raised, width: 1 } },
      hovertemplate: `${data.x} %{customdata}<extra></extra>` },
    { x: [x[0], x[last]], y: [y[0], y[last]], type: "scatter", mode: "markers+text", text: ["first", "last"], textposition: ["bottom center", "top center"], hoverinfo: "skip", cliponaxis: false,
      marker: { size: 15, symbol: ["square-open", "circle-open"], color: colours.ink, line: { width: 1.5 } }, textfont: { color: colours.ink } },
  ], { height: 340, margin: { l: 62, r: 16, t: 22, b: 48 }, xaxis: axis(plane === "pc" ? "first component" : "t-SNE 1", { automargin: false }), yaxis: axis(plane === "pc" ? "second component" : "t-SNE 2", square) },
  `Trajectory of the first singular vector, run ${data.runs[each.run]}`);
}

figure("shift", (controls, plots, keys, refresh) => {
  const pictured = data.tokens.filter((each) => each.text.length);
  const parameters = [...new Set(pictured.map((each) => each.parameter))];
  const parameter = choose(controls, "Parameter", parameters.map((name) => [name, name]), refresh);
  const runs = [...new Set(pictured.map((each) => each.run))];
  const which = choose(controls, "Run", runOptions(runs), refresh);
  return () => {
    const wanted = chosenRuns(which, runs);
    const shown = pictured.filter((each) => each.parameter === parameter.value && wanted.includes(each.run));
    const titles = shown.map((each) => `${data.runs[each.run]}: ${each.text.length.toLocaleString("en")} of ${each.tokens.toLocaleString("en")} tokens`);
    panels(plots, titles, "22rem").forEach((element, index) => drawShift(element, shown[index]));
  };
});
function drawShift(element, each) {
  const colours = palette();
  const style = runStyle(each.run);
  const lines = { x: [], y: [] };
  each.base_x.forEach((x, index) => { lines.x.push(x, each.trained_x[index], null); lines.y.push(each.base_y[index], each.trained_y[index], null); });
  const hover = each.text.map((token, index) => `<b>${plain(cut(JSON.stringify(token), 60))}</b> (token ${each.id[index]})<br>cosine ${format(each.cosine[index])}`);
  const bare = { showgrid: false, showticklabels: false, ticks: "", showline: false };
  draw(element, [
    { ...lines, type: "scatter", mode: "lines", line: { color: rgba(style.colour, 0.55), width: 1 }, hoverinfo: "skip" },
    { x: each.base_x, y: each.base_y, type: "scatter", mode: "markers", hoverinfo: "skip", marker: { size: 5, color: colours.raised, line: { color: colours.quiet, width: 1 } } },
    { x: each.trained_x, y: each.trained_y, type: "scatter", mode: "markers", text: hover, hovertemplate: "%{text}<extra></extra>", marker: { size: 5, color: style.colour } },
  ], { height: 400, margin: { l: 8, r: 8, t: 8, b: 8 }, xaxis: axis("", bare), yaxis: axis("", { ...bare, scaleanchor: "x", scaleratio: 1 }) },
  `Embeddings of tokens before and after training, run ${data.runs[each.run]}`);
}
