import { events } from "./events.js";
import { parsed } from "./json.js";

const KEY = "impasto.key";

/** An answer that is no success. `param` is the field at fault, or null; `after` says in seconds when to try again. */
export class Refused extends Error {
  constructor(status, { message, param = null, code = "" } = {}, after = null, id = null) {
    super(message || `the gateway answered ${status}`);
    Object.assign(this, { status, param, code, after, id });
  }
}

/** The gateway, with the caller's key. `askKey(why)` gives a key, or null from somebody who has none. */
export class Api {
  constructor(askKey) {
    this.askKey = askKey;
  }

  get key() {
    try {
      return sessionStorage.getItem(KEY);
    } catch {
      return this.kept ?? null;
    }
  }

  set key(value) {
    this.kept = value;
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch { /* kept for as long as the page is open */ }
  }

  async models() {
    return (await this.json("v1/models")).data ?? [];
  }

  /** All of them, page by page. */
  async adapters() {
    const all = [];
    for (let more = true; more; ) {
      const after = all.length ? `&after=${encodeURIComponent(all.at(-1).name)}` : "";
      const { data, has_more: rest } = await this.json(`v1/adapters?limit=1000${after}`);
      all.push(...data);
      more = rest && data.length > 0;
    }
    return all;
  }

  /** A picture of the gateway's, which may need the key: <img> couldn't send it. */
  async picture(url, signal) {
    return (await this.fetch(url, { signal })).blob();
  }

  /** What a painting has to say, as it says it. Leaving it, or aborting, cancels it on the server. */
  async *paint({ path, headers, body }, signal) {
    const response = await this.fetch(path, { method: "POST", headers, body, signal });
    for await (const said of events(response.body)) {
      yield said.data === undefined ? said : { event: said.event, data: parsed(said.data) };
    }
  }

  async json(path) {
    return parsed(await (await this.fetch(path)).text());
  }

  /** The answer. Raises Refused; where a key is missing or wrong, it asks for one and tries again. */
  async fetch(path, options = {}) {
    for (;;) {
      const sent = this.key;
      const headers = { ...options.headers, ...(sent && { authorization: `Bearer ${sent}` }) };
      const response = await fetch(path, { ...options, headers, credentials: "same-origin" });
      if (response.ok) return response;
      const refused = await refusal(response);
      if (response.status !== 401) throw refused;
      if (this.key === sent && !(await this.unlock(refused.message))) throw refused;
    }
  }

  /** Ask once, however many requests were refused together. */
  async unlock(why) {
    this.asking ??= this.askKey(this.key ? why : "").finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) this.key = key;
    return Boolean(key);
  }
}

async function refusal(response) {
  let error = {};
  try {
    error = parsed(await response.text()).error ?? {};
  } catch { /* a proxy's own page: the status must do */ }
  const after = Number(response.headers.get("retry-after"));
  return new Refused(response.status, error, after > 0 ? after : null, response.headers.get("x-request-id"));
}
