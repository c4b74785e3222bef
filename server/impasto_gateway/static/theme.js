// Light or dark, chosen before anything is drawn. Without a choice the system decides.
(function () {
  "use strict";
  let chosen = null;
  try {
    chosen = localStorage.getItem("impasto.theme");
  } catch { /* storage may be forbidden; the system's theme will do */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
