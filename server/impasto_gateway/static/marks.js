// The settings that a picture's marks hold: impasto's own JSON, or `parameters` as A1111 and its kin write them.

import { parsed } from "./json.js";
import { texts } from "./png.js";

// What has a place of its own in the settings; a photo that was painted over isn't in the picture.
const APART = new Set(["prompt", "seed", "width", "height", "n", "model", "adapters", "style", "image", "preview_every"]);
const LONGEST = 16 << 10; // characters of the line that has the numbers

// What the page can't send again; a picture is painted without it.
const LOST = { base_image: "enlarging", depth: "its depth map", masks: "its masks", style_images: "pictures as styles" };

/**
 * Settings as request.js has them, as far as the picture says; null if it says nothing. `photo` is there where it was
 * painted from a picture, with that one's sha256 as `digest` if it is known; `lost` is what can't be had here.
 */
export async function settingsOf(file) {
  const found = await texts(file);
  try {
    if (found.has("impasto")) return ours(parsed(found.get("impasto")));
  } catch { /* not ours, or damaged: the other text may still be read */ }
  return found.has("parameters") ? theirs(found.get("parameters")) : null;
}

function ours({ request, seed, bundle, adapters, settings }) {
  const more = Object.entries(request).filter(
    ([name, value]) => !APART.has(name) && ["string", "number", "boolean"].includes(typeof value),
  );
  return {
    model: bundle,
    prompt: request.prompt ?? "",
    seed: String(seed ?? ""),
    width: settings?.width ?? request.width,
    height: settings?.height ?? request.height,
    n: 1,
    styles: Object.fromEntries(adapters.map(({ name, weight }) => [name, weight ?? 1])),
    more: Object.fromEntries(more),
    photo: request.image && { digest: request.image.sha256 },
    lost: Object.keys(LOST).filter((name) => request[name]).map((name) => LOST[name]),
  };
}

/** The last line has the numbers; what stands before it is the prompt, and behind "Negative prompt:" the other one. */
export function theirs(text) {
  const lines = text.trim().split("\n");
  const end = lines.at(-1);
  const last = end.length <= LONGEST && /(^|, )Steps: /.test(`, ${end}`) ? lines.pop() : "";
  const [before, negative = ""] = lines.join("\n").split(/^Negative prompt: /m);
  const said = pairs(last);
  const styles = {};
  const prompt = before.replace(/\s{0,9}<lora:([^:<>][^<>]{0,255})>/g, (_, said) => {
    const [name, weight] = said.split(":");
    styles[name] = Number.isFinite(parseFloat(weight)) ? parseFloat(weight) : 1;
    return "";
  });
  const [width, height] = (said.get("Size") ?? "").split("x").map(Number);
  for (const one of (said.get("Styles") ?? "").split(", ").filter(Boolean)) {
    const [name, weight] = one.split(": ");
    styles[name] = Number(weight) || 1;
  }
  const more = { negative_prompt: negative.trim(), steps: said.get("Steps"), guidance_scale: said.get("CFG scale") };
  const strength = [...said.keys()].some((name) => name.startsWith("Hires")) ? undefined : said.get("Denoising strength");
  return {
    model: said.get("Model"),
    prompt: prompt.trim(),
    seed: said.get("Seed") ?? "",
    width: width || undefined,
    height: height || undefined,
    n: 1,
    styles,
    more: Object.fromEntries(
      Object.entries({ ...more, strength, scheduler: sampler(said.get("Sampler")) }).filter(([, value]) => value),
    ),
    photo: strength || said.has("Styles") ? {} : null,
  };
}

/** Keys and values. What begins behind a comma is tried once, so that no line takes long. */
function pairs(line) {
  const found = new Map();
  const pair = /\s*(\w[\w \-/]*): ("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)/y;
  for (let at = 0; at < line.length; ) {
    pair.lastIndex = at;
    const [whole, name, value] = pair.exec(line) ?? [];
    if (name) found.set(name, unquoted(value.trim()));
    at = whole === undefined ? line.indexOf(",", at) + 1 || line.length : at + whole.length;
  }
  return found;
}

function unquoted(value) {
  try {
    return value.startsWith('"') ? String(JSON.parse(value)) : value;
  } catch {
    return value;
  }
}

/** Another program's name of a sampler, where it means one of ours. */
function sampler(name = "") {
  const known = { "dpm++ 2m": "dpmpp_2m", "euler a": "euler_a", ddim: "ddim", euler: "euler", lcm: "lcm", unipc: "unipc" };
  const plain = name.toLowerCase().replace(/ karras$/, "");
  return known[plain] ?? (Object.values(known).includes(name) ? name : "");
}
