// The table of files, with search, sorting and pages.
"use strict";

const PAGE = 25;
const MUCH = 3; // from this ratio on, "smaller" is coloured

const COLUMNS = [
  { key: "name", title: "File", text: true },
  { key: "family", title: "Family", text: true, show: (f) => f.family || NONE, extra: true },
  { key: "mode", title: "Mode", text: true, show: (f) => f.mode || NONE, extra: true },
  { key: "before", title: "Before", show: (f) => size(f.before), extra: true },
  { key: "after", title: "After", show: (f) => size(f.after) },
  { key: "ratio", title: "Smaller", show: (f) => times(f.ratio), much: (f) => f.ratio >= MUCH },
  { key: "error", title: "Error", show: (f) => percent(f.error), extra: true },
  { key: "seconds", title: "Seconds", show: (f) => (f.seconds === null ? NONE : f.seconds.toFixed(1)), extra: true },
  { key: "when", title: "When", show: (f) => minute(f.when), extra: true },
  { key: "outcome", title: "Outcome", text: true, show: (f) => f.reason || f.outcome, extra: true },
];

class FilesTable {
  // showChosen(file) fills the section below the row of the chosen file.
  constructor(files, showChosen) {
    this.files = files;
    this.showChosen = showChosen;
    this.detail = this.makeDetail();
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
    addOptions("folder", this.files.flatMap((f) => foldersOf(f.folder)));
    addOptions("outcome", this.files.map((f) => f.outcome));
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("search").addEventListener("input", () => this.showFirstPage());
    byId("folder").addEventListener("change", () => this.showFirstPage());
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
    const outcome = byId("outcome").value, folder = byId("folder").value;
    const { key } = this.column, sign = this.down ? -1 : 1;
    this.shown = this.files
      .filter((f) => (!outcome || f.outcome === outcome) && isIn(f.folder, folder) && words.every((w) => f.searched.includes(w)))
      .sort((a, b) => sign * compare(a[key], b[key], sign) || a.number - b.number);
    this.draw();
  }

  draw() {
    const pages = Math.max(1, Math.ceil(this.shown.length / PAGE));
    const from = this.page * PAGE;
    const rows = this.shown.slice(from, from + PAGE);
    byId("rows").replaceChildren(...rows.map((f) => this.row(f)));
    this.placeDetail();
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
    const chosen = file === this.chosen;
    const button = element("button", { type: "button", "aria-expanded": chosen, title: file.name }, ...breakable(file.name));
    button.addEventListener("click", () => this.select(file));
    const head = element("th", { scope: "row" }, button, element("span", { title: file.folder }, file.folder));
    const cells = COLUMNS.slice(1).map((c) => element("td", { class: cellClass(c, file) }, c.show(file)));
    const row = element("tr", {}, head, ...cells);
    if (chosen) row.setAttribute("aria-current", "true");
    return row;
  }

  makeDetail() {
    const cell = element("td", { colspan: COLUMNS.length });
    cell.append(byId("chosen-template").content);
    return element("tr", { class: "detail" }, cell);
  }

  // Directly below the row of the chosen file, if that is on this page.
  placeDetail() {
    document.querySelector("#rows tr[aria-current]")?.after(this.detail);
  }

  // A second click on the same file closes it.
  select(file) {
    this.chosen = file === this.chosen ? null : file;
    this.draw();
    if (this.chosen) {
      byId("chosen-title").replaceChildren(...breakable(`${file.folder}/${file.name}`));
      this.showChosen(file);
    }
    document.querySelector(`#rows tr:nth-child(${this.rowNumber(file)}) button`).focus();
    if (this.chosen) byId("chosen").scrollIntoView({ block: "nearest" });
  }

  rowNumber(file) {
    return 1 + (this.shown.indexOf(file) % PAGE);
  }
}

function addOptions(id, values) {
  const options = [...new Set(values)].sort(collator.compare);
  byId(id).append(...options.map((value) => element("option", { value }, value)));
}

// loras/a/b -> loras, loras/a, loras/a/b
function foldersOf(folder) {
  const parts = folder.split("/");
  return parts.map((_, at) => parts.slice(0, at + 1).join("/")).filter(Boolean);
}

const isIn = (folder, above) => !above || folder === above || folder.startsWith(`${above}/`);

const cellClass = (c, file) =>
  [c.text ? "plain" : "n", c.extra ? "extra" : "", file && c.much?.(file) ? "much" : "", c.key].join(" ").trim();
// Files without a value come last in both directions.
function compare(a, b, sign) {
  if (a === null || b === null) return sign * ((a === null) - (b === null));
  return typeof a === "string" ? collator.compare(a, b) : a - b;
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
