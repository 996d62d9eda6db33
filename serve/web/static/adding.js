// Adding people, or photos of one: by file, drop, paste or camera, and whose they are.

import { facts, has } from "./api.js";
import { button, h, icon, notice, openDialog, toast } from "./dom.js";
import { ACCEPT, shownPhoto, upload } from "./upload.js";

let adder = null; // the open dialog's

/** `more`: who is learned already, of whom these are more photos. */
export function openAdding(files = [], more = null) {
  if (!adder) {
    const list = h("div", { class: "uploads", "aria-live": "polite" });
    const input = h("input", { type: "file", accept: ACCEPT, multiple: true, hidden: true, id: "photos", onchange: () => { add([...input.files]); input.value = ""; } });
    const drop = h("div", { class: "drop" }, icon("photo"), h("p", {}, h("b", {}, "Drop photos here"), ", paste them, or"),
      h("div", { class: "row" }, button("Choose photos", { kind: "primary", onclick: () => input.click() }), navigator.mediaDevices?.getUserMedia && button("Use the camera", { glyph: "camera", onclick: () => takePhoto(add) })),
      h("p", { class: "soft small" }, "One clear face is enough. Photos are read on this server and go nowhere else."), input);
    drop.firstChild.classList.add("large");
    const add = (photos) => { if (photos.length) list.prepend(photos.length > 1 && !more ? whose(photos) : upload(photos.slice(0, facts.maxPhotos), more)); };
    adder = { drop, add };
    openDialog(more ? `More photos of ${more.name}` : "Add a person", [drop, list], { onclose: () => { adder = null; } });
  }
  adder.add(files);
}

const isPhoto = (file) => file.type.startsWith("image/") || /\.(heic|heif|avif|jxl|tiff?)$/i.test(file.name);
function receive(files) {
  const photos = [...files].filter(isPhoto);
  const others = [...files].filter((file) => !isPhoto(file)).map((file) => file.name);
  if (others.length) toast(`${others.slice(0, 3).join(", ")}${others.length > 3 ? ", …" : ""}: no photo. Of a folder or an archive, add the photos that are in it.`);
  if (photos.length) openAdding(photos);
  return photos.length > 0;
}
if (has("learn")) {
  addEventListener("paste", (event) => receive(event.clipboardData.files) && event.preventDefault());
  const brings = (event) => event.dataTransfer.types.includes("Files"); // a text may be dropped into a field
  const leads = (event) => !brings(event) && event.dataTransfer.types.includes("text/uri-list") && !event.target.closest?.("input, textarea");
  addEventListener("dragover", (event) => { if (leads(event)) event.preventDefault(); if (brings(event)) event.preventDefault(), adder?.drop.classList.add("over"); });
  addEventListener("dragleave", () => adder?.drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    if (leads(event)) event.preventDefault(), toast("That is a picture's address, not the picture: save it and drop the file, or copy the picture and paste it here.");
    if (brings(event)) event.preventDefault(), adder?.drop.classList.remove("over"), receive(event.dataTransfer.files);
  });
}

/** Asks whose photos these are: of one person they are learned together, else each becomes somebody. */
function whose(files) {
  const photos = files.map(shownPhoto);
  const answer = (...cards) => {
    for (const photo of photos) photo.free();
    element.replaceWith(...cards);
    cards[0]?.focus();
  };
  const one = files.slice(0, facts.maxPhotos);
  const question = h("button", { type: "button", class: "button", onclick: () => answer(upload(one)) }, "One person");
  const element = h("div", { class: "card whose", role: "group", "aria-label": `Whose are these ${files.length} photos?` },
    h("div", { class: "strip" }, photos.slice(0, facts.maxPhotos).map((photo) => h("div", { class: "photo" }, photo.element))),
    h("p", {}, h("b", {}, `${files.length} photos. `), "Do they show one person, or is each of somebody else?"),
    files.length > one.length && h("p", { class: "soft small" }, `Of one person the first ${one.length} are taken.`),
    h("div", { class: "row" }, question, button("Each a person", { onclick: () => answer(...files.map((file) => upload([file]))) }), button("Not these", { kind: "quiet", onclick: () => answer() })));
  queueMicrotask(() => question.focus()); // once it is on the page
  return element;
}

async function takePhoto(add) {
  const video = h("video", { class: "camera", autoplay: true, playsInline: true, muted: true });
  let stream = null;
  const take = button("Take the photo", { kind: "primary", glyph: "camera", disabled: true, onclick: () => {
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((data) => { add([new File([data], "", { type: "image/jpeg" })]); dialog.close(); }, "image/jpeg", 0.95);
  } });
  const fault = h("div", {});
  const dialog = openDialog("Camera", [video, fault, h("div", { class: "row end" }, take)], { onclose: () => stream?.getTracks().forEach((track) => track.stop()) });
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 1280, facingMode: "user" } });
    video.addEventListener("loadeddata", () => { take.disabled = false; }); // before, there is nothing to take
    video.srcObject = stream;
    if (!dialog.open) stream.getTracks().forEach((track) => track.stop());
  } catch (error) {
    fault.replaceChildren(notice(`The camera cannot be used: ${error.message}`));
  }
}
