// Formats numbers, and creates elements whose text is never read as markup.
"use strict";

const NONE = "\u2013";

function size(bytes) {
  if (bytes === null) return NONE;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(bytes) < 1000) return unit === "B" ? `${bytes} B` : `${bytes.toFixed(1)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} TB`;
}

const count = (number) => number.toLocaleString("en");
const percent = (share, digits = 2) => (share === null ? NONE : `${(100 * share).toFixed(digits)} %`);
const times = (ratio) => (ratio === null ? NONE : `${ratio.toFixed(1)}\u00d7`);
const plainRank = (rank) => String(Math.round(100 * rank) / 100);

function minute(seconds) {
  const local = new Date(1000 * (seconds - 60 * new Date(1000 * seconds).getTimezoneOffset()));
  return local.toISOString().slice(0, 16).replace("T", " ");
}

// element("td", { class: "n" }, "text", another element)
function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

// Lets a long name wrap after the characters that join its words.
const breakable = (name) =>
  name.split(/(?<=[_\-. ])/).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));

const byId = (id) => document.getElementById(id);
