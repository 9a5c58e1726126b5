// Questions to the server, and the filter that they share.

export const filter = { where: "", ranges: {}, values: {} };
const listeners = new Set();

/** Call `listener` after every change of the filter. */
export function onFilter(listener) {
  listeners.add(listener);
}

export function filterChanged() {
  for (const listener of listeners) listener();
}

/** Return the answer to a question; an error's message is that of the server. */
export async function ask(name, question = {}, signal = undefined) {
  const response = await fetch(`api/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(question),
    signal,
  });
  const answer = await response.json();
  if (!answer.error) return answer;
  if (answer.changed) document.dispatchEvent(new CustomEvent("corpus-changed", { detail: answer.error }));
  throw Object.assign(new Error(answer.error), { isShown: Boolean(answer.changed) });
}

/** Return a function that asks, cancels its earlier question, and shows errors in `#problem`. */
export function latest(work) {
  let running = null;
  return async (...args) => {
    running?.abort();
    const mine = (running = new AbortController());
    const problem = document.getElementById("problem");
    try {
      await work(mine.signal, ...args);
      if (mine === running) problem.hidden = true;
    } catch (error) {
      if (error.name === "AbortError" || mine !== running) return;
      problem.textContent = error.message;
      problem.hidden = Boolean(error.isShown);
    }
  };
}
