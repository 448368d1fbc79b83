// The page: asks the scheduler every two seconds what there is, and shows it.

import { age, fillDecisions, fillPending, showDecision } from "./decisions.js";
import { NodeMap, bytes, cores, showNode } from "./nodes.js";

const PERIOD = 2000;
const SAMPLES = 90;
const KEPT = "whipstaff-token";
const at = (id) => document.getElementById(id);
const known = { names: "", decisions: -1 };
const rates = [];
let before = null;
let token = sessionStorage.getItem(KEPT) ?? "";

class Refused extends Error {}

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(said.message ?? `refused (${answer.status})`);
  }
  if (!answer.ok && answer.status !== 404) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function attempt(action) {
  return (...given) => action(...given).catch((error) => state("lost", error.message));
}

function state(kind, text) {
  at("state").className = kind;
  if (at("state").textContent !== text) at("state").textContent = text;
}

function tile(name, value, more = "") {
  at(`t-${name}`).textContent = value;
  const place = at(`t-${name}-more`);
  if (place) place.textContent = more;
}

const number = (value) => value.toLocaleString("en");
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(0)} %` : "–");

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

const explain = attempt(async (pod, decision) => {
  const [namespace, name] = pod.split("/");
  const query = new URLSearchParams({ namespace, name, nodes: 10 });
  if (decision !== undefined) query.set("number", decision);
  const place = at("decision");
  showDecision(place, await ask(`/debug/explain?${query}`), () => { place.hidden = true; });
});

const show = attempt(async (name) => {
  const place = at("node");
  showNode(place, await ask(`/debug/node?${new URLSearchParams({ name })}`), () => { place.hidden = true; at("nodes").focus(); }, explain);
});

const map = new NodeMap(at("nodes"), at("pointed"), show);

function drawRate() {
  const canvas = at("rate");
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  const highest = Math.max(1, ...rates);
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  context.lineWidth = 1.5 * ratio;
  context.beginPath();
  rates.forEach((rate, index) => {
    const x = ((index + SAMPLES - rates.length) / (SAMPLES - 1)) * canvas.width;
    context.lineTo(x, canvas.height - 2 - (rate / highest) * (canvas.height - 4));
  });
  context.stroke();
}

function update(shown) {
  const { nodes, pods, pending, attempts } = shown;
  map.update(nodes.names, nodes);
  known.names = nodes.version;
  tile("nodes", number(map.names.length), nodes.cordoned.length ? `${number(nodes.cordoned.length)} cordoned` : "");
  tile("pods", number(pods.placed), pods.assumed ? `${number(pods.assumed)} being bound` : `room for ${number(nodes.allocatable.pods)}`);
  const { active, backoff, unschedulable, gated } = pending.counts;
  tile("pending", number(active + backoff + unschedulable + gated), `${number(active)} to try, ${number(backoff)} backing off, ${number(unschedulable)} unschedulable, ${number(gated)} gated`);
  tile("cpu", percent(nodes.requested.cpu, nodes.allocatable.cpu), `${cores(nodes.requested.cpu)} of ${cores(nodes.allocatable.cpu)} cores`);
  tile("memory", percent(nodes.requested.memory, nodes.allocatable.memory), `${bytes(nodes.requested.memory)} of ${bytes(nodes.allocatable.memory)}`);
  const placed = attempts.scheduled ?? 0;
  if (before && before.started === shown.started) {
    const rate = (placed - before.placed) / Math.max(shown.time - before.time, 0.1);
    rates.push(rate);
    if (rates.length > SAMPLES) rates.shift();
    tile("rate", rate < 10 ? rate.toFixed(1) : number(Math.round(rate)));
  }
  before = { started: shown.started, time: shown.time, placed };
  drawRate();
  fillPending(at("pending").tBodies[0], pending.pods, shown.time, explain);
  at("pending-none").hidden = pending.pods.length > 0;
}

async function poll() {
  if (document.hidden) return;
  try {
    const shown = await ask(`/debug/cluster?${new URLSearchParams({ names: known.names })}`);
    const decisions = await ask("/debug/decisions?limit=50");
    at("login").hidden = true;
    at("main").hidden = false;
    update(shown);
    fillDecisions(at("decisions").tBodies[0], decisions, shown.time, explain);
    state("live", `live; running for ${age(shown.time - shown.started)}`);
  } catch (error) {
    if (error instanceof Refused) {
      at("login").hidden = false;
      at("main").hidden = true;
      at("login-why").textContent = error.message;
      state("lost", "who are you?");
    } else {
      state("lost", `no answer: ${error.message}`);
    }
  }
}

function colour() {
  document.documentElement.dataset.theme = dark() ? "dark" : "light";
  map.colour(dark());
}

at("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  localStorage.setItem("whipstaff-theme", document.documentElement.dataset.theme);
  colour();
});
at("by").addEventListener("change", (event) => { map.by = event.target.value; map.draw(); });
at("find").addEventListener("input", (event) => { map.found = event.target.value; map.draw(); });
at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem(KEPT, token);
  poll();
});
document.addEventListener("visibilitychange", poll);
if (localStorage.getItem("whipstaff-theme")) document.documentElement.dataset.theme = localStorage.getItem("whipstaff-theme");
colour();

async function loop() {
  await poll();
  setTimeout(loop, PERIOD);
}
loop();
