// The view of suspected label errors: samples whose loss stays large, and a model that is sure of another label.

import { ask, filter, latest } from "./api.js";
import { byId, el, number } from "./dom.js";
import { markButtons } from "./marks.js";
import { contents, item } from "./samples.js";

const BATCH = 32;
const STEP_SHOWN = 48;
let shown = STEP_SHOWN;
let search = null;

/** Say what can be searched: `kind` is what the model of the run predicts. */
export function allowSearch(kind, hasLosses) {
  const reason = !hasLosses
    ? "This corpus has no losses yet: run “attent score”."
    : kind === "classes"
      ? ""
      : "The task of this run does not predict a class for each sample: only image_classification does. For others, order “Samples” by “loss that stays large”.";
  byId("search-errors").disabled = Boolean(reason);
  if (reason || !search) byId("suspects-note").textContent = reason;
}

/** Search with the current filter, or, without `isStart`, stop. */
const run = latest(async (signal, isStart) => {
  setBusy(isStart);
  if (!isStart) return describe();
  const most = Math.min(10_000, Math.max(1, Math.round(Number(byId("num-candidates").value)) || 500));
  search = { filter: structuredClone(filter), most, scanned: 0, matching: 0, ranked: 0, candidates: [], checks: [] };
  shown = STEP_SHOWN;
  byId("suspects-note").textContent = "";
  showAgain();
  try {
    await scan(signal, search);
    describe();
    await askModel(signal, search);
  } finally {
    if (!signal.aborted) setBusy(false);
  }
  describe();
});

export const startSearch = () => run(true);
export const stopSearch = () => run(false);

function setBusy(isBusy) {
  byId("stop-search").hidden = !isBusy;
  byId("suspects-busy").hidden = !isBusy;
}

function setProgress(text, done, all) {
  byId("suspects-step").textContent = `${text}: ${number(done)} of ${number(all)}`;
  Object.assign(byId("suspects-progress"), { max: Math.max(1, all), value: done });
}

/** Find the candidates: a range of shards with every question, until all rows were looked at. */
async function scan(signal, state) {
  byId("suspects-step").textContent = "Reading losses …";
  byId("suspects-progress").removeAttribute("value");
  for (let next = 0; next !== null; ) {
    const answer = await ask("candidates", { filter: state.filter, count: state.most, first_shard: next }, signal);
    for (const name of ["matching", "ranked"]) state[name] += answer[name];
    state.scanned += answer.rows;
    Object.assign(state, { total: answer.total, rounds: answer.rounds });
    state.candidates.push(...answer.samples);
    state.candidates.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]).splice(state.most);
    next = answer.next_shard;
    setProgress("Samples whose losses were read", state.scanned, state.total);
  }
}

/** Ask the model about the candidates, some at a time, and show those that it is sure about. */
async function askModel(signal, state) {
  for (let start = 0; start < state.candidates.length; start += BATCH) {
    setProgress("Candidates that the model was asked about", start, state.candidates.length);
    const samples = state.candidates.slice(start, start + BATCH).map(([shard_id, row]) => ({ shard_id, row }));
    const answer = await ask("check", { samples }, signal);
    state.checkpoint = answer.checkpoint;
    state.checks.push(...answer.samples.map((one, i) => ({ ...one, value: state.candidates[start + i][2] })));
    showMore();
  }
}

const sureness = () => Math.min(100, Math.max(0, Number(byId("sureness").value) || 0)) / 100;
const suspects = () => search.checks.filter((one) => !one.reason && one.other_share >= sureness());

/** Say what was looked at, and what was not. */
function describe() {
  if (!search?.total) return;
  const { scanned, total, matching, ranked, rounds, candidates, checks, checkpoint } = search;
  const failed = checks.filter((one) => one.reason);
  const parts = [
    `Losses of ${number(rounds[0])} of ${number(rounds[1])} rounds were read for ${number(scanned)} of ${number(total)} samples; ${number(matching)} match the filter, ${number(ranked)} of them have losses.`,
    candidates.length ? `Candidates: the ${number(candidates.length)} whose smallest loss is largest, down to ${number(candidates.at(-1)[2])} nats.` : "No sample is a candidate.",
  ];
  if (checkpoint) parts.push(`Checkpoint ${checkpoint} was asked about ${number(checks.length)} of them and is sure of another label for ${number(suspects().length)}.`);
  if (failed.length) parts.push(`${number(failed.length)} could not be checked, such as shard ${failed[0].shard_id}, row ${failed[0].row}: ${failed[0].reason}.`);
  parts.push(`It was not asked about the other ${number(matching - checks.length)} samples that match.`);
  if (JSON.stringify(filter) !== JSON.stringify(search.filter)) parts.push("The filter has changed since then: search again.");
  byId("suspects-note").textContent = parts.join(" ");
}

/** Show the view: after another filter, it says that the search is of an earlier one. */
export function showErrors() {
  if (search && byId("suspects-busy").hidden) describe();
}

/** Show the suspects again, after another sureness. */
export function showAgain() {
  byId("suspects").replaceChildren();
  if (!search) return;
  showMore();
  if (byId("suspects-busy").hidden) describe();
}

export function showNext() {
  shown += STEP_SHOWN;
  showMore();
}

/** Append the suspects that are not shown yet; their contents follow when they are read. */
function showMore() {
  const box = byId("suspects");
  const all = suspects();
  const added = all.slice(box.children.length, shown).map((one) => [one, suspect(one)]);
  box.append(...added.map(([, { root }]) => root));
  byId("more-suspects").hidden = all.length <= box.children.length;
  const ids = added.map(([{ shard_id, row }]) => ({ shard_id, row }));
  if (ids.length) fillContents(ids, added);
}

async function fillContents(ids, added) {
  const previews = await ask("previews", { samples: ids }).catch((error) => ({ samples: ids.map((id) => ({ ...id, reason: error.message })) }));
  previews.samples.forEach((preview, i) => added[i][1].body.replaceChildren(...contents(preview, true)));
}

function suspect(check) {
  const made = item(check);
  made.guess.className = "guess error";
  made.guess.textContent = `label ${check.label}, model: ${check.other} (${(100 * check.other_share).toFixed(0)} %)`;
  const marks = markButtons(check);
  if (marks) made.root.append(marks);
  return made;
}
