// One answer, from the question sent to its last token.

import { visible } from "./dom.js";
import { chat } from "./server.js";

export const unasked = (messages, tries = 0) => ({
  text: "", state: "asked", finish: null, usage: null, speed: null, rating: 0, error: null,
  tokens: [], found: null, messages, tries,
});

// Fill an answer as it comes; `news` gets each piece of text. Never raises: what went wrong is the
// answer's `error`.
export async function fill(answer, model, settings, signal, news) {
  let first = null, last = null;
  try {
    for await (const piece of chat(model, answer.messages, settings, signal)) {
      if (piece.text || piece.tokens.length) {
        last = performance.now();
        first ??= last;
      }
      answer.text += piece.text;
      answer.tokens.push(...piece.tokens);
      answer.finish = piece.finish ?? answer.finish;
      answer.usage = piece.usage ?? answer.usage;
      answer.speed = speed(count(answer), last - first);
      news(piece.text);
    }
    answer.state = "done";
  } catch (error) {
    answer.state = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) answer.error = described(error);
  }
}

// Tokens of an answer, as the server counts them or as they came.
export const count = (answer) => answer.usage?.completion_tokens ?? answer.tokens.length;

// What went wrong, as a key of a sentence and its values.
export function trouble({ status, code, message, wait }) {
  if (code === "context_length_exceeded" || status === 413) return ["trouble.long"];
  if (code === "broken_off") return ["trouble.broken"];
  if (status === 0) return ["trouble.unreachable"];
  if (status === 401) return ["trouble.key"];
  if (status === 429) return wait ? ["trouble.busy_for", { count: wait }] : ["trouble.busy"];
  if (status === 503) return ["trouble.stopping"];
  return message ? ["trouble.said", { message: visible(message) }] : ["trouble.status", { status: `${status}` }];
}

export function described(error) {
  if (!("status" in error)) throw error; // a fault of this page, not of the server
  const { status, code, message, wait } = error;
  return { status, code, message, wait };
}

// The first token waits for the question to be read, and is not counted.
function speed(tokens, milliseconds) {
  return tokens > 1 && milliseconds > 0 ? (1000 * (tokens - 1)) / milliseconds : null;
}
