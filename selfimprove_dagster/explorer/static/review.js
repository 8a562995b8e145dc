// Handles the keys that answer an item, and the token in the address. Without this script, buttons and fields work.
"use strict";
(() => {
  const entry = document.getElementById("entry");
  const token = location.hash.slice(1);
  if (token && location.hash !== "#main") history.replaceState(null, "", location.pathname + location.search);
  if (entry) {
    if (!token) return;
    entry.elements.token.value = token;
    if (entry.elements.by.value && !("problem" in entry.dataset)) entry.requestSubmit();
    else entry.elements.by.focus();
    return;
  }

  const form = document.getElementById("answer");
  if (!form) return;
  const keys = document.getElementById("keys");
  document.getElementById("keys-choice").hidden = false;
  keys.checked = localStorage.getItem("review-keys") !== "off";
  keys.addEventListener("change", () => localStorage.setItem("review-keys", keys.checked ? "on" : "off"));

  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault(); // a second key or click while the first answer is on its way
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });

  document.addEventListener("keydown", (event) => {
    if (!keys.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("textarea, select, input:not([type=checkbox])")) return;
    const choice = form.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!choice) return;
    event.preventDefault();
    choice.click();
  });
})();
