// One request and its pictures, from the first preview on.

import { brokenOff, call, events, facts, follow, part, show } from "./api.js";
import { button, h, icon, iconButton, notice, plural, timeLeft } from "./dom.js";
import { look } from "./look.js";
import { addPicture, person, requestOf, shownPrompt } from "./state.js";

const PREVIEWS = 3;
// an answer that has begun has a code alone
const passing = ({ status, code }) => [0, 429, 502, 503, 504].includes(status) || ["queue_full", "server_stopping", "generator_unavailable"].includes(code);

export function makeBatch(chosen, onGone) {
  const body = requestOf(chosen);
  // without a seed the server draws one; which picture is meant is told by the distance to the first
  if (!chosen.clip) body.seed ??= Math.floor(Math.random() * 2 ** 31);
  const names = Object.fromEntries(chosen.people.map((id) => [id, person(id)?.name ?? id]));
  names[""] = names[chosen.people[0]];
  const abort = new AbortController();
  const meta = h("p", { class: "soft small numbers" }, chosen.people.map((id) => names[id]).join(" and "));
  const stop = button("Cancel", { kind: "quiet", onclick: () => abort.abort() });
  const said = h("span", { class: "sr", role: "status" }); // for who does not see that it is done
  const tiles = h("div", { class: "tiles" });
  const [width, height] = (body.size ?? "1x1").split("x").map(Number);
  const ratio = body.size ? width / height : chosen.people.length > 1 ? 2 : 1;
  const kind = chosen.clip || body.n === 1 ? "single" : "";
  const element = h("article", { class: `batch ${kind} ${ratio > 1.2 ? "broad" : ""}` },
    h("header", {}, h("div", {}, h("h2", {}, shownPrompt(body.prompt, names)), meta, said), stop), tiles);
  const places = Array.from({ length: chosen.clip ? 1 : body.n }, () => {
    const meter = h("i", {});
    const tile = h("div", { class: "tile making", role: "img", "aria-label": "being drawn" }, h("div", { class: "meter" }, meter));
    tile.style.aspectRatio = String(ratio);
    tiles.append(tile);
    return { tile, meter };
  });

  const finish = (place, made) => {
    const image = made.clip
      ? show(h("video", { muted: true, loop: true, autoplay: true, playsInline: true }), made.src)
      : h("img", { src: made.src, alt: shownPrompt(made.prompt, made.names) });
    const like = made.likeness === undefined || made.likeness === null ? "open" : `likeness ${made.likeness.toFixed(2)}`;
    const tile = h("button", { type: "button", class: "tile", onclick: () => look(made) }, image, h("span", { class: "caption" }, h("b", {}, `seed ${made.seed}`), like));
    if (made.clip) tile.setAttribute("aria-label", shownPrompt(made.prompt, made.names));
    tile.style.aspectRatio = made.size.replace("x", " / ");
    place.tile.replaceWith(tile);
    if (!places.some((other) => other.tile.isConnected)) said.textContent = chosen.clip ? "finished" : `${plural(places.length, "picture")} drawn`;
    addPicture(made);
  };

  /** A text encoder reads so much of a prompt, and not the rest. */
  function tellCut(tokens) {
    if (!tokens || tokens.read >= tokens.given || element.querySelector(".advice")) return;
    tiles.after(h("p", { class: "advice small" }, icon("warn"), `The prompt is too long: the first ${tokens.read} of its ${tokens.given} tokens are read, and not its end.`));
  }

  async function pictures() {
    const request = { ...body, stream: true, partial_images: PREVIEWS };
    const first = body.seed;
    for await (const event of events("/v1/images/generations", request, abort.signal)) {
      const place = places[event.seed - first];
      const src = `data:image/${event.output_format};base64,${event.b64_json}`;
      if (event.type.endsWith("partial_image")) {
        let image = place.tile.querySelector("img");
        if (!image) place.tile.prepend((image = h("img", { alt: "" })));
        image.src = src;
        image.style.filter = `blur(${2 - event.partial_image_index * 0.6}px)`;
        place.meter.style.width = `${(100 * (event.partial_image_index + 1)) / (PREVIEWS + 1)}%`;
        continue;
      }
      meta.textContent = `${chosen.people.map((id) => names[id]).join(" and ")} · ${event.num_inference_steps} steps · seed ${first}${body.n > 1 ? ` to ${first + body.n - 1}` : ""}`;
      finish(place, drawn(event, event));
      tellCut(event.prompt_tokens);
    }
    if (places.some(({ tile }) => tile.isConnected)) throw brokenOff(); // ended without all that was asked for
  }

  const drawn = (one, answer) => ({ id: `${Date.now()}-${one.seed}`, src: `data:image/${answer.output_format};base64,${one.b64_json}`, prompt: body.prompt, people: chosen.people, names,
    seed: one.seed, likeness: one.likeness, textMatch: one.clip_t, steps: answer.num_inference_steps, guidance: answer.guidance_scale, size: answer.size,
    pose: chosen.people.map((id) => chosen.poses[id]).filter(Boolean).join(", ") || null, created: Date.now() / 1000, chosen });

  async function best() {
    meta.textContent = `drawing ${body.n * body.best_of}, of which the best ${body.n === 1 ? "one is" : `${body.n} are`} kept`;
    for (const { meter } of places) meter.parentElement.classList.add("waiting");
    const answer = await call("/v1/images/generations", { method: "POST", json: body, signal: abort.signal });
    meta.textContent = `${names[""]} · ${answer.num_inference_steps} steps · best of ${body.best_of}`;
    for (const [number, one] of answer.data.entries()) finish(places[number], drawn(one, answer));
    tellCut(answer.prompt_tokens);
  }

  async function clip() {
    const { n, size, pose, ...asked } = body; // a clip has none of the three, and neither has a head
    const route = chosen.head ? "/v1/heads" : "/v1/videos";
    if (chosen.head) delete asked.num_inference_steps, delete asked.negative_prompt;
    let work = await call(route, { method: "POST", json: asked, signal: abort.signal });
    abort.signal.addEventListener("abort", () => call(`/v1/work/${part(work.id)}/cancel`, { method: "POST" }).catch(() => {}));
    work = await follow(work, (now) => {
      places[0].meter.style.width = `${now.progress}%`;
      meta.textContent = now.status === "queued" ? "waiting for its turn" : timeLeft(now.seconds_left) || (chosen.head ? "sculpting" : "moving");
    }, abort.signal);
    if (work.status !== "completed") throw new Error(work.error?.message ?? `it was ${work.status}`);
    const src = `${route}/${part(work.id)}/content${chosen.head ? "?format=mp4" : ""}`;
    meta.textContent = names[""];
    finish(places[0], { id: work.id, clip: true, head: chosen.head, src, prompt: body.prompt, people: chosen.people, names, seed: work.seed ?? body.seed ?? "", size: `${facts.side}x${facts.side}`, created: Date.now() / 1000, chosen });
  }

  (chosen.clip ? clip() : body.best_of ? best() : pictures()).catch((error) => {
    for (const { tile } of places) if (tile.isConnected) tile.remove();
    if (error.name === "AbortError" || abort.signal.aborted) {
      if (!tiles.children.length) element.remove();
      onGone();
      return;
    }
    element.append(notice([error.message, " ", passing(error) && button("Try again", { onclick: () => element.replaceWith(makeBatch(chosen, onGone)) })]));
  }).finally(() => stop.replaceWith(iconButton("close", "Take this away", () => { element.remove(); onGone(); })));
  return element;
}
