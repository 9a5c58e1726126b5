// Elements made of text only: nothing that a sample contains is ever parsed as HTML.

/** Return a new element with attributes and children; strings become text. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Fill a select with [value, text] pairs, keeping its value where that still exists. */
export function fillSelect(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  if (pairs.some(([value]) => value === before)) select.value = before;
}

const plain = new Intl.NumberFormat("en");

export function number(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return plain.format(value);
  return Number(value.toPrecision(4)).toString();
}

/** Say how many rows an answer is about. */
export function rowsNote(answer) {
  if (!answer.is_sample) return `all ${number(answer.total)} samples`;
  return `sample of ${number(answer.rows)} of ${number(answer.total)} samples`;
}
