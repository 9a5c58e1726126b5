// The colours of a chart are those of the page, also in dark mode and in print.
const text = "var(--text)", muted = "var(--muted)", line = "var(--line)";
const config = {
  background: "transparent",
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: { labelColor: muted, titleColor: text, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 500, labelSeparation: 8 },
  legend: { labelColor: text, titleColor: text },
};
const options = {
  ast: true,
  actions: false,
  defaultStyle: false,
  renderer: "svg",
  loader: { load: () => Promise.reject(new Error("charts load nothing")) },
  tooltip: { disableDefaultStyle: true },
};
specs.forEach((spec, i) => {
  const element = document.getElementById(`chart${i}`);
  const { title, ...shown } = spec; // the page has the title
  shown.width = "container";
  shown.config = config;
  vegaEmbed(element, shown, options);
});
