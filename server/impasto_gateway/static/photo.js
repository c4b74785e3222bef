import { byId, show } from "./h.js";
import { settingsOf } from "./marks.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

/** The photo to paint over: chosen, dropped or pasted. A painted picture brings its settings instead. */
export class Photo {
  /** `changed()` after each change; `settings(found, file)` for a picture that brings some; `wrong(why)`. */
  constructor({ changed, settings, wrong }) {
    Object.assign(this, { changed, settings, wrong, file: null });
    byId("choose").addEventListener("click", () => byId("photo").click());
    byId("photo").addEventListener("change", ({ target }) => {
      if (target.files[0]) this.set(target.files[0]);
      target.value = "";
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
      if (file) this.take(file);
    });
  }

  async take(file) {
    if (!file || !KINDS.includes(file.type)) return this.wrong("This is no PNG, JPEG or WebP.");
    const found = await settingsOf(file);
    if (found) this.settings(found, file);
    else this.set(file);
  }

  set(file) {
    if (file && !KINDS.includes(file.type)) return this.wrong("This is no PNG, JPEG or WebP.");
    this.file = file;
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
