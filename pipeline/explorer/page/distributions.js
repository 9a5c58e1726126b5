// The view of distributions: a card for each chosen column, whose brush filters.

import { ask, filter, filterChanged, latest } from "./api.js";
import { density, histogram } from "./charts.js";
import { byId, el, number, rowsNote } from "./dom.js";

const cards = new Map();

/** Ask for the distributions of `columns`, and draw them. */
export const showDistributions = latest(async (signal, columns) => {
  const box = byId("charts");
  if (!columns.length) {
    box.replaceChildren(el("p", { class: "note" }, "This corpus has no losses and no annotations yet: run “attent score” or “attent annotate”. Its samples are under “Samples”."));
    box.setAttribute("aria-busy", "false");
    return;
  }
  box.setAttribute("aria-busy", "true");
  for (const name of columns) cards.get(name) ?? cards.set(name, card(name));
  box.replaceChildren(...columns.map((name) => cards.get(name).root));
  const answer = await ask("distributions", { columns, filter, by: byId("by").value }, signal);
  byId("matching").textContent = `${number(answer.matching)} match, of ${rowsNote(answer)}.`;
  await Promise.all(answer.charts.map((chart) => fill(cards.get(chart.name), chart, answer.strata)));
  box.setAttribute("aria-busy", "false");
});

function card(name) {
  const plot = el("div", { class: "plot" });
  const note = el("p", { class: "note" });
  const controls = el("div", { class: "range" });
  const root = el("article", { class: "card" }, el("h2", {}, name), plot, controls, note);
  return { name, root, plot, note, controls };
}

async function fill(view, chart, strata) {
  view.note.textContent = [chart.title, chart.missing ? `${number(chart.missing)} without a value` : ""].filter(Boolean).join(" · ");
  if (chart.kind === "category") return fillCategories(view, chart);
  const range = filter.ranges[chart.name];
  view.controls.replaceChildren(...bounds(chart, range));
  if (!chart.edges.length) {
    view.plot.replaceChildren(el("p", { class: "note" }, "no numbers"));
    return undefined;
  }
  const shown = range && [range[0] ?? chart.edges[0], range[1] ?? chart.edges.at(-1)];
  return histogram(view.plot, chart, strata, shown, (low, high) => setRange(chart.name, low, high));
}

/** Return the two inputs that choose a range without a mouse. */
function bounds(chart, range) {
  const input = (label, place) => {
    const field = el("input", { type: "number", step: "any", "aria-label": `${chart.name} ${label}`, placeholder: label });
    field.value = range?.[place] ?? "";
    field.addEventListener("change", () => setRange(chart.name, ...fields.map((one) => (one.value === "" ? null : Number(one.value)))));
    return field;
  };
  const fields = [input("from", 0), input("to", 1)];
  return fields;
}

function setRange(name, low, high) {
  const rounded = [low, high].map((end) => (end === null ? null : Number(end.toPrecision(6))));
  if (rounded.every((end) => end === null)) delete filter.ranges[name];
  else filter.ranges[name] = rounded;
  filterChanged();
}

/** Draw categories as buttons with bars: pressed ones are filtered for. */
function fillCategories(view, chart) {
  const most = Math.max(1, ...chart.all);
  const chosen = new Set(filter.values[chart.name] ?? []);
  const rows = chart.labels.map((label, i) => {
    const bar = el("span", { class: "bar" }, el("span", { class: "bar-all" }), el("span", { class: "bar-matching" }));
    bar.children[0].style.width = `${(100 * chart.all[i]) / most}%`;
    bar.children[1].style.width = `${(100 * chart.matching[i]) / most}%`;
    const isOthers = label === "(others)";
    return el(
      "button",
      { type: "button", class: "category", "aria-pressed": String(chosen.has(label)), disabled: isOthers, onclick: () => toggle(chart.name, label) },
      el("span", { class: "label" }, label), bar, el("span", { class: "count" }, number(chart.matching[i])),
    );
  }).filter((_, i) => chart.all[i] || chart.labels[i] !== "(others)");
  view.controls.replaceChildren();
  view.plot.replaceChildren(...rows);
}

function toggle(name, label) {
  const chosen = new Set(filter.values[name] ?? []);
  if (!chosen.delete(label)) chosen.add(label);
  if (chosen.size) filter.values[name] = [...chosen];
  else delete filter.values[name];
  filterChanged();
}

/** Draw the two chosen columns against each other. */
export const showScatter = latest(async (signal) => {
  const [x, y] = [byId("scatter-x").value, byId("scatter-y").value];
  const note = byId("scatter-note");
  if (!x || !y) {
    note.textContent = "Two columns of numbers are needed.";
    return;
  }
  note.textContent = "Counting …";
  const answer = await ask("scatter", { x, y, filter }, signal);
  await density(byId("scatter-chart"), answer);
  const missing = answer.missing ? `; ${number(answer.missing)} lack one of the values` : "";
  note.textContent = `${number(answer.matching)} match, of ${rowsNote(answer)}${missing}.`;
});
