import { byId, h, show } from "./h.js";
import { rowsFor } from "./fields.js";
import { paintsPhotos, sizesOf } from "./catalogue.js";

const CUSTOM = "custom";

/** What a request's field is called where it has no place of its own on the page. */
const PLACES = { width: "size", height: "size", style: "adapters", adapter_names: "adapters", adapter_weights: "adapters",
  "image[]": "image", num_inference_steps: "steps", output_format: "format" };

/** The form's fields but for the model and the styles, and what is wrong with each. */
export class Form {
  constructor(changed) {
    this.changed = changed;
    this.more = {};
    this.bundle = null;
    byId("wish").addEventListener("input", (event) => {
      this.unblame(event.target.closest("[data-field]"));
      changed();
    });
    byId("size").addEventListener("change", () => this.sized());
    byId("dice").addEventListener("click", () => {
      byId("seed").value = "";
      byId("seed").focus();
      changed();
    });
  }

  get value() {
    const [width, height] = this.size();
    return {
      prompt: byId("prompt").value.trim(),
      seed: byId("seed").value.trim(),
      width,
      height,
      n: Number(byId("n").value),
      more: { ...this.more },
    };
  }

  set value({ prompt = "", seed = "", width, height, n = 1, more = {} }) {
    byId("prompt").value = prompt;
    byId("seed").value = seed;
    byId("n").value = String(Math.min(4, Math.max(1, n)));
    if (width && height) this.setSize(width, height);
    this.more = Object.fromEntries(Object.entries(more).filter(([name]) => this.bundle.fields.has(name)));
    this.drawMore();
    byId("more").open ||= Object.keys(this.more).length > 0;
    this.unblameAll();
  }

  /** Show what this bundle takes; values that it can't take are forgotten. */
  offer(bundle, { photo, adapters }) {
    const size = this.bundle && this.size();
    this.bundle = bundle;
    this.photo = photo;
    this.adapters = adapters;
    const photos = paintsPhotos(bundle);
    show(byId("prompt-part"), !photos);
    show(byId("plain"), !photos);
    byId("photo-part").classList.toggle("first", photos);
    const options = sizesOf(bundle).map(({ label, width, height }) =>
      h("option", { value: `${width}x${height}` }, `${width} × ${height} ${label}`.trim()),
    );
    byId("size").replaceChildren(...options, h("option", { value: CUSTOM }, "Other…"));
    for (const side of ["width", "height"]) byId(side).step = bundle.size.multiple_of;
    if (size && [...byId("size").options].some(({ value }) => value === size.join("x"))) this.setSize(...size);
    else this.setSize(bundle.size.width, bundle.size.height);
    this.more = Object.fromEntries(Object.entries(this.more).filter(([name]) => bundle.fields.has(name)));
    this.drawMore();
    this.unblameAll();
  }

  size() {
    const chosen = byId("size").value;
    return chosen === CUSTOM ? [byId("width").valueAsNumber, byId("height").valueAsNumber] : chosen.split("x").map(Number);
  }

  setSize(width, height) {
    const value = `${width}x${height}`;
    const known = [...byId("size").options].some((one) => one.value === value);
    byId("size").value = known ? value : CUSTOM;
    byId("width").value = width;
    byId("height").value = height;
    show(byId("custom"), !known);
  }

  sized() {
    const custom = byId("size").value === CUSTOM;
    show(byId("custom"), custom);
    if (custom) byId("width").focus();
    else [byId("width").value, byId("height").value] = this.size();
  }

  drawMore() {
    const rows = rowsFor(this.bundle, { guidance: this.more.guidance, photo: this.photo, adapters: this.adapters });
    const known = new Map(rows.map((row) => [row.name, row]));
    for (const [name, value] of Object.entries(this.more)) {
      const row = known.get(name);
      const now = row && typed(value, row.kind);
      if (!row || String(now) === String(row.usual) || (row.kind === "flag" && !now)) delete this.more[name];
      else this.more[name] = now;
    }
    byId("rows").replaceChildren(...rows.map((row) => this.row(row)));
    this.countMore();
  }

  countMore() {
    const count = Object.keys(this.more).length;
    byId("more-count").textContent = count ? `${count} changed` : "";
  }

  row(row) {
    const id = `more-${row.name}`;
    const input = this.input(row, id);
    input.addEventListener("input", () => this.set(row, input));
    const label = h("label", { class: "name", for: id }, row.label);
    return h(
      "div",
      { class: `field${row.wide ? " wide" : ""}${row.kind === "flag" ? " flag" : ""}`, "data-field": row.name },
      ...(row.kind === "flag" ? [input, label] : [label, input]),
      h("p", { class: "wrong", id: `wrong-${row.name}`, hidden: true }),
    );
  }

  input(row, id) {
    const now = this.more[row.name];
    const common = { id, "aria-describedby": `wrong-${row.name}` };
    if (row.kind === "flag") return h("input", { ...common, type: "checkbox", checked: now === true });
    if (row.kind === "choice") return h("select", common, options(row, now));
    if (row.kind === "text") return h("input", { ...common, type: "text", value: now ?? "", autocomplete: "off" });
    const bounds = { min: row.low, max: row.high, step: row.step };
    return h("input", { ...common, ...bounds, type: "number", value: now ?? "", placeholder: row.usual ?? "default" });
  }

  set({ name, kind }, input) {
    if (kind === "flag" ? !input.checked : input.value === "") delete this.more[name];
    else this.more[name] = kind === "flag" ? true : kind === "number" ? input.valueAsNumber : input.value;
    this.countMore();
    if (name === "guidance") {
      this.drawMore();
      byId("more-guidance").focus();
    }
  }

  /** What can be seen without asking the server: {field, message}, or null. */
  problem(photo) {
    const { prompt, seed, width, height } = this.value;
    if (paintsPhotos(this.bundle)) return photo ? null : { field: "image", message: "Add a photo: this model paints over one." };
    if (!prompt) return { field: "prompt", message: "Say what to paint." };
    if (seed !== "" && !/^\d{1,19}$/.test(seed)) return { field: "seed", message: "A whole number, or nothing for a random one." };
    const { multiple_of: step, max_pixels: most } = this.bundle.size;
    if (!(width > 0 && height > 0) || width % step || height % step) return { field: "size", message: `Multiples of ${step}.` };
    return width * height > most ? { field: "size", message: `At most ${most.toLocaleString("en")} pixels.` } : null;
  }

  /** Say at the field what is wrong with it. False if the page has no such field. */
  blame(param, message) {
    const name = PLACES[param] ?? param;
    const place = name && document.querySelector(`[data-field="${CSS.escape(name)}"]`);
    if (!place || place.hidden || place.parentElement.hidden) return false;
    const details = place.closest("details");
    if (details) details.open = true;
    place.classList.add("bad");
    const said = place.querySelector(".wrong");
    said.textContent = message;
    show(said, true);
    const usual = "textarea, input:not([type=file], [type=search], [type=radio]), select, button[tabindex='0'], button:not([tabindex])";
    const input = place.querySelector(".mix input, textarea") ?? place.querySelector(usual);
    input.setAttribute("aria-invalid", "true");
    input.focus();
    place.scrollIntoView({ block: "nearest" });
    return true;
  }

  unblame(place) {
    if (!place?.classList.contains("bad")) return;
    place.classList.remove("bad");
    show(place.querySelector(".wrong"), false);
    place.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
  }

  unblameAll() {
    document.querySelectorAll("[data-field].bad").forEach((one) => this.unblame(one));
  }
}

/** The default stands first, by its own name, and isn't sent. */
function options({ options: all, usual }, now) {
  const rest = all.filter(([value]) => value !== usual);
  const first = all.find(([value]) => value === usual)?.[1] ?? "None";
  return [["", first], ...rest].map(([value, label]) => h("option", { value, selected: value === (now ?? "") }, label));
}

/** A value that came as text, from a link or from another program's file. What is no number stays, and is refused by name. */
function typed(value, kind) {
  if (typeof value !== "string") return value;
  if (kind === "flag") return value === "true";
  return kind === "number" && Number.isFinite(Number(value)) ? Number(value) : value;
}
