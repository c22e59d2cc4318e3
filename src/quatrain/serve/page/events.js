// Server-sent events: bytes of a response to the data of each event.

// Yield each event's data, as text, from a stream of bytes cut anywhere.
export async function* events(stream) {
  const reader = stream.getReader(), decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A carriage return at the end may be half of a line's end.
      const whole = done ? rest.length : rest.length - rest.endsWith("\r");
      const parts = rest.slice(0, whole).split(/\r\n\r\n|\n\n|\r\r/);
      rest = parts.pop() + rest.slice(whole);
      for (const part of parts) {
        const data = dataOf(part);
        if (data !== null) yield data;
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function dataOf(event) {
  const lines = event.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:"));
  if (!lines.length) return null;
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
