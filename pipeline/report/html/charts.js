/* Draws every chart with Vega-Embed, in the colours of the reader's theme, and unpacks the data of the page. */
"use strict";
const byId = (id) => document.getElementById(id);
const ready = {};  // what is drawn or loaded, for people who wait: charts, traces, trees

function themed(value, style) {
  if (typeof value === "string") return value[0] === "$" ? style.getPropertyValue("--" + value.slice(1)).trim() || value : value;
  if (Array.isArray(value)) return value.map((each) => themed(each, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, key === "data" ? each : themed(each, style)]));
  }
  return value;
}

function chartConfig(style, width) {
  const at = (name) => style.getPropertyValue("--" + name).trim();
  const font = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif";
  const text = { labelColor: at("soft"), titleColor: at("soft"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  return {
    background: null, font, view: { stroke: null },
    axis: { ...text, gridColor: at("line"), domainColor: at("muted"), tickColor: at("muted"), labelLimit: width < 500 ? 110 : 200, labelFlush: false },
    legend: { ...text, labelColor: at("ink"), columns: Math.max(1, Math.floor(width / 105)), symbolType: "circle", rowPadding: 2, labelLimit: 170 },
    point: { size: 60 }, text: { font },
  };
}

async function drawChart(place, spec) {
  const style = getComputedStyle(document.documentElement);
  const options = { renderer: "svg", actions: false, ast: true, config: chartConfig(style, place.clientWidth), tooltip: { theme: "custom" } };
  if (place.view) place.view.finalize();
  const result = await vegaEmbed(place, themed(spec, style), options);
  place.view = result.view;
}

let drawing = 0;  // a change of theme begins anew; what was under way stops

async function drawCharts() {
  const mine = ++drawing;
  const specs = JSON.parse(byId("charts").textContent);
  for (const place of document.querySelectorAll("[data-chart]")) {
    if (mine !== drawing) return;
    await drawChart(place, specs[place.dataset.chart]);
    await new Promise((next) => setTimeout(next));  // lets the page answer between two charts
  }
  ready.charts = true;
}

async function unpack() {
  const text = byId("packed").textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;  // never innerHTML: what a model wrote stays text
  return made;
}

function option(select, value, text) {
  const made = make("option", "", text);
  made.value = value;
  select.append(made);
}

const count = (number) => number.toLocaleString("en-US");
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

async function begin() {
  const charts = drawCharts();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  const data = await unpack();
  startTraces(data.traces);
  startLearned(data.traces);
  startTrees(data.trees);
  await charts;
}
