// Charts by Vega, which the server brings along; expressions are interpreted, never evaluated.

let loading = null;

function library() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "vega.js";
    script.onload = () => resolve(window.vegaEmbed);
    script.onerror = () => reject(new Error("the chart library could not be loaded"));
    document.head.append(script);
  });
  return loading;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function config() {
  const text = color("--text");
  const muted = color("--muted");
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: { labelColor: muted, titleColor: text, gridColor: color("--line"), domainColor: color("--line"), tickColor: color("--line"), titleFontWeight: 500, labelSeparation: 8, labelFontSize: 11, titleFontSize: 12 },
    legend: { labelColor: text, titleColor: text, labelLimit: 220 },
    range: { category: ["#3b7dd8", "#d97706", "#2a9d6f", "#b4538a", "#7c6bd6", "#8a8f98"] },
  };
}

/** Draw a Vega-Lite chart in `element`; return its view. */
export async function draw(element, spec, label) {
  const embed = await library();
  element.vegaView?.finalize();
  const width = Math.max(160, element.clientWidth - 4);
  const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width, autosize: { type: "fit-x", contains: "padding" }, config: config(), description: label, ...spec };
  const { view } = await embed(element, full, {
    ast: true,
    actions: false,
    defaultStyle: false,
    renderer: "canvas",
    loader: { load: () => Promise.reject(new Error("charts load nothing")) },
    tooltip: { disableDefaultStyle: true },
  });
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  element.vegaView = view;
  return view;
}

const bars = (field, fill) => ({
  mark: { type: "bar", binSpacing: 0.5, color: fill },
  encoding: {
    x: { field: "low", type: "quantitative", bin: { binned: true }, title: null, axis: { grid: false, tickCount: 6 } },
    x2: { field: "high" },
    y: { field, type: "quantitative", title: null, axis: { tickCount: 3, format: "~s" } },
    tooltip: [
      { field: "low", type: "quantitative", format: ".4~g", title: "from" },
      { field: "high", type: "quantitative", format: ".4~g", title: "to" },
      { field: "all", type: "quantitative", format: ",", title: "all" },
      { field: "matching", type: "quantitative", format: ",", title: "matching" },
    ],
  },
});

/** Draw the histogram of a numeric column; `onBrush(low, high)` is called with a chosen range. */
export async function histogram(element, chart, strata, range, onBrush) {
  const rows = chart.edges.slice(1).map((high, i) => ({ low: chart.edges[i], high, all: chart.all[i], matching: chart.matching[i] }));
  const layer = [bars("all", color("--bar")), bars("matching", color("--accent"))];
  const lines = groupLines(chart, strata);
  if (lines.length) layer.splice(0, 2, groupLayer(lines));
  const first = layer[0];
  first.params = [{ name: "brush", select: { type: "interval", encodings: ["x"], clear: "dblclick" }, ...(range ? { value: { x: range } } : {}) }];
  const view = await draw(element, { height: 110, data: { values: rows }, layer }, `Histogram of ${chart.name}`);
  let chosen = null;
  let pending = null;
  view.addSignalListener("brush_x", (_, pixels) => {
    chosen = pixels;
    clearTimeout(pending);
    pending = setTimeout(() => {
      const scale = view.scale("x");
      const ends = (chosen ?? []).map((pixel) => scale.invert(pixel)).sort((a, b) => a - b);
      onBrush(...(ends.length === 2 && ends[0] < ends[1] ? ends : [null, null]));
    }, 300);
  });
}

/** Return a row per group and bin: the share of the group's samples. */
function groupLines(chart, strata) {
  return chart.groups.flatMap((counts, group) => {
    const total = counts.reduce((sum, count) => sum + count, 0);
    if (!total) return [];
    return counts.map((count, i) => ({ low: chart.edges[i], high: chart.edges[i + 1], group: strata[group], share: count / total }));
  });
}

const groupLayer = (lines) => ({
  data: { values: lines },
  mark: { type: "line", interpolate: "step-after", strokeWidth: 1.5 },
  encoding: {
    x: { field: "low", type: "quantitative", title: null, axis: { grid: false, tickCount: 6 } },
    y: { field: "share", type: "quantitative", title: null, axis: { tickCount: 3, format: ".0%" } },
    color: { field: "group", type: "nominal", title: null, sort: null, legend: { orient: "bottom", columns: 3 } },
    tooltip: [{ field: "group", type: "nominal" }, { field: "low", type: "quantitative", format: ".4~g" }, { field: "share", type: "quantitative", format: ".1%" }],
  },
});

/** Draw how many samples are in each cell of two columns. */
export function density(element, answer) {
  const { x, y } = answer;
  const rows = answer.cells.map(([i, j, count]) => ({ x: x.edges[i], x2: x.edges[i + 1], y: y.edges[j], y2: y.edges[j + 1], count }));
  const axis = (field, title) => ({ field, type: "quantitative", bin: { binned: true }, title, axis: { grid: false } });
  const spec = {
    height: 380,
    data: { values: rows },
    mark: "rect",
    encoding: {
      x: axis("x", x.name),
      x2: { field: "x2" },
      y: axis("y", y.name),
      y2: { field: "y2" },
      color: { field: "count", type: "quantitative", scale: { type: "log", scheme: "viridis" }, title: "samples" },
      tooltip: ["x", "x2", "y", "y2", "count"].map((field) => ({ field, type: "quantitative", format: ".4~g" })),
    },
  };
  return draw(element, spec, `Density of ${y.name} over ${x.name}`);
}

/** Draw the losses of a sample over the rounds. */
export function history(element, rows) {
  const spec = {
    height: 110,
    data: { values: rows.filter((row) => row.loss !== null) },
    mark: { type: "line", point: { size: 40 }, color: color("--accent") },
    encoding: {
      x: { field: "round", type: "ordinal", title: "round", axis: { labelAngle: 0 } },
      y: { field: "loss", type: "quantitative", title: "loss", axis: { tickCount: 3 } },
      tooltip: [{ field: "round", type: "ordinal" }, { field: "loss", type: "quantitative", format: ".4~g" }],
    },
  };
  return draw(element, spec, "Loss over the rounds");
}
