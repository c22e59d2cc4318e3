// How answers are asked for: the system prompt and sampling, in ranges that every model bears.

import { by } from "./dom.js";

const DEFAULTS = { system: "", temperature: 0, top_p: 1, max_tokens: 256, seed: 0 };
const SLIDERS = ["temperature", "top_p", "max_tokens"];
const LONGEST = 4096;

// Watch the controls; `changed` is called after each change.
export function settings(stored, changed) {
  const write = (values) => {
    for (const [name, value] of Object.entries(values)) by(name).value = value;
    show();
  };
  for (const name of Object.keys(DEFAULTS)) {
    by(name).addEventListener("input", () => { show(); changed(); });
  }
  by("defaults").addEventListener("click", () => { write(DEFAULTS); changed(); });
  write({ ...DEFAULTS, ...stored });

  return {
    // Let no answer be asked for that is longer than what a model reads.
    bound(context) {
      by("max_tokens").max = Math.max(1, Math.min(LONGEST, context - 1));
      show();
    },
    values: () => ({
      system: by("system").value,
      temperature: Number(by("temperature").value),
      top_p: Number(by("top_p").value),
      max_tokens: Number(by("max_tokens").value),
      seed: Math.min(2 ** 31 - 1, Math.max(0, Math.trunc(Number(by("seed").value)) || 0)),
    }),
    show,
  };
}

// Write each slider's value beside it, in the language that is spoken.
function show() {
  for (const name of SLIDERS) {
    const number = new Intl.NumberFormat(document.documentElement.lang);
    by(`${name}-now`).textContent = number.format(Number(by(name).value));
  }
}
