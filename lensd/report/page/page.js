// Unpacks the data, fills the page and makes it interactive.
"use strict";

async function unpack() {
  const bytes = Uint8Array.from(atob(byId("data").textContent), (c) => c.charCodeAt(0));
  const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(text).text());
}

async function start() {
  if (!("DecompressionStream" in window)) {
    byId("too-old").hidden = false;
    return;
  }
  const { files: columns, shared, days } = await unpack();
  const files = filesOf(columns);
  new FilesTable(files, (file) => showFile(file, shared));
  if (byId("savings")) drawSavings(days);
  if (byId("errors")) drawErrors(files.map((f) => f.error).filter((e) => e !== null));
  redrawOnChanges();
  document.documentElement.dataset.ready = "";
}

start();
