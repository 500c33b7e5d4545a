/* Figures over training and over layers, spectra, histograms. */
function linesOf(list, run) { return list.filter((line) => line.run === run); }
function curve(line, y, extra = {}) {
  const style = runStyle(line.run);
  return { x: line.x, y, name: runLabel(line.run), mode: line.x.length > 40 ? "lines" : "lines+markers", type: "scatter",
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
  return () => {
    legend(keys, runNumbers);
    const [element] = panels(plots, [""]);
    const lines = data.norms.filter((line) => line.kind === kind.value);
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

/* Small multiples of means with bands, one for each column of data.training. */
function multiples(columns, reference, limits) {
  return (controls, plots, keys) => () => {
    legend(keys, runNumbers);
    const shown = columns.filter(([key]) => data.training[key].some((line) => line.mean.some((value) => value !== null)));
    panels(plots, shown.map(([, title]) => title), "17rem").forEach((element, index) => {
      const lines = data.training[shown[index][0]];
      const traces = [...lines.map((line) => band(line, line.low, line.high)), ...lines.map((line) => curve(line, line.mean))];
      const fixed = { automargin: false }; // in small panels, margins and ticks chase each other
      const layout = { height: 290, xaxis: trainingAxis({ ...fixed, tickangle: 0 }), yaxis: axis("", limits ? { ...fixed, range: limits } : fixed) };
      if (shown[index][0] === reference && data.chance !== null) {
        layout.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.chance, y1: data.chance, line: { color: palette().quiet, width: 1.2, dash: "dash" } }];
        layout.annotations = [{ xref: "paper", x: 1, y: data.chance, text: "chance", showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 11 } }];
      }
      draw(element, traces, layout, `Line chart over training: ${shown[index][1]}`);
    });
  };
}
figure("concentration", multiples([["spectral_to_frobenius", "spectral / Frobenius"], ["effective_rank", "effective rank"], ["top1pct_norm_ratio", "top-1 % norm ratio"]]));
figure("alignment", multiples([["vector_alignment", "singular vectors, mean |cos u_k|"], ["subspace_alignment", "subspaces, rms cosine"], ["first_vector_cosine", "first vector, |cos u₁|"]], "subspace_alignment", [0, 1.04]));

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

figure("quantiles", (controls, plots, keys, refresh) => {
  const parameters = [...new Set(data.embeddings.map((line) => line.parameter))];
  const parameter = choose(controls, "Parameter", parameters.map((name) => [name, name]), refresh);
  return () => {
    legend(keys, runNumbers);
    const lines = data.embeddings.filter((line) => line.parameter === parameter.value);
    const [element] = panels(plots, [""]);
    draw(element, [...lines.map((line) => band(line, line.p05, line.p95)), ...lines.map((line) => curve(line, line.mean))],
      { xaxis: trainingAxis(), yaxis: axis("cosine to the base") }, "Line chart of the embedding cosine over training, with bands");
  };
});

figure("histogram", (controls, plots, keys, refresh) => {
  const parameters = [...new Set(data.tokens.map((each) => each.parameter))];
  const parameter = choose(controls, "Parameter", parameters.map((name) => [name, name]), refresh);
  return () => {
    legend(keys, runNumbers);
    const [element] = panels(plots, [""]);
    const traces = data.tokens.filter((each) => each.parameter === parameter.value).map((each) => {
      const style = runStyle(each.run);
      return { x: each.edges, y: [...each.share, each.share[each.share.length - 1]], name: runLabel(each.run), type: "scatter", mode: "lines", fill: "tozeroy", fillcolor: rgba(style.colour, 0.14),
        line: { color: style.colour, width: 1.8, shape: "hv", dash: style.dash }, hovertemplate: "cosine from %{x:.4f}: %{y:.2%} of tokens<extra>%{fullData.name}</extra>" };
    });
    draw(element, traces, { xaxis: axis("cosine to the base"), yaxis: axis("share of tokens", { tickformat: ".0%", rangemode: "tozero" }) },
      "Histogram of the embedding cosine, a line per run");
  };
});
