// Where a question is written: its context, files dropped on it, and how much of it fits.

import { trouble, described } from "./asking.js";
import { by } from "./dom.js";
import { tokens } from "./server.js";
import { content } from "./talk.js";
import { put } from "./words.js";

const PAUSE = 300; // milliseconds without a key before the size is asked for
const LARGEST = 500_000; // bytes of a file

// Watch the form. `can` has send({question, context}), stop(), drafts(turn): what each model would
// be sent, as [[model, messages]], isBusy(): whether anything is being answered, and longest(): the
// tokens that an answer may have.
export function composer(can) {
  const question = by("question"), context = by("context");
  let waiting = null, asking = null;

  by("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  by("stop").addEventListener("click", can.stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && can.isBusy()) can.stop();
  });
  by("context-on").addEventListener("click", () => { open(true); context.focus(); });
  by("context-off").addEventListener("click", () => {
    context.value = "";
    open(false);
    measure();
    by("context-on").focus();
  });
  by("choose").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => {
    read(by("file").files[0]);
    by("file").value = "";
  });
  for (const box of [question, context]) box.addEventListener("input", measure);
  takeFiles(read);

  function send() {
    const draft = turn();
    if (!draft.question.trim() || can.isBusy()) {
      question.focus();
      return;
    }
    question.value = context.value = "";
    open(false);
    can.send(draft);
  }

  function open(shown) {
    by("context-box").hidden = !shown;
    by("context-on").hidden = shown;
    by("context-on").setAttribute("aria-expanded", shown);
    put(by("context-note"), "context.drop");
    by("context-note").classList.remove("bad");
  }

  async function read(file) {
    if (!file) return;
    open(true);
    try {
      context.value = await textOf(file);
      put(by("context-note"), "context.file", { name: file.name, count: context.value.length });
      measure();
      question.focus();
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      put(by("context-note"), error.message, { name: file.name });
      by("context-note").classList.add("bad");
      by("context").focus();
    }
  }

  const turn = () => ({ question: question.value.trim(), context: context.value.trim() ? context.value : "" });

  // Ask how many tokens there are, once nothing was typed for a moment.
  function measure() {
    clearTimeout(waiting);
    asking?.abort();
    waiting = setTimeout(weigh, PAUSE);
  }

  async function weigh() {
    const draft = turn();
    if (!content(draft).trim()) {
      showSize(null, 0);
      return;
    }
    asking = new AbortController();
    try {
      const sizes = await Promise.all(
        can.drafts({ answers: {}, ...draft }).map(([model, sent]) => tokens(model, sent, asking.signal)));
      const full = (size) => size.prompt_tokens / size.context;
      const fullest = sizes.reduce((most, size) => (full(size) > full(most) ? size : most));
      showSize(fullest, can.longest());
    } catch (error) {
      if (error.name === "AbortError") return;
      const sentence = trouble(described(error));
      showSize(null, 0);
      put(by("size-text"), ...sentence);
      by("size").classList.add("bad");
    }
  }

  return {
    measure,
    busy(running) {
      const focused = document.activeElement;
      by("send").hidden = running;
      by("stop").hidden = !running;
      if (focused === by("send") && running) by("stop").focus();
      if (focused === by("stop") && !running) question.focus();
    },
  };
}

// Say how much of what the model reads is used; null for nothing yet.
function showSize(size, longest) {
  const line = by("size"), left = size ? size.context - size.prompt_tokens : 0;
  line.hidden = false;
  line.classList.toggle("bad", Boolean(size) && left < 1);
  by("size-bar").style.width = size ? `${Math.min(100, (100 * size.prompt_tokens) / size.context)}%` : "0";
  if (!size) {
    by("size-text").textContent = "";
    return;
  }
  const key = left < 1 ? "size.over" : left < longest ? "size.left" : "size";
  put(by("size-text"), key, { count: size.prompt_tokens, context: size.context, left });
}

class Unreadable extends Error {}

async function textOf(file) {
  if (file.size > LARGEST) throw new Unreadable("context.large");
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\0")) return text;
  } catch { /* said below */ }
  throw new Unreadable("context.binary");
}

// A file dropped anywhere is read; the browser would leave the page for it.
function takeFiles(read) {
  const box = document.documentElement;
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    box.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? box.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    box.classList.remove("dropping");
    if (!isFile(event)) return;
    event.preventDefault();
    read(event.dataTransfer.files[0]);
  });
}
