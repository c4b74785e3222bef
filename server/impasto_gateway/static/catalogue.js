// What the gateway lists, as the page uses it. Fields are in lower case, as requests spell them.

/**
 * The bundles of GET /v1/models, the default first. Aliases of adapters (`bundle:adapter`) are for clients that know
 * only `model`; here styles are clicked.
 */
export function bundlesOf(models) {
  const own = models.filter((one) => !one.parent);
  const bundles = own.map((one) => ({
    ...one,
    rules: one.rules.map(rule),
    fields: new Set(one.fields.map((name) => name.toLowerCase())),
  }));
  return bundles.sort((one, other) => Boolean(other.default) - Boolean(one.default));
}

function rule({ name, strengths }) {
  return { name, strengths: strengths.map((one) => ({ ...one, field: one.field.toLowerCase() })) };
}

/** The styles that fit a bundle. A delta can be used only in mixes that the operator has pinned. */
export function fitting(adapters, bundle) {
  return adapters.filter((one) => one.kind !== "delta" && (one.fits ?? []).includes(bundle.id));
}

/** Whether it paints photos and nothing else. */
export function paintsPhotos(bundle) {
  return bundle.family === "feedforward";
}

/** Whether it can begin from a photo. */
export function takesPhotos(bundle) {
  return paintsPhotos(bundle) || bundle.fields.has("image");
}

/** Widths and heights to choose from: shapes of the bundle's own area, and larger squares while there is room. */
export function sizesOf({ size }) {
  const { width, height, multiple_of: step, max_pixels: most } = size;
  const fit = (value) => Math.max(step, Math.round(value / step) * step);
  const side = Math.sqrt(width * height);
  const shapes = [
    [width, height, ""],
    [fit(side * 1.25), fit(side * 0.75), "wide"],
    [fit(side * 0.75), fit(side * 1.25), "tall"],
    [fit(width * 1.5), fit(height * 1.5), "large"],
    [fit(width * 2), fit(height * 2), "huge"],
  ];
  return shapes.filter(([w, h]) => w * h <= most).map(([w, h, label]) => ({ width: w, height: h, label }));
}
