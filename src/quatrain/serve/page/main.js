// The page: models, the conversation, and what happens when.

import { count, described, fill, trouble, unasked } from "./asking.js";
import { answerView } from "./answer.js";
import { composer } from "./composer.js";
import { by, make, tell, visible } from "./dom.js";
import { hasKey, info, report, reportOf, useKey } from "./server.js";
import { settings } from "./settings.js";
import { keep, kept, messages } from "./talk.js";
import { turnView } from "./turn.js";
import { LANGUAGES, learn, prefer, put, spoken } from "./words.js";

const READ_OUT = 400; // characters of an answer that are read to those who cannot see it
const state = { turns: [], model: "", other: "", settings: {}, earlier: null, ...kept() };
const running = new Set(), views = new WeakMap();
let server, how, form;

// Begin: the words, then who can be asked, then what was said before a reload.
async function start() {
  await learn();
  server = await met();
  document.querySelector(".columns").hidden = false;
  showLanguages();
  how = settings(state.settings, changed);
  form = composer({ send, stop, drafts, isBusy: () => running.size > 0, longest: () => how.values().max_tokens });
  const wide = matchMedia("(min-width: 64rem)").matches;
  by("settings").open = wide;
  chooseModels();
  state.turns.forEach(showTurn);
  watch();
  changed();
  if (wide) by("question").focus(); // elsewhere a keyboard would cover the page
}

// Ask who is there; with a key where one is asked for, and again where nobody is.
async function met() {
  for (;;) {
    try {
      const found = await info();
      alarm(null);
      return found;
    } catch (error) {
      const { status } = described(error);
      if (status === 401) {
        await askKey();
      } else {
        alarm(trouble(described(error)));
        await new Promise((again) => setTimeout(again, 2000));
      }
    }
  }
}

function askKey() {
  const dialog = by("ask-key");
  by("key").value = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => {
    useKey(by("key").value.trim());
    by("key").value = "";
    done();
  }, { once: true }));
}

const model = (id) => server.models.find((one) => one.id === id);
const asked = () => [state.model, state.other].filter(Boolean);

function chooseModels() {
  const ids = server.models.map(({ id }) => id);
  if (!ids.includes(state.model)) [state.model] = ids;
  if (!ids.includes(state.other)) state.other = "";
  by("choice").hidden = ids.length < 2;
  by("model").replaceChildren(...ids.map((id) => make("option", { value: id, text: id })));
  by("other").replaceChildren(make("option", { value: "", say: "other.none" }),
    ...ids.map((id) => make("option", { value: id, text: id })));
  showModel();
}

function showModel() {
  if (state.other === state.model) state.other = "";
  by("model").value = state.model;
  by("other").value = state.other;
  for (const option of by("other").options) option.disabled = option.value === state.model;
  const { id, base, context, layers, experts, abstains, single_questions: single, report: has } = model(state.model);
  by("earlier").checked = state.earlier ?? !single; // until somebody chooses, as the model learnt it
  by("title").replaceChildren(make("bdi", { text: id }));
  const parts = [
    experts ? ["lede.experts", { layers, experts, context }] : ["lede.dense", { layers, context }],
    base && ["lede.base", { base: visible(base) }],
    abstains && ["lede.abstains"],
    single && ["lede.single"],
  ].filter(Boolean).map((say) => make("span", { say }));
  by("lede").replaceChildren(...parts.flatMap((part) => [part, " "]));
  by("report").hidden = !has;
  by("report").href = reportOf(id);
  document.documentElement.classList.toggle("two", Boolean(state.other));
  document.title = `${id} · Quatrain`;
  how.bound(Math.min(...asked().map((name) => model(name).context)));
}

function watch() {
  for (const name of ["model", "other"]) {
    by(name).addEventListener("change", () => {
      state[name] = by(name).value;
      showModel();
      changed();
    });
  }
  by("earlier").addEventListener("change", () => {
    state.earlier = by("earlier").checked;
    changed();
  });
  by("new").addEventListener("click", () => {
    stop();
    state.turns = [];
    by("turns").replaceChildren();
    changed();
    by("question").focus();
  });
  by("report").addEventListener("click", download);
}

// A link sends no key: with one, the report is fetched and saved.
async function download(event) {
  if (!hasKey()) return;
  event.preventDefault();
  try {
    const link = make("a", { download: `${state.model}.html` });
    link.href = URL.createObjectURL(await report(state.model));
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    alarm(trouble(described(error)));
  }
}

function showLanguages() {
  const buttons = LANGUAGES.map((name) => document.querySelector(`[data-language=${name}]`));
  const mark = () => buttons.forEach((button) =>
    button.setAttribute("aria-pressed", button.dataset.language === spoken()));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      prefer(button.dataset.language);
      mark();
      how.show();
    });
  }
  mark();
}

// What each model would be sent for a turn that is being written.
function drafts(turn) {
  return asked().map((name) => [name, messages([...state.turns, turn], name, said())]);
}

const said = () => ({ ...how.values(), earlier: by("earlier").checked });

function send({ question, context }) {
  const turn = { question, context, answers: {} };
  state.turns.push(turn);
  showTurn(turn);
  ask(turn);
  follow(true);
}

// The conversation goes on from a question that was changed.
function edit(turn, { question, context }) {
  stop();
  const place = state.turns.indexOf(turn);
  state.turns.length = place;
  [...by("turns").children].slice(place).forEach((element) => element.remove());
  send({ question, context });
  by("question").focus();
}

function showTurn(turn) {
  const view = turnView(turn, { edit });
  views.set(turn, view);
  by("turns").append(view.element);
  for (const name of Object.keys(turn.answers)) if (model(name)) showAnswer(turn, name);
}

function showAnswer(turn, name) {
  const answer = turn.answers[name], many = Object.keys(turn.answers).length > 1;
  const can = { again: () => again(turn, name), changed, failed: alarm, feedback: server.feedback };
  const view = answerView(answer, model(name), many || server.models.length > 1, can);
  const { answers } = views.get(turn);
  const old = [...answers.children].find((child) => child.dataset.model === name);
  view.element.dataset.model = name;
  if (old) old.replaceWith(view.element);
  else answers.append(view.element);
  return view;
}

async function ask(turn) {
  const turns = state.turns.slice(0, state.turns.indexOf(turn) + 1);
  for (const name of asked()) turn.answers[name] = unasked(messages(turns, name, said()));
  await Promise.all(asked().map((name) => answer(turn, name)));
}

// Ask once more, as the settings are now and with the next seed.
async function again(turn, name) {
  const turns = state.turns.slice(0, state.turns.indexOf(turn) + 1);
  turn.answers[name] = unasked(messages(turns, name, said()), turn.answers[name].tries + 1);
  const waiting = answer(turn, name);
  by("stop").focus();
  await waiting;
}

async function answer(turn, name) {
  const current = turn.answers[name], view = showAnswer(turn, name), halt = new AbortController();
  running.add(halt);
  alarm(null);
  changed();
  const { temperature, top_p, max_tokens, seed } = how.values();
  const sampling = { temperature, top_p, max_tokens, seed: seed + current.tries };
  tell("asking", { model: visible(name) });
  await fill(current, name, sampling, halt.signal, (piece) => {
    const low = isLow();
    view.add(piece);
    follow(low);
  });
  running.delete(halt);
  const low = isLow();
  view.update();
  changed();
  follow(low);
  announce(current, name);
}

// Read an answer out once, as a whole; of a long one only that it is there.
function announce({ state: ended, text, error, ...rest }, name) {
  const values = { model: visible(name), text: visible(text), count: count(rest) };
  if (error) tell(...trouble(error));
  else if (ended === "stopped") tell("stopped");
  else tell(text.length <= READ_OUT ? "answered" : "answered.long", values);
}

function stop() {
  for (const halt of running) halt.abort();
}

// After anything: what is shown, kept and counted follows.
function changed() {
  state.settings = how.values();
  const begun = state.turns.length > 0;
  by("welcome").hidden = begun;
  document.documentElement.classList.toggle("begun", begun);
  by("over").hidden = !begun;
  by("earlier-label").hidden = !begun;
  form.busy(running.size > 0);
  form.measure();
  keep(state);
}

const isLow = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 60;

function follow(low) {
  if (low) scrollTo(0, document.documentElement.scrollHeight);
}

// Say what went wrong with no answer to say it at; null once it is well.
function alarm(sentence) {
  by("alert").hidden = !sentence;
  if (sentence) put(by("alert"), ...sentence);
}

await start();
