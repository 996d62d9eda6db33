// Starts the page: which view is shown, the theme, the key, and how busy the server is.

import { call, hasKey, setKey } from "./api.js";
import { activityView } from "./activity.js";
import { drawView } from "./draw.js";
import { button, h, icon, notice, openDialog, toast } from "./dom.js";
import { galleryView } from "./gallery.js";
import { peopleView } from "./people.js";
import { loadPeople, tell } from "./state.js";

const TITLES = { draw: "Draw", people: "People", gallery: "Gallery", activity: "Activity" };
const MAKERS = { draw: drawView, people: peopleView, gallery: galleryView, activity: activityView };
const views = {};
const main = document.getElementById("main");
let shown = null;

function route() {
  const wanted = location.hash.replace(/^#\//, "").split("/")[0];
  const name = Object.hasOwn(MAKERS, wanted) ? wanted : "draw";
  if (name === shown) return;
  views[shown]?.leave?.();
  views[name] ??= MAKERS[name]();
  main.replaceChildren(views[name].element);
  views[name].enter?.();
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[name]} · Identity factory`;
  if (shown !== null) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  shown = name;
}

const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const themeButton = document.getElementById("theme");
const showTheme = () => themeButton.replaceChildren(icon(dark() ? "sun" : "moon"));
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  try {
    localStorage.setItem("theme", document.documentElement.dataset.theme);
  } catch {
    // for this visit only
  }
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

let asking = false;
/** `why`: what the server said to a request without a key, or with one that is none. */
function askForKey(why = "") {
  if (asking) return;
  asking = true;
  const fault = h("div", {}, why && notice(why));
  const input = h("input", { class: "input", type: "password", autocomplete: "off", spellcheck: false, id: "key-text" });
  const form = h("form", { class: "field", onsubmit: (event) => {
    event.preventDefault();
    if (!setKey(input.value)) return fault.replaceChildren(notice("A key has only letters, digits, - and _, as it was printed when it was made: copy it anew."));
    dialog.close();
    toast(hasKey() ? "The key is kept until this tab is closed." : "The key is forgotten.");
    start();
  } }, fault, h("label", { class: "label", htmlFor: "key-text" }, "Key"), input,
  h("p", { class: "soft small" }, "Sent with every request of this tab, and forgotten when it is closed. Leave it empty to forget it now."),
  h("div", { class: "row end" }, button("Use this key", { kind: "primary", type: "submit" })));
  const dialog = openDialog("API key", form, { onclose: () => (asking = false) });
  input.focus();
}
document.getElementById("key").addEventListener("click", () => askForKey());
addEventListener("key-needed", (event) => askForKey(event.detail));
addEventListener("people-changed", loadPeople);

const state = document.getElementById("state");
let busyMs = 0;
let away = false; // once it is back, what could not be shown is asked for again
async function watch() {
  try {
    const stats = await call("/v1/stats", { quiet: true });
    const making = stats.in_the_making + stats.waiting;
    state.className = `state ${making ? "busy" : ""}`;
    state.textContent = making ? `drawing ${making}` : "ready";
    busyMs = making ? 1500 : 6000;
    if (away) start();
    away = false;
  } catch (error) {
    away ||= !error.status || error.status >= 502;
    state.className = "state away";
    state.textContent = error.status === 401 ? "needs a key" : error.status ? "not available" : "no answer";
    busyMs = 6000;
  }
  setTimeout(() => (document.hidden ? addEventListener("visibilitychange", watch, { once: true }) : watch()), busyMs);
}

function start() {
  loadPeople();
  tell("restart");
}

document.getElementById("key").append(icon("key"));
for (const link of document.querySelectorAll("[data-icon]")) link.prepend(icon(link.dataset.icon));
showTheme();
addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would be that of a view
  main.focus();
});
route();
start();
watch();
