// Fills the part of a page that shows one file: its facts and its two charts.
"use strict";

function filesOf(columns) {
  const keys = Object.keys(columns);
  return columns.path.map((path, number) => {
    const file = { number };
    for (const key of keys) file[key] = columns[key][number];
    const slash = path.lastIndexOf("/");
    file.name = path.slice(slash + 1);
    file.folder = path.slice(0, Math.max(0, slash));
    file.ratio = file.before && file.after ? file.before / file.after : null;
    file.searched = [path, file.family, file.mode, file.outcome, file.reason, file.original, file.output,
      file.original_autov3, file.output_autov3]
      .join("\n").toLowerCase();
    return file;
  });
}

function factsOf(file) {
  const facts = [
    ["Outcome", file.reason ? `${file.outcome}, ${file.reason}` : file.outcome],
    ["When", minute(file.when)],
    ["Family", file.family],
    ["Mode", file.mode],
    ["Before", file.before === null ? "" : size(file.before)],
    ["After", file.after === null ? "" : size(file.after)],
    ["Smaller", file.ratio === null ? "" : times(file.ratio)],
    ["Error", file.error === null ? "" : percent(file.error)],
    ["Seconds", file.seconds === null ? "" : file.seconds.toFixed(2)],
    ["Message", file.message, "long"],
    ["sha256 of the original", file.original, "long hash"],
    ["sha256 of the output", file.output, "long hash"],
    ["AutoV3 of the original", file.original_autov3, "hash"],
    ["AutoV3 of the output", file.output_autov3, "hash"],
  ];
  return facts.filter(([, value]) => value).map(([term, value, kind]) =>
    element("div", { class: kind ?? "" }, element("dt", {}, term), element("dd", {}, ...breakable(value))));
}

// file: as `filesOf` makes it; shared: the values that its numbers name.
function showFile(file, shared) {
  byId("facts").replaceChildren(...factsOf(file));
  showChart("ranks", file, ([names, before, after]) => describeRanks(shared[names], shared[before], after));
  showChart("spectrum", file, ([ranks, energy]) => describeSpectrum(shared[ranks], energy.map((e) => e / 100000)));
}

// draw(values) draws the chart and returns the text below it.
function showChart(id, file, draw) {
  const values = file[id];
  byId(id).hidden = byId(`${id}-details`).hidden = values === null;
  if (values === null) removeChart(id);
  byId(`${id}-text`).textContent = values === null ? whyMissing(file) : draw(values);
}

function describeRanks(names, before, after) {
  drawRanks(names, before, after);
  return `Median rank of the modules in each of ${names.length} blocks: ` +
    `${spread(before)} before, ${spread(after)} after.`;
}

function describeSpectrum(ranks, energy) {
  drawSpectrum(ranks, energy);
  const enough = ranks[energy.findIndex((e) => e >= 0.99)];
  return `The first ${enough} of ${ranks[ranks.length - 1]} ranks of all modules contain 99 % of the file's energy` +
    (ranks.includes(enough - 1) || enough === 1 ? "." : "; a few ranks less may be enough.");
}

const whyMissing = (file) =>
  file.after === null ? "Not measured: the file was not compressed." : "Not recorded: an older lensd compressed it.";

function spread(ranks) {
  const low = Math.min(...ranks), high = Math.max(...ranks);
  return low === high ? plainRank(low) : `${plainRank(low)} to ${plainRank(high)}`;
}
