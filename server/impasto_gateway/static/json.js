// Seeds have 63 bits and numbers here have 53: they stay text from the answer to the next request.

/** JSON whose whole numbers of 16 digits and more become text. */
export function parsed(text) {
  return JSON.parse(text.replace(/("(?:seed|noise_seed)"\s*:\s*)(\d{16,})/g, '$1"$2"'));
}

/** JSON of an object in which `seed` is text made of digits. */
export function written({ seed, ...rest }, indent = 0) {
  const text = JSON.stringify(rest, null, indent);
  if (seed === undefined || seed === "") return text;
  const digits = /^\d+$/.test(seed) ? seed : JSON.stringify(seed);
  return rest && Object.keys(rest).length ? text.replace("{", `{"seed": ${digits},`) : `{"seed": ${digits}}`;
}
