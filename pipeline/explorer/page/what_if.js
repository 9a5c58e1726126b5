// The view of a selection that is only tried, and the box for SQL.

import { ask, latest } from "./api.js";
import { byId, el, number, rowsNote } from "./dom.js";
import { openSample, table } from "./samples.js";

/** Ask what the selection of the form would take. */
export const tryIt = latest(async (signal) => {
  const box = byId("what-if");
  const wish = {
    strategy: byId("strategy").value, ratio: Number(byId("ratio").value), key: byId("key").value,
    where: byId("select-where").value, by: byId("select-by").value, quotas: byId("quotas").value,
    groups: byId("select-groups").value, seed: Number(byId("seed").value),
  };
  box.replaceChildren(el("p", { class: "note" }, "Selecting …"));
  try {
    const answer = await ask("what_if", wish, signal);
    box.replaceChildren(...parts(answer));
  } catch (error) {
    if (error.name !== "AbortError") box.replaceChildren();
    throw error;
  }
});

function parts(answer) {
  const about = answer.is_sample ? "about " : "";
  const scaled = (value) => about + number(Math.round(value * answer.scale));
  const share = (one, all) => (all ? ` (${percent(one / all)})` : "");
  const rows = [
    ["samples", scaled(answer.selected) + share(answer.selected, answer.rows)],
    ["eligible", scaled(answer.eligible)],
    ["threshold of the key", number(answer.threshold)],
  ];
  if (answer.units) rows.push(["units (tokens)", scaled(answer.selected_units) + share(answer.selected_units, answer.units)]);
  if (answer.reads.bytes !== undefined) rows.push(["bytes to read", `about ${bytes(answer.reads.bytes * answer.scale)}, of which ${bytes(answer.reads.selected_bytes * answer.scale)} are the samples (planned for ${answer.reads.planned_shards} of ${number(answer.reads.num_shards)} shards)`]);
  if (answer.against !== null) rows.push([`against the index of round ${answer.against}`, `${scaled(answer.kept)} kept, ${scaled(answer.gained)} gained, ${scaled(answer.lost)} lost`]);
  const out = [el("p", { class: "note" }, `Computed from ${rowsNote(answer)}.`), table(["what", "how much"], rows)];
  if (answer.groups.length) out.push(groups(answer));
  if (answer.against !== null) out.push(examples("Gained", answer.gained_samples), examples("Lost", answer.lost_samples));
  out.push(el("h3", {}, "Write this index"), el("pre", { class: "command", tabindex: "0" }, answer.command));
  return out;
}

function groups(answer) {
  const rows = answer.groups.map((one) => {
    const [inCorpus, inSubset] = [one.count / answer.rows, one.selected / Math.max(1, answer.selected)];
    const change = inCorpus ? inSubset / inCorpus : 0;
    return [one.name, number(one.count), percent(inCorpus), percent(inSubset), `${change.toFixed(2)} ×`, answer.against === null ? "" : `+${number(one.gained)} −${number(one.lost)}`];
  });
  rows.sort((a, b) => parseFloat(b[4]) - parseFloat(a[4]));
  return el("div", {}, el("h3", {}, "Which groups gain and lose"), table(["group", "samples", "of the corpus", "of the subset", "change", "against the index"], rows));
}

function examples(title, samples) {
  const links = samples.map(([shard, row]) => el("button", { type: "button", class: "link", "aria-label": `Open shard ${shard}, row ${row}`, onclick: (event) => openSample(shard, row, event.currentTarget) }, `${shard}/${row}`));
  return el("p", {}, `${title}: `, ...(links.length ? links : ["none"]));
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
  return `${number(Number((count / 1000 ** power).toPrecision(3)))} ${units[power]}`;
}

/** Run the statement in the box. */
export const runSql = latest(async (signal) => {
  byId("sql-note").textContent = "Running …";
  byId("sql-rows").replaceChildren();
  try {
    const answer = await ask("sql", { sql: byId("sql").value }, signal);
    const more = answer.cut ? "; there are more" : "";
    byId("sql-note").textContent = `${number(answer.rows.length)} rows${more}.`;
    byId("sql-rows").replaceChildren(table(answer.columns, answer.rows));
  } catch (error) {
    byId("sql-note").textContent = "";
    throw error;
  }
});
