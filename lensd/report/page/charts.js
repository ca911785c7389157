// Charts by uPlot in the page's colours. Below each chart is a table with its numbers.
"use strict";

const HEIGHT = 230;
const PRINTED_WIDTH = 330;
const drawn = new Map(); // the element's id -> its uPlot

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const font = () => `12px ${getComputedStyle(document.body).fontFamily}`;

function axis(more) {
  return {
    stroke: () => colour("soft"),
    font: font(),
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
    ...more,
  };
}

// Low enough that its first label is clear of the lowest label of the other axis.
const axisBelow = (more) => axis({ size: 36, gap: 12, ...more });

function drawChart(id, label, options, data) {
  const parent = byId(id);
  drawn.get(id)?.destroy();
  parent.setAttribute("role", "img");
  parent.setAttribute("aria-label", label);
  const complete = {
    width: parent.clientWidth,
    height: HEIGHT,
    padding: [12, 20, 0, 0],
    cursor: { y: false, drag: { x: false, y: false } },
    hooks: {},
    ...options,
  };
  // Without a pointer the legend names the colours only.
  const point = (plot) => parent.classList.toggle("pointed", plot.cursor.idx != null && plot.cursor.left >= 0);
  complete.hooks = { ...complete.hooks, setCursor: [point] };
  drawn.set(id, new uPlot(complete, data, parent));
}

function removeChart(id) {
  drawn.get(id)?.destroy();
  drawn.delete(id);
}

function redrawAll(width) {
  for (const [id, plot] of drawn) {
    if (!byId(id)) continue; // its file is not on this page of the table
    plot.setSize({ width: width ?? byId(id).clientWidth, height: HEIGHT });
    plot.redraw(false, true);
  }
}

// A table of the numbers, for screen readers and for exact values.
function drawNumbers(id, columns, rows) {
  const head = element("tr", {}, ...columns.map((c) => element("th", { scope: "col" }, c)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  byId(id).replaceChildren(
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)),
  );
}

const DAY = 86400;
const DAYS = [1, 2, 5, 7, 14, 30, 61, 91, 183, 365, 730].map((days) => days * DAY);
const dayOf = (moment) => minute(moment + DAY / 24).slice(0, 10); // one hour later, because of daylight saving time

function drawSavings(days) {
  let sum = 0;
  const total = days.map(([, , saved]) => (sum += saved));
  const moments = days.map(([day]) => Date.parse(`${day}T00:00:00`) / 1000);
  // Each day is a step: from nothing before the first one to the end of the last one.
  moments.unshift(moments[0] - DAY);
  total.unshift(0);
  moments.push(moments[moments.length - 1] + DAY);
  total.push(sum);
  drawChart("savings", `Saved so far, by day: ${size(sum)} at the end`, {
    legend: { show: true },
    padding: [12, 40, 0, 0],
    axes: [
      axisBelow({ grid: { show: false }, space: 100, incrs: DAYS, values: (_, at) => at.map(dayOf) }),
      axis({ size: 68, values: (_, at) => at.map(size) }),
    ],
    scales: { y: { range: (_, low, high) => [Math.min(0, low), Math.max(1, high * 1.05)] } },
    series: [
      { label: "Day", value: (_, at) => (at === null ? NONE : dayOf(at)) },
      {
        label: "Saved so far",
        stroke: () => colour("accent"),
        fill: () => colour("accent-soft"),
        width: 2,
        paths: uPlot.paths.stepped({ align: 1 }),
        points: { show: false },
        value: (_, bytes) => (bytes == null ? NONE : size(bytes)),
      },
    ],
  }, [moments, total]);
  const first = days[0][0];
  const files = days.reduce((all, [, n]) => all + n, 0);
  byId("savings-text").textContent =
    `${size(sum)} saved by ${count(files)} compressed files${files > 1 ? `, the first on ${first}` : ""}.`;
  let running = 0;
  drawNumbers("savings-numbers", ["Day", "Files", "Saved that day", "So far"],
    days.map(([day, n, saved]) => [day, count(n), size(saved), size((running += saved))]));
}

function drawErrors(errors) {
  const width = niceStep(errors.reduce((most, e) => Math.max(most, e), 0) / 20);
  const bins = new Array(21).fill(0);
  for (const e of errors) bins[Math.min(20, Math.floor(e / width + 1e-9))] += 1;
  while (bins.length > 1 && bins[bins.length - 1] === 0) bins.pop();
  const starts = bins.map((_, at) => (at + 0.5) * width);
  const named = (at) => `${percent(at * width, 1)} to ${percent((at + 1) * width, 1)}`;
  drawChart("errors", "Number of files by relative error; the numbers are below", {
    legend: { show: true },
    axes: [
      axisBelow({ grid: { show: false }, values: (_, at) => at.map((e) => percent(e, 1)), space: 64 }),
      axis({ size: 48, values: (_, at) => at.map((n) => (Number.isInteger(n) ? count(n) : "")) }),
    ],
    scales: { x: { time: false, range: () => [0, bins.length * width] }, y: { range: fromZero } },
    series: [
      { label: "Error", value: (_, e) => (e === null ? NONE : named(Math.floor(e / width))) },
      bars("Files", "accent", 0.86, (n) => count(n)),
    ],
  }, [starts, bins]);
  drawNumbers("errors-numbers", ["Error", "Files"], bins.map((n, at) => [named(at), count(n)]));
}

function niceStep(step) {
  if (!(step > 0)) return 0.001;
  const unit = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 2.5, 5, 10].map((n) => n * unit).find((n) => n >= step);
}

const fromZero = (_, low, high) => [0, Math.max(1, high * 1.05)];

function bars(label, fill, share, format) {
  return {
    label,
    stroke: () => colour(fill),
    fill: () => colour(fill),
    width: 0,
    points: { show: false },
    paths: uPlot.paths.bars({ size: [share, 60] }),
    value: (_, number) => (number == null ? NONE : format(number)),
  };
}

// names: [block, modules] of the model; before and after: median ranks
function drawRanks(names, before, after) {
  const parts = partsOf(names);
  drawChart("ranks", `Median rank in each of ${names.length} blocks, before and after; the numbers are below`, {
    legend: { show: true },
    axes: [
      axisBelow({ grid: { show: false }, splits: () => parts.map((p) => p.middle),
        values: (plot) => fittingNames(plot, parts) }),
      axis({ size: 48 }),
    ],
    scales: { x: { time: false, range: () => [-0.6, names.length - 0.4] }, y: { range: fromZero } },
    series: [
      { label: "Block", value: (_, at) => (at === null ? NONE : names[at][0]) },
      bars("Before", "before", 0.86, plainRank),
      bars("After", "accent", 0.46, plainRank),
    ],
  }, [names.map((_, at) => at), before, after]);
  drawNumbers("ranks-numbers", ["Block", "Modules", "Median rank before", "After"],
    names.map(([name, modules], at) => [name, count(modules), plainRank(before[at]), plainRank(after[at])]));
}

// The parts of the model: the middle of each on the axis, its number of blocks, and a short name.
function partsOf(names) {
  const parts = [];
  names.forEach(([block], at) => {
    const name = block.replace(/\.\d+$/, "");
    const last = parts[parts.length - 1];
    if (last?.name === name) last.blocks += 1;
    else parts.push({ name, first: at, blocks: 1 });
  });
  return parts.map(({ name, first, blocks }) => ({
    middle: first + (blocks - 1) / 2,
    blocks,
    short: name.replace(/_blocks?$/, ""),
  }));
}

// If names would overlap, the names of larger parts are shown.
function fittingNames(plot, parts) {
  const taken = [];
  const shown = new Set();
  for (const part of [...parts].sort((a, b) => b.blocks - a.blocks)) {
    const middle = plot.valToPos(part.middle, "x"), half = 3.6 * part.short.length + 5;
    if (taken.some(([from, to]) => middle - half < to && middle + half > from)) continue;
    taken.push([middle - half, middle + half]);
    shown.add(part);
  }
  return parts.map((part) => (shown.has(part) ? part.short : ""));
}

function drawSpectrum(ranks, energy) {
  drawChart("spectrum", "Share of the energy by number of first ranks; the numbers are below", {
    legend: { show: true },
    axes: [
      axisBelow({ values: (_, at) => at.map((r) => (r === null ? "" : String(r))), space: 40 }),
      axis({ size: 52, splits: () => [0, 0.25, 0.5, 0.75, 1], values: (_, at) => at.map((e) => percent(e, 0)) }),
    ],
    scales: {
      x: { time: false, distr: 3, log: 2, range: (_, low, high) => [low, Math.max(2, high)] },
      y: { range: () => [0, 1.02] },
    },
    series: [
      { label: "Ranks", value: (_, rank) => (rank === null ? NONE : String(rank)) },
      {
        label: "Energy",
        stroke: () => colour("accent"),
        fill: () => colour("accent-soft"),
        width: 2,
        points: { show: true, size: 5, fill: () => colour("accent") },
        value: (_, share) => (share == null ? NONE : percent(share)),
      },
    ],
    hooks: { draw: [(plot) => markEnergy(plot, 0.99)] },
  }, [ranks, energy]);
  drawNumbers("spectrum-numbers", ["First ranks", "Energy"], ranks.map((r, at) => [count(r), percent(energy[at], 3)]));
}

// A dashed line at a share of the energy.
function markEnergy(plot, share) {
  const { ctx, bbox } = plot, at = Math.round(plot.valToPos(share, "y", true));
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour("soft");
  ctx.setLineDash([4, 4]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, at);
  ctx.lineTo(bbox.left + bbox.width, at);
  ctx.stroke();
  ctx.font = `${11 * uPlot.pxRatio}px ${getComputedStyle(document.body).fontFamily}`;
  ctx.textBaseline = "top";
  ctx.textAlign = "left";
  ctx.fillText(percent(share, 0), bbox.left + 6 * uPlot.pxRatio, at + 4 * uPlot.pxRatio);
  ctx.restore();
}

function redrawOnChanges() {
  let width = 0;
  new ResizeObserver(() => {
    if (width !== innerWidth) redrawAll();
    width = innerWidth;
  }).observe(document.documentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawAll());
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.printing = "";
    redrawAll(PRINTED_WIDTH);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.printing;
    redrawAll();
  });
}
