"use strict";

const main = document.querySelector("main");
const figures = JSON.parse(document.getElementById("figures").textContent);
const CONFIG = {
  responsive: true,
  displaylogo: false,
  plotGlPixelRatio: devicePixelRatio, // plotly's default is 2 on every screen, which takes four times as long to draw
  displayModeBar: "hover",
  modeBarButtons: [["toImage"]], // a double click undoes a zoom
};

// Figures name their colours; which those are depends on the reader's screen.

function coloured(part) {
  if (typeof part === "string") {
    return part.startsWith("@") ? getComputedStyle(document.documentElement).getPropertyValue("--" + part.slice(1)).trim() : part;
  }
  if (Array.isArray(part)) return part.every((each) => typeof each === "number") ? part : part.map(coloured);
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, coloured(value)]));
}

function layoutOf(figure) {
  const axis = { gridcolor: "@grid", linecolor: "@line", tickcolor: "@line", zeroline: false, automargin: true,
    title: { standoff: 12, font: { size: 13, color: "@muted" } } };
  const merged = (own) => ({ ...axis, ...own, title: { ...axis.title, ...own?.title } });
  const base = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "@muted" },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 16, t: 30, b: 44 },
    hovermode: "closest",
    hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@text", size: 13 } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: "@text" }, itemsizing: "constant" },
    modebar: { color: "@muted", activecolor: "@text", bgcolor: "rgba(0,0,0,0)" },
    dragmode: "zoom",
  };
  const { xaxis, yaxis, ...own } = figure.layout;
  return coloured({ ...base, ...own, xaxis: merged(xaxis), yaxis: merged(yaxis) });
}

async function draw(name) {
  const plot = document.getElementById(name);
  const figure = figures[name];
  if (figure.layout.meta?.rows) plot.style.setProperty("--rows", figure.layout.meta.rows);
  try {
    const config = name === "parallel" ? { ...CONFIG, displayModeBar: false } : CONFIG; // it would cover a name
    await Plotly.react(plot, coloured(figure.data), layoutOf(figure), config);
  } catch (error) {
    plot.textContent = `This figure could not be drawn: ${error}`;
    plot.className = "trouble";
    console.error(name, error);
  }
}

async function loadPlotly() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function drawAll() {
  for (const name of Object.keys(figures)) await draw(name);
}

// The table: sorted by its heads, filtered by state and by what is selected in the parallel coordinates.

const body = document.querySelector("tbody");
const shown = { state: "", numbers: null };

function filter() {
  let count = 0;
  for (const row of body.rows) {
    row.hidden = (shown.state && row.dataset.state !== shown.state) || (shown.numbers && !shown.numbers.has(Number(row.dataset.number)));
    count += !row.hidden;
  }
  document.querySelector("#trials output").textContent = count === body.rows.length ? "" : `${count} of ${body.rows.length} shown`;
}

function sort(head) {
  const place = head.cellIndex;
  const numeric = head.classList.contains("n") || place === 0;
  const direction = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.ariaSort = direction === 1 ? "ascending" : "descending";
  const keyed = Array.from(body.rows, (row) => [row.cells[place].dataset.v, row]);
  keyed.sort(([one], [other]) => {
    if (one === undefined || other === undefined) return (one === undefined) - (other === undefined); // empty ones last
    return direction * (numeric ? one - other : one.localeCompare(other));
  });
  body.append(...keyed.map(([, row]) => row));
}

function followSelection() {
  const plot = document.getElementById("parallel");
  plot?.on?.("plotly_restyle", () => {
    const numbers = figures.parallel.layout.meta.trials;
    const limits = plot.data[0].dimensions.filter((each) => each.constraintrange);
    const within = (value, ranges) => [ranges].flat(Array.isArray(ranges[0]) ? 1 : 0).some(([low, high]) => low <= value && value <= high);
    const chosen = numbers.filter((_, place) => limits.every((each) => within(each.values[place], each.constraintrange)));
    shown.numbers = limits.length ? new Set(chosen) : null;
    filter();
  });
}

document.querySelector("thead").addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (head) sort(head);
});
for (const button of document.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    for (const other of button.parentNode.children) other.ariaPressed = String(other === button);
    shown.state = button.dataset.state;
    filter();
  });
}
for (const button of document.querySelectorAll(".command button")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

loadPlotly()
  .then(drawAll)
  .then(() => {
    followSelection();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    main.ariaBusy = "false";
  });
