import { byId, h, show } from "./h.js";

const MANY = 8; // from here on there is a search
const WEIGHT = { low: 0, high: 1.5, step: 0.05, usual: 0.8 };
const SHARE = { low: 0, high: 1, step: 0.01, usual: 1 }; // of a photo's styles: all of them together are at most 1
const TAILS = /-(ti|drop|art)$/; // what sets apart styles of one name that were taught in several ways
const MOST = 200; // tiles; the search reaches the others
const AT_ONCE = 2; // previews are painted when they are first asked for

/** The styles as pictures to click, and the mix of those that are picked. */
export class Styles {
  constructor(api, changed) {
    this.api = api;
    this.changed = changed;
    this.list = [];
    this.weights = new Map();
    this.previews = new Previews(api);
    this.tiles = byId("tiles");
    this.tiles.addEventListener("keydown", (event) => this.moved(event));
    byId("search").addEventListener("input", () => this.draw());
  }

  /** The picked styles with their weights. */
  get value() {
    return Object.fromEntries(this.weights);
  }

  set value(weights) {
    this.weights = new Map(Object.entries(weights));
    this.draw();
  }

  /** The photo's styles that are picked, but for one. */
  sharing(but) {
    return this.list.filter(({ kind, name }) => kind === "vector" && name !== but && this.weights.has(name));
  }

  /** Let these styles have so much of the whole together, in the proportions they have; equally if they have nothing. */
  share(styles, whole) {
    const sum = styles.reduce((all, { name }) => all + this.weights.get(name), 0);
    let left = Math.round(100 * whole);
    for (const [at, { name }] of styles.entries()) {
      const part = sum > 0 ? this.weights.get(name) / sum : 1 / styles.length;
      const cents = at === styles.length - 1 ? left : Math.min(left, Math.round(100 * whole * part));
      this.weights.set(name, cents / 100);
      left -= cents;
    }
  }

  /** Show these; what is picked and isn't among them is dropped. Returns the names of the dropped. */
  offer(adapters, bundle) {
    this.list = adapters;
    this.previews.bundle = bundle;
    const known = new Set(adapters.map(({ name }) => name));
    const dropped = [...this.weights.keys()].filter((name) => !known.has(name));
    dropped.forEach((name) => this.weights.delete(name));
    nameAll(adapters);
    const sum = this.sharing().reduce((all, { name }) => all + this.weights.get(name), 0);
    if (sum > 1 + 1e-6) this.share(this.sharing(), 1);
    byId("search").value = "";
    show(byId("search"), adapters.length > MANY);
    this.draw();
    return dropped;
  }

  draw() {
    const wanted = byId("search").value.trim().toLowerCase();
    const found = this.list.filter((one) => this.weights.has(one.name) || text(one).includes(wanted));
    const shown = found.slice(0, MOST);
    this.previews.forget();
    this.tiles.replaceChildren(...shown.map((one) => this.tile(one)));
    if (!shown.length) {
      const why = this.list.length ? "No style has this name." : "No style of the registry fits this model.";
      this.tiles.append(h("p", { class: "note" }, why));
    }
    if (found.length > MOST) this.tiles.append(h("p", { class: "note" }, `${found.length - MOST} more: search for them.`));
    this.rove(this.tiles.querySelector("[aria-pressed=true]") ?? this.tiles.querySelector("button"));
    this.drawMix();
  }

  tile(adapter) {
    const picked = this.weights.has(adapter.name);
    const picture = h("span", { class: "thumb" }, h("span", { class: "initial", "aria-hidden": "true" }, title(adapter)[0]));
    picture.style.setProperty("--hue", hue(adapter.name));
    const tile = h(
      "button",
      {
        type: "button",
        class: "tile",
        tabindex: "-1",
        "aria-pressed": String(picked),
        "data-name": adapter.name,
        title: about(adapter),
        onclick: () => this.pick(adapter.name),
      },
      picture,
      h("span", { class: "label" }, title(adapter)),
    );
    this.previews.want(adapter, picture);
    return tile;
  }

  pick(name) {
    const adapter = this.list.find((one) => one.name === name);
    if (adapter.kind === "vector") this.pickShare(name);
    else if (!this.weights.delete(name)) this.weights.set(name, WEIGHT.usual);
    const tile = this.tiles.querySelector(`[data-name="${CSS.escape(name)}"]`);
    tile?.setAttribute("aria-pressed", String(this.weights.has(name)));
    if (tile) this.rove(tile);
    this.drawMix();
    this.changed();
  }

  /** A photo's style gets an equal share; what it had goes back to the others. */
  pickShare(name) {
    const others = this.sharing(name);
    const had = this.weights.get(name);
    const sum = others.reduce((all, one) => all + this.weights.get(one.name), had ?? 0);
    if (this.weights.delete(name)) return this.share(others, sum);
    const share = Math.round(100 / (others.length + 1)) / 100;
    this.weights.set(name, share);
    if (sum > 1 - share) this.share(others, 1 - share);
  }

  drawMix() {
    const picked = this.list.filter(({ name }) => this.weights.has(name));
    byId("mix").replaceChildren(...picked.map((one) => (one.kind === "embedding" ? this.word(one) : this.slider(one))));
    this.say();
    byId("styles-count").textContent = picked.length > 1 ? `${picked.length} mixed` : "";
  }

  slider(adapter) {
    const { name } = adapter;
    const weight = this.weights.get(name);
    const { low, high, step } = scaleOf(adapter);
    const slider = h("input", {
      type: "range",
      "data-name": name,
      min: Math.min(low, weight),
      max: Math.max(high, weight),
      step: isMultiple(weight, step) ? step : "any", // a loaded weight stays what it is
      value: weight,
      "aria-label": `${adapter.kind === "vector" ? "Share" : "Weight"} of ${title(adapter)}`,
      oninput: () => {
        this.weights.set(name, slider.valueAsNumber);
        if (adapter.kind === "vector") this.makeRoom(name);
        byId("mix").querySelectorAll("input").forEach(fill);
        this.say();
        this.changed();
      },
    });
    fill(slider);
    const said = h("output", { "data-name": name });
    return h("div", { class: "mixed" }, h("span", { class: "who" }, title(adapter)), slider, said);
  }

  /** The others leave what this one doesn't take of the whole; their sliders follow. */
  makeRoom(name) {
    const others = this.sharing(name);
    const room = 1 - this.weights.get(name);
    if (others.reduce((all, one) => all + this.weights.get(one.name), 0) <= room + 1e-6) return;
    this.share(others, room);
    for (const slider of byId("mix").querySelectorAll("input")) slider.value = this.weights.get(slider.dataset.name);
  }

  /** The weights in numbers; a photo's styles in parts of the whole. */
  say() {
    const shared = new Set(this.sharing().map(({ name }) => name));
    for (const place of byId("mix").querySelectorAll("output")) {
      const { name } = place.dataset;
      const weight = this.weights.get(name);
      place.textContent = shared.has(name) ? percent(weight) : weight.toFixed(2);
      byId("mix").querySelector(`input[data-name="${CSS.escape(name)}"]`).setAttribute("aria-valuetext", place.textContent);
    }
  }

  /** An embedding has no weight: its word stands in the prompt. */
  word(adapter) {
    const why = h("span", { class: "note" }, `a word of the prompt: ${adapter.trigger}`);
    return h("div", { class: "mixed" }, h("span", { class: "who" }, title(adapter)), why);
  }

  /** One tab stop for all tiles; arrows do the rest. */
  rove(tile) {
    this.tiles.querySelectorAll("[tabindex='0']").forEach((one) => one.setAttribute("tabindex", "-1"));
    tile?.setAttribute("tabindex", "0");
  }

  moved(event) {
    const tiles = [...this.tiles.querySelectorAll("button")];
    const at = tiles.indexOf(event.target);
    const row = tiles.filter((one) => one.offsetTop === tiles[0]?.offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
    const next = event.key === "Home" ? 0 : event.key === "End" ? tiles.length - 1 : at + step;
    if (at < 0 || !tiles[next]) return;
    event.preventDefault();
    this.rove(tiles[next]);
    tiles[next].focus();
  }
}

/** Preview pictures, fetched when their tile comes into sight, a few at a time, and kept. */
class Previews {
  constructor(api) {
    this.api = api;
    this.kept = new Map();
    this.waiting = [];
    this.busy = 0;
    this.seen = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && this.queue(entry.target)));
    this.urls = new WeakMap();
  }

  forget() {
    this.seen.disconnect();
    this.waiting = [];
  }

  want(adapter, place) {
    if (!adapter.preview) return;
    const kept = this.kept.get(this.address(adapter));
    if (kept) return put(place, kept);
    this.urls.set(place, adapter);
    this.seen.observe(place);
  }

  /** In this bundle, whose hand it shows. The gateway may stand behind a prefix: addresses count from the page's. */
  address({ preview }) {
    return `${preview.replace(/^\//, "")}${preview.includes("?") ? "&" : "?"}bundle=${encodeURIComponent(this.bundle)}`;
  }

  queue(place) {
    this.seen.unobserve(place);
    this.waiting.push(place);
    this.next();
  }

  async next() {
    if (this.busy >= AT_ONCE || !this.waiting.length) return;
    this.busy += 1;
    const place = this.waiting.shift();
    const adapter = this.urls.get(place);
    try {
      const address = this.address(adapter);
      const made = URL.createObjectURL(await this.api.picture(address));
      this.kept.set(address, made);
      put(place, made);
    } catch { /* a style without a picture still has its name */ } finally {
      this.busy -= 1;
      this.next();
    }
  }
}

function put(place, url) {
  const image = h("img", { src: url, alt: "", draggable: "false" });
  image.decode().then(() => place.classList.add("shown"), () => image.remove());
  place.append(image);
}

function fill(slider) {
  const { min, max, valueAsNumber } = slider;
  slider.style.setProperty("--share", `${((valueAsNumber - min) / (max - min)) * 100}%`);
}

function scaleOf({ kind }) {
  return kind === "vector" ? SHARE : WEIGHT;
}

function isMultiple(value, step) {
  return Math.abs(value / step - Math.round(value / step)) < 1e-6;
}

const shownAs = new Map(); // names without their tail, where nothing else in the list is called so

function nameAll(adapters) {
  const plain = (name) => name.replace(TAILS, "");
  const count = new Map();
  for (const { name } of adapters) count.set(plain(name), (count.get(plain(name)) ?? 0) + 1);
  for (const { name } of adapters) shownAs.set(name, count.get(plain(name)) === 1 ? plain(name) : name);
}

/** A name as people write it. */
export function title({ name }) {
  const words = (shownAs.get(name) || name).replace(/[-_]+/g, " ");
  return words[0].toUpperCase() + words.slice(1);
}

/** A part of the whole. */
export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function about({ name, kind, rank, trigger }) {
  return [name, kind && (rank ? `${kind}, rank ${rank}` : kind), trigger && `word: ${trigger}`].filter(Boolean).join(" · ");
}

function text({ name, trigger, prompt, kind }) {
  return [name, name.replace(/[-_]+/g, " "), trigger, prompt, kind].join(" ").toLowerCase();
}

/** A colour that a name always has. */
function hue(name) {
  return [...name].reduce((sum, one) => (sum * 31 + one.codePointAt(0)) % 360, 7);
}
