// Asks for the numbers once a second, and shows them: plots, each process, the oldest and the slowest
// requests, and the last errors.
"use strict";

const EVERY = 1000;
const PATIENCE = 5000;
const POINTS = 180;
const WIDTH = 300;
const HEIGHT = 100;
// How many requests each of the two tables shows, and how many lines of each level.
const REQUESTS = 10;
const LINES = 10;
// What the workers are asked for, all at once: a worker that is silent delays each of them.
const ASKED = ["/requests.json", "/requests.json?slowest", "/errors.json"];

const time = (value) => {
  if (value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${Number((value * 1000).toPrecision(3))} ms` : `${Number(value.toFixed(1))} s`;
};
const rate = (value) => value === null ? "–" : value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
const whole = (value) => value === null ? "–" : value.toLocaleString("en");
const share = (value) => value === null ? "–" : `${Math.round(value * 100)} %`;

// Returns the end of a scale: 1, 2 or 5 times a power of ten.
const round = (value) => {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value);
};

// Each plot: its title, its lines, how a value is written, the least upper end of the scale, and whether it is stacked.
const PLOTS = [
  { title: "Requests per second", lines: ["requests"], text: rate, least: 10 },
  { title: "Time of a request", lines: ["p50", "p99"], text: time, least: 0.001 },
  { title: "Where the time goes", lines: ["receive", "queue", "GIL", "application", "send"], text: time, least: 0.001,
    stacked: true },
  { title: "Saturation", lines: ["saturation"], text: share, least: 1 },
  { title: "Threads and calls", lines: ["running", "queued"], text: whole, least: 4 },
  { title: "Pool", lines: ["taken", "waiting"], text: whole, least: 10 },
  { title: "Connections", lines: ["open", "idle", "WebSockets"], text: whole, least: 10 },
];

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
const draw = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const set = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

class Plot {
  constructor(kind) {
    Object.assign(this, kind, { points: [] });
    this.top = make("span", { className: "top" });
    this.values = this.lines.map(() => make("dd"));
    this.shapes = this.lines.map((_, at) => draw(this.stacked ? "polygon" : "polyline", { class: `s${at}` }));
    const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    picture.append(...this.shapes);
    const legend = this.lines.map((name, at) =>
      make("div", {}, make("dt", { className: `s${at}`, textContent: name }), this.values[at]));
    this.figure = make("figure", { className: this.stacked ? "broad" : "" }, make("figcaption", {}, make("span", { textContent: this.title }), this.top), picture,
      make("dl", {}, ...legend));
  }

  add(values) {
    this.points.push(values);
    if (this.points.length > POINTS) this.points.shift();
    values.forEach((value, at) => set(this.values[at], this.text(value)));
    const high = (point) => this.stacked ? point.reduce((sum, value) => sum + value, 0) : Math.max(...point);
    const end = round(Math.max(this.least, ...this.points.map(high)));
    set(this.top, this.text(end));
    const start = WIDTH - (this.points.length - 1) * WIDTH / (POINTS - 1);
    const place = (value, at) =>
      `${(start + at * WIDTH / (POINTS - 1)).toFixed(1)},${(HEIGHT - value / end * HEIGHT).toFixed(1)}`;
    let below = this.points.map(() => 0);
    this.shapes.forEach((shape, line) => {
      const base = below;
      const heights = this.points.map((point, at) => (point[line] ?? 0) + (this.stacked ? base[at] : 0));
      const edge = heights.map(place);
      if (this.stacked) {
        edge.push(...base.map(place).reverse());
        below = heights;
      }
      shape.setAttribute("points", edge.join(" "));
    });
  }
}

// What has been counted in the time since the last numbers. A service that has started again counts from 0.
let before = null;
const grown = (stats, read) =>
  before && before.started === stats.started ? Math.max(0, read(stats) - read(before)) : 0;
const passed = (stats) => before && before.started === stats.started ? stats.uptime_seconds - before.uptime_seconds : 0;
const all = (stats, name) => stats.processes.reduce((sum, process) => sum + (process[name] ?? 0), 0);

const split = (stats) => {
  const requests = grown(stats, (one) => one.total.requests);
  const mean = (phase) => requests ? grown(stats, (one) => one.total.phases[phase].seconds) / requests : 0;
  const gil = Math.min(mean("gil"), mean("queue"));
  return [mean("receive"), mean("queue") - gil, gil, mean("application"), mean("send")];
};

const rows = (body, lines) => {
  while (body.rows.length > lines.length) body.deleteRow(-1);
  lines.forEach(({ cells, bad }, at) => {
    const row = body.rows[at] ?? body.insertRow();
    row.className = bad ? "bad" : "";
    cells.forEach((text, column) => set(row.cells[column] ?? row.insertCell(), String(text)));
  });
};

const span = (seconds) => {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = parts.findIndex(([size]) => seconds >= size);
  const [size, unit] = parts[at < 0 ? 3 : at];
  return `${Math.floor(seconds / size)} ${unit}`;
};

const process = (stats) => (one) => {
  const earlier = before?.processes.find((other) => other.pid === one.pid);
  const time = passed(stats);
  const speed = earlier && time > 0 ? Math.max(0, one.served - earlier.served) / time : null;
  const cells = [one.number, one.pid, one.state, rate(speed), one.served, one.connections, one.idle,
    one.http2_connections, one.websockets,
    `${one.threads} of ${one.threads_max}`, one.threads_running, one.queued, `${one.pool_taken} of ${one.pool_size}`,
    one.stuck_seconds === null ? "" : span(one.stuck_seconds)];
  return { cells, bad: one.stuck_seconds !== null };
};

const plots = PLOTS.map((kind) => new Plot(kind));

const show = (stats) => {
  const seconds = passed(stats);
  const saturated = stats.saturation >= 0.95 ? ", saturated" : "";
  const serving = stats.processes.filter((one) => one.state === "serving").length;
  set(document.getElementById("summary"), `${stats.stage}${saturated}: ${serving} of ${stats.wanted} processes serve, ` +
    `started ${span(stats.uptime_seconds)} ago, Maypole ${stats.version}, PID ${stats.pid}`);
  const requests = seconds > 0 ? grown(stats, (one) => one.total.requests) / seconds : 0;
  const { duration } = stats.recent;
  const points = [[requests], [duration?.p50 ?? null, duration?.p99 ?? null], split(stats), [stats.saturation],
    ["threads_running", "queued"], ["pool_taken", "pool_waiting"], ["connections", "idle", "websockets"]];
  plots.forEach((plot, at) => plot.add(points[at].map((one) => typeof one === "string" ? all(stats, one) : one)));
  rows(document.getElementById("processes"), stats.processes.map(process(stats)));
  Object.values(stats.total.classes).forEach((requests, at) =>
    set(document.getElementById("totals").rows[at].cells[1], String(requests)));
  before = stats;
};

// The last two parts of a path tell files apart.
const code = (frame) =>
  frame ? `${frame.file.split("/").slice(-2).join("/")}:${frame.line} in ${frame.function}` : "";

const showRequests = ({ requests, left_out }) => {
  const more = requests.length + left_out - REQUESTS;
  const note = requests.length === 0 ? "No request is being served." : more > 0 ? `${whole(more)} more are younger.` : "";
  set(document.getElementById("oldest-note"), note);
  rows(document.getElementById("requests"), requests.slice(0, REQUESTS).map((one) => ({
    cells: [time(one.age_seconds), one.phase, one.worker, one.client ?? "", one.request, code(one.frame)],
  })));
};

const showSlowest = ({ slowest }) => {
  set(document.getElementById("slowest-note"), slowest.length === 0 ? "No request took 100 ms or longer." : "");
  rows(document.getElementById("slow"), slowest.slice(0, REQUESTS).map((one) => ({
    cells: [time(one.duration_seconds), time(one.queue_seconds), time(one.application_seconds), one.status, one.worker,
      one.request, code(one.frame)],
  })));
};

// The day is shown only if it is another one.
const moment = (seconds) => {
  const at = new Date(seconds * 1000);
  return at.toDateString() === new Date().toDateString() ? at.toLocaleTimeString() : at.toLocaleString();
};

const showErrors = ({ errors }) => {
  set(document.getElementById("errors-note"), errors.length === 0 ? "There is none." : "");
  const newest = ["ERROR", "WARNING"].flatMap((level) => errors.filter((one) => one.level === level).slice(0, LINES));
  newest.sort((one, other) => other.time - one.time);
  rows(document.getElementById("logged"), newest.map((one) => ({
    cells: [moment(one.time), one.level, one.worker ?? "supervisor", one.pid,
      one.end === null ? one.message : `${one.message} … ${one.end}`],
    bad: one.level === "ERROR",
  })));
};

const ask = async (path) => {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
};

let silent = null;
const notice = document.getElementById("notice");
const turn = async () => {
  try {
    show(await ask("/stats.json"));
    // The frames cost the service a little of Python's time.
    if (!document.hidden) {
      const [requests, slowest, errors] = await Promise.all(ASKED.map(ask));
      showRequests(requests);
      showSlowest(slowest);
      showErrors(errors);
    }
    silent = null;
    set(notice, "");
  } catch (error) {
    silent ??= new Date();
    set(notice, `No answer since ${silent.toLocaleTimeString()}. This page asks again each second.`);
  }
  setTimeout(turn, EVERY);
};

document.getElementById("figures").append(...plots.map((plot) => plot.figure));
document.getElementById("plots").hidden = false;
for (const section of ["oldest", "slowest", "errors"]) document.getElementById(section).hidden = false;
turn();
