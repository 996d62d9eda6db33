// Adding people: photos by file, drop, paste or camera; who was found in them, or why nobody; how far the learning is.

import { call, follow, has, part } from "./api.js";
import { button, h, icon, notice, openDialog, plural, timeLeft, toast } from "./dom.js";
import { face, masks, masksKey } from "./faces.js";
import { photoAdvice, refusal } from "./goodness.js";
import { choose } from "./people.js";
import { loadPeople, person } from "./state.js";

let adder = null; // the open dialog's

export function openAdding(files = []) {
  if (!adder) {
    const list = h("div", { class: "uploads", "aria-live": "polite" });
    const input = h("input", { type: "file", accept: "image/*,.heic,.heif,.avif,.jxl,.tif,.tiff", multiple: true, hidden: true, id: "photos", onchange: () => { add([...input.files]); input.value = ""; } });
    const drop = h("div", { class: "drop" }, Object.assign(icon("photo"), {}), h("p", {}, h("b", {}, "Drop a photo here"), ", paste it, or"),
      h("div", { class: "row" }, button("Choose photos", { kind: "primary", onclick: () => input.click() }), navigator.mediaDevices?.getUserMedia && button("Use the camera", { glyph: "camera", onclick: () => takePhoto(add) })),
      h("p", { class: "soft small" }, "One clear face is enough. The photo is read on this server and goes nowhere else."), input);
    drop.firstChild.classList.add("large");
    const add = (photos) => { for (const photo of photos) list.prepend(upload(photo)); };
    adder = { drop, add };
    openDialog("Add a person", [drop, list], { onclose: () => { adder = null; } });
  }
  adder.add(files);
}

const isPhoto = (file) => file.type.startsWith("image/") || /\.(heic|heif|avif|jxl|tiff?)$/i.test(file.name);
function receive(files) {
  const photos = [...files].filter(isPhoto);
  if (photos.length && has("learn")) openAdding(photos);
  return photos.length > 0;
}
if (has("learn")) {
  addEventListener("paste", (event) => receive(event.clipboardData.files) && event.preventDefault());
  const brings = (event) => event.dataTransfer.types.includes("Files"); // a text may be dropped into a field
  addEventListener("dragover", (event) => { if (brings(event)) event.preventDefault(), adder?.drop.classList.add("over"); });
  addEventListener("dragleave", () => adder?.drop.classList.remove("over"));
  addEventListener("drop", (event) => { if (brings(event)) event.preventDefault(), adder?.drop.classList.remove("over"), receive(event.dataTransfer.files); });
}

/** One photo on its way to a person: who is on it, how good it is, what the person is called, the learning. */
function upload(photo) {
  const address = URL.createObjectURL(photo);
  const image = h("img", { src: address, alt: "your photo", onerror: () => image.replaceWith((shown = h("span", { class: "letter" }, "photo"))) });
  let shown = image; // a browser cannot show each kind of file that the server reads
  const picture = h("div", { class: "photo" }, image);
  const name = h("input", { class: "input", value: titled(photo.name), maxLength: 100, required: true });
  const consent = { reference: h("input", { class: "input", maxLength: 1000, required: true, placeholder: "a form, a contract, a message" }), until: h("input", { class: "input", type: "date" }) };
  const what = h("div", { class: "what" });
  const element = h("div", { class: "card upload" }, picture, what);
  const away = (label = "Not this one") => button(label, { kind: "quiet", onclick: () => element.remove() });

  function form(which) {
    const data = new FormData();
    const given = { name: name.value.trim(), consent: consent.reference.value.trim(), consent_expires: consent.until.value, ...which };
    data.append("image", photo, photo.name || "photo");
    for (const [key, value] of Object.entries(given)) if (value !== "") data.append(key, value);
    return data;
  }

  function unpick() {
    element.classList.remove("pick");
    for (const box of picture.querySelectorAll(".box")) box.remove();
  }

  async function check() {
    unpick();
    picture.replaceChildren(shown);
    what.replaceChildren(h("div", { class: "meter waiting" }, h("i", {})), h("span", { class: "small soft", role: "status" }, "looking for the face…"));
    try {
      const { faces } = await call("/v1/identities", { method: "POST", form: form({ dry_run: "true" }) });
      if (faces.length > 1) pick(faces);
      else ask(faces[0], {});
    } catch (error) {
      if (error.code === "no_consent") agree(error.message);
      else refused(refusal(error));
    }
  }

  function ask(found, which) {
    unpick();
    if (which.face !== undefined) picture.replaceChildren(h("img", { src: `data:image/jpeg;base64,${found.thumbnail}`, alt: "the face" }));
    what.replaceChildren(photoAdvice(found.photo_quality), h("label", { class: "field" }, h("span", { class: "label" }, which.all ? "Name of the largest face; the others get numbers" : "Name"), name), h("div", { class: "row" },
      button(which.all ? "Learn all of them" : "Learn this face", { kind: "primary", onclick: () => name.reportValidity() && send(which) }), away()));
  }

  function pick(faces) {
    element.classList.add("pick");
    what.replaceChildren(h("p", {}, h("b", {}, `${faces.length} faces are in this photo. `), "Which one?"),
      h("div", { class: "row" }, faces.map((found, number) => button(`Face ${number + 1}`, { onclick: () => ask(found, { face: found.face }) })), button("All of them", { kind: "quiet", onclick: () => ask(faces[0], { all: "true" }) }), away()));
    for (const [number, found] of faces.entries()) {
      const [x0, y0, x1, y1] = found.box;
      const [width, height] = [image.naturalWidth || 1, image.naturalHeight || 1];
      const box = h("button", { type: "button", class: "box", "aria-label": `Choose face ${number + 1}`, onclick: () => ask(found, { face: found.face }) }, h("span", {}, number + 1));
      Object.assign(box.style, { left: `${(100 * x0) / width}%`, top: `${(100 * y0) / height}%`, width: `${(100 * (x1 - x0)) / width}%`, height: `${(100 * (y1 - y0)) / height}%` });
      picture.append(box);
    }
  }

  function agree(message) { // this server learns nobody of whom it is not written down that they agreed
    what.replaceChildren(notice(message), h("label", { class: "field" }, h("span", { class: "label" }, "Where it is written down that they agreed"), consent.reference),
      h("label", { class: "field" }, h("span", { class: "label" }, "Until (may be left empty)"), consent.until),
      h("div", { class: "row" }, button("Go on", { kind: "primary", onclick: () => consent.reference.reportValidity() && check() }), away()));
  }

  async function send(which) {
    const said = h("span", { class: "small soft", role: "status" }, "getting ready…");
    const bar = h("i", {});
    const meter = h("div", { class: "meter waiting", role: "progressbar", "aria-label": `Learning ${name.value}`, "aria-valuemin": 0, "aria-valuemax": 100 }, bar);
    const row = h("div", { class: "row" });
    what.replaceChildren(h("b", {}, name.value), meter, said, row);
    try {
      const work = await call("/v1/identities", { method: "POST", form: form(which) });
      if (work.identity_id) return await learned(work.identities, "known already"); // this photo came before
      let stopped = null; // answered when nothing of the photo is kept any more
      row.append(button("Stop", { kind: "quiet", onclick: () => { stopped ??= call(`/v1/work/${part(work.id)}/cancel`, { method: "POST" }).catch((error) => toast(error.message)); } }));
      const over = await follow(work, (now) => {
        meter.classList.toggle("waiting", now.status === "queued" || !now.progress);
        bar.style.width = `${now.progress}%`;
        meter.setAttribute("aria-valuenow", now.progress);
        said.textContent = now.status === "queued" ? "waiting for its turn" : `learning${now.seconds_left ? `, ${timeLeft(now.seconds_left)}` : "…"}`;
      });
      await stopped;
      if (over.status !== "completed") throw new Error(over.error?.message ?? (over.status === "cancelled" ? "Stopped: nothing of this photo is kept." : `the learning was ${over.status}`));
      await learned(work.identities, "learned");
    } catch (error) {
      refused(refusal(error));
    }
  }

  function refused(why) {
    what.replaceChildren(notice(why), h("div", { class: "row" }, button("Try again", { onclick: check }), away("Take it away")));
  }

  async function learned(ids, how) {
    await loadPeople();
    const [id] = ids;
    const others = ids.length > 1 ? ` and ${plural(ids.length - 1, "other", "others")}` : "";
    const who = person(id) ?? { identity_id: id, name: name.value };
    if (has("faces")) picture.replaceChildren(face(who, "whole"), masks(id));
    URL.revokeObjectURL(address);
    what.replaceChildren(h("p", { class: "row" }, h("b", {}, `${who.name}${others}`), h("span", { class: "pill completed" }, how)), has("faces") ? masksKey() : "",
      h("div", { class: "row" }, button(`Draw ${who.name}`, { kind: "primary", glyph: "brush", onclick: () => { choose(id); element.closest("dialog").close(); } })));
  }

  check();
  return element;
}

const titled = (file) => (file || "").replace(/\.[^.]*$/, "").replace(/[_-]+/g, " ").replace(/^(image|img \d+.*|photo|blob)$/i, "").trim();

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
