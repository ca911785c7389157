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
  showRanks(file, shared);
  showSpectrum(file, shared);
}

function showRanks(file, shared) {
  byId("ranks").hidden = byId("ranks-details").hidden = file.ranks === null;
  if (file.ranks === null) {
    removeChart("ranks");
    byId("ranks-text").textContent = whyMissing(file);
    return;
  }
  const [names, before, after] = [shared[file.ranks[0]], shared[file.ranks[1]], file.ranks[2]];
  drawRanks(names, before, after);
  byId("ranks-text").textContent =
    `Median rank of the modules in each of ${names.length} blocks: ` +
    `${spread(before)} before, ${spread(after)} after.`;
}

function showSpectrum(file, shared) {
  byId("spectrum").hidden = byId("spectrum-details").hidden = file.spectrum === null;
  if (file.spectrum === null) {
    removeChart("spectrum");
    byId("spectrum-text").textContent = whyMissing(file);
    return;
  }
  const ranks = shared[file.spectrum[0]], energy = file.spectrum[1].map((e) => e / 100000);
  drawSpectrum(ranks, energy);
  const enough = ranks[energy.findIndex((e) => e >= 0.99)];
  byId("spectrum-text").textContent =
    `The first ${enough} of ${ranks[ranks.length - 1]} ranks of all modules contain 99 % of the file's energy` +
    (ranks.includes(enough - 1) || enough === 1 ? "." : "; a few ranks less may be enough.");
}

const whyMissing = (file) =>
  file.after === null ? "Not measured: the file was not compressed." : "Not recorded: an older lensd compressed it.";

function spread(ranks) {
  const low = Math.min(...ranks), high = Math.max(...ranks);
  return low === high ? plainRank(low) : `${plainRank(low)} to ${plainRank(high)}`;
}
