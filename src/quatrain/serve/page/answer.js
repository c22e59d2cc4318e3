// What is seen of one answer: its text, a line of figures, and what can be done with it.

import { count, described, trouble } from "./asking.js";
import { make, plain, tell, visible } from "./dom.js";
import { inside } from "./inside.js";
import { inspect, rate } from "./server.js";
import { put } from "./words.js";

// Make the view of an answer: its element; `add` for a piece of text, `update` for all else.
//   model: as the server describes it; many: whether others stand beside it
//   can: {again(), changed(), failed(sentence), feedback: whether ratings are kept}
export function answerView(answer, model, many, can) {
  const text = document.createTextNode(visible(answer.text));
  const said = make("p", { class: "said" }, make("bdi", { dir: "auto" }, text));
  const facts = make("p", { class: "facts" });
  const problem = make("p", { class: "problem" });
  const actions = make("div", { class: "actions" });
  const within = make("div", { class: "within", hidden: true });
  const element = make("div", { class: "answer", role: "group", label: ["answer.of", { model: model.id }] },
    make("h3", { class: many ? "who" : "unheard" }, make("bdi", { text: model.id })), said, problem, facts, actions, within);

  const again = plain("again", can.again);
  const look = plain("inside", () => open(look, within, answer, model), { "aria-expanded": "false" });
  const thumbs = [1, -1].map((rating) =>
    plain(rating > 0 ? "good" : "bad", () => judge(answer, model, rating, update, can)));
  const kept = make("span", { class: "soft", say: "rated", hidden: true });
  actions.append(again, look);
  if (can.feedback) actions.append(...thumbs, kept);

  function update() {
    const running = answer.state === "asked";
    element.setAttribute("aria-busy", running);
    said.classList.toggle("writing", running);
    said.hidden = !running && !answer.text;
    actions.hidden = running;
    look.hidden = !answer.text;
    figures(facts, answer);
    problems(problem, answer);
    thumbs.forEach((thumb, place) => {
      thumb.hidden = !answer.text || answer.state === "failed";
      thumb.setAttribute("aria-pressed", answer.rating === [1, -1][place]);
      thumb.setAttribute("aria-disabled", Boolean(answer.rating));
    });
    kept.hidden = !answer.rating || sending.has(answer);
  }
  update();
  return { element, update, add: (piece) => { text.appendData(visible(piece)); figures(facts, answer); } };
}

function figures(line, answer) {
  const number = count(answer);
  line.hidden = !number && answer.state !== "asked";
  if (!number) put(line, "waiting");
  else if (answer.speed) put(line, "facts", { count: number, speed: answer.speed });
  else put(line, "facts.count", { count: number });
}

function problems(line, answer) {
  const sentence = answer.error ? trouble(answer.error)
    : answer.state === "stopped" ? ["stopped"]
    : answer.finish === "length" ? ["cut"]
    : answer.state === "done" && !answer.text ? ["empty"] : null;
  line.hidden = !sentence;
  line.classList.toggle("bad", Boolean(answer.error));
  if (sentence) put(line, ...sentence);
}

const sending = new WeakSet(); // answers whose rating the server does not have yet

async function judge(answer, model, rating, update, can) {
  if (answer.rating) return;
  answer.rating = rating;
  sending.add(answer);
  update();
  try {
    await rate(model.id, answer.messages, answer.text, rating);
    tell("rated");
  } catch (error) {
    answer.rating = 0;
    can.failed(trouble(described(error)));
  }
  sending.delete(answer);
  update();
  can.changed();
}

// Show or hide what is inside. Experts come from the server; without them the tokens that were
// streamed say enough.
async function open(button, place, answer, model) {
  const shown = place.hidden;
  place.hidden = !shown;
  button.setAttribute("aria-expanded", shown);
  if (!shown || (answer.found && place.firstChild)) return;
  place.replaceChildren(make("p", { class: "soft", say: "inside.waiting" }));
  const streamed = answer.tokens?.length ? { tokens: answer.tokens } : null;
  try {
    const known = streamed && !model.experts;
    answer.found ??= known ? streamed : await inspect(model.id, answer.messages, answer.text);
    place.replaceChildren(inside(answer.found, model));
  } catch (error) {
    const line = make("p", { class: "problem bad", say: trouble(described(error)) });
    place.replaceChildren(line, ...(streamed ? [inside(streamed, model)] : []));
  }
}
