// The server's routes. A key that the user types stays in this tab: sessionStorage, and no address ever carries it.

import { toast } from "./dom.js";

export const facts = JSON.parse(document.getElementById("facts").textContent);
export const has = (part) => facts.has.includes(part);

/** An address of this server: relative to the page's, as a proxy may have put both below a path of its own. */
export const at = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

let key = read("key") ?? "";

class ApiError extends Error {
  /** `answer`: what it came with, whose number is the one under which the server's log tells more. */
  constructor(status, body, answer = null) {
    const error = body?.error ?? {};
    const number = error.code === "internal_error" && answer?.headers.get("x-request-id");
    super(`${error.message ?? `the server answered ${status}`}${number ? ` (${number})` : ""}`);
    Object.assign(this, { status, code: error.code ?? "", param: error.param ?? null, details: { ...body, ...error } });
  }
}

/** Of an answer that began and did not come to its end. */
export const brokenOff = () => new ApiError(0, { error: { message: "the connection to the server broke off; try again", code: "no_answer" } });
export const hasKey = () => key !== "";

/** Takes a key as it was copied; false where the text can be none, as no header may carry it. */
export function setKey(text) {
  const given = text.replace(/^\s*bearer\s+|[\s\u200b-\u200f\u2060]+/gi, "");
  if (!/^[!-~]*$/.test(given)) return false;
  key = given;
  write("key", key);
  return true;
}

export function read(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keeps a text for this tab; false where there is no room. */
export function write(name, text) {
  try {
    if (text) sessionStorage.setItem(name, text);
    else sessionStorage.removeItem(name);
    return true;
  } catch {
    return false;
  }
}

/** `quiet`: what the page asks by itself, again and again; nobody is asked for a key then. */
async function ask(path, { method = "GET", json, form, signal, quiet = false } = {}) {
  const sent = {};
  if (key) sent.authorization = `Bearer ${key}`;
  if (json !== undefined) sent["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(at(path), { method, headers: sent, signal, body: json === undefined ? form : JSON.stringify(json), credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: { message: "the server does not answer; is it still running?", code: "no_answer" } });
  }
  if (!answer.ok) {
    const fault = new ApiError(answer.status, await answer.json().catch(() => null), answer);
    if (answer.status === 401 && !quiet) dispatchEvent(new CustomEvent("key-needed", { detail: fault.message }));
    if (fault.code === "model_not_found") dispatchEvent(new Event("people-changed")); // erased, in another tab perhaps
    throw fault;
  }
  const ignored = answer.headers.get("x-ignored-fields");
  if (ignored) toast(`Left out, as nothing here follows it: ${decodeURIComponent(ignored)}`);
  return answer;
}

export async function call(path, options) {
  const answer = await ask(path, options);
  if (answer.status === 204) return null;
  const said = await answer.text().catch(broken);
  try {
    return JSON.parse(said, exact);
  } catch { // a page that asks who is there
    throw new ApiError(0, { error: { message: "something in front of this server answered in its place: load this page again, and sign in if you are asked to", code: "no_answer" } });
  }
}

/** A whole number that has more digits than a number here keeps (a seed of the command line), as a text of all of them. */
const exact = (_, value, found) => (typeof value === "number" && !Number.isSafeInteger(value) && /^\d+$/.test(found?.source ?? "") ? found.source : value);

export const text = async (path) => (await ask(path)).text().catch(broken);
export const blob = async (path) => (await ask(path)).blob().catch(broken);

function broken(error) {
  throw error.name === "AbortError" ? error : brokenOff();
}

/** Server-sent events of a POST. An event "error" is thrown, and so is a connection that breaks. */
export async function* events(path, json, signal) {
  const answer = await ask(path, { method: "POST", json, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(broken);
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((one) => one.startsWith("data: "));
      if (!line || line === "data: [DONE]") continue;
      const data = JSON.parse(line.slice(6));
      if (data.error) throw new ApiError(500, data, answer);
      yield data;
    }
  }
}

/** Every row of a paged list. */
export async function all(path, limit = 1000) {
  const rows = [];
  for (let after = ""; ; ) {
    const page = await call(`${path}?limit=${limit}${after && `&after=${encodeURIComponent(after)}`}`);
    rows.push(...page.data);
    if (!page.has_more || !page.data.length) return rows;
    after = page.last_id;
  }
}

/** Shows a picture or clip of the server in an element; with a key it is fetched, as a tag sends none. */
export function show(element, path) {
  if (!key) {
    element.src = at(path);
    return element;
  }
  blob(path).then((data) => {
    element.src = URL.createObjectURL(data);
    const free = () => URL.revokeObjectURL(element.src);
    element.addEventListener(element.tagName === "VIDEO" ? "emptied" : "load", free, { once: true });
  }, () => element.dispatchEvent(new Event("error")));
  return element;
}

export const part = (text) => encodeURIComponent(text);

const AWAY_MS = 120_000; // a server that is started anew takes its work up again
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Follows a piece of work until it is over, also where the server is away for a while. */
export async function follow(work, onchange, signal) {
  let now = work;
  let seen = Date.now();
  for (;;) {
    onchange(now);
    if (!["queued", "in_progress"].includes(now.status)) return now;
    await wait(1000);
    if (signal?.aborted) return now;
    try {
      now = await call(`/v1/work/${part(now.id)}`);
      seen = Date.now();
    } catch (error) {
      if (![0, 429, 502, 503, 504].includes(error.status) || Date.now() - seen > AWAY_MS) throw error;
      await wait(1400);
    }
  }
}
