// Marks of samples, where the server allows them: kept there, and written when they are saved.

import { ask } from "./api.js";
import { byId, el, number } from "./dom.js";

const CHOICES = ["exclude", "relabel", "keep"];
let marks = new Map();
let unsaved = 0;
let isAllowed = false;

function take(answer) {
  marks = new Map(answer.marks.map(([shard, row, mark]) => [`${shard}/${row}`, mark]));
  unsaved = answer.unsaved;
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
  const group = el("div", { class: "buttons", role: "group", "aria-label": "Mark" });
  const show = () => group.replaceChildren(...CHOICES.map((choice) => el("button", { type: "button", "aria-pressed": String(marks.get(key) === choice), onclick: () => set(choice) }, choice)));
  const set = async (choice) => {
    take(await ask("mark", { shard_id: sample.shard_id, row: sample.row, mark: marks.get(key) === choice ? "" : choice }));
    show();
    group.children[CHOICES.indexOf(choice)].focus();
  };
  show();
  return group;
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
