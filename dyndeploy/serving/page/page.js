// The page: what is served, asked once a second, and the form.

import { Refusal, get, models, setToken } from "/page/api.js";
import { Card } from "/page/models.js";
import { Trial } from "/page/try.js";

const EVERY_MS = 1000;
const $ = (id) => document.getElementById(id);
const cards = new Map();
const described = new Map(); // name -> {metadata, config, stamp}
const trial = new Trial();

function setState(text, kind) {
  $("state").textContent = text;
  $("state").className = `pill ${kind}`;
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// A model is described again when another bundle has taken its place.
async function describe(name, stamp) {
  const path = `/v2/models/${encodeURIComponent(name)}`;
  const [metadata, config] = await Promise.all([get(path), get(`${path}/config`)]);
  described.set(name, { metadata, config, stamp });
  cards.get(name).describe(metadata, config);
}

async function refresh() {
  const [index, { model_stats: stats }] = await Promise.all([models(), get("/v2/models/stats")]);
  const now = performance.now();
  const statsOf = new Map(stats.map((entry) => [entry.name, entry]));
  for (const name of [...cards.keys()].filter((known) => !index.some((entry) => entry.name === known))) {
    cards.get(name).element.remove();
    cards.delete(name);
    described.delete(name);
  }
  for (const { name, state, reason } of index) {
    if (!cards.has(name)) {
      cards.set(name, new Card(name));
      $("models").append(cards.get(name).element);
    }
    const card = cards.get(name);
    const entry = statsOf.get(name);
    card.setState(state, reason || entry?.dyndeploy?.reason);
    if (entry) card.show(entry, now);
    const stamp = `${state} ${entry?.dyndeploy?.reloads ?? 0}`;
    if (state !== "READY") described.delete(name);
    else if (described.get(name)?.stamp !== stamp) await describe(name, stamp);
  }
  trial.offer(new Map(described));
  const ready = index.every((entry) => entry.state === "READY");
  setState(ready ? "ready" : "not ready", ready ? "good" : "between");
}

async function turn() {
  let next = EVERY_MS;
  try {
    if (!$("server").textContent) {
      const { name, version } = await get("/v2");
      $("server").textContent = `${name} ${version}`.replace(/^dyndeploy /, "");
    }
    await refresh();
    complain("");
    $("login").hidden = true;
    $("main").hidden = false;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) {
      setState("token needed", "between");
      $("login-problem").textContent = $("login").hidden ? "" : "That is not the token.";
      $("login").hidden = false;
      $("main").hidden = true;
      return; // until there is another token
    }
    setState("not reachable", "bad");
    complain(error instanceof Refusal ? error.message : "The server does not answer.");
    next = 3 * EVERY_MS;
  }
  setTimeout(turn, next);
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value);
  turn();
});
turn();
