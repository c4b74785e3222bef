// From what is set on the page to what is sent, to a curl command and to a link; and from a link back.
//
// Settings: {model, prompt, styles: {name: weight}, seed, width, height, n, more: {field: value}}; seed is text. Where
// they are loaded, `photo` ({name} or {digest}) says that a picture belongs to them.

import { written } from "./json.js";
import { paintsPhotos } from "./catalogue.js";

const PREVIEWS = 3;
const MIME = "application/json";

/** The fields of a request. `adapters` has each style's adapter by its name. */
export function wireOf(settings, bundle, adapters) {
  const chosen = Object.keys(settings.styles).map((name) => adapters.get(name)).filter(Boolean);
  const photos = paintsPhotos(bundle);
  const words = chosen.filter((one) => one.kind === "embedding");
  const weighted = chosen.filter((one) => one.kind !== "embedding");
  const rule = settings.more.guidance ?? bundle.rules[0]?.name ?? "";
  const wire = { model: bundle.id, ...settings.more };
  if (wire.format) wire.output_format = wire.format;
  delete wire.format;
  if (!photos) {
    Object.assign(wire, { prompt: settings.prompt, n: settings.n, size: `${settings.width}x${settings.height}` });
    if (settings.seed !== "") wire.seed = settings.seed;
  }
  const weights = Object.fromEntries(weighted.map(({ name }) => [name, settings.styles[name]]));
  if (photos) return weighted.length ? { ...wire, style: weights } : wire;
  if (rule.startsWith("styledrop")) return dropped(wire, weights);
  return { ...wire, ...spoken(words, settings.prompt), ...adapted(weights) };
}

/** Embeddings: the server writes their words into the prompt. Several share the stages, the first the finest. */
function spoken(words, prompt) {
  const unsaid = words.filter(({ name, trigger }) => !prompt.includes(trigger || `<${name}>`));
  if (unsaid.length < 2) return unsaid.length ? { style: unsaid[0].name } : {};
  const stages = Math.max(unsaid.length, ...unsaid.map((one) => one.stages || 1));
  return { style: Array.from({ length: stages }, (_, at) => unsaid[Math.floor((at * unsaid.length) / stages)].name) };
}

function adapted(weights) {
  return Object.keys(weights).length ? { adapters: weights } : {};
}

/** StyleDrop's guidance has one style, the first that was picked. */
function dropped(wire, weights) {
  const [style, ...rest] = Object.keys(weights);
  if (!style) return wire;
  return { ...wire, style, ...adapted(Object.fromEntries(rest.map((name) => [name, weights[name]]))) };
}

/** What fetch() needs: JSON, or a form with the photo in it. */
export function requestOf(wire, photo) {
  const whole = { ...wire, stream: true, ...(wire.prompt !== undefined && { partial_images: PREVIEWS, progress: true }) };
  if (!photo) return { path: "v1/images/generations", headers: { "content-type": MIME }, body: written(whole) };
  const form = new FormData();
  for (const [name, value] of Object.entries(whole)) form.append(name, asText(value));
  form.append("image", photo, photo.name || "photo.png");
  return { path: "v1/images/edits", headers: {}, body: form };
}

function asText(value) {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A command that paints the same picture. */
export function curlOf(wire, photo, { base, keyed }) {
  const key = keyed ? ['-H "authorization: Bearer $IMPASTO_KEY"'] : [];
  const parts = photo
    ? [
        `${base}v1/images/edits`,
        ...key,
        `-F image=@${quoted(photo.name || "photo.png")}`,
        ...Object.entries(wire).map(([name, value]) => `--form-string ${quoted(`${name}=${asText(value)}`)}`),
      ]
    : [`${base}v1/images/generations`, ...key, `-H 'content-type: ${MIME}'`, `-d ${quoted(written(wire))}`];
  const file = `picture.${wire.output_format === "jpeg" ? "jpg" : (wire.output_format ?? "png")}`;
  return `curl -fsS ${parts.join(" \\\n  ")} \\\n  | jq -r '.data[0].b64_json' | base64 -d > ${file}`;
}

/** For a shell: a quote in the middle ends the text, stands for itself and begins it again. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** An address that opens the page with these settings. What stands behind # is never sent to a server. */
export function linkOf(settings, base) {
  const { more, styles, ...plain } = settings;
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(plain)) if (value !== "") said.set(name, value);
  for (const [name, weight] of Object.entries(styles)) said.append("style", `${name}:${weight}`);
  for (const [name, value] of Object.entries(more)) said.set(name, value);
  return `${base}#${said}`;
}

const PLAIN = ["model", "prompt", "seed", "width", "height", "n", "photo"];
const WHOLE = new Set(["width", "height", "n"]);

/** The settings that an address holds, or null. */
export function settingsOfLink(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  if (![...PLAIN, "style"].some((name) => said.has(name))) return null;
  const settings = { styles: {}, more: {} };
  for (const [name, value] of said) {
    if (name === "style") {
      const at = value.lastIndexOf(":");
      const weight = Number(value.slice(at + 1));
      settings.styles[at > 0 ? value.slice(0, at) : value] = at > 0 && Number.isFinite(weight) ? weight : 1;
    } else if (name === "photo") settings.photo = { name: value };
    else if (PLAIN.includes(name)) settings[name] = WHOLE.has(name) ? Number(value) : value;
    else settings.more[name] = value;
  }
  return settings;
}
