import { byId, h, show } from "./h.js";

/** Ask for a key; null from somebody who has none. `why` is what the gateway said of the last one. */
export function askKey(why) {
  const dialog = byId("ask");
  byId("wrong-key").textContent = why;
  show(byId("wrong-key"), Boolean(why));
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  byId("ask-no").onclick = () => dialog.close("");
  byId("ask-form").onsubmit = () => dialog.close("key");
  return new Promise((resolve) => {
    dialog.onclose = () => resolve((dialog.returnValue && byId("key").value.trim()) || null);
  });
}

let fading = 0;

/** Whether a painted picture is wanted for its settings ("settings") or for itself ("picture"); "" for neither. */
export function askUse(name) {
  const dialog = byId("which");
  byId("which-file").textContent = name || "It";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue);
  });
}

/** A short message, which goes away by itself. */
export function toast(text) {
  clearTimeout(fading);
  const place = byId("toast");
  place.textContent = text;
  say(text); // what was hidden a moment ago is no place that screen readers listen to
  show(place, true);
  fading = setTimeout(() => show(place, false), 4000);
}

/** Say it to screen readers. */
export function say(text) {
  byId("said").textContent = text;
}

/** To the clipboard; where that isn't allowed, as without https, into a box to copy from. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    byId("copy-text").value = text;
    byId("copy").showModal();
    byId("copy-text").select();
  }
}

/** Save a data: URL under a name. */
export function save(url, name) {
  h("a", { href: url, download: name }).click();
}
