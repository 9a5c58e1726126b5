// The view of samples: a gallery in an order, and one sample with everything about it.

import { ask, filter, latest } from "./api.js";
import { history } from "./charts.js";
import { byId, el, number, rowsNote } from "./dom.js";
import { markButtons } from "./marks.js";

let seed = 0;
let opener = null;
let shownItems = [];
let canPredict = false;

/** Offer to ask the model for what it predicts: classes, tokens, or nothing. */
export function allowPredictions(kind) {
  canPredict = Boolean(kind);
  byId("predict-shown").hidden = kind !== "classes";
}

/** Ask the model for the class of each shown sample, and say where it is another than the label. */
export const predictShown = latest(async (signal) => {
  for (const { sample, guess } of shownItems) {
    const { classes, label } = await ask("predict", sample, signal).catch((error) => {
      if (error.name === "AbortError") throw error;
      return { classes: [[error.message, null]], label: null };
    });
    const [name, share] = classes[0];
    guess.className = share !== null && label === name ? "guess" : "guess error";
    guess.textContent = share === null ? name : `model: ${name} (${(100 * share).toFixed(0)} %)`;
  }
});

export function drawOthers() {
  seed += 1;
  byId("order").value = "random";
  return showSamples();
}

/** List the first samples in the chosen order: their values first, their contents when read. */
export const showSamples = latest(async (signal) => {
  const order = byId("order").value;
  byId("order-column-label").hidden = order !== "column";
  const count = Math.min(200, Math.max(1, Number(byId("count").value) || 24));
  byId("samples-note").textContent = "Searching …";
  const question = { order, filter, count, seed, column: byId("order-column").value };
  const answer = await ask("samples", question, signal);
  byId("samples-note").textContent = `${answer.title}; ${number(answer.matching)} match, of ${rowsNote(answer)}.`;
  const items = answer.samples.map(item);
  shownItems = items;
  byId("gallery").replaceChildren(...items.map((one) => one.root));
  const ids = answer.samples.map(({ shard_id, row }) => ({ shard_id, row }));
  const previews = await ask("previews", { samples: ids }, signal);
  previews.samples.forEach((preview, i) => items[i].body.replaceChildren(...contents(preview, true)));
});

/** Return a list item for a sample, with places for its contents and for what the model says. */
export function item(sample) {
  const body = el("div", { class: "contents" }, el("p", { class: "note" }, "reading …"));
  const value = sample.value === null || sample.value === undefined ? "" : number(sample.value);
  const status = sample.status && sample.status !== "ok" ? sample.status : "";
  const caption = el("span", { class: "caption" }, el("strong", {}, status || value || "sample"), ` shard ${sample.shard_id}, row ${sample.row}`);
  const guess = el("span", { class: "guess" });
  const open = (event) => openSample(sample.shard_id, sample.row, event.currentTarget);
  const button = el("button", { type: "button", class: "sample", onclick: open, "aria-label": `Sample shard ${sample.shard_id}, row ${sample.row} ${status || value}` }, body, el("span", {}, guess, caption));
  return { root: el("li", {}, button), body, guess, sample: { shard_id: sample.shard_id, row: sample.row } };
}

/** Return the elements that show the values of a sample, or why it cannot be read. */
export function contents(sample, isShort) {
  if (sample.reason) return [el("p", { class: "error" }, sample.reason)];
  const fields = isShort ? sample.fields.slice(0, 4) : sample.fields;
  return fields.map((field) => {
    const shown = value(sample, field, isShort);
    if (isShort && ["image", "text", "chat"].includes(field.kind)) return shown;
    return el("div", { class: "field" }, el("span", { class: "name" }, field.name), shown);
  });
}

function value(sample, field, isShort) {
  const more = field.cut && !isShort ? el("span", { class: "note" }, " … (cut)") : field.cut ? " …" : null;
  if (field.kind === "image") return picture(sample, field.name, isShort ? 192 : 640);
  if (field.kind === "chat") return el("div", { class: "chat" }, ...field.turns.map(turn), more);
  if (field.kind === "null") return el("span", { class: "muted" }, "none");
  if (field.kind === "bytes") return el("span", { class: "muted" }, `${number(field.num_bytes)} bytes: ${field.text}`);
  const name = field.kind === "number" ? "span" : isShort ? "span" : "pre";
  return el(name, { class: field.kind }, field.text, more);
}

const turn = (one) => el("div", { class: "turn" }, el("span", { class: "role" }, one.role), el("span", {}, one.text));

function picture(sample, column, side) {
  const query = new URLSearchParams({ shard_id: sample.shard_id, row: sample.row, column, side });
  const box = el("span", { class: "picture" });
  const image = el("img", { src: `api/image?${query}`, alt: `${column} of shard ${sample.shard_id}, row ${sample.row}`, loading: "lazy" });
  image.addEventListener("error", () => box.replaceChildren(el("span", { class: "error" }, `${column}: the image cannot be decoded`)));
  box.append(image);
  return box;
}

/** Open the panel with everything about a sample; Escape closes it. */
export const openSample = latest(async (signal, shard, row, from) => {
  const panel = byId("details");
  opener = from ?? opener;
  panel.hidden = false;
  document.body.classList.add("with-details");
  const close = el("button", { type: "button", class: "close", onclick: closeSample }, "Close");
  const head = el("div", { class: "head" }, el("h2", {}, `Shard ${shard}, row ${row}`), close);
  panel.replaceChildren(head, el("p", { class: "note" }, "reading …"));
  close.focus();
  const sample = await ask("sample", { shard_id: shard, row }, signal);
  panel.replaceChildren(head, ...details(sample));
  const plot = panel.querySelector(".history");
  if (plot) await history(plot, sample.history);
});

export function closeSample() {
  const panel = byId("details");
  if (panel.hidden) return;
  panel.hidden = true;
  document.body.classList.remove("with-details");
  (opener?.isConnected ? opener : byId("main")).focus();
}

function details(sample) {
  const parts = [markButtons(sample), el("div", { class: "contents long" }, ...contents(sample, false))].filter(Boolean);
  if (canPredict && !sample.reason) parts.push(prediction(sample));
  const columns = Object.entries(sample.columns);
  if (columns.length) parts.push(el("h3", {}, "Losses and annotations"), table(["column", "value"], columns.map(([name, one]) => [name, number(one)])));
  if (sample.history.length) parts.push(...historyParts(sample));
  if (sample.has_duplicates) parts.push(duplicates(sample));
  parts.push(el("h3", {}, "Where it is stored"), ...place(sample.place));
  return parts;
}

/** Return a button that asks the newest checkpoint about a sample, and its answer. */
function prediction(sample) {
  const box = el("div", { class: "prediction" });
  const predict = latest(async (signal) => {
    box.replaceChildren(el("p", { class: "note" }, "The model is loaded and asked …"));
    try {
      const answer = await ask("predict", { shard_id: sample.shard_id, row: sample.row }, signal);
      box.replaceChildren(el("h3", {}, `Checkpoint ${answer.checkpoint}`), answer.tokens ? heatMap(answer.tokens) : answer.maps ? maps(answer.maps) : classes(answer));
    } catch (error) {
      box.replaceChildren(el("p", { class: "error" }, error.message));
    }
  });
  box.append(el("button", { type: "button", onclick: predict }, "Ask the model"));
  return box;
}

/** Return the tokens of a text, each coloured by its loss. */
function heatMap(tokens) {
  const most = Math.max(...tokens.map(([, nats]) => nats ?? 0), 1e-6);
  const spans = tokens.map(([text, nats]) => {
    const span = el("span", { class: nats === null ? "token uncounted" : "token", title: nats === null ? "does not count" : `${number(nats)} nats` }, text);
    if (nats !== null) span.style.setProperty("--heat", `${Math.round((85 * nats) / most)}%`);
    return span;
  });
  const worst = tokens.filter(([, nats]) => nats !== null).sort((a, b) => b[1] - a[1]).slice(0, 8);
  const text = el("div", { class: "tokens", tabindex: "0", role: "group", "aria-label": "Loss of each token" }, ...spans);
  return el("div", {}, text, el("p", { class: "note" }, `Darker tokens have a larger loss, up to ${number(most)} nats; pale ones do not count.`), table(["hardest tokens", "nats"], worst.map(([one, nats]) => [one, number(nats)])));
}

const maps = (all) => el("div", { class: "maps" }, ...all.map(([title, src]) => el("figure", { class: "picture" }, el("img", { src, alt: title }), el("figcaption", { class: "note" }, title))));

function classes(answer) {
  const [name, share] = answer.classes[0];
  const isOther = answer.label !== null && answer.label !== name;
  const says = isOther ? `The model is ${(100 * share).toFixed(1)} % sure of ${name}; the label is ${answer.label}.` : `The model agrees with the label (${(100 * share).toFixed(1)} %).`;
  return el("div", {}, el("p", { class: isOther ? "error" : "" }, answer.label === null ? "" : says), table(["class", "probability"], answer.classes.map(([one, p]) => [one, `${(100 * p).toFixed(1)} %`])));
}

function historyParts(sample) {
  const scored = sample.history.filter((one) => one.loss !== null);
  const selected = { true: "yes", false: "no", null: "" };
  const rows = sample.history.map((one) => [String(one.round), number(one.loss), selected[one.selected]]);
  return [el("h3", {}, "Over the rounds"), scored.length > 1 ? el("div", { class: "history" }) : null, table(["round", "loss", "selected"], rows)].filter(Boolean);
}

function duplicates(sample) {
  const box = el("div", { class: "duplicates" });
  const search = latest(async (signal) => {
    box.replaceChildren(el("p", { class: "note" }, "Searching …"));
    const { clusters } = await ask("duplicates", { shard_id: sample.shard_id, row: sample.row }, signal);
    box.replaceChildren(...clusters.map(({ annotation, count, samples }) => el("p", {}, `${annotation}: ${number(count)} others `, ...samples.map(link))));
    if (!clusters.length) box.replaceChildren(el("p", { class: "note" }, "No cluster has this sample."));
  });
  box.append(el("button", { type: "button", onclick: search }, "Find its duplicates"));
  return box;
}

const link = ({ shard_id, row }) => el("button", { type: "button", class: "link", onclick: () => openSample(shard_id, row) }, `${shard_id}/${row}`);

function place(where) {
  const ranges = where.ranges.map(([offset, size]) => `${number(offset)} – ${number(offset + size)}`).join(", ");
  const rows = [["shard", where.uri], ["format", where.format], ["row", number(where.row)], ["shard size", `${number(where.num_bytes)} bytes`]];
  rows.push(where.error ? ["reading", where.error] : [where.method, ranges]);
  return [table(["what", "where"], rows)];
}

export function table(titles, rows) {
  const head = el("tr", {}, ...titles.map((title) => el("th", { scope: "col" }, title)));
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell === null || cell === undefined ? "" : String(cell)))));
  return el("div", { class: "table" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
}
