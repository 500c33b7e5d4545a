/* The table of all matrices: filters, sorting and pages over columns of numbers, no row objects. */
(function matrixTable() {
  const root = document.querySelector('[data-table="matrices"]');
  if (!root) return;
  const PAGE = 50;
  const rows = data.rows;
  const stepOf = data.checkpoints.map((list) => new Map(list));
  const names = (key) => { const { names: all, codes } = rows[key]; return (row) => all[codes[row]]; };
  const text = (key, label, value, mono) => ({ key, label, value, show: value, text: true, mono });
  const number = (key, label, values, percent, hint) => ({ key, label, hint, value: (row) => values[row], show: (row) => format(values[row], percent) });
  const stepless = data.checkpoints.some((list) => list.some(([, known]) => known === null));
  const step = (row) => stepOf[rows.run[row]].get(rows.checkpoint[row]);
  const columns = [
    text("run", "run", (row) => data.runs[rows.run[row]]),
    stepless ? { key: "checkpoint", label: "checkpoint", value: (row) => rows.checkpoint[row], show: (row) => String(rows.checkpoint[row]) }
      : { key: "step", label: "step", value: step, show: (row) => format(step(row)) },
    text("parameter", data.aggregated ? "module" : "parameter", names("parameter"), true),
    number("layer", "layer", rows.layer),
    ...(data.aggregated ? [number("matrices", "matrices", rows.matrices)] : []),
    { key: "shape", label: "shape", value: (row) => rows.rows[row] * rows.cols[row], show: (row) => `${format(rows.rows[row])} × ${format(rows.cols[row])}` },
    ...data.metrics.map(([key, label, percent, hint]) => number(key, label, rows[key], percent, hint)),
    ...(rows.route && !data.aggregated ? [text("route", "route", names("route"))] : []),
  ];
  const state = { page: 0, sort: null, descending: false, order: [] };

  const controls = root.querySelector(".controls");
  const changed = () => { state.page = 0; filter(); };
  const any = ["", "all"];
  const run = choose(controls, "Run", [any, ...data.runs.map((name, index) => [index, name])], changed);
  const when = choose(controls, "Checkpoint", [["last", "last of each run"], ["first", "first of each run"], any, ...checkpointOptions([]).filter(([value]) => value !== "last")], changed);
  if (data.checkpoints.every((list) => list.length === 1)) when.setOptions([["last", "last"]]);
  const module = choose(controls, "Module", [any, ...rows.group.names.map((name, index) => [index, name])], changed);
  const kind = choose(controls, "Kind", [any, ...rows.kind.names.map((name, index) => [index, name])], changed);
  const layer = field("Layers, e.g. 0-3, 7");
  const search = field("Name contains");
  function field(label) {
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false", name: label });
    controls.append(make("label", {}, label, input));
    let timer = 0;
    input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(changed, 120); });
    return input;
  }
  /* "0-3, 7" as a test of a layer; null where nothing is typed, and a part that is no number matches nothing. */
  function layerTest(typed) {
    const parts = typed.split(/[\s,;]+/).filter(Boolean).map((part) => /^(\d+)(?:[-–](\d+))?$/.exec(part));
    if (!typed.trim()) return null;
    return (value) => value !== null && parts.some((part) => part && value >= Number(part[1]) && value <= Number(part[2] || part[1]));
  }

  const body = make("tbody");
  const heads = columns.map((column) => {
    const button = make("button", { type: "button", text: column.label, title: column.hint || "" });
    const head = make("th", { scope: "col", class: column.text ? "text" : "number", "data-key": column.key }, button);
    button.addEventListener("click", () => {
      state.descending = state.sort === column ? !state.descending : !column.text;
      state.sort = column;
      state.page = 0;
      sort();
      fill();
    });
    return head;
  });
  root.querySelector(".scroll").append(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body));
  const status = make("output", { "aria-live": "polite" });
  const buttons = [["First", () => 0], ["Previous", () => state.page - 1], ["Next", () => state.page + 1], ["Last", () => pages() - 1]].map(([label, to]) => {
    const button = make("button", { type: "button", text: label });
    button.addEventListener("click", () => { state.page = to(); fill(); });
    return button;
  });
  root.querySelector(".pages").append(status, ...buttons);
  const pages = () => Math.max(1, Math.ceil(state.order.length / PAGE));

  function filter() {
    const wantedLayer = layerTest(layer.value);
    const word = search.value.trim().toLowerCase();
    const lower = rows.parameter.names.map((name) => name.toLowerCase().includes(word));
    const at = data.runs.map((_, index) => { const found = when.value === "" ? null : checkpointAt(index, when.value); return found === null ? -1 : data.checkpoints[index][found][0]; });
    const order = [];
    for (let row = 0; row < rows.run.length; row += 1) {
      if (run.value !== "" && rows.run[row] !== Number(run.value)) continue;
      if (when.value !== "" && rows.checkpoint[row] !== at[rows.run[row]]) continue;
      if (module.value !== "" && rows.group.codes[row] !== Number(module.value)) continue;
      if (kind.value !== "" && rows.kind.codes[row] !== Number(kind.value)) continue;
      if (wantedLayer && !wantedLayer(rows.layer[row])) continue;
      if (word && !lower[rows.parameter.codes[row]]) continue;
      order.push(row);
    }
    state.order = order;
    sort();
    fill();
  }
  /* What has no value comes last either way; equal values keep the order of the records. */
  function sort() {
    const { sort: column, descending } = state;
    if (!column) return;
    const sign = descending ? -1 : 1;
    const keys = new Map(state.order.map((row) => [row, column.value(row)]));
    const collator = new Intl.Collator("en", { numeric: true });
    state.order.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      if (x === y) return a - b;
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return sign * (column.text ? collator.compare(x, y) : x - y) || a - b;
    });
  }
  function fill() {
    const from = state.page * PAGE;
    const shown = state.order.slice(from, from + PAGE);
    body.replaceChildren(...shown.map((row) => make("tr", {}, ...columns.map((column) => {
      const value = column.show(row);
      return make("td", { class: (column.text ? "text" : "number") + (column.mono ? " mono" : ""), text: value, ...(column.mono ? { title: value } : {}) });
    }))));
    heads.forEach((head, index) => {
      if (columns[index] === state.sort) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const total = state.order.length.toLocaleString("en");
    status.textContent = shown.length ? `${(from + 1).toLocaleString("en")}–${(from + shown.length).toLocaleString("en")} of ${total} rows` : "No row matches the filters.";
    buttons.forEach((button, index) => { button.disabled = index < 2 ? state.page === 0 : state.page >= pages() - 1; });
  }
  filter();
})();
start();
