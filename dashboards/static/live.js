"use strict";
// Keeps an open page up to date: the server says that files have changed, the page asks for itself again and replaces
// the parts that differ. Without this script all pages work; they are then as old as their last reload.
document.documentElement.classList.add("script");
const LEAST_MS = 2000;
let asked = 0, waiting = null, busy = false;

function load(root) {
  for (const place of root.querySelectorAll("[data-load]")) {
    const address = place.dataset.load;
    place.removeAttribute("data-load");
    place.innerHTML = '<p class="missing">Drawing …</p>';
    fetch(address).then((answer) => answer.text()).then((text) => { place.innerHTML = text; })
      .catch(() => { place.innerHTML = '<p class="missing">The server does not answer.</p>'; });
  }
}

function replace(fresh) {
  for (const part of document.querySelectorAll("[data-part]")) {
    const next = fresh.getElementById(part.id);
    if (!next || next.innerHTML === part.dataset.text) continue;
    const text = next.innerHTML;
    if (part.dataset.text === undefined && text === part.innerHTML) { part.dataset.text = text; continue; }
    const chosen = [...part.querySelectorAll("input:checked")].map((box) => box.id);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const [left, top] = [part.scrollLeft, part.scrollTop];
    part.innerHTML = text;
    part.dataset.text = text;
    for (const id of chosen) { const box = document.getElementById(id); if (box) box.checked = true; }
    if (focused) document.getElementById(focused)?.focus();
    part.scrollLeft = left; part.scrollTop = top;
  }
  document.dispatchEvent(new Event("replaced"));
}

async function refresh() {
  waiting = null;
  if (busy || document.hidden) { later(); return; }
  busy = true;
  asked = Date.now();
  try {
    const answer = await fetch(location.href);
    if (answer.ok) {
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    }
  } catch { /* the server has ended; the stream reconnects when it is back */ }
  busy = false;
  if (document.getElementById("reading")) later(300);
}

function later(least = LEAST_MS) {
  if (waiting === null) waiting = setTimeout(refresh, Math.max(150, asked + least - Date.now()));
}

document.addEventListener("change", (event) => { if (event.target.matches(".choose select")) event.target.form.submit(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) later(); });
load(document);
const live = document.body.dataset.live;
if (live) {
  const news = new EventSource("/-/events" + (live === "/" ? "" : "?of=" + encodeURIComponent(live)));
  news.addEventListener("change", () => later());
  addEventListener("pagehide", () => news.close());
}
if (document.getElementById("reading")) later(300);
