// The page: puts the parts together. What each part does stands in its own file.

import { Api, Refused } from "./api.js";
import { bundlesOf, fitting, paintsPhotos, takesPhotos } from "./catalogue.js";
import { colours } from "./colours.js";
import { askKey, copy, save, say, toast } from "./dialogs.js";
import { Form } from "./form.js";
import { byId, h, show } from "./h.js";
import { History } from "./history.js";
import { fileOf, followed, nameOf, quarters } from "./painting.js";
import { Photo } from "./photo.js";
import { curlOf, linkOf, requestOf, settingsOfLink, wireOf } from "./request.js";
import { Stage } from "./stage.js";
import { Styles, title } from "./styles.js";

const base = new URL(".", location.href).href;
const api = new Api(askKey);
const form = new Form(() => hush());
const styles = new Styles(api, () => {
  form.unblame(document.querySelector("[data-field=adapters]"));
  hush();
});
const photo = new Photo({
  changed: photoChanged,
  settings: dropped,
  wrong: (why) => form.blame("image", why),
  takes: () => bundles.some(takesPhotos),
});
const stage = new Stage([
  { label: "Download", symbol: "save", run: (one, place) => save(one.pictures[place].url, nameOf(one, place)) },
  { label: "Keep seed", symbol: "pin", run: keepSeed, when: ({ pictures }) => pictures[0].seed !== "" },
  { label: "Paint over it", symbol: "photo", run: paintOver, when: () => bundles.some(takesPhotos) },
  { label: "Copy link", symbol: "link", run: copyLink },
  { label: "Copy as curl", symbol: "code", run: copyCurl },
]);
const history = new History(reopen);

const MISSING = "It was painted from a picture; add it.";

let bundles = [];
let adapters = [];
let painter = null; // the id of the model that was chosen last to paint prompts
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
  byId("model").disabled = byId("paint").disabled = false;
  offer();
  const linked = settingsOfLink(location.hash);
  const last = history.paintings[0];
  if (last) {
    history.show(last);
    stage.hang(last);
  }
  if (linked) fill(linked);
  else if (last && !last.photoName) fill(last.settings);
}

function bundle() {
  return bundles.find(({ id }) => id === byId("model").value) ?? bundles[0];
}

/** Show what the chosen model takes. */
function offer() {
  const now = bundle();
  const fit = fitting(adapters, now);
  const gone = styles.offer(fit, now.id);
  form.offer(now, { photo: Boolean(photo.file || photo.wanted), adapters: fit });
  show(byId("photo-part"), takesPhotos(now) || bundles.some(paintsPhotos));
  describePhoto();
  const photos = paintsPhotos(now);
  if (!photos) painter = now.id;
  byId("paint-label").textContent = photos ? "Stylise" : "Paint";
  show(byId("without"), !photos);
  show(byId("empty-words"), !photos);
  show(byId("empty-photos"), photos);
  return gone;
}

/** The model that begins from a photo: the one that was chosen last, if it does. */
function beginner() {
  const able = bundles.filter((one) => takesPhotos(one) && !paintsPhotos(one));
  return able.find(({ id }) => id === painter) ?? able[0];
}

function describePhoto() {
  const now = bundle();
  byId("photo-use").textContent = paintsPhotos(now)
    ? "is painted in the styles you pick"
    : takesPhotos(now) ? "is what the picture starts from" : `means nothing to ${now.id}: choose another model`;
  show(byId("way"), Boolean(photo.file && beginner() && bundles.some(paintsPhotos)));
  byId("way-stylise").checked = paintsPhotos(now);
  byId("way-start").checked = takesPhotos(now) && !paintsPhotos(now);
}

function chosen() {
  const gone = offer().map((name) => title({ name }));
  if (gone.length) toast(`${gone.join(", ")} ${gone.length > 1 ? "don’t" : "doesn’t"} fit ${bundle().id}`);
}

function choose({ id }) {
  byId("model").value = id;
  chosen();
}

byId("model").addEventListener("change", chosen);
byId("way-start").addEventListener("change", () => choose(beginner()));
byId("way-stylise").addEventListener("change", () => choose(bundles.find(paintsPhotos)));

/** A photo is for the model that paints photos, unless the chosen one has been told what to paint already. */
function photoChanged() {
  if (!bundles.length) return;
  const stylist = bundles.find(paintsPhotos);
  const plain = bundles.find(({ id }) => id === painter) ?? bundles.find((one) => !paintsPhotos(one));
  if (photo.file && stylist && !paintsPhotos(bundle()) && !byId("prompt").value.trim()) byId("model").value = stylist.id;
  if (!photo.file && paintsPhotos(bundle())) byId("model").value = (plain ?? bundle()).id;
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
  photo.expect(wanted.photo ?? null);
  const known = bundles.some(({ id }) => id === wanted.model);
  if (known) byId("model").value = wanted.model;
  offer();
  styles.value = wanted.styles ?? {};
  const gone = styles.offer(fitting(adapters, bundle()), bundle().id);
  form.value = wanted;
  const strange = known || !wanted.model ? [] : [`model ${wanted.model}`];
  return [...strange, ...gone.map((name) => `style ${name}`), ...(wanted.lost ?? [])];
}

function dropped(found, file) {
  if (!bundles.length) return;
  const missing = fill(found);
  const without = missing.length ? `, without ${missing.join(", ")}` : "";
  toast(`Settings of ${file.name} loaded${without}${photo.wanted ? `. ${MISSING}` : ""}`);
  if (photo.wanted) {
    byId("choose").focus();
    byId("photo-part").scrollIntoView({ block: "nearest" });
  } else byId("prompt").focus();
}

function reopen(painting) {
  if (running) return toast("Cancel the painting first");
  stage.hang(painting);
  fill(withPhoto(painting.settings, painting));
  toast(photo.wanted ? `Settings loaded. ${MISSING}` : "Settings loaded");
}

/** Photos aren't kept: settings say that there was one, and what it was called. */
function withPhoto(wanted, { photoName: name }) {
  return name ? { ...wanted, photo: { name } } : wanted;
}

function copyLink(painting, place) {
  copy(linkOf({ ...settled(painting, place), photo: painting.photoName ?? "" }, base), "Link");
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

function paintOver(painting, place) {
  photo.set(fileOf(painting.pictures[place].url, nameOf(painting, place)));
}

// --- painting

async function paint() {
  if (running || !bundles.length) return;
  hush();
  form.unblameAll();
  const wanted = settings();
  const now = bundle();
  const source = takesPhotos(now) ? photo.file : null;
  const wrong = photo.wanted && !paintsPhotos(now) && takesPhotos(now)
    ? { field: "image", message: "Add the picture, or paint without it." }
    : form.problem(source);
  if (wrong) return form.blame(wrong.field, wrong.message);
  const wire = wireOf(wanted, now, new Map(adapters.map((one) => [one.name, one])));
  const size = paintsPhotos(now) ? photo.size : { width: wanted.width, height: wanted.height };
  begin({ ...size, n: paintsPhotos(now) ? 1 : wanted.n });
  const started = performance.now();
  try {
    const told = api.paint(requestOf(wire, source), running.signal);
    const done = await followed(told, watching());
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
    const given = error.name === "AbortError";
    if (!given || hasLast() || !stage.giveUp()) putBack();
    if (given) toast("Cancelled");
    else fail(error, paint);
  }
}

function watching() {
  const heard = quarters(say);
  return {
    shared: (others) => stage.shared(others),
    progress(state) {
      stage.progress(state);
      heard(state);
    },
  };
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

function hasLast() {
  return Boolean(history.current && history.paintings.includes(history.current));
}

/** What hung there before, or nothing. */
function putBack() {
  if (hasLast()) stage.hang(history.current);
  else stage.clear();
}

// --- what goes wrong

/** Say it at the field at fault, or above the button. */
function fail(error, again) {
  const said = error instanceof Refused ? error.message : "The gateway can’t be reached";
  if (error.param && form.blame(error.param, sentence(said.replace(/^[\w[\].]+: /, "")))) return say(said);
  const after = error.after ? ` Try again in ${Math.ceil(error.after)} s.` : "";
  complain(`${sentence(said)}${after}`, again, error.id);
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function complain(text, again, id) {
  const place = byId("wrong");
  place.replaceChildren(
    h("p", {}, text, id && h("span", { class: "note" }, ` Request ${id}.`)),
    h("button", { type: "button", class: "quiet", onclick: () => again() }, "Try again"),
  );
  show(place, true);
}

/** Without a catalogue there is nothing to do but to ask again: that stays. */
function hush() {
  if (bundles.length) show(byId("wrong"), false);
}

// --- the plate's actions

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
byId("more").querySelector("summary").addEventListener("click", () => {
  byId("more").addEventListener("toggle", () => byId("more").scrollIntoView({ block: "nearest" }), { once: true });
});
byId("lock").addEventListener("click", () => {
  api.key = null;
  location.reload();
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("paint-keys").textContent = "⌘ ↵";

colours();
load();
