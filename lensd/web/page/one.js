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

redrawOnChanges();
showOne();
