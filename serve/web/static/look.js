// One picture or clip, large, with how it was made.

import { blob, facts as server, part, show } from "./api.js";
import { ago, button, h, iconButton, openDialog, toast } from "./dom.js";
import { composition, person, shownPrompt, tell } from "./state.js";

/** `drawn`: {src, prompt, names, people, seed, ...}; `list` is what the arrow keys walk through. */
export function look(drawn, list = [drawn]) {
  let at = list.indexOf(drawn);
  const content = h("div", { class: "look" });
  const place = h("span", { class: "soft small numbers", role: "status" });
  const row = list.length > 1 && h("div", { class: "row" }, iconButton("left", "Previous picture", () => walk(-1)), place, iconButton("right", "Next picture", () => walk(1)));
  const onkeydown = ({ key, target }) => { // wherever the focus is; an arrow in a film is the film's
    if (key.startsWith("Arrow") && !target.matches("video, input")) walk({ ArrowLeft: -1, ArrowRight: 1 }[key]);
  };
  addEventListener("keydown", onkeydown);
  const dialog = openDialog("Picture", [content, row || ""], { wide: true, onclose: () => removeEventListener("keydown", onkeydown) });

  function walk(step) {
    if (!list[at + step]) return;
    at += step;
    fill();
  }

  function fill() {
    content.replaceChildren(...parts(list[at], () => dialog.close()));
    place.textContent = `${at + 1} of ${list.length}`;
  }
  fill();
}

function parts(drawn, close) {
  const text = shownPrompt(drawn.prompt, drawn.names);
  const element = drawn.clip ? h("video", { controls: true, loop: true, autoplay: true, muted: true, playsInline: true }) : h("img", { alt: text });
  if (/^(data|blob):/.test(drawn.src)) element.src = drawn.src;
  else show(element, drawn.src);
  const facts = { "Who": drawn.people.map((id) => drawn.names[id] ?? person(id)?.name ?? id).join(", "), "Seed": drawn.seed, "Steps": drawn.steps, "Guidance": drawn.guidance,
    "Pose": drawn.pose, "Size": drawn.size, "Likeness": drawn.likeness?.toFixed(2), "Text match": drawn.textMatch?.toFixed(2), "Drawn": ago(drawn.created) };
  const known = drawn.people.every((id) => person(id));
  const far = drawn.seed > server.maxSeed; // of the command line, which alone draws it again
  return [h("div", { class: "picture" }, element), h("div", { class: "side" },
    h("p", { class: "prompt" }, text),
    h("dl", { class: "facts" }, Object.entries(facts).filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])),
    drawn.likeness !== undefined && drawn.likeness !== null && h("p", { class: "soft small" }, "Likeness compares the face with the photo's, from -1 to 1 (the cosine of a face recogniser)."),
    far && h("p", { class: "soft small" }, `Only identity-factory generate draws this seed again: ${server.maxSeed} is the largest here.`),
    drawn.head && h("div", { class: "row" }, ["ply", "spz", "gltf"].map((format) => button(format.toUpperCase(), { glyph: "download", onclick: () => keepHead(drawn, format) }))),
    h("div", { class: "row" }, button("Download", { glyph: "download", kind: "primary", onclick: () => download(drawn) }),
      known && !far && button("Draw again", { glyph: "again", onclick: () => again(drawn, close) })))];
}

function save(data, drawn, suffix) {
  const name = `${Object.values(drawn.names)[0] ?? "picture"}-${drawn.seed}`.replace(/[^\p{L}\p{N}_-]+/gu, "_");
  const link = h("a", { href: URL.createObjectURL(data), download: `${name}.${suffix}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function download(drawn) {
  try {
    save(drawn.src.startsWith("data:") ? read(drawn.src) : await blob(drawn.src), drawn, drawn.clip ? "mp4" : "png");
  } catch (error) {
    toast(error.message);
  }
}

/** The bytes of a data: address, which the page's policy lets nobody fetch. */
function read(address) {
  const [head, data] = address.split(",");
  return new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type: head.slice(5).split(";")[0] });
}

/** The Gaussians of a head, as a file. */
async function keepHead(drawn, format) {
  try {
    save(await blob(`/v1/heads/${part(drawn.id)}/content?format=${format}`), drawn, format === "gltf" ? "glb" : format);
  } catch (error) {
    toast(error.message);
  }
}

/** Puts all that made it back into the form: the same seed gives the same picture, another one a sister of it. */
function again(drawn, close) {
  const [first] = drawn.people;
  Object.assign(composition, drawn.chosen ?? { people: drawn.people, prompt: drawn.prompt, poses: drawn.pose ? { [first]: drawn.pose } : {}, steps: drawn.steps ?? "", guidance: drawn.guidance ?? "", count: 1, clip: Boolean(drawn.clip), head: Boolean(drawn.head) },
    { people: [...drawn.people], seed: String(drawn.seed), count: 1, bestOf: 1 });
  close();
  location.hash = "#/draw";
  tell("composition");
  toast("All that made it is in the form; change the seed for another one.");
}
