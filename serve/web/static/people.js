// Everybody who is learned: search, look, delete.

import { call, has, part } from "./api.js";
import { openAdding } from "./adding.js";
import { ago, button, empty, growing, h, icon, notice, openDialog, plural, toast } from "./dom.js";
import { face, masks, masksKey } from "./faces.js";
import { photoText, VERDICTS, verdictPill } from "./goodness.js";
import { composition, erase, legible, loadPeople, on, people, peopleError, peopleLoaded, person, tell } from "./state.js";

const SHOWN = 240; // cards, until their end is scrolled to

export function peopleView() {
  const grid = h("div", { class: "people" });
  const instead = h("div", {});
  const cards = growing(grid, (row) => (row.who ? card(row.who) : { element: add, update: () => {} }), SHOWN, judge); // a face is asked for once, not at each letter
  const count = h("p", { class: "soft small", role: "status" });
  const search = h("input", { class: "input", type: "search", placeholder: "Search a name", "aria-label": "Search a name", oninput: fill });

  function fill() {
    const wanted = search.value.trim().toLowerCase();
    const found = people.filter((who) => who.name.toLowerCase().includes(wanted) || who.identity_id === wanted);
    count.textContent = !peopleLoaded ? "" : wanted ? `${plural(found.length, "person", "people")} of ${people.length.toLocaleString("en")}` : plural(people.length, "person", "people");
    const rows = found.map((who) => ({ id: who.identity_id, who }));
    if (has("learn") && !wanted) rows.unshift({ id: "" });
    grid.hidden = peopleError !== null;
    cards.keep(rows);
    instead.replaceChildren(peopleError ? notice([peopleError.message, " ", button("Try again", { onclick: loadPeople })]) : !peopleLoaded || rows.length ? ""
      : wanted ? empty("people", "Nobody of this name", "The search looks at names, and at whole ids.")
      : empty("people", "Nobody is learned yet", [h("code", {}, "identity-factory run --photos PHOTOS --root ROOT"), " learns everybody in a folder; they appear here by themselves."]));
  }

  const add = h("button", { type: "button", class: "card person add", onclick: () => openAdding() }, icon("plus"), "Add a person");

  function card({ identity_id: id }) {
    const [name, since, pill] = [h("b", {}), h("span", { class: "soft small" }), h("span", {})];
    const element = h("button", { type: "button", class: "card person", onclick: () => openPerson(person(id)) }, h("span", { class: "picture" }, face(person(id), "portrait-face")), h("span", { class: "what" }, name, since, pill));
    const update = ({ who }) => { [name.textContent, since.textContent] = [who.name, ago(who.created)]; pill.replaceChildren(verdictPill(verdicts.get(id))); };
    return { element, update };
  }

  async function enter() {
    await loadPeople();
    [verdicts, last] = [new Map(), ""];
    await judge();
  }

  /** How good those are whose cards are shown. */
  async function judge() {
    if (!has("learn")) return; // the same routes tell it
    const mine = verdicts;
    while (last !== null && verdicts.size < cards.shown()) {
      const page = await call(`/v1/identities?limit=${SHOWN}${last && `&after=${part(last)}`}`).catch(() => ({ data: [] }));
      if (mine !== verdicts) return;
      last = page.has_more ? page.last_id : null;
      for (const one of page.data) verdicts.set(one.identity_id, one.quality?.verdict);
      if (page.data.some((one) => one.quality)) fill();
    }
  }

  let verdicts = new Map();
  let last = ""; // whose verdict was asked for last; null after everybody's
  on("people", fill);
  fill();
  return { element: h("div", {}, h("div", { class: "title" }, h("h1", {}, "People"), count, search), grid, cards.more, instead), enter };
}

async function openPerson(who) {
  const tint = h("label", { class: "row small" }, h("input", { type: "checkbox", onchange: (event) => { over.style.opacity = event.target.checked ? "1" : "0"; } }), "Show what was taken for face and hair");
  const over = masks(who.identity_id);
  over.style.opacity = "0";
  const list = h("dl", { class: "facts" });
  const forget = has("forget") && button("Delete…", { kind: "quiet danger", glyph: "trash", onclick: () => confirmDeletion(who, dialog) });
  const content = h("div", { class: "portrait" },
    h("div", { class: "picture" }, face(who, "whole"), has("faces") && over),
    h("div", { class: "uploads" }, list, has("faces") && tint, has("faces") && masksKey(),
      h("div", { class: "row" }, button(`Draw ${who.name}`, { kind: "primary", glyph: "brush", onclick: () => { choose(who.identity_id); dialog.close(); } }),
        has("learn") && button("More photos…", { kind: "quiet", glyph: "photo", onclick: () => { dialog.close(); openAdding([], who); } }), forget)));
  const dialog = openDialog(who.name, content, { wide: false });
  const fill = (facts) => list.replaceChildren(...Object.entries(facts).filter(([, value]) => value !== undefined && value !== null).map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]).flat());
  const told = h("p", { class: "soft small" });
  list.after(told);
  fill({ "Learned": ago(who.created), "Pack": who.pack, "Id": who.identity_id });
  try {
    const known = await call(`/v1/identities/${part(who.identity_id)}`);
    fill({ "Learned": `${ago(who.created)}, ${plural(known.num_steps, "step")} in ${known.train_s.toFixed(1)} s`, "Preset": known.preset, "Pack": known.pack,
      "Photo": photoText(known.photo_quality), "Quality": known.quality ? known.quality.verdict ?? "measured, but this pack says nothing of what is good" : "not assessed yet",
      "Likeness": known.quality?.likeness?.toFixed(2), "Text match": known.quality?.text_alignment?.toFixed(2), "Id": known.identity_id });
    if (known.quality) told.textContent = `Likeness and text match are means over ${known.quality.num_pictures} pictures drawn to measure them.${VERDICTS[known.quality.verdict] ?? ""}`;
  } catch (error) {
    toast(error.message);
  }
}

export function choose(id) {
  composition.people = [id];
  tell("composition");
  location.hash = "#/draw";
}

function tellOthers(who, others) {
  const rows = others.map((one) => h("li", {}, `${legible(one.name)}: ${one.looks_like}`));
  openDialog(`${who.name} is erased`, [h("p", {}, "These look alike and stay. If they are the same person, erase them, too:"), h("ul", {}, rows)]);
}

async function confirmDeletion(who, parent) {
  const fault = h("div", {});
  const what = h("p", {}, "The photo's face, its masks and features, the learned words, and whatever was drawn of them and kept on the server: pictures, clips, heads, measures, and their lines in the reports of jobs. It leaves every version of every table.");
  const yes = button(`Erase ${who.name}`, { kind: "primary danger", glyph: "trash", onclick: async () => {
    yes.disabled = true;
    yes.lastChild.textContent = "Erasing…";
    try {
      const { looks_alike: others } = await erase(who.identity_id);
      dialog.close();
      parent.close();
      if (others.length) tellOthers(who, others);
      else toast(`${who.name} is erased.`);
    } catch (error) {
      yes.disabled = false;
      fault.replaceChildren(notice(error.message));
    }
  } });
  const keep = button("Keep", { onclick: () => dialog.close() });
  const dialog = openDialog(`Delete ${who.name} for good?`, [what, h("p", { class: "soft" }, "Pictures of them in this tab go, too. Files that were downloaded are not reached. This cannot be undone."), fault, h("div", { class: "row end" }, keep, yes)]);
  keep.focus();
}
