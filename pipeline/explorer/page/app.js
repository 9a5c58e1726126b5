// The page: what there is to explore, its filter, and its views.

import { ask, filter, filterChanged, latest, onFilter } from "./api.js";
import { byId, el, fillSelect, number } from "./dom.js";
import { showDistributions, showScatter } from "./distributions.js";
import { allowSearch, showAgain, showErrors, showNext, startSearch, stopSearch } from "./label_errors.js";
import { exportMarks, openMarks, saveMarks } from "./marks.js";
import { allowPredictions, closeSample, drawOthers, predictShown, showSamples } from "./samples.js";
import { runSql, tryIt } from "./what_if.js";

const VIEWS = { distributions: "Distributions", scatter: "Scatter", samples: "Samples", "label-errors": "Label errors", "what-if": "What if", sql: "SQL" };
const SHOWN_COLUMNS = 4;
const ORDERS = {
  hardest: "hardest", easiest: "easiest", forgotten: "most forgotten", cut: "nearest to the cut",
  labels: "loss that stays large", random: "random", column: "largest of a column",
};
const work = {
  distributions: () => showDistributions([...document.querySelectorAll("#columns input:checked")].map((box) => box.value)),
  scatter: showScatter,
  samples: showSamples,
  "label-errors": showErrors,
  "what-if": () => {},
  sql: () => {},
};
let view = "distributions";

function showView(name, isFocused = false) {
  view = name;
  for (const each of Object.keys(VIEWS)) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(`panel-${each}`).hidden = each !== name;
  }
  if (isFocused) byId(`tab-${name}`).focus();
  work[name]();
}

function buildTabs() {
  const names = Object.keys(VIEWS);
  const tabs = names.map((name) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => showView(name) }, VIEWS[name]));
  byId("tabs").append(...tabs);
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) showView(names[(names.indexOf(view) + step + names.length) % names.length], true);
  });
}

const open = latest(async (signal, isReload) => {
  const state = await ask("state", { reload: isReload === true }, signal);
  byId("changed").hidden = true;
  document.title = `${state.url} – attent explore`;
  const rounds = state.rounds.length ? `, losses of ${state.rounds.length} rounds` : state.pool_rounds.length ? ", losses of candidates only" : "";
  byId("facts").textContent = `${state.url}: ${number(state.samples)} samples in ${number(state.shards)} shards${rounds}`;
  const numbers = state.columns.filter((column) => column.kind === "number");
  fillSelect(byId("by"), [["", "no groups"], ...state.columns.map(({ name }) => [name, name])]);
  fillSelect(byId("scatter-x"), numbers.map(({ name }) => [name, name]));
  fillSelect(byId("scatter-y"), numbers.map(({ name }) => [name, name]));
  if (numbers.length > 1 && byId("scatter-x").value === byId("scatter-y").value) byId("scatter-y").selectedIndex = 1;
  fillSelect(byId("order"), state.orders.map((order) => [order, ORDERS[order]]));
  fillSelect(byId("order-column"), numbers.map(({ name }) => [name, name]));
  fillSelect(byId("strategy"), state.strategies.map((name) => [name, name]));
  byId("strategy").value = state.strategies.includes("hard") ? "hard" : state.strategies[0];
  const groups = [["", "nothing"], ...state.columns.map(({ name }) => [name, name])];
  fillSelect(byId("select-by"), groups);
  fillSelect(byId("select-groups"), groups);
  allowPredictions(state.predicts);
  allowSearch(state.predicts, state.orders.includes("labels"));
  await openMarks(state);
  const chosen = firstColumns(state.columns);
  byId("columns").replaceChildren(...state.columns.map((column) => {
    const box = el("input", { type: "checkbox", value: column.name, checked: chosen.includes(column.name), onchange: () => view === "distributions" && work.distributions() });
    return el("label", { class: "column" }, box, column.name);
  }));
  showView(view);
});

/** Return the columns that are shown first: the newest loss, annotations, then others. */
function firstColumns(columns) {
  const rank = ({ name, origin }) => (name === "loss" ? 0 : origin === "annotation" ? 1 : name.startsWith("loss") ? 2 : name === "num_units" ? 3 : 4);
  return [...columns].sort((a, b) => rank(a) - rank(b)).slice(0, SHOWN_COLUMNS).map(({ name }) => name);
}

function showChips() {
  const chip = (text, remove) => el("li", {}, el("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${text}`, onclick: () => { remove(); filterChanged(); } }, text, el("span", { "aria-hidden": "true" }, " ×")));
  const ranges = Object.entries(filter.ranges).map(([name, [low, high]]) => chip(`${name}: ${low === null ? "…" : number(low)} to ${high === null ? "…" : number(high)}`, () => delete filter.ranges[name]));
  const values = Object.entries(filter.values).map(([name, each]) => chip(`${name}: ${each.join(", ")}`, () => delete filter.values[name]));
  byId("chips").replaceChildren(...ranges, ...values);
}

function connect() {
  byId("filter-form").addEventListener("submit", (event) => {
    event.preventDefault();
    filter.where = byId("where").value;
    filterChanged();
  });
  byId("where").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      byId("filter-form").requestSubmit();
    }
  });
  byId("clear").addEventListener("click", () => {
    Object.assign(filter, { where: "", ranges: {}, values: {} });
    byId("where").value = "";
    filterChanged();
  });
  for (const id of ["order", "order-column", "count"]) byId(id).addEventListener("change", () => showSamples());
  for (const id of ["scatter-x", "scatter-y"]) byId(id).addEventListener("change", () => showScatter());
  byId("shuffle").addEventListener("click", drawOthers);
  byId("predict-shown").addEventListener("click", predictShown);
  byId("strategy").addEventListener("change", () => { byId("key").disabled = byId("strategy").value !== "key"; });
  const submit = (id, action) => byId(id).addEventListener("submit", (event) => { event.preventDefault(); action(); });
  submit("what-if-form", tryIt);
  submit("sql-form", runSql);
  submit("errors-form", startSearch);
  byId("stop-search").addEventListener("click", stopSearch);
  byId("sureness").addEventListener("change", showAgain);
  byId("more-suspects").addEventListener("click", showNext);
  byId("sql").addEventListener("keydown", (event) => event.key === "Enter" && event.ctrlKey && runSql());
  byId("save-marks").addEventListener("click", latest(async () => { await saveMarks(); await open(); }));
  byId("export-marks").addEventListener("click", latest(exportMarks));
  byId("by").addEventListener("change", () => work.distributions());
  byId("reload").addEventListener("click", () => open(true));
  document.addEventListener("keydown", (event) => event.key === "Escape" && closeSample());
  document.addEventListener("corpus-changed", (event) => {
    byId("changed-text").textContent = event.detail;
    byId("changed").hidden = false;
  });
  onFilter(() => { showChips(); work[view](); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => work[view]());
}

buildTabs();
connect();
open();
