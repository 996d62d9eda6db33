// What the views share: the people, what was drawn in this tab, and what is chosen for the next picture.

import { all, call, facts, part, read, write } from "./api.js";

const changes = new EventTarget();
export const tell = (what) => changes.dispatchEvent(new Event(what));
export const on = (what, then) => changes.addEventListener(what, then);

export let people = [];
export const person = (id) => people.find((who) => who.identity_id === id);
export let peopleError = null;
export let peopleLoaded = false;

/** A name as it can stand in a sentence: without marks that turn the direction of all that follows. */
export const legible = (name) => name.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");

let loads = 0; // a list that was asked for before does not take the place of a later one

export async function loadPeople() {
  const mine = ++loads;
  try {
    const found = await all("/v1/models");
    if (mine !== loads) return;
    people = found.map((who) => ({ ...who, name: legible(who.name) || who.identity_id }));
    peopleError = null;
  } catch (error) {
    if (mine !== loads) return;
    peopleError = error;
  }
  peopleLoaded = true;
  composition.people = composition.people.filter((id) => person(id));
  tell("people");
}

export async function erase(id) {
  const proof = await call(`/v1/identities/${part(id)}`, { method: "DELETE" });
  for (const drawn of session.filter((one) => one.people.includes(id))) session.splice(session.indexOf(drawn), 1);
  keep();
  tell("session");
  await loadPeople();
  return proof;
}

export const composition = {
  people: [], prompt: read("prompt") ?? "a photo of <person>", poses: {}, shape: "auto", count: 2, bestOf: 1, seed: "", steps: "", guidance: "", negative: "", clip: false, head: false,
};

// Pictures of this tab, newest first: {id, src, prompt, people, names, seed, steps, guidance, size, created, body}.
export const session = restored();

export function addPicture(drawn) {
  session.unshift(drawn);
  keep();
  tell("session");
}

function keep() {
  // a tab has room for some megabytes: the oldest are dropped until it fits, and closing the tab forgets all
  for (let number = Math.min(session.length, 80); number >= 0; number = Math.floor(number * 0.7)) {
    if (write("session", number ? JSON.stringify(session.slice(0, number)) : "") || !number) return;
  }
}

function restored() {
  try {
    return JSON.parse(read("session") ?? "[]");
  } catch {
    return [];
  }
}

const mention = (who) => `<person:${who.identity_id}>`;

/** The prompt as it is sent: with everybody who is chosen in it. */
export function sentPrompt({ prompt, people: chosen }) {
  const text = prompt.trim() || "a photo of <person>";
  const others = chosen.slice(1).map((id) => mention(person(id)));
  if (!others.length || /<person:/.test(text)) return text;
  const everybody = ["<person>", ...others];
  const list = `${everybody.slice(0, -1).join(", ")} and ${everybody.at(-1)}`;
  return text.includes("<person>") ? text.replace("<person>", list) : `${list} ${text}`;
}

/** A prompt for people to read: names in the place of ids. */
export function shownPrompt(text, names) {
  return text.replace(/<person(?::\s*([^<>]+?)\s*)?>/g, (_, id) => (id ? names[id] ?? person(id)?.name ?? id : names[""] ?? "they"));
}

const SHAPES = { square: [1, 1], portrait: [1, 1.5], landscape: [1.5, 1], wide: [2, 1] };

/** How many seeds are drawn for each picture: only single pictures of one person are compared. */
export const bestOf = (chosen) => (facts.compares && chosen.people.length === 1 && !chosen.clip ? chosen.bestOf ?? 1 : 1);

/** The request for what is chosen. */
export function requestOf(chosen) {
  const body = { model: chosen.people[0], prompt: sentPrompt(chosen), n: Number(chosen.count) };
  const shape = SHAPES[chosen.shape];
  if (shape) body.size = shape.map((share) => Math.round((share * facts.side) / 8) * 8).join("x");
  if (chosen.seed !== "") body.seed = Number(chosen.seed);
  if (chosen.steps !== "") body.num_inference_steps = Number(chosen.steps);
  if (chosen.guidance !== "") body.guidance_scale = Number(chosen.guidance);
  if (chosen.negative.trim()) body.negative_prompt = chosen.negative.trim();
  const poses = chosen.people.map((id) => chosen.poses[id]);
  if (poses.some(Boolean)) body.pose = poses.map((name) => ({ name: name || "front" }));
  if (body.pose?.length === 1) body.pose = body.pose[0];
  if (bestOf(chosen) > 1) body.best_of = bestOf(chosen);
  return body;
}
