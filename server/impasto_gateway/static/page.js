// The page: puts the parts together. What each part does stands in its own file.

import { Api, Refused } from "./api.js";
import { bundlesOf, fitting, paintsPhotos, takesPhotos } from "./catalogue.js";
import { askKey, copy, save, say, toast } from "./dialogs.js";
import { Form } from "./form.js";
import { byId, h, show } from "./h.js";
import { History } from "./history.js";
import { Photo } from "./photo.js";
import { curlOf, linkOf, requestOf, settingsOfLink, wireOf } from "./request.js";
import { Stage } from "./stage.js";
import { Styles } from "./styles.js";

const base = new URL(".", location.href).href;
const api = new Api(askKey);
const form = new Form(() => hush());
const styles = new Styles(api, () => {
  form.unblame(document.querySelector("[data-field=adapters]"));
  hush();
});
const photo = new Photo({ changed: photoChanged, settings: dropped, wrong: (why) => form.blame("image", why) });
const stage = new Stage([
  { label: "Download", symbol: "save", run: download },
  { label: "Keep seed", symbol: "pin", run: keepSeed, when: ({ pictures }) => pictures[0].seed !== "" },
  { label: "Paint over it", symbol: "photo", run: paintOver, when: () => bundles.some(takesPhotos) },
  { label: "Copy link", symbol: "link", run: (one, place) => copy(linkOf(settled(one, place), base), "Link") },
  { label: "Copy as curl", symbol: "code", run: copyCurl },
]);
const history = new History(reopen);

let bundles = [];
let adapters = [];
let running = null; // the AbortController of what is being painted

// --- the catalogue

async function load() {
  try {
    [bundles, adapters] = await Promise.all([api.models().then(bundlesOf), api.adapters()]);
  } catch (error) {
    return fail(error, load);
  }
  if (!bundles.length) return complain("The gateway has no model to paint with.", load);
  hush();
  show(byId("lock"), Boolean(api.key));
  byId("model").replaceChildren(...bundles.map(({ id }) => h("option", { value: id }, id)));
  byId("model").disabled = false;
  offer();
  const linked = settingsOfLink(location.hash);
  if (linked) fill(linked);
}

function bundle() {
  return bundles.find(({ id }) => id === byId("model").value) ?? bundles[0];
}

/** Show what the chosen model takes. */
function offer() {
  const now = bundle();
  const fit = fitting(adapters, now);
  const gone = styles.offer(fit, now.id);
  form.offer(now, { photo: Boolean(photo.file), adapters: fit });
  show(byId("photo-part"), takesPhotos(now) || bundles.some(paintsPhotos));
  describePhoto();
  byId("paint-label").textContent = paintsPhotos(now) ? "Stylise" : "Paint";
  return gone;
}

function describePhoto() {
  const now = bundle();
  byId("photo-use").textContent = paintsPhotos(now)
    ? "is painted in the styles you pick"
    : takesPhotos(now) ? "is what the picture starts from" : `means nothing to ${now.id}: choose another model`;
}

byId("model").addEventListener("change", () => {
  const gone = offer();
  if (gone.length) toast(`${gone.join(", ")} ${gone.length > 1 ? "don’t" : "doesn’t"} fit ${bundle().id}`);
});

/** A photo is for the model that paints photos, unless the chosen one has been told what to paint already. */
function photoChanged() {
  if (!bundles.length) return;
  const stylist = bundles.find(paintsPhotos);
  if (photo.file && stylist && !byId("prompt").value.trim()) byId("model").value = stylist.id;
  if (!photo.file && paintsPhotos(bundle())) byId("model").value = (bundles.find((one) => !paintsPhotos(one)) ?? bundle()).id;
  offer();
  form.unblame(byId("photo-part"));
  if (photo.file) say(`Photo ${photo.file.name} added`);
}

// --- settings: into the form, out of it

function settings() {
  return { model: bundle().id, ...form.value, styles: styles.value };
}

/** Load settings from a link, a picture or the history. Returns what couldn't be had here. */
function fill(wanted) {
  const known = bundles.some(({ id }) => id === wanted.model);
  if (known) byId("model").value = wanted.model;
  offer();
  styles.value = wanted.styles ?? {};
  const gone = styles.offer(fitting(adapters, bundle()), bundle().id);
  form.value = wanted;
  return [...(known || !wanted.model ? [] : [`model ${wanted.model}`]), ...gone.map((name) => `style ${name}`)];
}

function dropped(found, file) {
  const missing = fill(found);
  toast(missing.length ? `Settings of ${file.name} loaded, without ${missing.join(", ")}` : `Settings of ${file.name} loaded`);
  byId("prompt").focus();
}

function reopen(painting) {
  if (running) return toast("Cancel the painting first");
  stage.hang(painting);
  fill(painting.settings);
  toast("Settings loaded");
}

/** The settings that paint one of a painting's pictures: its own seed, and one picture. */
function settled({ settings: wanted, pictures }, place) {
  return pictures[place].seed === "" ? wanted : { ...wanted, seed: pictures[place].seed, n: 1 };
}

function keepSeed({ pictures }, place) {
  byId("seed").value = pictures[place].seed;
  form.unblame(document.querySelector("[data-field=seed]"));
  toast("The next picture has the same seed");
}

async function paintOver(painting, place) {
  const blob = await (await fetchData(painting.pictures[place].url)).blob();
  photo.set(new File([blob], name(painting, place), { type: blob.type }));
}

// --- painting

async function paint() {
  if (running || !bundles.length) return;
  hush();
  form.unblameAll();
  const wanted = settings();
  const now = bundle();
  const source = takesPhotos(now) ? photo.file : null;
  const wrong = form.problem(source);
  if (wrong) return form.blame(wrong.field, wrong.message);
  const wire = wireOf(wanted, now, new Map(adapters.map((one) => [one.name, one])));
  const size = paintsPhotos(now) ? await photo.size() : { width: wanted.width, height: wanted.height };
  begin({ ...size, n: paintsPhotos(now) ? 1 : wanted.n });
  const started = performance.now();
  try {
    const done = await watched(api.paint(requestOf(wire, source), running.signal), wanted);
    const painting = {
      ...done,
      ...size,
      settings: paintsPhotos(now) ? { ...wanted, prompt: "", seed: "" } : wanted,
      seconds: (performance.now() - started) / 1000,
      model: now.id,
      photoName: source?.name,
    };
    end();
    history.add(painting);
    stage.hang(painting);
    say(`Done${done.pictures[0].seed !== "" ? `, seed ${done.pictures[0].seed}` : ""}`);
  } catch (error) {
    end();
    putBack();
    if (error.name === "AbortError") say("Cancelled");
    else fail(error, paint);
  }
}

function begin(shape) {
  running = new AbortController();
  const held = document.activeElement === byId("paint");
  show(byId("paint"), false);
  show(byId("cancel"), true);
  if (held) byId("cancel").focus();
  stage.begin(shape);
  say("Painting");
  if (matchMedia("(max-width: 860px)").matches) byId("stage").scrollIntoView({ block: "start" });
}

function end() {
  running = null;
  const held = document.activeElement === byId("cancel");
  show(byId("paint"), true);
  show(byId("cancel"), false);
  if (held) byId("paint").focus();
  stage.end();
}

/** What hung there before, or nothing. */
function putBack() {
  if (history.current && history.paintings.includes(history.current)) stage.hang(history.current);
  else stage.clear();
}

/** Follow a painting to its end: {pictures, warnings}. */
async function watched(told, { n, more }) {
  const kind = `image/${more.format ?? "png"}`;
  const pictures = [];
  const warnings = new Set();
  let quarter = 0;
  for await (const { event, data, comment } of told) {
    if (comment !== undefined) {
      const place = /^queued? (\d+)/.exec(comment);
      if (place) stage.queued(Number(place[1]));
    } else if (event === "error") {
      throw new Refused(data.status ?? 500, data.error ?? data);
    } else if (event.endsWith("partial_image") || event.endsWith("progress")) {
      const place = data.index ?? 0;
      stage.progress({ step: data.step, steps: data.steps, place, source: data.b64_json && asUrl(data.b64_json, kind) });
      if (data.steps && Math.floor((4 * data.step) / data.steps) > quarter) {
        quarter = Math.floor((4 * data.step) / data.steps);
        say(`Step ${data.step} of ${data.steps}`);
      }
    } else if (event.endsWith("completed")) {
      for (const one of data.data ?? [data]) pictures.push({ url: asUrl(one.b64_json, kind), seed: String(one.seed ?? "") });
      for (const warning of data.warnings ?? []) warnings.add(warning);
    }
  }
  if (!pictures.length) throw new Refused(502, { message: "The gateway’s answer ended without a picture." });
  return { pictures, warnings: [...warnings] };
}

function asUrl(b64, kind) {
  return `data:${kind};base64,${b64}`;
}

// --- what goes wrong

/** Say it at the field at fault, or above the button. */
function fail(error, again) {
  const said = error instanceof Refused ? error.message : "The gateway can’t be reached.";
  if (error.param && form.blame(error.param, tidy(said))) return say(said);
  const after = error.after ? ` Try again in ${Math.ceil(error.after)} s.` : "";
  complain(`${said}${after}`, again, error.id);
}

/** Without the field's name before the colon: the message stands at the field. */
function tidy(message) {
  const text = message.replace(/^[A-Za-z_[\].\d]+: /, "");
  return text[0].toUpperCase() + text.slice(1);
}

function complain(text, again, id) {
  const place = byId("wrong");
  place.replaceChildren(
    h("p", {}, text, id && h("span", { class: "note" }, ` Request ${id}.`)),
    h("button", { type: "button", class: "quiet", onclick: () => again() }, "Try again"),
  );
  show(place, true);
}

function hush() {
  show(byId("wrong"), false);
}

// --- the plate's actions

function name({ pictures, settings: { more } }, place) {
  const seed = pictures[place].seed;
  return `impasto${seed === "" ? "" : `-${seed}`}.${more.format === "jpeg" ? "jpg" : (more.format ?? "png")}`;
}

function download(painting, place) {
  save(painting.pictures[place].url, name(painting, place));
}

/** Decoded here: the page's policy lets it connect to nothing but its gateway, data: URLs included. */
async function fetchData(url) {
  const [head, b64] = url.split(",");
  const bytes = Uint8Array.from(atob(b64), (one) => one.charCodeAt(0));
  return new Response(bytes, { headers: { "content-type": head.slice(5, head.indexOf(";")) } });
}

function copyCurl(painting, place) {
  const wanted = settled(painting, place);
  const now = bundles.find(({ id }) => id === painting.model) ?? bundle();
  const wire = wireOf(wanted, now, new Map(adapters.map((one) => [one.name, one])));
  const source = painting.photoName && { name: painting.photoName };
  copy(curlOf(wire, source, { base, keyed: Boolean(api.key) }), "Command");
}

// --- the rest of the page

byId("wish").addEventListener("submit", (event) => {
  event.preventDefault();
  paint();
});
byId("cancel").addEventListener("click", () => running?.abort());
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    paint();
  }
  if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) running.abort();
});
addEventListener("hashchange", () => {
  const linked = bundles.length && settingsOfLink(location.hash);
  if (linked) fill(linked);
});
byId("lock").addEventListener("click", () => {
  api.key = null;
  location.reload();
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("paint-keys").textContent = "⌘ ↵";

const dark = matchMedia("(prefers-color-scheme: dark)");

function themed(toggle) {
  const root = document.documentElement;
  const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const other = now === "dark" ? "light" : "dark";
  if (toggle) {
    root.dataset.theme = other;
    try {
      localStorage.setItem("impasto.theme", other);
    } catch { /* until the page is closed */ }
  }
  const next = toggle ? now : other;
  byId("theme").setAttribute("aria-label", `Switch to ${next} colours`);
  byId("theme").title = `Switch to ${next} colours`;
}

byId("theme").addEventListener("click", () => themed(true));
dark.addEventListener("change", () => themed(false));
themed(false);
load();
