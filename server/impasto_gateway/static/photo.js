import { askUse, toast } from "./dialogs.js";
import { byId, show } from "./h.js";
import { settingsOf } from "./marks.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

/**
 * The photo to paint over: chosen, dropped or pasted. A painted picture can bring its settings instead: one that is
 * dropped does, and of others it is asked. `wanted` is {name, digest} of a picture that loaded settings need, or null.
 */
export class Photo {
  /**
   * `changed()` after each change; `settings(found, file)` for a picture that brings some; `wrong(why)`; `takes()` says
   * whether a picture is of any use here.
   */
  constructor({ changed, settings, wrong, takes }) {
    Object.assign(this, { changed, settings, wrong, takes, file: null, wanted: null });
    picking(byId("choose"), byId("photo"), (file) => this.take(file, { asking: true }));
    picking(byId("load"), byId("painted"), (file) => this.load(file));
    byId("without").addEventListener("click", () => {
      this.expect(null);
      this.changed();
      byId("choose").focus();
    });
    byId("photo-away").addEventListener("click", () => {
      this.set(null);
      byId("choose").focus();
    });
    byId("photo-picture").addEventListener("error", () => {
      if (!this.file) return;
      this.set(null);
      this.wrong("This picture can’t be read: it is damaged, or of another format than its name says.");
    });
    this.listen();
  }

  listen() {
    let depth = 0; // enter and leave come for each element that the pointer crosses
    const over = (step) => show(byId("dropping"), (depth = step && Math.max(0, depth + step)) > 0);
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => holdsFile(event) && over(1));
    addEventListener("dragleave", (event) => holdsFile(event) && over(-1));
    addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      over(0);
      if (!holdsFile(event)) return;
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => KINDS.includes(type));
      if (file && !document.querySelector("dialog[open]")) this.take(file, { asking: true });
    });
  }

  /** A file as what it is, a photo or settings. Of a picture that could be both it is asked, if `asking`. */
  async take(file, { asking } = {}) {
    if (!file || !KINDS.includes(file.type)) return this.wrong("This is no PNG, JPEG or WebP.");
    const [found, digest] = await Promise.all([settingsOf(file), digestOf(file)]);
    const expected = this.wanted?.digest && this.wanted.digest === digest;
    if (found && !expected) {
      const use = (asking || this.wanted) && this.takes() ? await askUse(file.name) : "settings";
      if (use === "settings") return this.settings(found, file);
      if (use !== "picture") return;
    }
    const another = this.wanted?.digest && digest && !expected;
    this.set(file, digest);
    if (another) toast("This isn’t the picture that it was painted from: another one will come of it");
  }

  /** The settings of a file, and nothing else. */
  async load(file) {
    const found = await settingsOf(file);
    if (found) this.settings(found, file);
    else toast(`${file.name} has no settings in it`);
  }

  /** Settings were loaded that need this picture, or none: another one that is here would make another painting. */
  expect(wanted) {
    const { name, digest } = wanted ?? {};
    const here = this.file && wanted && (digest ? digest === this.digest : !name || name === this.file.name);
    if (this.file && !here) this.set(null);
    this.wanted = wanted && !here ? wanted : null;
    byId("missing-name").textContent = name ? `It was called ${name}.` : "";
    show(byId("missing"), Boolean(this.wanted));
  }

  set(file, digest = null) {
    if (file && !KINDS.includes(file.type)) return this.wrong("This is no PNG, JPEG or WebP.");
    this.file = file;
    this.digest = digest;
    if (file) {
      this.wanted = null;
      show(byId("missing"), false);
    }
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = file && URL.createObjectURL(file);
    show(byId("photo-shown"), Boolean(file));
    show(byId("choose"), !file);
    if (file) {
      byId("photo-picture").src = this.url;
      byId("photo-name").textContent = file.name || "Photo";
    }
    this.changed();
  }

  /** Its width and height in pixels, as far as they are known. */
  get size() {
    const { naturalWidth: width, naturalHeight: height } = byId("photo-picture");
    return width ? { width, height } : { width: 1, height: 1 };
  }
}

function picking(button, input, picked) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const file = input.files[0];
    input.value = ""; // so that the same file can be picked again
    if (file) picked(file);
  });
}

/** sha256 in hex, as marks have it; null where browsers don't compute it, that is without https. */
async function digestOf(file) {
  if (!crypto.subtle) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return [...bytes].map((one) => one.toString(16).padStart(2, "0")).join("");
}
