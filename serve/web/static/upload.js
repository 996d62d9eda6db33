// One person on the way: photos of them, who is on these and how good they are, the name, the learning.

import { call, facts, follow, has, part } from "./api.js";
import { button, h, iconButton, notice, plural, timeLeft, toast } from "./dom.js";
import { face, masks, masksKey } from "./faces.js";
import { photoAdvice, refusal } from "./goodness.js";
import { choose } from "./people.js";
import { loadPeople, person } from "./state.js";

export const ACCEPT = "image/*,.heic,.heif,.avif,.jxl,.tif,.tiff";
const MEGABYTE = 2 ** 20;
const MAX_NAME = 200; // characters, as the server's
const LONG = new RegExp(`^(.{${MAX_NAME}}).*$`, "su");
let turn = Promise.resolve(); // photos are looked at one after the other: a browser has few connections to a server
const passing = (fault) => !fault.status || fault.status === 429 || fault.status >= 500; // no fault of the photo
const ROOM = facts.maxForm - MEGABYTE / 4; // for photos: the rest of the form is small
const inMegabytes = (bytes) => `${Math.ceil(bytes / MEGABYTE)} MB, and ${Math.floor(ROOM / MEGABYTE)} are the most`;

/** A photo as a browser shows it: the card's, until `free`. Not each kind of file that the server reads can be shown. */
export function shownPhoto(file) {
  const address = URL.createObjectURL(file);
  const image = h("img", { src: address, alt: "your photo", onerror: () => image.replaceWith((shown.element = h("span", { class: "letter" }, "photo"))) });
  const shown = { file, image, element: image, free: () => URL.revokeObjectURL(address) };
  return shown;
}

/** The card of one person, from files that are photos of them; `more` is who is learned already and has these photos, too. */
export function upload(files, more = null) {
  const photos = files.map(shownPhoto); // with `faces` or `fault` once they were looked at; `odd`: of somebody else
  const picture = h("div", { class: "photo" });
  const shots = h("ul", { class: "shots" });
  const name = h("input", { class: "input", value: more?.name ?? files.map((file) => titled(file.name)).find(Boolean) ?? "", maxLength: MAX_NAME, required: true });
  const consent = { reference: h("input", { class: "input", maxLength: 1000, required: true, placeholder: "a form, a contract, a message" }), until: h("input", { class: "input", type: "date" }) };
  const what = h("div", { class: "what", onkeydown: (event) => { // Enter in a field does what the first button does; not one that ends a word of an input method
    if (event.key === "Enter" && event.target.matches("input") && !event.isComposing) what.querySelector(".primary:enabled")?.click();
  } });
  const element = h("div", { class: "card upload", tabIndex: -1 }, picture, what);
  const several = () => photos.length > 1 || more !== null;
  const usable = () => (several() ? photos.filter((photo) => photo.faces?.length === 1) : photos);
  const away = (label = several() ? "Not these" : "Not this one") => button(label, { kind: "quiet", onclick: () => { free(photos); element.remove(); } });
  let looking = false;

  function form(shown, which) {
    const data = new FormData();
    const given = { name: name.value.trim(), add_to: more?.identity_id ?? "", consent: consent.reference.value.trim(), consent_expires: consent.until.value, ...which };
    for (const { file } of shown) data.append("image", file, file.name || "photo");
    for (const [key, value] of Object.entries(given)) if (value !== "") data.append(key, value);
    return data;
  }

  /** One photo is shown as it is; of several each has a line, with what was found, and a way out. */
  function show(open = true) {
    element.classList.remove("pick");
    element.classList.toggle("several", several());
    if (element.firstChild !== (several() ? shots : picture)) element.replaceChildren(several() ? shots : picture, what);
    if (several()) shots.replaceChildren(...photos.map((photo, number) => line(photo, number, open)));
    else picture.replaceChildren(photos[0].element);
  }

  function line(photo, number, open) {
    const wrong = photo.fault ? refusal(photo.fault) : photo.faces?.length > 1 && `${photo.faces.length} faces: where there are several photos, each shows this person alone.`;
    const said = photo.odd ? h("div", { class: "advice small poor" }, h("span", {}, h("b", {}, "Somebody else? "), "This face is surely not that of the other photos."))
      : wrong ? h("div", { class: "advice small poor" }, h("span", {}, h("b", {}, "Left out. "), wrong))
      : photo.faces ? photoAdvice(photo.faces[0].photo_quality) : h("span", { class: "small soft" }, "waiting to be looked at");
    return h("li", { class: wrong ? "out" : "" }, h("div", { class: "photo" }, photo.element), said,
      open && iconButton("close", `Take photo ${number + 1} away`, () => { free(photos.splice(photos.indexOf(photo), 1)); if (!looking) check(); else show(); element.focus(); }));
  }

  function add(more) {
    for (const file of more.slice(0, facts.maxPhotos - photos.length)) photos.push(shownPhoto(file));
    if (photos.length === facts.maxPhotos) toast(`At most ${facts.maxPhotos} photos of a person are learned together.`);
    check();
  }

  const chooser = h("input", { type: "file", accept: ACCEPT, multiple: true, onchange: () => { if (chooser.files.length) add([...chooser.files]); chooser.value = ""; } });
  const others = () => photos.length < facts.maxPhotos && button("More photos of them", { kind: "quiet", glyph: "plus", onclick: () => chooser.click() });

  /** Looks at each photo that was not looked at yet, and then asks what there is to ask. */
  async function check() {
    looking = true;
    for (const photo of photos) photo.odd = false;
    what.replaceChildren(h("div", { class: "meter waiting" }, h("i", {})), h("span", { class: "small soft", role: "status" }, several() ? "looking for the faces…" : "looking for the face…"));
    for (const photo of photos) { // a server that is sent more hangs up, and what it says of that is lost
      if (photo.file.size > ROOM) photo.fault = { code: "too_large", status: 413, message: `It has ${inMegabytes(photo.file.size)}: save it smaller, as JPEG for example.` };
    }
    show();
    for (let photo; (photo = photos.find((one) => !one.faces && !one.fault)); show()) {
      const look = () => photos.includes(photo) && element.isConnected && call("/v1/identities", { method: "POST", form: form([photo], { dry_run: "true" }) });
      try {
        const found = await (turn = turn.then(look, look));
        if (!element.isConnected) return; // the dialog was closed meanwhile
        if (found) photo.faces = found.faces;
      } catch (error) {
        photo.fault = error;
      }
    }
    looking = false;
    const lacking = photos.find((photo) => photo.fault?.code === "no_consent");
    if (lacking) agree(lacking.fault.message);
    else if (several()) askSeveral();
    else if (photos[0].fault) refused(refusal(photos[0].fault));
    else if (photos[0].faces.length > 1) pick(photos[0].faces);
    else ask(photos[0].faces[0], {});
  }

  function again(which) { // what was found of the others is still true
    for (const photo of photos.filter(which)) photo.faces = photo.fault = null;
    check();
  }

  const named = (label) => h("label", { class: "field" }, h("span", { class: "label" }, label), name);

  function ask(found, which) {
    show();
    if (which.face !== undefined || !photos[0].image.naturalWidth) picture.replaceChildren(thumbnail(found, "the face"));
    what.replaceChildren(photoAdvice(found.photo_quality), named(which.all ? "Name of the largest face; the others get numbers" : "Name"), h("div", { class: "row" },
      button(which.all ? "Learn all of them" : "Learn this face", { kind: "primary", onclick: () => name.reportValidity() && send(which) }), Object.keys(which).length ? "" : others(), away()));
  }

  function askSeveral() {
    const good = usable();
    const size = good.reduce((sum, { file }) => sum + file.size, 0);
    if (!good.length) return refused("None of these photos can be used.");
    const fits = size <= ROOM;
    what.replaceChildren(fits ? "" : notice(`Together these photos have ${inMegabytes(size)}: take some away.`), more ? "" : named("Name"), h("div", { class: "row" },
      button(more ? `Add ${plural(good.length, "photo")} to ${more.name}` : `Learn one person from ${plural(good.length, "photo")}`, { kind: "primary", disabled: !fits, onclick: () => (more || name.reportValidity()) && send({}) }),
      photos.some(({ fault }) => fault && passing(fault)) && button("Look again", { onclick: () => again(({ fault }) => fault) }), others(), away()));
  }

  function pick(faces) {
    element.classList.add("pick");
    what.replaceChildren(h("p", {}, h("b", {}, `${faces.length} faces are in this photo. `), "Which one?"),
      h("div", { class: "row" }, faces.map((found, number) => h("button", { type: "button", class: "button", onclick: () => ask(found, { face: found.face }) }, thumbnail(found, ""), `Face ${number + 1}`)), button("All of them", { kind: "quiet", onclick: () => ask(faces[0], { all: "true" }) }), away()));
    const { naturalWidth: width, naturalHeight: height } = photos[0].image;
    if (!width) return; // such as HEIC, which few browsers show
    for (const [number, found] of faces.entries()) {
      const [x0, y0, x1, y1] = found.box;
      const box = h("button", { type: "button", class: "box", "aria-label": `Choose face ${number + 1}`, onclick: () => ask(found, { face: found.face }) }, h("span", {}, number + 1));
      Object.assign(box.style, { left: `${(100 * x0) / width}%`, top: `${(100 * y0) / height}%`, width: `${(100 * (x1 - x0)) / width}%`, height: `${(100 * (y1 - y0)) / height}%` });
      picture.append(box);
    }
  }

  function agree(message) { // this server learns nobody of whom it is not written down that they agreed
    what.replaceChildren(notice(message), h("label", { class: "field" }, h("span", { class: "label" }, "Where it is written down that they agreed"), consent.reference),
      h("label", { class: "field" }, h("span", { class: "label" }, "Until (may be left empty)"), consent.until),
      h("div", { class: "row" }, button("Go on", { kind: "primary", onclick: () => consent.reference.reportValidity() && again(() => true) }), away()));
  }

  async function send(which) {
    const said = h("span", { class: "small soft", role: "status" }, "getting ready…");
    const bar = h("i", {});
    const meter = h("div", { class: "meter waiting", role: "progressbar", "aria-label": `Learning ${name.value}`, "aria-valuemin": 0, "aria-valuemax": 100 }, bar);
    const row = h("div", { class: "row" });
    const sent = usable();
    for (const photo of photos) photo.odd = false;
    if (several()) show(false);
    what.replaceChildren(h("b", {}, name.value), meter, said, row);
    try {
      const work = await call("/v1/identities", { method: "POST", form: form(sent, which) });
      if (work.identity_id) return await learned(work.identities, "known already"); // these photos came before
      let stopped = null; // answered when nothing of the photos is kept any more
      row.append(button("Stop", { kind: "quiet", onclick: () => { stopped ??= call(`/v1/work/${part(work.id)}/cancel`, { method: "POST" }).catch((error) => toast(error.message)); } }));
      const over = await follow(work, (now) => {
        meter.classList.toggle("waiting", now.status === "queued" || !now.progress);
        bar.style.width = `${now.progress}%`;
        meter.setAttribute("aria-valuenow", now.progress);
        said.textContent = now.status === "queued" ? "waiting for its turn" : `learning${now.seconds_left ? `, ${timeLeft(now.seconds_left)}` : "…"}`;
      });
      await stopped;
      if (over.status !== "completed") throw new Error(over.error?.message ?? (over.status === "cancelled" ? `Stopped: nothing of ${several() ? "these photos" : "this photo"} is kept.` : `the learning was ${over.status}`));
      await learned(work.identities, "learned");
    } catch (error) {
      if (error.code === "other_person") different(error.details.photos.map((number) => sent[number]), sent);
      else refused(refusal(error));
      if (!element.isConnected) toast(`${name.value}: ${error.message}`); // the dialog was closed meanwhile
    }
  }

  /** Some of the photos surely show somebody else: they are left out, or it is said that they do not. */
  function different(odd, sent) {
    const them = odd.length > 1 ? "them" : "it";
    for (const photo of odd) photo.odd = true;
    show();
    what.replaceChildren(notice(more && odd.length === sent.length ? `${odd.length > 1 ? "These photos surely show" : "This photo surely shows"} somebody else than ${more.name}.` : odd.length === sent.length ? "These photos surely show different people: take those of others away." : `${plural(odd.length, "photo")} surely ${odd.length > 1 ? "show" : "shows"} somebody else.`), h("div", { class: "row" },
      odd.length < sent.length && button(`Leave ${them} out`, { kind: "primary", onclick: () => { free(odd.flatMap((photo) => photos.splice(photos.indexOf(photo), 1))); show(); send({}); } }),
      button("It is one person all the same", { onclick: () => send({ same_person: "true" }) }), others(), away()));
  }

  function refused(why) {
    what.replaceChildren(notice(why), h("div", { class: "row" }, button("Try again", { onclick: () => again((photo) => photo.fault || !several()) }), away("Take it away")));
  }

  async function learned(ids, how) {
    await loadPeople();
    const [id] = ids;
    const also = ids.length > 1 ? ` and ${plural(ids.length - 1, "other", "others")}` : several() ? `, from ${plural(usable().length, more ? "more photo" : "photo")}` : "";
    const who = person(id) ?? { identity_id: id, name: name.value };
    if (!element.isConnected) return toast(`${who.name} is ${how}.`);
    element.classList.remove("several");
    element.replaceChildren(picture, what);
    picture.replaceChildren(...(has("faces") ? [face(who, "whole"), masks(id)] : [photos[0].element]));
    if (has("faces")) free(photos);
    what.replaceChildren(h("p", { class: "row" }, h("b", {}, `${who.name}${also}`), h("span", { class: "pill completed" }, how)), has("faces") ? masksKey() : "",
      h("div", { class: "row" }, button(`Draw ${who.name}`, { kind: "primary", glyph: "brush", onclick: () => { choose(id); element.closest("dialog").close(); } })));
  }

  queueMicrotask(check); // once it is on the page
  return element;
}

const thumbnail = (found, alt) => h("img", { src: `data:image/jpeg;base64,${found.thumbnail}`, alt });
const free = (photos) => photos.forEach((photo) => photo.free());
const titled = (file) => (file || "").replace(/\.[^.]*$/, "").replace(/[_-]+/g, " ").replace(/^(image|img \d+.*|photo|blob)$/i, "").trim().replace(LONG, "$1");
