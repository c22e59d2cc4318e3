// What is asked of the server. The key stays in this page's memory.

import { events } from "./events.js";
import { spoken } from "./words.js";

let key = null;
export const hasKey = () => key !== null;
export const useKey = (given) => { key = given; };

// An answer that is no answer: `status` is 0 where nothing came at all.
export class Refused extends Error {
  constructor(status, { message = "", code = null } = {}, wait = null) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

export const info = () => json("api/info");
export const tokens = (model, messages, signal) => json("api/tokens", { model, messages }, signal);
export const inspect = (model, messages, answer) => json("api/inspect", { model, messages, answer });
export const rate = (model, messages, answer, rating) =>
  request("api/feedback", { model, messages, answer, rating });

// Where a model's report is; a path that a server behind a prefix has, too.
export const reportOf = (model) => `report/${encodeURIComponent(model)}`;
export const report = async (model) => (await request(reportOf(model))).blob();

// Ask, and yield what comes: {text, tokens, finish, usage}, each where there is one. Ends normally
// only where the answer does.
export async function* chat(model, messages, settings, signal) {
  const body = {
    model, messages, ...settings,
    stream: true, stream_options: { include_usage: true }, logprobs: true, top_logprobs: 5,
  };
  const response = await request("v1/chat/completions", body, signal);
  let ended = false;
  for await (const data of guarded(events(response.body))) {
    if (data === "[DONE]") return;
    const chunk = parsed(data);
    if (chunk.error) throw new Refused(response.status, chunk.error);
    const [choice] = chunk.choices ?? [];
    ended ||= Boolean(choice?.finish_reason);
    yield {
      text: choice?.delta?.content ?? "",
      tokens: (choice?.logprobs?.content ?? []).map(token),
      finish: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
    };
  }
  if (!ended) throw new Refused(0, { code: "broken_off" });
}

const token = ({ token: text, logprob, top_logprobs = [] }) =>
  ({ text, logprob, top: top_logprobs.map((one) => ({ text: one.token, logprob: one.logprob })) });

async function json(path, body, signal) {
  return parsed(await (await request(path, body, signal)).text());
}

async function request(path, body, signal) {
  const headers = { "Accept-Language": spoken() }; // so that errors are in the page's language
  if (body) headers["Content-Type"] = "application/json";
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET", headers, signal, cache: "no-store", redirect: "error",
      body: body && JSON.stringify(body),
    });
  } catch (error) {
    throw unreachable(error);
  }
  if (response.ok) return response;
  let said = {};
  try {
    said = (await response.json()).error ?? {};
  } catch { /* a proxy's page: the status must do */ }
  throw new Refused(response.status, said, Number(response.headers.get("Retry-After")) || null);
}

async function* guarded(stream) {
  try {
    yield* stream;
  } catch (error) {
    throw unreachable(error);
  }
}

const unreachable = (error) => (error.name === "AbortError" ? error : new Refused(0));

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused(0, { code: "broken_off" });
  }
}
