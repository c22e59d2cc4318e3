// Inside an answer: how sure the model was of each token, what it would have said else, and to
// which experts each token went.
//
//   found: {tokens: [{text, logprob, top: [{text, logprob}], experts: {layer: [expert]}}]}

import { draw, make, visible } from "./dom.js";
import { put } from "./words.js";

const EDGES = [0.9, 0.5, 0.2]; // a token above the first is not shaded
const WIDEST = 20, TALLEST = 16; // pixels of a cell

export function inside(found, model) {
  const { tokens } = found;
  const chosen = make("div", { class: "chosen" });
  const experts = tokens.some((token) => token.experts && Object.keys(token.experts).length)
    ? routing(tokens, model.experts) : null;
  const show = (place) => {
    describe(chosen, tokens, place);
    experts?.show(tokens[place], place);
  };
  return make("div", {},
    legend(),
    tokenList(tokens, show),
    make("div", { class: "under" }, chosen, experts?.element));
}

// The tokens as a list to go through with the arrow keys; a pointer shows one while it is there.
function tokenList(tokens, show) {
  const options = tokens.map((token, place) => make("span", {
    role: "option", class: `token p${EDGES.filter((edge) => probability(token) < edge).length}`,
    tabindex: place ? -1 : 0, "data-place": place, text: shown(token.text),
  }));
  let current = 0;
  const choose = (place) => {
    options[current].tabIndex = -1;
    options[current].setAttribute("aria-selected", "false");
    current = place;
    options[place].tabIndex = 0;
    options[place].setAttribute("aria-selected", "true");
    show(place);
  };
  const at = (event) => event.target.closest("[data-place]")?.dataset.place;
  const list = make("div", { role: "listbox", class: "tokens", label: "tokens", on: {
    pointerover: (event) => at(event) && show(Number(at(event))),
    pointerleave: () => show(current),
    focusin: (event) => choose(Number(at(event))),
    click: (event) => at(event) && options[at(event)].focus(),
    keydown: (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
      if (!(event.key in steps)) return;
      event.preventDefault();
      options[Math.min(Math.max(current + steps[event.key], 0), options.length - 1)].focus();
    },
  } }, make("bdi", { dir: "auto", role: "presentation" }, ...options));
  options.forEach((option, place) => put(option, ...spoken(tokens[place]), "aria-label"));
  if (tokens.length) choose(0);
  return list;
}

function spoken(token) {
  const next = token.top.find((other) => other.text !== token.text);
  const values = { text: heard(token.text), share: probability(token) };
  return next ? ["token.next", { ...values, next: heard(next.text), nextShare: probability(next) }]
    : ["token", values];
}

// Say all of one token: the likeliest in its place, with itself among them.
function describe(element, tokens, place) {
  const token = tokens[place];
  const rows = token.top.some((other) => other.text === token.text) ? token.top : [...token.top, token];
  const list = make("ol", { class: "likeliest" }, ...rows.map((row) => {
    const bar = make("span", {});
    bar.style.width = `${100 * probability(row)}%`;
    return make("li", { class: row.text === token.text ? "itself" : "" },
      make("bdi", { class: "word", text: quoted(row.text) }),
      make("span", { class: "bar", "aria-hidden": "true" }, bar),
      make("span", { class: "share", say: ["share", { share: probability(row) }] }));
  }));
  element.replaceChildren(
    make("h4", { say: ["place", { place: place + 1, total: tokens.length }] }), list);
}

// The map of layers and experts: shade for the whole answer, a mark for the token that is shown.
function routing(tokens, numExperts) {
  const layers = [...new Set(tokens.flatMap((token) => Object.keys(token.experts ?? {})))]
    .sort((a, b) => a - b);
  const counts = layers.map((layer) => countsOf(tokens, layer, numExperts));
  const cell = [Math.min(WIDEST, Math.max(3, 300 / numExperts)), Math.min(TALLEST, Math.max(4, 280 / layers.length))];
  const mark = draw("path", { class: "mark" });
  const svg = draw("svg", {
    viewBox: `0 0 ${numExperts} ${layers.length}`, preserveAspectRatio: "none",
    "aria-hidden": "true", width: numExperts * cell[0], height: layers.length * cell[1],
  }, ...shades(counts), mark);
  const picture = make("div", { class: "cells", role: "img" },
    make("span", { class: "first", "aria-hidden": "true", text: layers[0] }),
    layers.length > 1 && make("span", { class: "last", "aria-hidden": "true", text: layers.at(-1) }), svg);
  const body = make("tbody");
  const element = make("figure", { class: "experts" },
    make("figcaption", {}, make("h4", { say: "experts" }),
      make("span", { class: "hint", say: ["experts.how", { last: numExperts - 1 }] })),
    picture,
    make("details", {}, make("summary", { say: "experts.table" }),
      make("div", { class: "scroll", tabindex: 0, role: "group", label: "experts.table" },
        make("table", {}, make("thead", {}, make("tr", {},
          ...["layer", "chosen", "busiest", "used"].map((name) => make("th", { scope: "col", say: `experts.${name}` })))), body))));

  function show(token, place) {
    const went = layers.map((layer) => token.experts?.[layer] ?? []);
    mark.setAttribute("d", went.map((experts, row) =>
      experts.map((expert) => `M${expert + 0.28} ${row + 0.28}h.44v.44h-.44z`).join("")).join(""));
    const where = layers.map((layer, row) => `${layer}: ${went[row].join(", ")}`).join("; ");
    put(picture, "experts.described", { place: place + 1, where }, "aria-label");
    body.replaceChildren(...layers.map((layer, row) => {
      const most = Math.max(...counts[row]);
      return make("tr", {},
        make("th", { scope: "row", text: layer }), make("td", { text: went[row].join(", ") }),
        make("td", { say: ["experts.most", { expert: `${counts[row].indexOf(most)}`, count: most }] }),
        make("td", { say: ["experts.of", { used: counts[row].filter(Boolean).length, all: numExperts }] }));
    }));
  }
  return { element, show };
}

function countsOf(tokens, layer, numExperts) {
  const counts = new Array(numExperts).fill(0);
  for (const token of tokens) for (const expert of token.experts?.[layer] ?? []) counts[expert] += 1;
  return counts;
}

// Cells of one shade are one path; the darkest is the busiest expert of all layers.
function shades(counts) {
  const most = Math.max(1, ...counts.flat()), paths = ["", "", "", "", "", ""];
  counts.forEach((row, layer) => row.forEach((count, expert) => {
    paths[Math.ceil((5 * count) / most)] += `M${expert} ${layer}h1v1h-1z`;
  }));
  return paths.map((d, shade) => draw("path", { class: `s${shade}`, d }));
}

function legend() {
  const parts = [["p0", "sure.0"], ["p1", "sure.1"], ["p2", "sure.2"], ["p3", "sure.3"]];
  return make("ul", { class: "legend" }, make("li", { say: "sure" }), ...parts.map(([name, key]) =>
    make("li", {}, make("span", { class: `token ${name}`, "aria-hidden": "true", text: "a" }), make("span", { say: key }))));
}

const probability = (token) => Math.min(1, Math.exp(token.logprob));
const heard = (text) => visible(text.trim() || quoted(text));
const shown = (text) => text.replaceAll("\n", "↵\n");
const quoted = (text) => text.replaceAll("\n", "↵").replaceAll(/^ | $/g, "␣") || "·";
