// The form of the Draw view: who, the prompt, the pose, the shape, and the finer settings.

import { call, facts, has, part, show, write } from "./api.js";
import { button, growing, h, icon, inStep, openDialog, segments, toast } from "./dom.js";
import { face } from "./faces.js";
import { bestOf, composition as chosen, on, people, person, sentPrompt, shownPrompt, tell } from "./state.js";

const TWICE_MS = 600; // a double click asks once
const SHOWN = 9; // faces beside the button that opens all of them
const FOUND = 120; // faces in that dialog, until it is scrolled to its end
const EXAMPLES = {
  "golden crown": "a photo of <person> wearing a golden crown", "on the beach": "a photo of <person> on the beach",
  "in the snow": "a photo of <person> in the snow", "red beanie": "a photo of <person> wearing a red beanie",
  "spacesuit": "a photo of <person> wearing a spacesuit in space", "pencil sketch": "a pencil sketch of <person>",
};

export function composer(onDraw) {
  const faces = h("div", { class: "faces" });
  const prompt = h("textarea", { class: "input", id: "prompt", rows: 3, spellcheck: true, "aria-describedby": "sent",
    oninput: () => { chosen.prompt = prompt.value; write("prompt", prompt.value); showSent(); } });
  const sent = h("p", { class: "sent", id: "sent" });
  const send = button("", { kind: "primary", type: "submit" });
  const posePart = h("fieldset", { class: "part" });
  const shapes = h("div", {});
  const counts = h("div", {});
  const best = h("div", { class: "part" });
  const bestHint = h("p", { class: "soft small" });
  const fine = h("div", { class: "grid" });
  let poses = [];
  let asked = -Infinity;
  let poseOf = null; // whose pose is being chosen, where several are drawn
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

  function toggle(id) {
    const at = chosen.people.indexOf(id);
    if (at >= 0) chosen.people.splice(at, 1);
    else if (chosen.people.length < facts.maxPeople) chosen.people.push(id);
    else toast(`${facts.maxPeople} people are the most in one picture.`);
    tell("composition");
  }

  function showFaces() {
    // nobody moves when chosen; only who is not among the first comes in front
    const row = people.length <= SHOWN + 1 ? [...people] : people.slice(0, SHOWN);
    const hidden = chosen.people.map(person).filter((who) => who && !row.includes(who));
    row.splice(row.length - hidden.length, hidden.length, ...hidden);
    const rows = row.map((who) => ({ id: who.identity_id, who }));
    if (people.length > row.length) rows.push({ id: "" });
    keepFaces(rows);
  }

  /** Somebody who can be chosen; `then` follows a choice. */
  function choice({ who: { identity_id: id }, who }, then = () => {}) {
    const order = h("span", { class: "order", "aria-hidden": "true" });
    const name = h("span", {});
    const element = h("button", { type: "button", class: "who", onclick: () => { toggle(id); then(); } }, h("span", { class: "holder" }, face(who), order), name);
    element.dataset.who = id;

    function update({ who: now }) {
      const place = chosen.people.indexOf(id);
      element.setAttribute("aria-pressed", String(place >= 0));
      order.hidden = place < 0 || chosen.people.length < 2;
      order.textContent = order.hidden ? "" : place + 1;
      element.title = name.textContent = now.name;
    }
    return { element, update };
  }

  function everybody() {
    const number = h("span", {});
    const element = h("button", { type: "button", class: "who", onclick: pickFromAll }, h("span", { class: "face plus" }, icon("people")), number);
    return { element, update: () => { number.textContent = `All ${people.length}`; } };
  }
  const keepFaces = inStep(faces, (row) => (row.who ? choice(row) : everybody()));

  function pickFromAll() {
    const grid = h("div", { class: "faces" });
    const { keep, more } = growing(grid, (row) => choice(row, fill), FOUND);
    const search = h("input", { class: "input", type: "search", placeholder: "Search a name", "aria-label": "Search a name", oninput: fill });
    function fill() {
      const wanted = search.value.trim().toLowerCase();
      keep(people.filter((who) => who.name.toLowerCase().includes(wanted)).map((who) => ({ id: who.identity_id, who })));
    }
    fill();
    const dialog = openDialog("Who is in the picture?", [search, grid, more, h("div", { class: "row end" }, button("Done", { kind: "primary", onclick: () => dialog.close() }))]);
    search.focus();
  }

  function showSent() {
    const names = { "": person(chosen.people[0])?.name };
    const several = chosen.people.length > 1;
    sent.replaceChildren(...(chosen.people.length ? ["Draws: ", h("b", {}, shownPrompt(sentPrompt(chosen), names))] : ["<person> stands for whoever you choose."]));
    send.disabled = !chosen.people.length;
    send.replaceChildren(icon(chosen.clip ? "film" : "brush"), chosen.people.length ? `Draw ${several ? "them" : names[""]}` : "Choose who to draw", h("kbd", {}, isMac ? "⌘↵" : "Ctrl ↵"));
  }

  function showPoses() {
    posePart.hidden = !poses.length || chosen.clip;
    if (posePart.hidden) return;
    if (!chosen.people.includes(poseOf)) poseOf = chosen.people[0] ?? "";
    const current = chosen.poses[poseOf] ?? "";
    const options = [["", "Free"], ...poses.map((pose) => [pose.id, pose.id.replaceAll("_", " ")])];
    const list = h("div", { class: "poses", role: "radiogroup", "aria-label": "Pose", tabIndex: -1 }, options.map(([id, label]) => h("label", {},
      h("input", { type: "radio", name: "pose", value: id, checked: id === current, onchange: () => { chosen.poses[poseOf] = id; } }),
      id ? show(h("img", { class: "picture", alt: "", width: 66, height: 66, loading: "lazy" }), `/v1/poses/${part(id)}/content`) : h("span", { class: "picture free" }, icon("face")),
      h("span", {}, label))));
    const who = chosen.people.length > 1 && segments("Whose pose", "pose-of", chosen.people.map((id) => [id, person(id)?.name ?? id]), poseOf, (id) => { poseOf = id; showPoses(); });
    posePart.replaceChildren(h("legend", {}, "Pose"), who || "", list);
  }

  function showSettings() {
    const shape = (name) => h("i", { class: `shape ${name}` });
    const named = [["auto", "Auto"], ["square", shape("square")], ["portrait", shape("portrait")], ["landscape", shape("landscape")], ["wide", shape("wide")]];
    shapes.replaceChildren(segments("Shape", "shape", named.map(([key, shown]) => [key, key === "auto" ? shown : [shown, h("span", { class: "sr" }, key)]]), chosen.shape, (value) => { chosen.shape = value; }));
    counts.replaceChildren(segments("Number of pictures", "count", [1, 2, 4, 8].map((number) => [number, String(number)]), chosen.count, (value) => { chosen.count = value; }));
    best.replaceChildren(segments("Best of", "best-of", [[1, "Off"], [2, "2"], [4, "4"]], chosen.bestOf, (value) => { chosen.bestOf = value; showBest(); bestHint.scrollIntoView({ block: "nearest" }); }), bestHint);
    const entry = (name, label, attributes) => {
      const input = h("input", { class: "input numbers", id: `fine-${name}`, type: "number", inputMode: "decimal", value: chosen[name], oninput: () => { chosen[name] = input.value; }, ...attributes });
      return h("div", { class: "field" }, h("label", { class: "label", htmlFor: `fine-${name}` }, label), input);
    };
    const negative = h("input", { class: "input", id: "fine-negative", value: chosen.negative, oninput: () => { chosen.negative = negative.value; }, placeholder: "what should not be in it" });
    fine.replaceChildren(entry("seed", "Seed", { min: 0, max: facts.maxSeed, step: 1, placeholder: "random" }), entry("steps", "Steps", { min: 1, max: 200, step: 1, placeholder: String(facts.steps) }),
      entry("guidance", "Guidance", { min: 0, max: 100, step: 0.1, placeholder: String(facts.guidance) }), h("div", { class: "field whole" }, h("label", { class: "label", htmlFor: "fine-negative" }, "Leave out"), negative));
  }

  function showBest() { // clips, heads and several people are not compared
    best.parentElement.hidden = !facts.compares || chosen.clip || chosen.people.length > 1;
    bestHint.hidden = bestOf(chosen) === 1;
    bestHint.textContent = `For each picture ${chosen.bestOf} are drawn, and of those that follow the text the one most like the photo is kept. There are no previews, and it takes ${chosen.bestOf} times as long.`;
  }

  function showKind() { // clips and heads have no pose, no shape and no number
    for (const one of [shapes, counts]) one.parentElement.hidden = chosen.clip;
    showSent(); showPoses(); showBest();
  }

  function showAll() {
    prompt.value = chosen.prompt;
    showFaces(); showSent(); showPoses(); showSettings(); showBest();
  }

  const known = [["picture", "Picture"], has("clips") && facts.moves && ["clip", "Clip"], has("heads") && ["head", "Head in 3D"]].filter(Boolean);
  const kinds = known.length > 1 && segments("Kind", "kind", known, "picture", (value) => { chosen.clip = value !== "picture"; chosen.head = value === "head"; showKind(); });
  const form = h("form", { class: "composer card", "aria-label": "What to draw", onsubmit: (event) => {
    event.preventDefault();
    if (!chosen.people.length || event.timeStamp - asked < TWICE_MS || !form.reportValidity()) return;
    asked = event.timeStamp;
    onDraw(structuredClone(chosen));
  }, onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) form.requestSubmit(); } },
  h("div", { class: "fields" },
    h("fieldset", {}, h("legend", {}, "Who"), faces),
    kinds || "",
    h("div", { class: "part" }, h("label", { class: "label", htmlFor: "prompt" }, "Prompt"), prompt,
      h("div", { class: "chips", role: "group", "aria-label": "Examples" }, Object.entries(EXAMPLES).map(([label, text]) =>
        h("button", { type: "button", class: "chip", title: text, onclick: () => { prompt.value = text; prompt.dispatchEvent(new Event("input")); } }, label))), sent),
    posePart,
    h("fieldset", {}, h("legend", {}, "Shape"), shapes),
    h("fieldset", {}, h("legend", {}, "Pictures"), counts),
    h("fieldset", {}, h("legend", {}, "Best of"), best),
    h("details", {}, h("summary", {}, "Fine tuning"), fine)),
  h("div", { class: "send" }, send));
  form.addEventListener("invalid", ({ target }) => { // what is folded away cannot say what is wrong with it
    const folded = target.closest("details");
    if (folded) folded.open = true;
  }, true);

  on("people", () => { showFaces(); showSent(); showPoses(); });
  on("composition", showAll);
  if (has("poses")) on("restart", () => call("/v1/poses").then((list) => { poses = list.data; showPoses(); }, () => {}));
  showAll();
  return form;
}
