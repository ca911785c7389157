// Fills the page of one file.
"use strict";

async function showOne() {
  const answer = await fetch(byId("one").dataset.address);
  if (!answer.ok) return;
  const { files: columns, shared } = await answer.json();
  const [file] = filesOf(columns);
  file.outcome = byId("one").dataset.outcome;
  showFile(file, shared);
  document.documentElement.dataset.ready = "";
}

// After an action the file has another state, which its newest version shows.
document.addEventListener("acted", (event) => {
  if (event.detail) question().addEventListener("close", () => location.reload(), { once: true });
});

const LOOK_MS = 1000;

// While the file is a job, its page looks for the end.
function lookAgain() {
  if (question().open) setTimeout(lookAgain, LOOK_MS);
  else location.reload();
}

if ("open" in byId("one").dataset) setTimeout(lookAgain, LOOK_MS);
redrawOnChanges();
showOne();
