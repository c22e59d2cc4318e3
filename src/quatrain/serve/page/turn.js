// What is seen of one turn: the question, its context, and the answers beside each other.

import { make, plain } from "./dom.js";

// Make the view of a turn: {element, answers: where views of answers go}.
//   can: {edit(turn, {question, context})}
export function turnView(turn, can) {
  const answers = make("div", { class: "answers" });
  const asked = make("div", { class: "asked" });
  const element = make("article", { class: "turn" }, asked, answers);
  const read = () => asked.replaceChildren(...reading(turn, write));
  const write = () => {
    asked.replaceChildren(editing(turn, read, (changed) => can.edit(turn, changed)));
    asked.querySelector("textarea").focus();
  };
  read();
  return { element, answers };
}

function reading(turn, write) {
  const question = make("h2", { class: "question" }, make("bdi", { dir: "auto", text: turn.question }));
  const edit = plain("edit", write, { label: ["edit.of", { question: turn.question.slice(0, 80) }] });
  const context = turn.context && make("details", { class: "context" },
    make("summary", { say: ["context.shown", { count: turn.context.length }] }),
    make("p", { class: "said" }, make("bdi", { dir: "auto", text: turn.context })));
  return [make("div", { class: "line" }, question, edit), context].filter(Boolean);
}

function editing(turn, cancel, done) {
  const box = (label, value, rows) => {
    const field = make("textarea", { rows });
    field.value = value;
    return { field, label: make("label", {}, make("span", { say: label }), field) };
  };
  const question = box("question", turn.question, 2);
  const context = turn.context ? box("context", turn.context, 5) : null;
  const submit = () => question.field.value.trim() && done({
    question: question.field.value.trim(), context: context?.field.value.trim() ? context.field.value : "",
  });
  return make("form", { class: "editing", on: {
    submit: (event) => { event.preventDefault(); submit(); },
    keydown: (event) => {
      if (event.key === "Escape") { event.stopPropagation(); cancel(); }
      const asks = event.key === "Enter" && !event.shiftKey && !event.isComposing;
      if (asks && event.target === question.field) { event.preventDefault(); submit(); }
    },
  } }, make("h2", { class: "unheard", text: turn.question }), context?.label, question.label, make("p", { class: "hint", say: "edit.hint" }), make("div", { class: "row" },
    make("button", { class: "main", say: "edit.ask" }), plain("edit.cancel", cancel)));
}
