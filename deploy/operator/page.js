// The operator's page. Reads one websocket, asks by POST, and never shows as present what is past.
"use strict";

const STALE_MS = 600; // without a message for this long the page says so; it comes 20 times a second
const SILENT_MS = 700; // the same for the arm's own loop behind it
const OLD_PICTURE_MS = 1500;
const OLD_STATUS_MS = 3000;
const RETRY_MS = 700;
const KEPT_LINES = 200;
const TRACE_POINTS = 240; // one a quarter of a second
const EVENTS = ["connect", "arm", "enable", "start", "pause", "resume", "disable", "disconnect"];
const FORWARD = ["connect", "arm", "enable", "start", "resume"];
const TONES = {
  OFFLINE: "quiet", CONNECTED: "quiet", ARMED: "calm", HOLD: "calm", ALIGNING: "slow", RUNNING: "go",
  PAUSED: "calm", STOPPING: "slow", FAULT: "bad", ESTOP: "bad",
};
const REASONS = {
  operator: "stopped by the operator", estop: "emergency stop", dry: "the policy sent nothing more",
  no_chunk: "the policy sent no first chunk", worker_lost: "the policy process was lost",
  overrun: "the loop was too late", supervisor_lost: "the supervisor was lost", robot_lost: "the robot was lost",
  robot_fault: "the robot reports a protective stop", executor_fault: "a command was not fit to be sent",
  deadman_lost: "the dead-man's key was let go",
};
const MEANINGS = {
  OFFLINE: "no robot is connected", CONNECTED: "reads the robot, sends nothing", ARMED: "may move, is sent nothing yet",
  HOLD: "holds its pose", ALIGNING: "goes slowly to where the policy begins", RUNNING: "follows the policy",
  PAUSED: "stands; resume goes on", STOPPING: "brakes within its limits", FAULT: "a fault", ESTOP: "emergency stop",
};
const TIMING = [
  ["inference_ms", "inference", "ms"], ["latency_ms", "chunk latency", "ms"], ["late_ms", "tick lateness", "ms"],
  ["seam", "seam", "of a max"],
];

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const page = {
  token: "", role: "", meta: null, live: null, heard: -Infinity, socket: null, opened: 0, retry: 0, refused: false,
  held: false, stopFailed: false, joints: [], cameras: [], traces: {}, traced: 0, lines: 0, drawing: false,
};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function fixed(value, digits) {
  return value === null || value === undefined ? "-" : value.toFixed(digits);
}

function ago(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60000)} min`;
}

// ---------------------------------------------------------------------------------------------- connection

function takeToken() {
  const found = /token=([0-9a-f]+)/.exec(location.hash);
  if (found) {
    sessionStorage.setItem("token", found[1]);
    history.replaceState(null, "", location.pathname); // not for whoever looks over the shoulder
  }
  page.token = sessionStorage.getItem("token") || "";
  if (page.token) connect();
  else askToken();
}

function askToken() {
  page.refused = true;
  $("ask").hidden = false;
}

function connect() {
  if (page.socket) page.socket.onclose = page.socket.onmessage = null;
  const socket = new WebSocket(`ws://${location.host}/live`);
  page.socket = socket;
  page.opened = performance.now();
  page.refused = false;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(JSON.stringify({ token: page.token }));
  socket.onmessage = (event) => (typeof event.data === "string" ? hear(JSON.parse(event.data)) : see(event.data));
  socket.onclose = (event) => {
    page.socket = null;
    page.retry = performance.now() + RETRY_MS;
    if (event.code === 4401) askToken();
  };
}

function hear(message) {
  if (message.kind === "meta") {
    describe(message);
  } else if (message.kind === "live") {
    page.live = message;
    page.heard = performance.now();
    if (!page.drawing) {
      page.drawing = true;
      requestAnimationFrame(() => {
        page.drawing = false;
        draw();
      });
    }
  } else if (message.kind === "log") {
    write(message.lines);
  }
}

async function see(buffer) {
  const head = new DataView(buffer, 0, 16);
  const camera = page.cameras[head.getUint8(0)];
  if (!camera) return;
  const type = head.getUint8(1) === 0 ? "image/jpeg" : "image/png";
  const bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, 16)], { type }));
  camera.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  camera.time = head.getFloat64(8, true);
}

// ---------------------------------------------------------------------------------------------- asking

async function post(name) {
  const headers = page.token ? { Authorization: `Bearer ${page.token}` } : {};
  try {
    const response = await fetch(`/api/${name}`, { method: "POST", headers, signal: AbortSignal.timeout(2500) });
    return await response.json();
  } catch {
    return { ok: false, lost: true, error: "no answer from the daemon" };
  }
}

async function ask(name) {
  const reply = await post(name);
  const element = $("reply");
  element.classList.toggle("bad", !reply.ok);
  say(element, `${clock(Date.now())}  ${name}: ${reply.ok ? "sent" : reply.error}`);
  return reply;
}

async function stop() {
  $("stop").classList.add("sent");
  setTimeout(() => $("stop").classList.remove("sent"), 400);
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const reply = await ask("stop");
    page.stopFailed = !reply.ok;
    watch();
    if (reply.ok) return;
  }
}

function hold(pressed) {
  page.held = pressed;
  $("hold").setAttribute("aria-pressed", String(pressed));
  if (pressed) beat();
}

function beat() {
  const fresh = performance.now() - page.heard < STALE_MS;
  if (page.held && fresh && page.role === "operate" && page.socket && page.socket.readyState === WebSocket.OPEN) {
    page.socket.send(JSON.stringify({ deadman: page.live.stamp }));
  }
}

// ---------------------------------------------------------------------------------------------- drawing

function describe(meta) {
  page.meta = meta;
  page.role = meta.role;
  page.lines = 0;
  $("log").replaceChildren();
  $("ask").hidden = true;
  say($("robot"), meta.simulated ? `${meta.robot}, simulated` : meta.robot);
  say($("policy"), meta.policy);
  $("policy").title = meta.policy;
  say($("role"), meta.role === "operate" ? "operating" : "observing: STOP only");
  $("hold").hidden = !(meta.deadman && meta.role === "operate");
  buildJoints(meta.joints);
  buildCameras(meta.cameras);
  $("limits").replaceChildren(...meta.limits.map((word) => make("li", { "data-limit": word }, word)));
  if (!$("timing").children.length) buildTiming();
}

function buildJoints(joints) {
  page.joints = joints.map((joint) => {
    const mark = make("i"), ring = make("b"), speed = make("i"), value = make("span"), share = make("small", { class: "share muted" });
    const track = make("div", {
      class: "track", role: "meter", "aria-label": `${joint.name}, ${joint.unit}`,
      "aria-valuemin": joint.lower, "aria-valuemax": joint.upper,
    }, mark, ring);
    const speedBar = make("div", { class: "speed" }, speed);
    const end = (limit) => make("span", { class: "end", "aria-hidden": "true" }, limit.toFixed(2));
    const unit = { normalised: "", rad: " rad", m: " m" }[joint.unit] ?? ` ${joint.unit}`;
    const row = make("div", { class: "joint", "data-joint": joint.name },
      make("span", { class: "name", title: joint.name }, joint.name), end(joint.lower),
      make("div", {}, track, speedBar), end(joint.upper), make("span", { class: "value" }, value), share);
    return { ...joint, unit, row, track, mark, ring, speed, speedBar, value, share };
  });
  $("joints").replaceChildren(...page.joints.map((joint) => joint.row));
}

function buildCameras(cameras) {
  page.cameras = cameras.map(({ name, width, height }) => {
    const canvas = make("canvas", { width, height, role: "img", "aria-label": `camera ${name}`, "data-camera": name });
    const age = make("span", { class: "value muted" }, "no picture yet");
    const figure = make("figure", { class: "old" }, canvas,
      make("figcaption", {}, make("span", {}, name), age));
    return { canvas, age, figure, time: null };
  });
  const none = make("p", { class: "muted" }, "No camera is streamed: this policy reads none. cameras=[front] streams one.");
  $("cameras").replaceChildren(...(page.cameras.length ? page.cameras.map((camera) => camera.figure) : [none]));
}

function buildTiming() {
  $("timing").replaceChildren(...TIMING.map(([key, label, unit]) => {
    const canvas = make("canvas", { width: 240, height: 52, "aria-hidden": "true" });
    page.traces[key] = { canvas, values: [], peak: 0 };
    const cells = ["last", "p50", "p95", "max"].map((name) => make("td", { "data-cell": `${key}.${name}` }, "-"));
    return make("tr", {}, make("th", { scope: "row" }, `${label} `, make("small", {}, unit)), ...cells,
      make("td", { class: "trace" }, canvas));
  }));
}

function draw() {
  const live = page.live;
  drawMachine(live);
  for (const [index, joint] of page.joints.entries()) drawJoint(joint, index, live);
  drawTiming(live);
  drawFacts(live);
  drawProcesses(live);
  for (const chip of $("limits").children) chip.classList.toggle("on", (live.limits || []).includes(chip.dataset.limit));
  watch();
}

function drawMachine(live) {
  $("machine").dataset.tone = TONES[live.state];
  for (const node of $("nodes").children) node.classList.toggle("on", node.dataset.state === live.state);
  for (const way of document.querySelectorAll("#machine [data-from]")) {
    way.classList.toggle("from", way.dataset.from.split(" ").includes(live.state));
  }
  $("machine").setAttribute("aria-label", `state machine, now ${live.state}`);
  const reason = $("reason");
  say(reason, REASONS[live.reason] || live.reason || MEANINGS[live.state]);
  const calm = live.reason === "operator" ? "" : live.reason ? "slow" : "plain";
  reason.className = `reason ${TONES[live.state] === "bad" ? "bad" : calm}`;
  say($("message"), live.message || "");
  const ways = page.meta.ways[live.state] || {};
  if (!$("events").children.length) {
    $("events").replaceChildren(...EVENTS.map((name) => {
      const button = make("button", { type: "button", "data-event": name }, name);
      button.addEventListener("click", () => ask(name));
      return button;
    }));
  }
  for (const button of $("events").children) {
    const name = button.dataset.event;
    button.disabled = !(name in ways) || page.role !== "operate" || root.dataset.link !== "live";
    button.title = name in ways ? `leads to ${ways[name]}` : `makes no sense in ${live.state}`;
    button.classList.toggle("next", FORWARD.includes(name));
  }
}

function drawJoint(joint, index, live) {
  const place = (value) => `${Math.min(100, Math.max(0, (100 * (value - joint.lower)) / (joint.upper - joint.lower)))}%`;
  const position = live.position ? live.position[index] : null;
  const setpoint = live.setpoint ? live.setpoint[index] : null;
  const velocity = live.velocity ? live.velocity[index] : null;
  joint.mark.hidden = position === null;
  joint.ring.hidden = setpoint === null;
  if (position !== null) joint.mark.style.left = place(position);
  if (setpoint !== null) joint.ring.style.left = place(setpoint);
  const share = velocity === null ? null : Math.abs(velocity) / joint.max_velocity;
  joint.speed.style.width = `${Math.min(100, 100 * (share || 0))}%`;
  joint.speedBar.classList.toggle("much", share > 0.8);
  say(joint.value, position === null ? "unknown" : `${position.toFixed(3)}${joint.unit}`);
  say(joint.share, share === null ? "" : `${Math.round(100 * share)} %`);
  if (position === null) return;
  joint.track.setAttribute("aria-valuenow", position.toFixed(2));
  const margin = Math.min(position - joint.lower, joint.upper - position) / (joint.upper - joint.lower);
  joint.row.classList.toggle("near", margin < 0.04 && joint.unit !== "");
}

function drawTiming(live) {
  const now = performance.now();
  const step = now - page.traced > 250;
  if (step) page.traced = now;
  for (const [key] of TIMING) {
    const found = live[key], trace = page.traces[key];
    for (const name of ["last", "p50", "p95", "max"]) {
      say(document.querySelector(`[data-cell="${key}.${name}"]`), found ? fixed(found[name], found[name] < 10 ? 2 : 1) : "-");
    }
    trace.peak = Math.max(trace.peak, found ? found.peak : 0);
    if (!step) continue;
    trace.values.push(trace.peak);
    trace.peak = 0;
    if (trace.values.length > TRACE_POINTS) trace.values.shift();
    drawTrace(trace);
  }
}

function drawTrace({ canvas, values }) {
  const pen = canvas.getContext("2d"), { width, height } = canvas;
  const top = Math.max(...values, 1e-9);
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = getComputedStyle(root).getPropertyValue("--trace");
  const wide = width / TRACE_POINTS;
  values.forEach((value, k) => {
    const tall = value > 0 ? Math.max(2, (value / top) * (height - 4)) : 0;
    pen.fillRect(width - (values.length - k) * wide, height - tall, Math.max(wide, 1), tall);
  });
}

function facts(element, rows) {
  const wanted = rows.filter(Boolean);
  if (element.children.length !== wanted.length) {
    element.replaceChildren(...wanted.map(() => make("div", {}, make("dt"), make("dd"))));
  }
  wanted.forEach(([name, value, bad], k) => {
    const [term, detail] = element.children[k].children;
    say(term, name);
    say(detail, String(value));
    detail.classList.toggle("bad", Boolean(bad));
  });
}

function drawFacts(live) {
  const refused = Object.entries(live.refused || {}).map(([word, count]) => `${word.replaceAll("_", " ")} ${count}`).join(", ");
  facts($("counts"), [
    ["motion", live.mode || "none"],
    ["scheduled ahead", `${fixed(live.remaining_s, 2)} s`],
    ["chunks, seams", `${live.chunks ?? 0}, ${live.seams ?? 0}`],
    ["ticks clipped", `${(100 * (live.clipped ?? 0)).toFixed(1)} %`],
    ["overruns", live.overruns ?? 0, live.overruns > 0],
    ["chunks refused", refused || "none"],
  ]);
  const { scene, report, blackbox } = live;
  const recording = blackbox && blackbox.recording;
  facts($("facts"), [
    scene && ["scene", scene.split ? `${scene.split} ${scene.index}, number ${scene.scene}` : "none yet"],
    scene && ["control step", `${scene.step}${scene.success ? ", success" : ""}`],
    ["run of the arm", live.epoch ?? 0],
    report && ["setpoints arrived", `${report.received} (${report.setpoint_hz} Hz)`],
    report && ["missing", report.missing, report.missing > 0],
    report && ["out of limits", report.violations, report.violations > 0],
    blackbox && ["black box", recording ? `${(blackbox.bytes / 1e6).toFixed(1)} MB` : `not recording ${blackbox.message || ""}`, !recording],
    blackbox && ["records lost", blackbox.lost ?? 0, blackbox.lost > 0],
    page.meta.deadman && ["dead-man's key", live.deadman_ms === null ? "never held" : `${ago(live.deadman_ms)} ago`],
  ]);
}

function drawProcesses(live) {
  const list = $("processes"), entries = Object.entries(live.processes);
  list.classList.toggle("stale", live.processes_age_ms === null || live.processes_age_ms > OLD_STATUS_MS);
  if (list.children.length !== entries.length) {
    list.replaceChildren(...entries.map(() => make("li", {}, make("span", { class: "lamp", "aria-hidden": "true" }),
      make("span"), make("span"), make("span", { class: "muted number" }))));
  }
  entries.forEach(([name, process], k) => {
    const [lamp, label, word, pid] = list.children[k].children;
    const dead = process.alive === false;
    lamp.dataset.tone = dead ? "bad" : process.ready === false ? "slow" : "go";
    say(label, name);
    say(word, dead ? `ended (${process.exit})` : process.ready === false ? "starting" : "ready");
    say(pid, process.pid ? String(process.pid) : "");
  });
}

function clock(wall) {
  const date = new Date(wall);
  return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

function write(lines) {
  const offset = page.live ? Date.now() - page.live.now_ms : null;
  const list = $("log");
  for (const line of lines) {
    if (line.n <= page.lines) continue;
    page.lines = line.n;
    const time = offset === null ? "" : clock(offset + line.t_ms);
    list.prepend(make("li", {}, make("time", {}, time), make("span", { class: line.level }, line.text)));
  }
  while (list.children.length > KEPT_LINES) list.lastElementChild.remove();
}

// ---------------------------------------------------------------------------------------------- watching

function situation(gap) {
  const live = page.live;
  if (!live) return page.refused ? ["waiting", ""] : ["waiting", performance.now() > 1000 ? "No connection to the daemon yet." : ""];
  const open = page.socket && page.socket.readyState === WebSocket.OPEN;
  if (!open || gap > STALE_MS) return ["lost", `No data for ${ago(gap)}. What is shown is old, and the arm may be moving.`];
  if (live.age_ms === null) return ["live", ""];
  if (live.age_ms + gap > SILENT_MS) return ["silent", `The arm's own loop has been silent for ${ago(live.age_ms + gap)}.`];
  return ["live", ""];
}

function watch() {
  const now = performance.now(), gap = now - page.heard, live = page.live;
  const [link, trouble] = situation(gap);
  root.dataset.link = link;
  const alarm = page.stopFailed ? "STOP WAS NOT CONFIRMED. Use the hardware emergency stop." : trouble;
  $("alarm").hidden = !alarm;
  say($("alarm"), alarm);
  const known = link === "live";
  const state = known ? live.state : "UNKNOWN";
  say($("state"), state);
  document.querySelector(".now").dataset.tone = known ? TONES[state] : live ? "bad" : "quiet";
  say($("age"), live ? `data ${ago(gap + (live.age_ms || 0))} old${known ? "" : `, last ${live.state}`}` : "no data yet");
  document.title = `${state} ${page.meta ? page.meta.robot : ""}`.trim();
  for (const camera of page.cameras) {
    const age = camera.time === null || !live ? null : Math.max(0, live.now_ms + gap - camera.time);
    camera.figure.classList.toggle("old", age === null || age > OLD_PICTURE_MS);
    say(camera.age, age === null ? "no picture yet" : `${ago(age)} old`);
  }
  if (!known) for (const button of $("events").children) button.disabled = true;
  if (!page.socket && !page.refused && page.token && now > page.retry) connect();
  else if (page.socket && gap > 3000 && now - page.opened > 3000) page.socket.close(); // half-open: begin again
}

// ---------------------------------------------------------------------------------------------- hands

// Before anything else sees the key, whatever has the focus: Space and Escape are STOP. Enter presses buttons.
window.addEventListener("keydown", (event) => {
  if (event.code === "Space" || event.key === "Escape") {
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) stop();
  } else if (event.code === "KeyH" && !event.repeat && event.target.id !== "token" && !$("hold").hidden) {
    hold(true);
  }
}, { capture: true });
window.addEventListener("keyup", (event) => {
  if (event.code === "Space") event.preventDefault();
  if (event.code === "KeyH") hold(false);
}, { capture: true });
for (const name of ["blur", "pagehide"]) window.addEventListener(name, () => hold(false));
document.addEventListener("visibilitychange", () => hold(false));

$("stop").addEventListener("pointerdown", (event) => {
  if (event.button === 0) stop(); // on the way down: a stop does not wait for the finger to be lifted
});
$("stop").addEventListener("click", (event) => {
  if (event.detail === 0) stop(); // Enter, or an assistive device
});
$("estop").addEventListener("click", async () => {
  const reply = await ask("estop");
  if (!reply.ok) stop(); // who may not call the robot's own stop still gets the planned one
});
$("hold").addEventListener("pointerdown", (event) => {
  event.target.setPointerCapture(event.pointerId);
  hold(true);
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) $("hold").addEventListener(name, () => hold(false));
$("hold").addEventListener("contextmenu", (event) => event.preventDefault());
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token").value = "";
  takeToken();
});

setInterval(watch, 100);
setInterval(beat, 100);
takeToken();
