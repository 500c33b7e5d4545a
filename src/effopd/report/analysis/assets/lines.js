/* Figures over training and over layers, spectra, histograms. */
function linesOf(list, run) { return list.filter((line) => line.run === run); }
function curve(line, y, extra = {}) {
  const style = runStyle(line.run);
  return { x: line.x, y, name: runLabel(line.run), mode: line.x.length > 40 ? "lines" : "lines+markers", type: "scatter", cliponaxis: false,
    line: { color: style.colour, width: 2, dash: style.dash }, marker: { color: style.colour, symbol: style.symbol, size: 6 },
    hovertemplate: "%{x}: %{y:.4g}<extra>%{fullData.name}</extra>", ...extra };
}
/* A filled band; gaps in the data are left out of it. */
function band(line, low, high) {
  const keep = line.x.map((_, index) => index).filter((index) => low[index] !== null && high[index] !== null);
  const back = [...keep].reverse();
  return { x: [...keep, ...back].map((index) => line.x[index]), y: [...keep.map((i) => high[i]), ...back.map((i) => low[i])],
    type: "scatter", mode: "lines", fill: "toself", fillcolor: rgba(runStyle(line.run).colour, 0.14), line: { width: 0 }, hoverinfo: "skip" };
}
/* Whole ticks where checkpoints are counted. */
function trainingAxis(extra = {}) {
  if (overShare) return axis(trainingLabel(), { tickformat: ".0%", range: [0, 1], ticklabeloverflow: "allow", ...extra });
  const most = Math.max(...data.checkpoints.map((list) => list.length));
  return axis(data.x, { ...(data.x === "checkpoint" ? { dtick: wholeTicks(most) } : {}), ...extra });
}
function wholeTicks(count) { return [1, 2, 5, 10].find((step) => count / step <= 16) || 20; }
const runNumbers = data.runs.map((_, index) => index);
const KIND_NAMES = { all: "all parameters", attention: "attention", mlp: "MLP", embedding: "embedding", lm_head: "output head", norm: "normalisation", other: "other" };
function kindsOf(lines) {
  const kinds = [...new Set([...Object.keys(KIND_NAMES), ...lines.map((line) => line.kind)])];
  return kinds.filter((kind) => lines.some((line) => line.kind === kind)).map((kind) => [kind, KIND_NAMES[kind] || kind]);
}

figure("norms", (controls, plots, keys, refresh) => {
  const kind = choose(controls, "Parameters", kindsOf(data.norms), refresh);
  const scale = choose(controls, "Norm", [["norm", "‖ΔW‖"], ["relative", "‖ΔW‖ / ‖W base‖"]], refresh);
  trainingSwitch(controls);
  return () => {
    legend(keys, runNumbers);
    const [element] = panels(plots, [""]);
    const lines = data.norms.filter((line) => line.kind === kind.value).map(overTraining);
    const traces = lines.map((line) => curve(line, line[scale.value]));
    draw(element, traces,
      { xaxis: trainingAxis(), yaxis: axis(scale.selectedOptions[0].textContent, fromZero(traces)) },
      "Line chart of the norm of the update over training, a line per run");
  };
});

const MOST_BARS = 120; // more than these are lines
figure("layers", (controls, plots, keys, refresh) => {
  const kind = choose(controls, "Parameters", kindsOf(data.layers), refresh);
  return () => {
    legend(keys, runNumbers);
    const [element] = panels(plots, [""]);
    const lines = data.layers.filter((line) => line.kind === kind.value);
    const layers = Math.max(1, ...lines.flatMap((line) => line.x)) + 1;
    const hovertemplate = "layer %{x}: %{y:.4g}<extra>%{fullData.name}</extra>";
    const traces = lines.map((line) => (layers * lines.length > MOST_BARS
      ? curve(line, line.norm, { hovertemplate, mode: "lines+markers" })
      : { type: "bar", x: line.x, y: line.norm, name: runLabel(line.run), marker: { color: runStyle(line.run).colour }, hovertemplate }));
    draw(element, traces, { barmode: "group", bargap: 0.25, bargroupgap: 0.06, xaxis: axis("layer", { tickformat: "d", dtick: wholeTicks(layers) }),
      yaxis: axis("‖ΔW‖ of the layer", fromZero(traces)) }, "Chart of the norm of the update by layer, for each run");
  };
});
function fromZero(traces) {
  return traces.some((trace) => trace.y.some((value) => value > 0)) ? { rangemode: "tozero" } : { range: [0, 1] };
}

/* Small multiples of means with bands, one for each column of data.training: [column, title, range of its axis]. */
function multiples(columns, reference) {
  return (controls, plots, keys) => {
    trainingSwitch(controls);
    return () => drawMultiples(columns, reference, plots, keys);
  };
}
function drawMultiples(columns, reference, plots, keys) {
  legend(keys, runNumbers);
  const shown = columns.filter(([key]) => data.training[key].some((line) => line.mean.some((value) => value !== null)));
  panels(plots, shown.map(([, title]) => title), shown.length === 4 ? "20rem" : "17rem").forEach((element, index) => {
    const [key, title, limits] = shown[index];
    const lines = data.training[key].map(overTraining);
    const traces = [...lines.map((line) => band(line, line.low, line.high)), ...lines.map((line) => curve(line, line.mean))];
    const fixed = { automargin: false }; // in small panels, margins and ticks chase each other
    const layout = { height: 290, xaxis: trainingAxis({ ...fixed, tickangle: 0 }), yaxis: axis("", { ...fixed, ...limits }) };
    if (key === reference && data.chance !== null) {
      layout.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.chance, y1: data.chance, line: { color: palette().quiet, width: 1.2, dash: "dash" } }];
      layout.annotations = [{ xref: "paper", x: 1, y: data.chance, text: "chance", showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 11 } }];
    }
    draw(element, traces, layout, `Line chart over training: ${title}`);
  });
}
const SHARE = { minallowed: 0, maxallowed: 1 };
const WHOLE = { range: [0, 1] };
figure("concentration", multiples([["spectral_norm", "spectral norm"], ["spectral_to_frobenius", "spectral / Frobenius", SHARE], ["effective_rank", "effective rank"], ["top1pct_norm_ratio", "top-1 % norm ratio", SHARE]]));
figure("alignment", multiples([["vector_alignment", "singular vectors, mean |cos u_k|", WHOLE], ["subspace_alignment", "subspaces, rms cosine", WHOLE], ["first_vector_cosine", "first vector, |cos u₁|", WHOLE]], "subspace_alignment"));

/* A line for each rank k, in a panel for each run. */
figure("ranks", (controls, plots, keys, refresh) => {
  const what = choose(controls, "Alignment", [["vector", "of the k-th vectors"], ["subspace", "of the spans of the first k vectors"]], refresh);
  const most = Math.max(...data.ranks.map((line) => line.rank));
  const atRank = choose(controls, "Rank", [["all", "all"], ...Array.from({ length: most }, (_, index) => [index + 1, index + 1])], refresh);
  trainingSwitch(controls);
  return () => {
    drawScale(keys, "rank k", 1, most);
    const runs = runNumbers.filter((run) => data.ranks.some((line) => line.run === run));
    panels(plots, runs.map((run) => data.runs[run]), "20rem").forEach((element, index) => {
      const lines = data.ranks.filter((line) => line.run === runs[index] && (atRank.value === "all" || line.rank === Number(atRank.value))).map(overTraining);
      const traces = lines.map((line) => {
        const colour = SCALE[Math.round((line.rank - 1) / Math.max(most - 1, 1) * (SCALE.length - 1))];
        return { x: line.x, y: line[what.value], name: `k = ${line.rank}`, type: "scatter", mode: "lines+markers", cliponaxis: false,
          line: { color: colour, width: 1.6 }, marker: { color: colour, size: 4 }, hovertemplate: "%{x}: %{y:.3f}<extra>%{fullData.name}</extra>" };
      });
      const last = lines[lines.length - 1];
      const chance = last && last[`chance_${what.value}`][0];
      const layout = { height: 320, xaxis: trainingAxis({ automargin: false, tickangle: 0 }), yaxis: axis("", { automargin: false, ...WHOLE }) };
      if (chance) {
        layout.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: chance, y1: chance, line: { color: palette().quiet, width: 1.2, dash: "dash" } }];
        layout.annotations = [{ xref: "paper", x: 1, y: chance, text: what.value === "vector" ? "chance" : `chance, k = ${last.rank}`, showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 11 } }];
      }
      draw(element, traces, layout, `Alignment with the last checkpoint by rank, run ${data.runs[runs[index]]}`);
    });
  };
});

/* Layer, module and matrix selects over a list of things that name a matrix. */
function picker(controls, things, refresh, everyLayer) {
  const [names, layers, groups] = data.matrices;
  const used = [...new Set(things.map((thing) => thing.matrix))];
  const modules = [...new Set(used.map((matrix) => groups[matrix]))];
  const module = choose(controls, "Module", modules.map((name) => [name, name]), () => { fillLayers(); refresh(); });
  const layer = choose(controls, "Layer", [], () => { fillMatrices(); refresh(); });
  const matrix = choose(controls, "Matrix", [], refresh);
  const inModule = () => used.filter((each) => groups[each] === module.value);
  function fillLayers() {
    const found = [...new Set(inModule().map((each) => layers[each]))].sort((a, b) => a - b);
    const all = everyLayer && found.length > 1 ? [["all", "all layers"]] : [];
    layer.setOptions([...found.map((each) => [String(each), each === null ? "outside the layers" : each]), ...all]);
    fillMatrices();
  }
  function fillMatrices() {
    const found = layer.value === "all" ? [] : inModule().filter((each) => String(layers[each]) === layer.value);
    matrix.setOptions(found.map((each) => [each, names[each]]));
  }
  fillLayers();
  return () => (layer.value === "all" ? inModule() : [Number(matrix.value)]);
}

figure("spectra", (controls, plots, keys, refresh) => {
  const chosen = picker(controls, data.spectra, refresh, true);
  const scale = choose(controls, "Scale", [["relative", "relative to σ₁"], ["absolute", "as they are"]], refresh);
  return () => {
    legend(keys, runNumbers);
    const wanted = new Set(chosen());
    const [element] = panels(plots, [""]);
    const many = wanted.size > 1;
    const traces = data.spectra.filter((each) => wanted.has(each.matrix)).map((each) => {
      const style = runStyle(each.run);
      const name = plain(cut(data.runs[each.run], 24)) + (many ? `, layer ${data.matrices[1][each.matrix]}` : "");
      return { x: each.i, y: scale.value === "relative" ? each.s.map((value) => value / each.s[0]) : each.s, name, type: "scatter",
        mode: many ? "lines" : "lines+markers", opacity: many ? 0.45 : 1, line: { color: style.colour, width: many ? 1.1 : 2, dash: style.dash },
        marker: { color: style.colour, symbol: style.symbol, size: 5 }, hovertemplate: "σ<sub>%{x}</sub> = %{y:.4g}<extra>%{fullData.name}</extra>" };
    });
    draw(element, traces, { height: 400, xaxis: axis("index i", { type: "log", dtick: 1 }),
      yaxis: axis(scale.value === "relative" ? "σᵢ / σ₁" : "σᵢ", { type: "log", exponentformat: "power", dtick: 1 }) },
    "Singular values of the update on logarithmic axes, a line per run");
  };
});

figure("tail", (controls, plots, keys, refresh) => {
  const scale = choose(controls, "Norm", [["share", "share of the norm"], ["norm", "mean norm of a matrix"]], refresh);
  return () => {
    legend(keys, runNumbers);
    const [element] = panels(plots, [""]);
    const share = scale.value === "share";
    const hovertemplate = "without the first %{x} %: %{y:.4g}<extra>%{fullData.name}</extra>";
    const traces = [...(share ? data.tails.map((line) => band(line, line.low, line.high)) : []),
      ...data.tails.map((line) => curve(line, line[scale.value], { hovertemplate }))];
    draw(element, traces, { xaxis: axis("first components left out, %", { type: "log", range: [-1, 2], tickvals: [0.1, 1, 10, 100], ticklabeloverflow: "allow" }),
      yaxis: axis(share ? "‖tail‖ / ‖ΔW‖" : "‖tail‖", share ? WHOLE : { rangemode: "tozero" }) },
    "Line chart of the norm of the tail, a line per run");
  };
});
