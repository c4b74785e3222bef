import { byId, h, icon, show } from "./h.js";
import { percent, title } from "./styles.js";

/** The wall on which pictures appear: frames, progress, and the plate beside a finished picture. */
export class Stage {
  /** `does` are the plate's actions: {label, symbol, run(painting, place)}. */
  constructor(does) {
    this.does = does;
    this.frames = byId("frames");
  }

  /** Empty frames for what will be painted. */
  begin({ width, height, n }) {
    this.started = performance.now();
    this.far = "";
    this.others = 0;
    delete this.frames.dataset.left;
    show(byId("empty"), false);
    show(byId("plate"), false);
    show(byId("progress"), true);
    byId("stage").setAttribute("aria-busy", "true");
    this.frames.dataset.count = n;
    this.frames.replaceChildren(...Array.from({ length: n }, () => frame(width, height)));
    byId("bar").removeAttribute("value");
    this.tell();
    this.tick();
    this.clock = setInterval(() => this.tick(), 500);
  }

  tick() {
    byId("clock").textContent = `${Math.round((performance.now() - this.started) / 1000)} s`;
  }

  /** With how many other requests this one shares the server. */
  shared(others) {
    this.others = others;
    this.tell();
  }

  /** How far it is, and why it may take its time. */
  tell() {
    const beside = this.others ? ` · ${this.others} ${this.others > 1 ? "others share" : "other shares"} the server` : "";
    byId("step").textContent = (this.far || "Waiting for the server") + beside;
  }

  /** A step of the painting, with a preview of one frame or without. */
  progress({ step, steps, place, source }) {
    if (source) hang(this.frames.children[place], source, "Preview");
    if (!step || !steps) return;
    byId("bar").value = step / steps;
    this.far = `Step ${step} of ${steps}`;
    this.tell();
  }

  /** The painting ended, one way or another. */
  end() {
    clearInterval(this.clock);
    show(byId("progress"), false);
    byId("stage").removeAttribute("aria-busy");
  }

  /** It was cancelled: its last preview stays, dimmed. False if there is none. */
  giveUp() {
    if (!this.frames.querySelector("img")) return false;
    this.frames.dataset.left = "";
    this.frames.querySelectorAll("img").forEach((one) => (one.alt = "The last preview"));
    show(byId("plate"), true);
    byId("title").textContent = "Cancelled";
    byId("facts").textContent = this.far;
    byId("does").replaceChildren();
    show(byId("warned"), false);
    return true;
  }

  /** Take everything down. */
  clear() {
    delete this.frames.dataset.left;
    this.frames.replaceChildren();
    show(byId("plate"), false);
    show(byId("empty"), true);
  }

  /** Hang a finished painting, see history.js, and write its plate. `place` is the picture that is looked at. */
  hang(painting, place = 0) {
    show(byId("empty"), false);
    delete this.frames.dataset.left;
    const many = painting.pictures.length > 1;
    this.frames.dataset.count = painting.pictures.length;
    const frames = painting.pictures.map((picture, at) => {
      const made = frame(painting.width, painting.height, many && (() => this.hang(painting, at)), at === place && many);
      hang(made, picture.url, alt(painting, at));
      return made;
    });
    const held = this.frames.contains(document.activeElement);
    this.frames.replaceChildren(...frames);
    if (held) frames[place].focus();
    this.plate(painting, place);
  }

  plate(painting, place) {
    show(byId("plate"), true);
    byId("title").textContent = painting.settings.prompt || painting.photoName || "Untitled";
    byId("facts").textContent = facts(painting, place).join(" · ");
    byId("warned").replaceChildren(...painting.warnings.map((text) => h("li", {}, text)));
    show(byId("warned"), painting.warnings.length > 0);
    const shown = this.does.filter((one) => !one.when || one.when(painting));
    byId("does").replaceChildren(
      ...shown.map(({ label, symbol, run }) =>
        h("button", { type: "button", class: "quiet", onclick: () => run(painting, place) }, icon(symbol), label),
      ),
    );
  }
}

function frame(width, height, choose, chosen) {
  const made = choose
    ? h("button", { type: "button", class: "frame", onclick: choose, "aria-pressed": String(Boolean(chosen)) })
    : h("div", { class: "frame" });
  made.style.setProperty("--ratio", width / height || 1);
  return made;
}

/** The new picture fades in over the old one. */
function hang(place, url, text) {
  if (!place) return;
  const image = h("img", { src: url, alt: text, draggable: "false" });
  const old = [...place.children];
  old.forEach((one) => (one.alt = "")); // of two pictures in a frame, the new one speaks
  place.append(image);
  image.decode().then(() => old.forEach((one) => one.remove()), () => image.remove());
}

function alt({ settings, photoName, pictures }, place) {
  const what = settings.prompt || `${photoName}, stylised`;
  return pictures.length > 1 ? `${what}, picture ${place + 1} of ${pictures.length}` : what;
}

function facts({ settings, pictures, width, height, seconds, model, photoName }, place) {
  const shared = photoName && !settings.prompt; // a photo's styles share the whole
  const said = (weight) => (shared ? percent(weight) : weight.toFixed(2));
  const mix = Object.entries(settings.styles).map(([name, weight]) => `${title({ name })} ${said(weight)}`);
  const seed = pictures[place].seed;
  return [
    mix.join(" + "),
    seed !== "" && `seed ${seed}`,
    width && `${width} × ${height}`,
    model,
    seconds !== undefined && `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`,
  ].filter(Boolean).map((fact) => fact.replaceAll(" ", "\u00a0").replaceAll("\u00a0+\u00a0", " + "));
}
