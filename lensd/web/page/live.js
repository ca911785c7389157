// Keeps the first page up to date: what happens now, the savings, and the table of files.
"use strict";

const TYPING_MS = 150;

// Makes the inside of an element as the HTML says. What is equal stays, so that focus, cursor, a
// half-made click and open details stay too.
function update(parent, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html; // by the server's templates, which escape every value
  updateChildren(parent, fresh.content);
}

function updateChildren(old, fresh) {
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((node, at) => {
    if (at >= before.length) old.append(node);
    else if (before[at].nodeName !== node.nodeName || before[at].id !== node.id) before[at].replaceWith(node);
    else updateNode(before[at], node);
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function updateNode(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  updateChildren(old, fresh);
}

let asking = 0; // only the newest answer counts

async function showTable(address) {
  const mine = (asking += 1);
  history.replaceState(null, "", `/?${address}`); // before the answer: an event may ask again
  const answer = await fetch(`/table?${address}`).catch(() => null);
  if (!answer?.ok || mine !== asking) return;
  update(byId("files-table"), await answer.text());
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

const AGAIN_MS = 2000;
let events = null; // while the page can be seen: a browser opens only six connections to a server
let again = 0;

function follow() {
  clearTimeout(again);
  if (events || document.hidden) return;
  events = new EventSource("/events");
  events.addEventListener("open", () => (byId("lost").hidden = true));
  events.addEventListener("error", () => {
    byId("lost").hidden = false;
    if (events?.readyState !== EventSource.CLOSED) return; // else the browser tries again
    unfollow();
    again = setTimeout(followAgain, AGAIN_MS);
  });
  events.addEventListener("now", (event) => {
    const html = JSON.parse(event.data);
    if (html) update(byId("now"), html);
    else location.reload(); // the ledger is gone
  });
  events.addEventListener("table", () => {
    showTable(present());
    showSavings();
  });
}

function unfollow() {
  clearTimeout(again);
  events?.close();
  events = null;
}

// After an answer that is no stream of events, e.g. of a proxy while `lensd web` starts again.
async function followAgain() {
  const answer = await fetch("/savings").catch(() => null);
  if (answer?.status === 401) location.reload(); // to sign in
  else follow();
}

let typing = 0;
byId("files-table").addEventListener("input", (event) => {
  if (event.target.id !== "search") return;
  clearTimeout(typing);
  typing = setTimeout(() => showTable(controlsAddress()), TYPING_MS);
});
byId("files-table").addEventListener("change", (event) => {
  if (event.target.closest("select")) showTable(controlsAddress());
});
byId("files-table").addEventListener("submit", (event) => event.preventDefault());
byId("files-table").addEventListener("click", (event) => {
  const link = event.target.closest("#heads a, .pages a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showTable(new URL(link.href).search.slice(1));
  if (link.closest(".pages")) byId("files").scrollIntoView();
});

document.addEventListener("visibilitychange", () => (document.hidden ? unfollow() : follow()));
addEventListener("pagehide", unfollow);
addEventListener("pageshow", follow);

redrawOnChanges();
follow();
