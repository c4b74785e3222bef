import { byId } from "./h.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

/** The button that switches between light and dark; theme.js has set what was chosen before. */
export function colours() {
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = other();
    try {
      localStorage.setItem("impasto.theme", root.dataset.theme);
    } catch { /* until the page is closed */ }
    label();
  });
  dark.addEventListener("change", label);
  label();
}

function other() {
  return (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
}

function label() {
  byId("theme").setAttribute("aria-label", `Switch to ${other()} colours`);
  byId("theme").title = `Switch to ${other()} colours`;
}
