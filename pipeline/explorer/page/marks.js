// Marks of samples, where the server allows them: kept there, and written when they are saved.

import { ask, latest } from "./api.js";
import { byId, el, number } from "./dom.js";

const CHOICES = ["exclude", "relabel", "keep"];
let marks = new Map();
let unsaved = 0;
let isAllowed = false;

function take(answer) {
  marks = new Map(answer.marks.map(([shard, row, mark]) => [`${shard}/${row}`, mark]));
  unsaved = answer.unsaved;
  for (const group of document.querySelectorAll("[data-marked]")) press(group);
  const changes = unsaved ? `, ${number(unsaved)} changes not saved` : "";
  byId("marks-note").textContent = `${number(marks.size)} marked${changes}. To leave them out: ${answer.where}`;
}

/** Show the panel of marks, if the server lets the page write any. */
export async function openMarks(state) {
  isAllowed = state.allow_marks;
  byId("marks").hidden = !isAllowed;
  if (isAllowed) take(await ask("marks"));
}

/** Return the buttons that mark a sample; null if nothing can be marked. */
export function markButtons(sample) {
  if (!isAllowed) return null;
  const key = `${sample.shard_id}/${sample.row}`;
  const set = latest(async (_, choice) => take(await ask("mark", { shard_id: sample.shard_id, row: sample.row, mark: marks.get(key) === choice ? "" : choice })));
  const buttons = CHOICES.map((choice) => el("button", { type: "button", value: choice, onclick: () => set(choice) }, choice));
  const group = el("div", { class: "buttons", role: "group", "aria-label": `Mark of shard ${sample.shard_id}, row ${sample.row}`, "data-marked": key }, ...buttons);
  press(group);
  return group;
}

/** Show the mark of a sample on its buttons, wherever the page has some. */
function press(group) {
  for (const button of group.children) button.setAttribute("aria-pressed", String(marks.get(group.dataset.marked) === button.value));
}

export async function saveMarks() {
  byId("marks-note").textContent = "Writing the annotation …";
  take(await ask("save_marks"));
}

export async function exportMarks() {
  const { csv } = await ask("marks_csv");
  const link = el("a", { href: URL.createObjectURL(new Blob([csv], { type: "text/csv" })), download: "marks.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
