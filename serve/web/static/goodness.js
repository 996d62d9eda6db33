// How good photos and people are, in words.

import { h, icon } from "./dom.js";

const GOOD = 0.8; // of a photo's score; ENOUGH of it says nothing against the person, less does
const ENOUGH = 0.5;
export const VERDICTS = { good: "", weak: " Look at some pictures before you rely on them.", failed: " Learn them again, from a better photo." };
const CLASSES = { good: "completed", weak: "in_progress", failed: "failed" };

export const verdictPill = (verdict) => (verdict ? h("span", { class: `pill ${CLASSES[verdict] ?? ""}` }, verdict) : "");

const listed = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : words[0] ?? "");

const REFUSED = {
  not_an_image: "This file is no picture.", unsupported: "Pictures of this kind are not read here.", damaged: "This file is damaged.", too_large: "This picture is too large.", too_small: "This picture is too small.",
  no_face: "No face was found in this photo.", face_too_small: "The face is too small in this photo.", face_cut_off: "Too much of the face lies outside this photo.", blurred: "The face is too blurred to be learned.",
  masks_empty: "The face is covered, or could not be told from what is around it.", crashed_worker: "This photo could not be looked at.", erased: "Somebody on this photo was erased here, and is not learned again.",
};

/** Why a photo cannot be used: in words, and then as the server says it. */
export function refusal({ code, message }) {
  const words = REFUSED[code];
  return words && code !== "erased" ? [words, h("br", {}), h("span", { class: "soft small" }, message)] : words ?? message;
}

/** The photo's score, and what is wrong with it. */
export function photoText(quality) {
  if (!quality) return undefined;
  return quality.faults.length ? `${quality.score.toFixed(2)}: ${listed(quality.faults)}` : `good (${quality.score.toFixed(2)})`;
}

/** What to expect of a photo, before it is learned. */
export function photoAdvice(quality) {
  if (!quality) return "";
  const said = quality.score >= GOOD ? "A good photo to learn from."
    : quality.score >= ENOUGH ? `This face is ${listed(quality.faults)}. It will do; a better photo gives a better likeness.`
      : `This face is ${listed(quality.faults)}. Pictures may be like this photo and not like the person: another photo is better.`;
  return h("p", { class: `advice small ${quality.score >= GOOD ? "good" : quality.score >= ENOUGH ? "" : "poor"}` }, icon(quality.score >= GOOD ? "check" : "warn"), h("span", {}, said));
}
