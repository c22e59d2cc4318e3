// The conversation as a value, and what a model is sent of it.
//
//   {turns: [{question, context, answers: {model: answer}}]}
//   answer: {text, state, finish, usage, speed, messages, rating, tries, error}
//
// `state` is "asked", "done", "stopped" or "failed". It is kept while the tab is open, so that a
// reload loses nothing; tokens and what was found inside are found again.

const KEPT = "quatrain.talk";

// A question and its context, as `quatrain ask` joins them.
export function content({ question, context }) {
  return context?.trim() ? `${question}\n\n${context}` : question;
}

// What a model is sent for the last of some turns. It reads its own answers; of a turn that it gave
// none, the one that was given; a turn without any is left out.
export function messages(turns, model, { system, earlier }) {
  const sent = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of earlier ? turns.slice(0, -1) : []) {
    const own = turn.answers[model];
    const read = usable(own) ? own : Object.values(turn.answers).find(usable);
    if (!read) continue;
    sent.push({ role: "user", content: content(turn) }, { role: "assistant", content: read.text });
  }
  return [...sent, { role: "user", content: content(turns.at(-1)) }];
}

const usable = (answer) => Boolean(answer && answer.state !== "asked" && answer.text.trim());

export function keep(state) {
  const turns = state.turns.map(({ question, context, answers }) => ({
    question, context,
    answers: Object.fromEntries(Object.entries(answers).map(([model, answer]) => {
      const { tokens, found, ...rest } = answer;
      return [model, rest];
    })),
  }));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ ...state, turns }));
  } catch { /* full, or forbidden: a reload then begins anew */ }
}

export function kept() {
  try {
    const state = JSON.parse(sessionStorage.getItem(KEPT));
    for (const turn of state.turns) {
      for (const answer of Object.values(turn.answers)) {
        if (answer.state === "asked") answer.state = "stopped";
      }
    }
    return state;
  } catch {
    return null;
  }
}
