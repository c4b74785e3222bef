// The settings behind "More settings": what a row of the catalogue looks like on the page. Empty means the default.

const ROWS = [
  { name: "negative_prompt", label: "Not in the picture", kind: "text", wide: true },
  { name: "steps", label: "Steps", kind: "number", low: 1, high: 200, step: 1 },
  { name: "scheduler", label: "Sampler", kind: "choice" },
  { name: "guidance", label: "Guidance", kind: "choice", wide: true },
  { name: "guidance_ramp", label: "Let guidance rise", kind: "flag" },
  { name: "content", label: "Content adapter", kind: "choice", rule: "styledrop-compose" },
  { name: "content_prompt", label: "Prompt of the content", kind: "text", wide: true, rule: "styledrop-compose" },
  { name: "temperature", label: "Temperature", kind: "number", low: 0, high: 100, step: 0.1 },
  { name: "strength", label: "Strength", kind: "number", low: 0, high: 1, step: 0.05, photo: true },
  { name: "control_scale", label: "Follow edges", kind: "number", low: 0, high: 2, step: 0.1, photo: true },
  { name: "detail", label: "Detail", kind: "number", low: 0, high: 8, step: 0.1 },
  { name: "long_side", label: "Longer side", kind: "number", low: 1, high: 16384, step: 1 },
  { name: "preserve_color", label: "Keep the photo’s colours", kind: "flag" },
  { name: "upscale_steps", label: "Upscaling steps", kind: "number", low: 0, high: 200, step: 1, stage: "upscale" },
  { name: "upscale_temperature", label: "Its temperature", kind: "number", low: 0, high: 100, step: 0.1, stage: "upscale" },
  { name: "upscale_guidance_scale", label: "Its guidance", kind: "number", low: 0, high: 50, step: 0.1, stage: "upscale" },
  { name: "format", label: "File", kind: "choice" },
];

/** What each strength of a guidance rule is called. */
const STRENGTHS = {
  guidance_scale: "Guidance scale",
  style_guidance: "Style guidance",
  content_guidance: "Content guidance",
  style_strength: "Style strength",
  text_strength: "Text strength",
  gamma: "Gamma",
};

const RULES = {
  cfg: "Prompt",
  dreamstyler: "Style and content (DreamStyler)",
  "dreamstyler-code": "Style and content, as its code",
  styledrop: "By the style (StyleDrop)",
  "styledrop-compose": "Style and content (Compose)",
};

/**
 * The rows for a bundle, under a guidance rule ("" is the default), with or without a photo. A strength of the rule
 * stands right behind it.
 */
export function rowsFor(bundle, { guidance, photo, adapters }) {
  const rule = bundle.rules.find((one) => one.name === guidance) ?? bundle.rules[0];
  const shown = ROWS.filter(
    (row) =>
      bundle.fields.has(row.name) &&
      (!row.rule || row.rule === rule?.name) &&
      (!row.photo || photo) &&
      (!row.stage || bundle.stages.includes(row.stage)) &&
      (row.name !== "control_scale" || bundle.control.length > 0) &&
      (row.name !== "guidance" || bundle.rules.length > 1),
  );
  return shown.flatMap((row) => [filled(row, bundle, adapters), ...(row.name === "guidance" ? strengths(rule) : [])]);
}

/** With the bundle's default and what there is to choose from, which begins with the default. */
function filled(row, bundle, adapters) {
  const usual = { guidance: bundle.rules[0]?.name, format: "png", ...bundle.defaults }[row.name];
  const options = {
    scheduler: bundle.samplers.map((name) => [name, name]),
    guidance: bundle.rules.map(({ name }) => [name, RULES[name] ?? name]),
    content: adapters.map(({ name }) => [name, name]),
    format: [["png", "PNG"], ["jpeg", "JPEG"], ["webp", "WebP"]],
  };
  return { ...row, usual, options: options[row.name] };
}

function strengths(rule) {
  return (rule?.strengths ?? []).map(({ field, default: usual, low, high }) => ({
    name: field,
    label: STRENGTHS[field] ?? words(field),
    kind: "number",
    low,
    high,
    step: high - low > 2 ? 0.1 : 0.05,
    usual,
  }));
}

/** A field's name as a label. */
export function words(name) {
  const said = name.replaceAll("_", " ");
  return said[0].toUpperCase() + said.slice(1);
}
