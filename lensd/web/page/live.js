// Keeps the first page up to date: what happens now, the savings, and the table of files.
"use strict";

const CONTROLS = ["search", "folder", "family", "outcome"];
const TYPING_MS = 150;

// Replaces what an element contains; the focus, the cursor and open details stay.
function replaceInside(parent, html) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const cursor = focused?.id === "search" ? [focused.value, focused.selectionStart] : null;
  parent.innerHTML = html; // by the server's templates, which escape every value
  if (!focused) return;
  const again = focused.id ? byId(focused.id) : parent.querySelector(`[href="${CSS.escape(focused.getAttribute("href") ?? "")}"]`);
  again?.focus({ preventScroll: true });
  if (cursor && again) {
    again.value = cursor[0]; // typed since the request
    again.setSelectionRange(cursor[1], cursor[1]);
  }
}

let asking = 0; // only the newest answer counts

async function showTable(address) {
  const mine = (asking += 1);
  const answer = await fetch(`/table?${address}`).catch(() => null);
  if (!answer?.ok || mine !== asking) return;
  replaceInside(byId("files-table"), await answer.text());
  history.replaceState(null, "", `/?${address}`);
}

const present = () => location.search.slice(1);

function controlsAddress() {
  const given = [...new FormData(byId("controls"))].filter(([, value]) => value !== "");
  return new URLSearchParams(given).toString();
}

async function showSavings() {
  const answer = await fetch("/savings").catch(() => null);
  if (!answer?.ok) return;
  const days = await answer.json();
  byId("savings-section").hidden = !days.length;
  if (days.length) drawSavings(days);
}

function follow() {
  const events = new EventSource("/events");
  events.addEventListener("open", () => (byId("lost").hidden = true));
  events.addEventListener("error", () => (byId("lost").hidden = false));
  events.addEventListener("now", (event) => {
    const html = JSON.parse(event.data);
    if (html) replaceInside(byId("now"), html);
    else location.reload(); // the ledger is gone
  });
  events.addEventListener("table", () => {
    showTable(present());
    showSavings();
  });
  addEventListener("pagehide", () => events.close());
}

let typing = 0;
byId("files-table").addEventListener("input", (event) => {
  if (!CONTROLS.includes(event.target.id)) return;
  clearTimeout(typing);
  typing = setTimeout(() => showTable(controlsAddress()), event.target.id === "search" ? TYPING_MS : 0);
});
byId("files-table").addEventListener("submit", (event) => event.preventDefault());
byId("files-table").addEventListener("click", (event) => {
  const link = event.target.closest("#heads a, .pages a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showTable(new URL(link.href).search.slice(1));
  if (link.closest(".pages")) byId("files").scrollIntoView();
});

redrawOnChanges();
follow();
