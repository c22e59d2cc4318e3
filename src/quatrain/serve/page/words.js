// What the page says, in two languages: sentences with places, numbers and plurals.
//
// An element says a sentence by `put`, and says it again in another language when one is chosen.

export const LANGUAGES = ["en", "fr"];
const STORED = "quatrain.language";
const LEAST = 0.0001; // the smallest share that is written out
const said = new WeakMap(); // element -> attribute, or "" for its text -> [key, values]
let texts, language;

// Read the sentences, and choose the language of before or of the browser.
export async function learn() {
  const answer = await fetch("static/words.json");
  texts = await answer.json();
  const wanted = [remembered(), ...navigator.languages].map((name) => `${name}`.slice(0, 2));
  choose(wanted.find((name) => LANGUAGES.includes(name)) ?? "en");
}

// Say everything in a language that somebody chose, now and next time.
export function prefer(name) {
  try {
    localStorage.setItem(STORED, name);
  } catch { /* a browser that stores nothing goes by its own language */ }
  choose(name);
}

function choose(name) {
  language = name;
  document.documentElement.lang = name;
  for (const element of document.querySelectorAll("[data-say], [data-label], [data-said]")) {
    const { say: text, label } = element.dataset;
    if (text && !said.get(element)?.has("")) put(element, text);
    if (label && !said.get(element)?.has("aria-label")) put(element, label, {}, "aria-label");
    for (const [attribute, sentence] of said.get(element)) write(element, attribute, ...sentence);
  }
}

export const spoken = () => language;

// Give a sentence. `{place}` is a value as text or number, `{place:%}` a share as a percentage;
// where only `key.one` and `key.other` are there, `count` chooses.
export function say(key, values = {}) {
  const known = texts[language];
  const form = new Intl.PluralRules(language).select(values.count ?? 0);
  const sentence = known[key] ?? known[`${key}.${form}`] ?? known[`${key}.other`];
  if (sentence === undefined) throw new Error(`no sentence ${key}`);
  return sentence.replace(/\{(\w+)(:%)?\}/g, (_, place, percent) =>
    percent ? share(values[place]) : written(values[place]));
}

// Let an element, or one of its attributes, say a sentence from now on.
export function put(element, key, values = {}, attribute = "") {
  if (!said.has(element)) said.set(element, new Map());
  said.get(element).set(attribute, [key, values]);
  element.dataset.said = "";
  write(element, attribute, key, values);
  return element;
}

// A share of 1 as a percentage, with more digits near 0 and 1: 42%, 0.3%, <0.01%.
export function share(value) {
  const far = Math.min(value, 1 - value);
  const digits = far >= 0.1 || far <= 0 ? 0 : far >= 0.001 ? 1 : 2;
  const format = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits });
  if (far <= 0 || far >= LEAST) return format.format(value);
  return value < 0.5 ? `<${format.format(LEAST)}` : `>${format.format(1 - LEAST)}`;
}

function written(value) {
  if (typeof value !== "number") return value;
  const digits = Number.isInteger(value) ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0;
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

function write(element, attribute, key, values) {
  const sentence = say(key, values);
  if (attribute) element.setAttribute(attribute, sentence);
  else element.textContent = sentence;
}

function remembered() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null;
  }
}
