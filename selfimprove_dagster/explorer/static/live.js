// Renews the state of an experiment at work, with its charts, every few seconds; once it has ended, the whole page.
"use strict";
(() => {
  const seconds = 3;
  const atWork = (part) => ["running", "waiting"].includes(part.dataset.state);

  const renew = async () => {
    const before = document.getElementById("live");
    let after;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.ok) after = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    } catch {
      // The server is gone for a moment, or for good: try again.
    }
    if (after && !atWork(after)) return location.reload();
    // What is focused would lose the focus.
    if (after && !before.contains(document.activeElement)) {
      before.replaceWith(after);
      dispatchEvent(new Event("renewed"));
    }
    setTimeout(renew, 1000 * seconds);
  };

  if (atWork(document.getElementById("live"))) setTimeout(renew, 1000 * seconds);
})();
