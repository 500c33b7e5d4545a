/* The embedding shift: over training, by token, and in one plane of the base and all runs. */
figure("quantiles", (controls, plots, keys, refresh) => {
  const parameters = [...new Set(data.embeddings.map((line) => line.parameter))];
  const parameter = choose(controls, "Parameter", parameters.map((name) => [name, name]), refresh);
  trainingSwitch(controls);
  return () => {
    legend(keys, runNumbers);
    const lines = data.embeddings.filter((line) => line.parameter === parameter.value).map(overTraining);
    const [element] = panels(plots, [""]);
    draw(element, [...lines.map((line) => band(line, line.p05, line.p95)), ...lines.map((line) => curve(line, line.mean, { text: line.mean.map(cosineText), hovertemplate: "%{x}: %{text}<extra>%{fullData.name}</extra>" }))],
      { xaxis: trainingAxis(), yaxis: axis("cosine to the base", { maxallowed: 1 }) }, "Line chart of the embedding cosine over training, with bands");
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
        line: { color: style.colour, width: 1.8, shape: "hv", dash: style.dash }, hovertemplate: "cosine from %{x}: %{y:.2%} of tokens<extra>%{fullData.name}</extra>" };
    });
    draw(element, traces, { xaxis: axis("cosine to the base", { maxallowed: 1 }), yaxis: axis("share of tokens", { tickformat: ".0%", rangemode: "tozero" }) },
      "Histogram of the embedding cosine, a line per run");
  };
});

figure("shift", (controls, plots, keys, refresh) => {
  const pictured = data.tokens.filter((each) => each.text.length);
  const parameters = [...new Set(pictured.map((each) => each.parameter))];
  const parameter = choose(controls, "Parameter", parameters.map((name) => [name, name]), refresh);
  const planes = [["", "principal components"], ...(pictured.some((each) => each.tsne_x) ? [["tsne_", "t-SNE"]] : [])];
  const plane = choose(controls, "Plane", planes, refresh);
  const runs = [...new Set(pictured.map((each) => each.run))];
  const which = choose(controls, "Runs", runs.length > 1 ? [["all", "all"], ...runs.map((run) => [run, data.runs[run]])] : [["all", "all"]], refresh);
  const drawn = choose(controls, "Shifts drawn", [["auto", "so that they can be seen"], ["1", "as they are"]], refresh);
  return () => {
    const wanted = chosenRuns(which, runs);
    const shown = pictured.filter((each) => each.parameter === parameter.value && wanted.includes(each.run));
    const factor = drawn.value === "1" || plane.value !== "" || !shown.length ? 1 : shown[0].factor;
    const notes = Object.fromEntries(shown.map((each) => [each.run,
      `: mean cosine ${cosineText(each.mean)}, median shift ${format(each.shift, true)} of the embedding's length`]));
    legend(keys, shown.map((each) => each.run), notes);
    const title = shown.length ? `${shown[0].text.length.toLocaleString("en")} of ${shown[0].tokens.toLocaleString("en")} tokens` : "";
    const [element] = panels(plots, [title + (factor > 1 ? `, shifts drawn ${factor.toLocaleString("en")}-fold` : "")]);
    drawShift(element, shown, plane.value, factor);
  };
});
/* The base as rings, and runs as smaller and smaller dots, so that those in one place can be seen. */
function drawShift(element, shown, plane, factor) {
  const colours = palette();
  const place = (each, axisName) => each[plane + axisName];
  const moved = (each, axisName) => place(each, axisName).map((value, index) => value + factor * each[`${plane}d${axisName}`][index]);
  const traces = shown.slice(0, 1).map((each) => ({ x: place(each, "x"), y: place(each, "y"), type: "scatter", mode: "markers", hoverinfo: "skip",
    marker: { size: 10, symbol: "circle-open", color: colours.quiet, line: { width: 1 } } }));
  shown.forEach((each, position) => {
    const style = runStyle(each.run);
    const [x, y] = [moved(each, "x"), moved(each, "y")];
    const lines = { x: [], y: [] };
    x.forEach((value, index) => { lines.x.push(place(each, "x")[index], value, null); lines.y.push(place(each, "y")[index], y[index], null); });
    const hover = each.text.map((token, index) => `<b>${plain(cut(JSON.stringify(token), 60))}</b> (token ${each.id[index]})<br>${runLabel(each.run)}: cosine ${cosineText(each.cosine[index])}`);
    traces.push({ ...lines, type: "scatter", mode: "lines", line: { color: rgba(style.colour, 0.55), width: 1 }, hoverinfo: "skip" });
    traces.push({ x, y, type: "scatter", mode: "markers", text: hover, hovertemplate: "%{text}<extra></extra>", marker: { size: Math.max(8 - 2 * position, 3), color: style.colour } });
  });
  const bare = { showgrid: false, showticklabels: false, ticks: "", showline: false };
  draw(element, traces, { height: 480, margin: { l: 8, r: 8, t: 8, b: 8 }, xaxis: axis("", bare), yaxis: axis("", { ...bare, scaleanchor: "x", scaleratio: 1 }) },
    "Embeddings of tokens in the base and after each run, in one plane");
}
