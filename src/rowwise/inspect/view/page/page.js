// The page: what is typed, dragged and clicked, and what follows from it.

import { colours, css, grey } from "./colours.js";
import { Picture } from "./picture.js";
import * as server from "./server.js";

const element = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const picture = (window.rowwise = new Picture(element("points"), element("labels"))); // for whoever debugs
let about; // what the server says of the rows
let chosen = [];
let asked = null; // {of, ids, words}: what was near to what
let columnValues = null;
let entries = null; // which entry of the legend each row has, where there are labels
const UNTRAINED = -2; // the entry of untrained rows
const shown = new Set(); // entries of the legend whose rows alone are shown; none: all are

// ------------------------------------------------------------------ trouble

function trouble(error) {
  element("trouble").textContent =
    error instanceof TypeError ? "The server does not answer; is rowwise view still running?" : String(error.message ?? error);
  element("trouble").hidden = false;
}
addEventListener("unhandledrejection", (event) => trouble(event.reason));

// Calls once after the last of many events, and ignores answers that come too late.
function latest(ask, show, wait = 60) {
  let timer, turn = 0;
  return (...values) => {
    clearTimeout(timer);
    const mine = ++turn;
    timer = setTimeout(async () => {
      const answer = await ask(...values);
      if (mine === turn) show(answer);
    }, wait);
  };
}

// ------------------------------------------------------------------ the picture

const rename = latest(
  async () => {
    const some = asked ? [...asked.of, ...asked.ids] : [];
    const ids = [...new Set([...some, ...picture.spread()])];
    const found = await server.words(ids);
    return ids.map((id, i) => ({ id, text: found[i] }));
  },
  (names) => { picture.names = names; picture.draw(); },
  150,
);

function redraw() {
  const mark = getComputedStyle(document.body).getPropertyValue("--mark");
  const ink = getComputedStyle(document.body).getPropertyValue("--ink");
  picture.marks = chosen.slice(0, 5000).map((id) => ({ id, colour: ink }));
  const near = asked ? [...asked.ids, ...asked.of] : [];
  for (const id of near) picture.marks.push({ id, colour: mark });
  picture.lit = near.length + chosen.length ? [...chosen, ...near] : null;
  if (picture.hidden) picture.marks = picture.marks.filter(({ id }) => !picture.hidden[id]);
  picture.draw();
  rename();
}

function recolour() {
  const column = about.columns[element("colour").value];
  const { pixels, legend, scale, ...labels } = colours(column, columnValues, about.rows, dark.matches);
  picture.colour = pixels;
  entries = labels.entries ?? null;
  const [r, g, b] = grey(dark.matches);
  picture.hollow = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const parts = scale ? rampLegend(scale) : legend.map(({ name, colour }, i) => patch(i, name, colour));
  const untrained = `untrained (${about.untrained.toLocaleString()})`;
  if (about.untrained) parts.push(patch(UNTRAINED, untrained, css(grey(dark.matches))));
  element("legend").replaceChildren(...parts);
  filter();
}

// An entry of the legend; a click on it shows its rows alone, or with those of other such entries.
function patch(entry, text, colour) {
  const item = document.createElement("button"), dot = document.createElement("span");
  dot.className = entry === UNTRAINED ? "patch hollow" : "patch";
  dot.style[entry === UNTRAINED ? "borderColor" : "background"] = colour;
  item.append(dot, text);
  item.title = "Show these rows alone";
  item.setAttribute("aria-pressed", shown.has(entry));
  item.addEventListener("click", () => {
    if (!shown.delete(entry)) shown.add(entry);
    item.setAttribute("aria-pressed", shown.has(entry));
    filter();
  });
  return item;
}

function filter() {
  const entryOf = (id) => (picture.untrained[id] ? UNTRAINED : (entries?.[id] ?? -1));
  picture.hidden = null;
  if (shown.size) {
    picture.hidden = new Uint8Array(about.rows);
    for (let id = 0; id < about.rows; id++) picture.hidden[id] = shown.has(entryOf(id)) ? 0 : 1;
  }
  element("legend").classList.toggle("filtered", shown.size > 0);
  redraw();
}

function rampLegend({ low, high, log, stops }) {
  const ramp = document.createElement("span");
  ramp.id = "ramp";
  ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const number = (value) => Number(value.toPrecision(3)).toLocaleString();
  return [number(low), ramp, number(high) + (log ? " (log)" : "")];
}

async function pickColumn() {
  const number = element("colour").value;
  shown.clear();
  columnValues = about.columns[number] ? await server.column(number) : null;
  recolour();
}

// ------------------------------------------------------------------ lists

function line(id, text, cosine) {
  const item = document.createElement("li"), button = document.createElement("button");
  if (cosine !== undefined) {
    const number = document.createElement("span");
    number.className = "cosine";
    number.textContent = cosine.toFixed(3);
    button.append(number);
  }
  button.append(text); // a string: text, whatever markup it holds
  button.addEventListener("click", () => { picture.show(id); ask({ ids: [id] }); });
  item.append(button);
  return item;
}

async function ask(question) {
  const snapshot = Math.round(picture.at);
  const answer = await server.near({ ...question, snapshot });
  const names = await server.words(answer.of);
  element("near-title").textContent = names.length ? `Near to ${names.join(" + ")}` : "";
  element("near-title").hidden = !names.length;
  const notes = [];
  if (answer.missing.length) notes.push(`Not among the words: ${answer.missing.join(", ")}.`);
  if (names.length && !answer.ids.length) notes.push("This snapshot does not have it.");
  else if (names.length) notes.push(`By cosine, in all ${about.dim} dimensions.`);
  element("near-note").textContent = notes.join(" ");
  element("near").replaceChildren(
    ...answer.ids.map((id, i) => line(id, answer.words[i], answer.cosines[i])));
  asked = names.length ? answer : null;
  redraw();
}

const search = latest(server.search, ({ ids, words }) => {
  element("found").replaceChildren(...ids.map((id, i) => line(id, words[i])));
  if (!ids.length && element("search").value) element("found").textContent = "no word holds this";
});

async function choose(ids) {
  chosen = ids;
  element("count").textContent = ids.length.toLocaleString();
  element("export").disabled = element("clear").disabled = !ids.length;
  const names = await server.words(ids.slice(0, 40));
  element("chosen").textContent = ids.length
    ? names.join(", ") + (ids.length > names.length ? ", ..." : "")
    : "Click a point, or drag with shift held down.";
  redraw();
}

// Nothing is chosen, nor near to anything.
function forget() {
  choose([]);
  ask({ ids: [] });
}

async function save() {
  const question = { ids: chosen, snapshot: Math.round(picture.at), vectors: element("with-vectors").checked };
  const address = URL.createObjectURL(await server.csv(question));
  const link = document.createElement("a");
  link.href = address;
  link.download = "rows.csv";
  link.click();
  URL.revokeObjectURL(address);
}

// ------------------------------------------------------------------ pointer and keys

function box(event) {
  const { left, top } = element("labels").getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
}

const frame = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.abs(x - u), Math.abs(y - v)];
let drag = null;

function pointerDown(event) {
  element("labels").setPointerCapture(event.pointerId);
  const choosing = event.shiftKey || element("choose").getAttribute("aria-pressed") === "true";
  drag = { from: box(event), last: box(event), moved: false, choosing };
}

function pointerMove(event) {
  const now = box(event);
  if (!drag) return hover(now);
  drag.moved ||= Math.hypot(now[0] - drag.from[0], now[1] - drag.from[1]) > 4;
  if (!drag.moved) return;
  if (drag.choosing) picture.frame = frame(drag.from, now);
  else picture.pan(now[0] - drag.last[0], now[1] - drag.last[1]);
  drag.last = now;
  picture.draw();
}

function pointerUp(event) {
  if (!drag) return;
  const { from, moved, choosing } = drag;
  drag = null;
  if (moved && choosing) choose(picture.inside(frame(from, box(event))));
  picture.frame = null;
  if (!moved) {
    const id = picture.under(...from);
    if (id >= 0) { choose([id]); ask({ ids: [id] }); }
    else forget();
  }
  redraw();
}

const hover = latest(
  async ([x, y]) => {
    const id = picture.under(x, y);
    return id < 0 ? null : { id, ...(await server.row(id)) };
  },
  (found) => {
    const tip = element("tip");
    tip.hidden = !found;
    if (!found) return;
    const [x, y] = picture.where(found.id);
    const word = document.createElement("b");
    word.textContent = found.word + (picture.untrained[found.id] ? " (untrained)" : "");
    const columns = found.columns.map(([name, value]) => {
      const item = document.createElement("span");
      item.textContent = `${name}: ${value}`;
      return item;
    });
    tip.replaceChildren(word, ...columns);
    const across = picture.width - tip.offsetWidth - 4, down = picture.height - tip.offsetHeight - 4;
    tip.style.left = `${Math.max(Math.min(x + 12, across), 4)}px`;
    tip.style.top = `${Math.max(Math.min(y + 12, down), 4)}px`;
  },
  20,
);

function zoom(factor, at = [picture.width / 2, picture.height / 2]) {
  picture.zoomAt(...at, factor);
  redraw();
}

const KEYS = {
  "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3),
  0: () => { picture.fit(); redraw(); },
  Escape: forget,
  ArrowLeft: () => { picture.pan(40, 0); redraw(); },
  ArrowRight: () => { picture.pan(-40, 0); redraw(); },
  ArrowUp: () => { picture.pan(0, 40); redraw(); },
  ArrowDown: () => { picture.pan(0, -40); redraw(); },
};

// ------------------------------------------------------------------ snapshots

function moveTo(at) {
  picture.at = at;
  element("slider").value = at;
  const early = Math.floor(at), share = at - early;
  const names = about.snapshots.map((name, i) =>
    about.enlarged[i] === 1 ? name : `${name} (enlarged ${about.enlarged[i].toLocaleString()} times)`);
  element("snapshot").textContent =
    share ? `${names[early]} → ${names[early + 1]} ${Math.round(100 * share)}%` : names[early];
  redraw();
}

function play() {
  const begin = performance.now(), last = about.snapshots.length - 1;
  const step = (now) => {
    // A frame's time may lie a little before the click that asked for it.
    moveTo(Math.min(last, Math.max(0, (now - begin) / 2000)));
    if (picture.at < last) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

// ------------------------------------------------------------------ the start

function listen() {
  const canvas = element("labels");
  canvas.addEventListener("pointerdown", pointerDown);
  canvas.addEventListener("pointermove", pointerMove);
  canvas.addEventListener("pointerup", pointerUp);
  canvas.addEventListener("pointercancel", () => { drag = picture.frame = null; redraw(); });
  canvas.addEventListener("pointerleave", () => { element("tip").hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), box(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  element("in").addEventListener("click", () => zoom(1.5));
  element("out").addEventListener("click", () => zoom(1 / 1.5));
  element("fit").addEventListener("click", KEYS[0]);
  element("choose").addEventListener("click", () => {
    const pressed = element("choose").getAttribute("aria-pressed") !== "true";
    element("choose").setAttribute("aria-pressed", pressed);
    canvas.classList.toggle("choosing", pressed);
  });
  element("search").addEventListener("input", () => search(element("search").value));
  element("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = element("words").value.split(",").map((word) => word.trim()).filter(Boolean);
    if (words.length) ask({ words });
  });
  element("colour").addEventListener("change", pickColumn);
  element("export").addEventListener("click", save);
  element("clear").addEventListener("click", () => choose([]));
  element("slider").addEventListener("input", () => moveTo(Number(element("slider").value)));
  element("slider").addEventListener("change", () => { if (asked) ask({ ids: asked.of }); });
  element("play").addEventListener("click", play);
  dark.addEventListener("change", recolour);
  new ResizeObserver(() => { picture.resize(); redraw(); }).observe(canvas);
}

async function start() {
  about = await server.about();
  const counted = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
  const untrained = `${about.untrained.toLocaleString()} ${about.untrained === 1 ? "is" : "are"} untrained`;
  const variance = 100 * about.variance_explained.reduce((a, b) => a + b, 0);
  const plane = about.layout
    ? `placed by ${about.layout}, which keeps near rows near`
    : `the plane shows ${variance.toFixed(1)}% of the variance`;
  const facts =
    `${counted(about.rows, "row")} of ${counted(about.dim, "number")}, of which ${untrained}; ${plane}`;
  document.title = element("title").textContent = about.title;
  element("facts").textContent = facts;
  picture.untrained = await server.untrained();
  picture.snapshots = await Promise.all(about.snapshots.map((_, i) => server.coordinates(i)));
  element("colour").append(
    ...about.columns.map(({ name }, i) => new Option(name, i)), new Option("nothing", ""));
  element("slider").max = about.snapshots.length - 1;
  element("time").hidden = about.snapshots.length < 2;
  picture.at = about.snapshots.length - 1;
  picture.place();
  picture.colour = new Uint32Array(about.rows);
  picture.resize();
  picture.fit();
  listen();
  moveTo(picture.at);
  await pickColumn();
  picture.resize(); // the legend took some of the room
  picture.fit();
  redraw();
  document.body.dataset.ready = "yes";
}

start();
