"""The script of the page: draws the chosen episode, keeps frames, curves and cursor at one row."""

__all__ = ["SCRIPT"]

SCRIPT = r"""
"use strict";
const doc = JSON.parse(document.getElementById("document").textContent);
const $ = id => document.getElementById(id);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const make = (tag, text, cls) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
};
let episode = null, row = 0, playing = false, begun = 0, plots = [], screens = [];
const shown = new Set(doc.streams.map(s => s.name).filter(n => n === "state" || n === "action"));
if (!shown.size && doc.streams.length) shown.add(doc.streams[0].name);
const colour = name => name === "action" ? css("--s2") : name === "state" ? css("--s1")
  : `hsl(${[150, 325, 270, 55, 185, 0, 95][doc.streams.findIndex(s => s.name === name) % 7]} 45% 50%)`;

function listEpisodes() {
  doc.episodes.forEach((e, i) => {
    const b = make("button");
    b.type = "button"; b.setAttribute("role", "option");
    b.append(make("span", e.success === null ? "?" : e.success ? "\u2713" : "\u2717",
        "mark " + (e.success === null ? "" : e.success ? "good" : "bad")),
      make("span", "episode " + e.index + (e.findings.length ? " \u26a0" : "")),
      make("span", e.length + " rows", "rows"));
    if (e.language || e.id) b.append(make("span", e.language || e.id, "text"));
    b.onclick = () => choose(i);
    $("list").append(b);
  });
}

function choose(i) {
  stop();
  episode = doc.episodes[i];
  [...$("list").children].forEach((b, k) => b.setAttribute("aria-selected", k === i));
  $("list").children[i].scrollIntoView({block: "nearest"});
  $("what").textContent = "Episode " + episode.index;
  const seconds = episode.time[episode.time.length - 1];
  const badges = [[episode.success === null ? "success not stated" :
    episode.success ? "\u2713 success" : "\u2717 failure",
    episode.success === null ? "" : episode.success ? "good" : "bad"],
    [episode.length + " rows, " + seconds.toFixed(2) + " s", ""]];
  if (episode.id) badges.push(["source " + episode.id, ""]);
  if (episode.findings.length) badges.push([episode.findings.length + " findings", "warn"]);
  $("badges").replaceChildren(...badges.map(([text, cls]) => make("span", text, cls)));
  $("language").textContent = episode.language || "(no instruction)";
  $("metadata").textContent = JSON.stringify(episode.metadata, null, 1);
  const list = make("ul");
  episode.findings.forEach(f => list.append(
    make("li", `${f.repaired ? "repaired" : f.severity || "warning"}: ${f.kind}: ${f.message}`, f.severity)));
  $("findings").replaceChildren(...(episode.findings.length ? [list] : []));
  $("cursor").max = episode.length - 1;
  screens = episode.cameras.map(screen);
  $("cameras").replaceChildren(...screens.map(s => s.figure));
  drawPlots();
  show(0);
}

function screen(camera) {
  const figure = make("figure"), canvas = make("canvas");
  canvas.width = camera.w; canvas.height = camera.h;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "frames of camera " + camera.camera);
  const kept = camera.rows.length === episode.length ? "" : `, ${camera.rows.length} of ${episode.length} frames`;
  figure.append(canvas, make("figcaption", camera.camera + kept));
  const sheets = camera.images.map(source => {
    const image = new Image();
    image.onload = () => draw(row);
    image.src = source;
    return image;
  });
  const context = canvas.getContext("2d");
  function draw(at) {
    let low = 0, high = camera.rows.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (camera.rows[middle] <= at) low = middle; else high = middle - 1;
    }
    const image = sheets[Math.floor(low / camera.perSheet)], place = low % camera.perSheet;
    if (!image.complete || !image.naturalWidth) return;
    context.drawImage(image, place % camera.columns * camera.w, Math.floor(place / camera.columns) * camera.h,
      camera.w, camera.h, 0, 0, camera.w, camera.h);
  }
  return {figure, draw};
}

function groups() {
  const found = new Map();
  doc.streams.filter(s => shown.has(s.name)).forEach(s => s.channels.forEach((c, i) => {
    const key = c.name + "|" + c.unit;
    if (!found.has(key)) found.set(key, {name: c.name, unit: c.unit, lines: []});
    found.get(key).lines.push({stream: s.name, values: episode.streams[s.name][i]});
  }));
  return [...found.values()];
}

function drawPlots() {
  $("choices").replaceChildren(...doc.streams.map(s => {
    const b = make("button"), mark = make("i");
    b.type = "button"; mark.style.background = colour(s.name);
    b.append(mark, s.name);
    b.setAttribute("aria-pressed", shown.has(s.name));
    b.onclick = () => { shown.has(s.name) ? shown.delete(s.name) : shown.add(s.name); drawPlots(); show(row); };
    return b;
  }));
  plots = groups().map(plot);
  $("plots").replaceChildren(...plots.map(p => p.box));
  plots.forEach(p => p.paint());
}

function plot(group) {
  const box = make("div", undefined, "plot"), head = make("div"), value = make("span"), canvas = make("canvas");
  const title = make("b", group.name), unit = make("span", group.unit);
  title.title = group.name;
  head.append(title, unit); box.append(head, canvas, value);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "curve of " + group.name);
  const all = group.lines.flatMap(l => l.values).filter(v => v !== null);
  let low = Math.min(...all), high = Math.max(...all);
  if (!all.length) { low = 0; high = 1; }
  if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
  const base = document.createElement("canvas"), last = Math.max(episode.length - 1, 1);
  const text = v => label(Math.abs(v) < 1e-5 * Math.max(Math.abs(low), Math.abs(high)) ? 0 : v);
  const x = (r, w) => 3 + r / last * (w - 6), y = (v, h) => h - 5 - (v - low) / (high - low) * (h - 10);
  function paint() {
    const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth || 240, h = 74;
    canvas.width = base.width = w * ratio; canvas.height = base.height = h * ratio;
    const c = base.getContext("2d");
    c.scale(ratio, ratio);
    c.strokeStyle = css("--line"); c.lineWidth = 1;
    c.beginPath();
    [low, high].forEach(v => { c.moveTo(0, y(v, h)); c.lineTo(w, y(v, h)); });
    c.stroke();
    c.lineWidth = 1.6; c.lineJoin = "round";
    group.lines.forEach(line => {
      c.strokeStyle = colour(line.stream);
      c.beginPath();
      let pen = false;
      line.values.forEach((v, i) => {
        if (v === null) { pen = false; return; }
        const at = x(episode.rows[i], w);
        pen ? c.lineTo(at, y(v, h)) : c.moveTo(at, y(v, h));
        pen = true;
      });
      c.stroke();
    });
    c.font = "10px system-ui, sans-serif";
    c.strokeStyle = css("--card"); c.fillStyle = css("--muted"); c.lineWidth = 3;
    [[high, 14], [low, h - 9]].forEach(([v, at]) => { c.strokeText(text(v), 4, at); c.fillText(text(v), 4, at); });
    mark(row);
  }
  function mark(at) {
    const c = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, w = canvas.width / ratio, h = 74;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    c.drawImage(base, 0, 0);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.strokeStyle = css("--ink"); c.lineWidth = 1;
    c.beginPath(); c.moveTo(x(at, w), 0); c.lineTo(x(at, w), h); c.stroke();
    const point = nearest(at);
    group.lines.forEach(line => {
      const v = line.values[point];
      if (v === null) return;
      c.fillStyle = colour(line.stream);
      c.beginPath(); c.arc(x(episode.rows[point], w), y(v, h), 3, 0, 7); c.fill();
    });
    value.textContent = group.lines.map(l => l.values[point] === null ? "\u2013" : text(l.values[point]))
      .join(" / ");
  }
  const follow = event => {
    const bounds = canvas.getBoundingClientRect();
    stop();
    show(Math.round((event.clientX - bounds.left - 3) / (bounds.width - 6) * last));
  };
  canvas.onpointermove = follow; canvas.onpointerdown = follow;
  return {box, paint, mark};
}

const label = v => Math.abs(v) >= 1e4 || (v !== 0 && Math.abs(v) < 1e-3)
  ? v.toExponential(2) : String(+v.toPrecision(4));

function nearest(at) {
  const rows = episode.rows;
  let low = 0, high = rows.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (rows[middle] <= at) low = middle; else high = middle - 1;
  }
  return low;
}

function show(at) {
  row = Math.max(0, Math.min(episode.length - 1, at));
  $("cursor").value = row;
  $("now").textContent = "row " + row + ", " + episode.time[row].toFixed(2) + " s";
  screens.forEach(s => s.draw(row));
  plots.forEach(p => p.mark(row));
}

function stop() { playing = false; $("play").textContent = "\u25b6"; }

function play() {
  if (playing) { stop(); return; }
  if (row >= episode.length - 1) show(0);
  playing = true; $("play").textContent = "\u275a\u275a";
  begun = performance.now() - episode.time[row] * 1000 / speed();
  requestAnimationFrame(tick);
}

const speed = () => Number($("speed").value);

function tick(now) {
  if (!playing) return;
  const t = (now - begun) / 1000 * speed();
  let at = row;
  while (at < episode.length - 1 && episode.time[at + 1] <= t) at++;
  if (at !== row) show(at);
  if (row >= episode.length - 1) { stop(); return; }
  requestAnimationFrame(tick);
}

$("play").onclick = play;
$("speed").onchange = () => { if (playing) { stop(); play(); } };
$("cursor").oninput = event => { stop(); show(Number(event.target.value)); };
window.addEventListener("resize", () => plots.forEach(p => p.paint()));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawPlots(); show(row); });
window.addEventListener("keydown", event => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = doc.episodes.indexOf(episode);
  const actions = {" ": play,
    ArrowLeft: () => { stop(); show(row - 1); }, ArrowRight: () => { stop(); show(row + 1); },
    ArrowUp: () => choose(Math.max(place - 1, 0)),
    ArrowDown: () => choose(Math.min(place + 1, doc.episodes.length - 1))};
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});
listEpisodes();
choose(0);
"""
"""Nothing of it asks for a file, a font or an address."""
