// Sends decisions one after another and keeps each until the server has stored it.

const RETRY_MS = 3000;

export class RefusedError extends Error {}

// The JSON of an answer. Throws a RefusedError if the server refused the request, else an Error.
export async function request(url, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(url, options);
  if (answer.ok) {
    return answer.json();
  }
  const text = await answer.text();
  let reason = text;
  try {
    const content = JSON.parse(text);
    reason = content.error || JSON.stringify(content.detail) || text;
  } catch { /* it is no JSON */ }
  const refused = answer.status >= 400 && answer.status < 500;
  throw new (refused ? RefusedError : Error)(reason || `status ${answer.status}`);
}

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  // onStored(message, answer), onRefused(message, error), onFailure(error or null)
  constructor(handlers) {
    this.handlers = handlers;
    this.waiting = [];
    this.sending = false;
    this.timer = null;
    window.addEventListener("beforeunload", (event) => {
      if (this.waiting.length) {
        event.preventDefault();
      }
    });
  }

  send(url, body, context) {
    this.waiting.push({ url, body, context });
    this.flush();
  }

  async flush() {
    if (this.sending) {
      return;
    }
    this.sending = true;
    clearTimeout(this.timer);
    while (this.waiting.length) {
      const message = this.waiting[0];
      try {
        const answer = await request(message.url, message.body);
        this.waiting.shift();
        this.handlers.onFailure(null);
        this.handlers.onStored(message, answer);
      } catch (error) {
        if (error instanceof RefusedError) {
          this.waiting.shift();
          this.handlers.onRefused(message, error);
          continue;
        }
        this.handlers.onFailure(error);
        this.timer = setTimeout(() => this.flush(), RETRY_MS);
        break;
      }
    }
    this.sending = false;
  }
}
