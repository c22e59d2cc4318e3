// Elements, and text as text: nothing here or elsewhere reads HTML from a string.

import { put } from "./words.js";

const COMMANDS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

export const by = (id) => document.getElementById(id);

// Show characters that command instead of being read as signs: ESC as U+241B, marks of direction.
export function visible(text) {
  return text.replace(COMMANDS, (sign) => {
    const code = sign.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    if (code >= 0xd800) return "\ufffd";
    return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

// Make an element. `say` is a key or [key, values] for its text, `label` for its aria-label, `text`
// somebody's text, `on` its listeners; all else are attributes.
export function make(tag, { say, label, text, on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  if (say) put(element, ...[say].flat());
  if (label) put(element, ...pair(label), "aria-label");
  if (text !== undefined) element.textContent = visible(text);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.filter((child) => child));
  return element;
}

// The same for a drawing.
export function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A button that looks like a link.
export const plain = (say, click, attributes = {}) =>
  make("button", { type: "button", class: "plain", say, on: { click }, ...attributes });

// Say something to those who cannot see the page, once it is complete.
export function tell(key, values) {
  put(by("status"), key, values);
}

const pair = (label) => (Array.isArray(label) ? label : [label, {}]);
