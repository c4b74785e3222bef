import { Refused } from "./api.js";

/**
 * Follow a painting, as Api.paint tells it, to its end: {pictures: [{url, seed}], warnings}. Meanwhile
 * `shared(others)` and `progress({step, steps, place, source})` are called. Raises Refused.
 */
export async function followed(told, { shared, progress }) {
  const pictures = [];
  const warnings = new Set();
  for await (const { event, data, comment } of told) {
    const others = /^others (\d+)/.exec(comment ?? "");
    if (others) shared(Number(others[1]));
    if (comment !== undefined) continue;
    if (event === "error") throw new Refused(data.status, data.error);
    if (/(partial_image|progress)$/.test(event)) {
      const source = data.b64_json && asUrl(data);
      progress({ step: data.step, steps: data.steps, place: data.index ?? 0, source });
    }
    if (/completed$/.test(event)) {
      pictures.push({ url: asUrl(data), seed: String(data.seed ?? "") });
      data.warnings?.forEach((warning) => warnings.add(warning));
    }
  }
  if (!pictures.length) throw new Refused(502, { message: "the gateway’s answer ended without a picture" });
  return { pictures, warnings: [...warnings] };
}

function asUrl({ b64_json: text, output_format: format }) {
  return `data:image/${format};base64,${text}`;
}

/** Says to screen readers how far a painting is, four times in all: each step would be too much. */
export function quarters(say) {
  let said = 0;
  return ({ step, steps }) => {
    const now = steps ? Math.floor((4 * step) / steps) : 0;
    if (now > said) say(`Step ${step} of ${steps}`);
    said = Math.max(said, now);
  };
}

/** The file that a data: URL holds. Decoded here: the page's policy lets fetch() read nothing but the gateway. */
export function fileOf(url, name) {
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (one) => one.charCodeAt(0));
  return new File([bytes], name, { type: `image/${formatOf(url)}` });
}

/** What one of a painting's pictures is called as a file. */
export function nameOf({ pictures }, place) {
  const { seed, url } = pictures[place];
  return `impasto${seed === "" ? "" : `-${seed}`}.${formatOf(url).replace("jpeg", "jpg")}`;
}

function formatOf(url) {
  return url.slice("data:image/".length, url.indexOf(";"));
}
