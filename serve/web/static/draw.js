// The view in which pictures are asked for, and seen in the making.

import { facts, has } from "./api.js";
import { composer } from "./composer.js";
import { button, empty, h } from "./dom.js";
import { makeBatch } from "./batch.js";
import { loadPeople, on, people, peopleError, peopleLoaded } from "./state.js";
import { openAdding } from "./adding.js";

export function drawView() {
  const stage = h("section", { class: "stage", "aria-label": "Pictures" });
  const hint = h("div", {});
  stage.append(hint);

  function showHint() {
    if (stage.children.length > 1 || !peopleLoaded) {
      hint.replaceChildren();
    } else if (peopleError) {
      hint.replaceChildren(empty("warn", "The people could not be listed", peopleError.message, button("Try again", { onclick: loadPeople })));
    } else if (!people.length && has("learn")) {
      hint.replaceChildren(empty("face", "Start with a photo", "One photo of a face is enough: it is learned here, on this server, and can then be drawn anywhere you can describe.",
        button("Add a person", { kind: "primary", glyph: "plus", onclick: () => openAdding() })));
    } else if (!people.length) {
      hint.replaceChildren(empty("face", "Nobody is learned yet", [h("code", {}, "identity-factory run --photos PHOTOS --root ROOT"), " learns everybody in a folder; they appear here by themselves."]));
    } else {
      hint.replaceChildren(empty("brush", "Who, and doing what?", `Choose one person, or up to ${facts.maxPeople} together, describe the picture, and draw. Pictures appear here while they are being made.`));
    }
  }

  on("people", showHint);
  const element = h("div", { class: "studio" }, h("h1", { class: "sr" }, "Draw"), composer((chosen) => {
    const batch = makeBatch(chosen, showHint);
    hint.after(batch);
    showHint();
    if (matchMedia("(max-width: 960px)").matches) batch.scrollIntoView({ behavior: "smooth", block: "center" });
  }), stage);
  showHint();
  return { element };
}
