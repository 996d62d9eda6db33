// Elements without a framework, and the few icons. Text is always set as text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  brush: "M14 4l6 6-8.500 8.500a4 4 0 0 1-2.800 1.200H4v-4.700a4 4 0 0 1 1.200-2.800zM12 6l6 6",
  people: "M9 11a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7zM2.500 20c.5-3.600 3-5.500 6.500-5.500s6 1.900 6.500 5.500M16 4.300a3.500 3.500 0 0 1 0 6.400M18 14.900c2 .7 3.200 2.400 3.500 5.100",
  grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  pulse: "M3 12h4l3-8 4 16 3-8h4",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  download: "M12 4v11m0 0l-4.500-4.500M12 15l4.500-4.500M5 20h14",
  again: "M19 12a7 7 0 1 1-2.200-5.100M19 4v4h-4",
  trash: "M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7",
  camera: "M4 8h3.500L9 5.500h6L16.500 8H20v11H4zM12 16.500a3.300 3.300 0 1 0 0-6.600 3.300 3.300 0 0 0 0 6.600z",
  photo: "M4 5h16v14H4zM4 16l4.500-4.500 4 4 2.500-2.500 5 5M15.500 9.500h.01",
  warn: "M12 4l9 16H3zM12 10v4.500m0 2.500v.01",
  check: "M5 12.500l4.500 4.500L19 7.500",
  key: "M14.500 13a4.500 4.500 0 1 0-4.300-3.200L4 16v4h4v-2.500h2.500V15l1.700-1.700a4.500 4.500 0 0 0 2.300-.3zM16 8h.01",
  moon: "M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10z",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2m0 14v2M3 12h2m14 0h2M5.600 5.600L7 7m10 10l1.400 1.400M5.600 18.400L7 17M17 7l1.400-1.400",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 12h16M4 8.500h4M4 15.500h4M16 8.500h4M16 15.500h4",
  file: "M6 3.500h8l4 4v13H6zM14 3.500v4h4M9 12h6M9 16h6",
  left: "M14.500 5.500L8 12l6.500 6.500",
  right: "M9.500 5.500L16 12l-6.500 6.500",
  face: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9 10h.01M15 10h.01M8.500 14.500c1.800 2.300 5.200 2.300 7 0",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = { viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": "1.7",
    "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** An element: properties that begin with "on" listen, others that it has are set, the rest are attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key in element && key !== "list" && key !== "form") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function button(label, { kind = "", glyph = null, ...properties } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, ...properties }, glyph && icon(glyph), label);
}

export function iconButton(glyph, label, onclick) {
  return h("button", { type: "button", class: "icon-button", title: label, "aria-label": label, onclick }, icon(glyph));
}

/** A choice of one, as a row of labels. `options` are [value, label or elements]. */
export function segments(label, name, options, value, onchange) {
  return h("div", { class: "segments", role: "radiogroup", "aria-label": label }, options.map(([key, shown]) =>
    h("label", {}, h("input", { type: "radio", name, value: String(key), checked: key === value, onchange: () => onchange(key) }),
      h("span", {}, shown))));
}

/** Above all that is there: what lies beside the uppermost dialog is covered by it, and screen readers pass it over. */
export function toast(text) {
  const element = h("p", { class: "toast" }, text);
  holdToasts().append(element);
  setTimeout(() => element.remove(), 5000);
}

function holdToasts() {
  const holder = document.getElementById("toasts");
  const uppermost = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (holder.parentElement !== uppermost) uppermost.append(holder);
  return holder;
}

export function empty(glyph, title, text, ...more) {
  return h("div", { class: "empty" }, icon(glyph), h("h2", {}, title), h("p", {}, text), ...more);
}

/** Keeps a list in step with rows that have an `id`: an element stays as long as its row does, with the focus and the
    finger that are on it. `make(row)` gives {element, update}. */
export function inStep(list, make) {
  const known = new Map();
  return (rows) => {
    const ids = new Set(rows.map((row) => row.id));
    for (const id of [...known.keys()]) if (!ids.has(id)) known.delete(id);
    const elements = rows.map((row) => {
      if (!known.has(row.id)) known.set(row.id, make(row));
      const { element, update } = known.get(row.id);
      update(row);
      return element;
    });
    const shown = new Set(elements);
    for (const other of [...list.children]) if (!shown.has(other)) other.remove();
    for (const [place, element] of elements.entries()) if (list.children[place] !== element) list.insertBefore(element, list.children[place] ?? null);
  };
}

/** A list of many rows in step with them, of which `number` are shown, and as many more each time its end comes into sight.
    `more` belongs behind the list; `onmore` follows. */
export function growing(list, make, number, onmore = () => {}) {
  const keepShown = inStep(list, make);
  let [rows, shown] = [[], number];
  const more = button("", { kind: "quiet", onclick: grow, hidden: true });
  const end = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) grow(); }, { rootMargin: "400px" });

  function grow() {
    shown += number;
    fill();
    onmore();
  }
  function fill() {
    keepShown(rows.slice(0, shown));
    more.hidden = rows.length <= shown;
    more.replaceChildren(`Show more: ${(rows.length - shown).toLocaleString("en")} are left`);
    end.unobserve(more); // what is observed anew is looked at anew: the list may still end in sight
    end.observe(more);
  }
  const keep = (all) => { rows = all; fill(); };
  return { keep, more, shown: () => shown };
}

export function notice(text) {
  return h("div", { class: "notice", role: "alert" }, icon("warn"), h("div", {}, text));
}

/** A modal dialog; returns it with `close`. What was focused gets the focus back, as <dialog> does. */
export function openDialog(title, content, { wide = false, onclose } = {}) {
  const dialog = h("dialog", { class: wide ? "wide" : "", "aria-label": title });
  const close = () => dialog.close();
  dialog.append(h("header", {}, h("h2", {}, title), iconButton("close", "Close", close)), h("div", { class: "body" }, content));
  let pressed = null; // who selects a text may let go of it outside
  dialog.addEventListener("pointerdown", (event) => { pressed = event.target; });
  dialog.addEventListener("click", (event) => event.target === dialog && pressed === dialog && close());
  dialog.addEventListener("close", () => {
    holdToasts();
    dialog.remove();
    onclose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  holdToasts();
  return dialog;
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
export function ago(seconds) {
  const since = seconds - Date.now() / 1000;
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(since) >= length) return relative.format(Math.round(since / length), unit);
  }
  return "just now";
}

export function timeLeft(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}

export const plural = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
