import { byId, h, show } from "./h.js";

const KEY = "impasto.history";
const MOST = 60;

/**
 * The paintings of this session, the newest first, kept in the tab. A painting is
 * {settings, pictures: [{url, seed}], width, height, seconds, warnings, model, photoName}; url is a data: URL.
 */
export class History {
  constructor(open) {
    this.open = open;
    this.paintings = kept();
    byId("clear").addEventListener("click", () => {
      this.paintings = [];
      this.changed();
    });
    this.draw();
  }

  add(painting) {
    this.paintings = [painting, ...this.paintings].slice(0, MOST);
    this.current = painting;
    this.changed();
  }

  /** Mark the one that hangs on the wall. */
  show(painting) {
    this.current = painting;
    this.draw();
  }

  changed() {
    keep(this.paintings);
    this.draw();
  }

  draw() {
    const count = this.paintings.length;
    show(byId("history"), count > 0);
    byId("history-count").textContent = count === 1 ? "1 painting" : `${count} paintings`;
    byId("strip").replaceChildren(...this.paintings.map((one) => h("li", {}, this.thumb(one))));
  }

  thumb(painting) {
    const { settings, pictures, photoName } = painting;
    const mix = Object.keys(settings.styles).join(", ");
    const what = `${settings.prompt || photoName}${mix && `, ${mix}`}${pictures[0].seed !== "" ? `, seed ${pictures[0].seed}` : ""}`;
    const button = h(
      "button",
      {
        type: "button",
        class: "thumb",
        title: what,
        "aria-label": `Show and load: ${what}`,
        "aria-current": painting === this.current ? "true" : null,
        onclick: () => {
          this.show(painting);
          this.open(painting);
          byId("strip").querySelector("[aria-current]")?.focus({ preventScroll: true });
        },
      },
      h("img", { src: pictures[0].url, alt: "", loading: "lazy", draggable: "false" }),
      pictures.length > 1 && h("span", { class: "several" }, String(pictures.length)),
    );
    return button;
  }
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}

/** A tab has a few megabytes: the oldest are forgotten first. */
function keep(paintings) {
  for (let count = paintings.length; count >= 0; count = count > 1 ? Math.floor(count * 0.7) : count - 1) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(paintings.slice(0, count)));
      return;
    } catch { /* too many */ }
  }
}
