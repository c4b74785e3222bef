/**
 * Server-sent events of a response's body, as they arrive: {event, data} for each, {comment} for each comment.
 * EventSource can't do it, since it only knows GET.
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = blank();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
        else if (line !== "") read(event, line);
        else if (event.data.length) {
          yield { event: event.event, data: event.data.join("\n") };
          event = blank();
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening also stops the server
  }
}

function blank() {
  return { event: "message", data: [] };
}

function read(event, line) {
  const at = line.indexOf(":");
  const name = at < 0 ? line : line.slice(0, at);
  const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
  if (name === "data") event.data.push(value);
  if (name === "event") event.event = value;
}
