// A person's face, or the first letter of the name where the photo is not kept.

import { has, part, show } from "./api.js";
import { h } from "./dom.js";

export function face(who, classes = "face") {
  const letter = () => h("span", { class: `${classes} letter`, "aria-hidden": "true" }, ([...who.name][0] ?? "?").toUpperCase());
  if (!has("faces")) return letter();
  const image = h("img", { class: classes, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(letter()), { once: true });
  return show(image, `/v1/identities/${part(who.identity_id)}/thumbnail`);
}

export const masks = (id) => show(h("img", { class: "masks", alt: "", onerror: (event) => event.target.remove() }), `/v1/identities/${part(id)}/masks`);

export const masksKey = () => h("p", { class: "key" }, h("span", {}, h("i", {}), "face"), h("span", {}, h("i", { class: "hair" }), "hair"));
