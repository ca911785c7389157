// The table of files, with search, sorting and pages.
"use strict";

const PAGE = 25;

const COLUMNS = [
  { key: "name", title: "File", text: true },
  { key: "family", title: "Family", text: true, show: (f) => f.family || NONE, extra: true },
  { key: "mode", title: "Mode", text: true, show: (f) => f.mode || NONE, extra: true },
  { key: "before", title: "Before", show: (f) => size(f.before), extra: true },
  { key: "after", title: "After", show: (f) => size(f.after) },
  { key: "ratio", title: "Smaller", show: (f) => times(f.ratio), strong: true },
  { key: "error", title: "Error", show: (f) => percent(f.error), extra: true },
  { key: "seconds", title: "Seconds", show: (f) => (f.seconds === null ? NONE : f.seconds.toFixed(1)), extra: true },
  { key: "when", title: "When", show: (f) => minute(f.when), extra: true },
  { key: "outcome", title: "Outcome", text: true, show: (f) => f.reason || f.outcome, extra: true },
];

class FilesTable {
  constructor(files, choose) {
    this.files = files;
    this.choose = choose;
    this.column = COLUMNS.find((c) => c.key === "when");
    this.down = true;
    this.page = 0;
    this.chosen = null;
    this.makeHeads();
    this.makeControls();
    this.update();
  }

  makeHeads() {
    this.heads = COLUMNS.map((column) => {
      const button = element("button", { type: "button" }, column.title);
      button.addEventListener("click", () => this.sortBy(column));
      return element("th", { scope: "col", class: cellClass(column) }, button);
    });
    byId("heads").replaceChildren(...this.heads);
  }

  makeControls() {
    const outcomes = [...new Set(this.files.map((f) => f.outcome))].sort();
    byId("outcome").append(...outcomes.map((o) => element("option", { value: o }, o)));
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("search").addEventListener("input", () => this.showFirstPage());
    byId("outcome").addEventListener("change", () => this.showFirstPage());
    byId("previous").addEventListener("click", () => this.turnPage(-1));
    byId("next").addEventListener("click", () => this.turnPage(1));
  }

  sortBy(column) {
    this.down = this.column === column ? !this.down : !column.text;
    this.column = column;
    this.showFirstPage();
  }

  showFirstPage() {
    this.page = 0;
    this.update();
  }

  turnPage(pages) {
    this.page += pages;
    this.update();
    byId("files").scrollIntoView();
  }

  update() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = byId("outcome").value;
    const { key } = this.column, sign = this.down ? -1 : 1;
    this.shown = this.files
      .filter((f) => (!outcome || f.outcome === outcome) && words.every((w) => f.searched.includes(w)))
      .sort((a, b) => sign * compare(a[key], b[key], sign) || a.number - b.number);
    this.draw();
  }

  draw() {
    const pages = Math.max(1, Math.ceil(this.shown.length / PAGE));
    const from = this.page * PAGE;
    byId("rows").replaceChildren(...this.shown.slice(from, from + PAGE).map((f) => this.row(f)));
    this.heads.forEach((head, at) => {
      if (COLUMNS[at] === this.column) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const all = this.shown.length === this.files.length;
    byId("shown").textContent = all
      ? `${count(this.files.length)} files`
      : `${count(this.shown.length)} of ${count(this.files.length)} files`;
    byId("page").textContent = `Page ${count(this.page + 1)} of ${count(pages)}`;
    byId("previous").disabled = this.page === 0;
    byId("next").disabled = this.page >= pages - 1;
  }

  row(file) {
    const button = element("button", { type: "button" }, ...breakable(file.name));
    button.addEventListener("click", () => this.select(file));
    const head = element("th", { scope: "row" }, button, element("span", {}, file.folder));
    const cells = COLUMNS.slice(1).map((c) => element("td", { class: cellClass(c) }, c.show(file)));
    const row = element("tr", {}, head, ...cells);
    if (file === this.chosen) row.setAttribute("aria-current", "true");
    return row;
  }

  select(file) {
    this.chosen = file;
    this.draw();
    this.choose(file);
  }
}

const cellClass = (c) => [c.text ? "plain" : "n", c.extra ? "extra" : "", c.strong ? "strong" : ""].join(" ").trim();

// Files without a value come last in both directions.
function compare(a, b, sign) {
  if (a === null || b === null) return sign * ((a === null) - (b === null));
  return typeof a === "string" ? collator.compare(a, b) : a - b;
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
