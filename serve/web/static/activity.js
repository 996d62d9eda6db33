// Work that is under way or was done, and the jobs of this root with their reports.

import { at, call, has, part, text } from "./api.js";
import { ago, button, empty, h, icon, inStep, notice, openDialog, plural, timeLeft, toast } from "./dom.js";
import { legible, person } from "./state.js";

const NAMES = { identity: "Learning", assessment: "Assessing", video: "Clip", head: "Head", batch: "Batch" };
const GLYPHS = { identity: "face", assessment: "check", video: "film", head: "people", batch: "file" };
const SAID = { queued: "waiting", in_progress: "under way", completed: "done", failed: "failed", cancelled: "cancelled", unfinished: "no end yet" };
const COUNTS = { photos: ["photo"], faces: ["face"], identities: ["person", "people"], images: ["picture"], videos: ["clip"], models: ["head"], metrics: ["measure"] };
const SHOWN = 40; // lines of a list, the newest, and as many more each time
const MOST = 200; // lines of one answer

export function activityView() {
  const works = section("Work", newWork, "pulse", "Nothing under way", "Who is being learned, and clips in the making, are shown here.");
  const jobs = section("Jobs", newJob, "file", "No jobs yet", "Jobs of the command line on this root are shown here, with their reports.");
  let timer = null;
  for (const one of [works, jobs]) one.onmore = () => fill();

  async function fill(quiet = false) {
    clearTimeout(timer);
    const [work, done] = await Promise.allSettled([has("work") ? call(`/v1/work?limit=${works.limit}`, { quiet }) : null, has("jobs") ? call(`/v1/jobs?limit=${jobs.limit}`, { quiet }) : null]);
    works.show(work);
    jobs.show(done);
    if (element.isConnected) timer = setTimeout(fill, work.value?.data.some(isUnder) ? 1000 : 8000, true);
  }

  const element = h("div", {}, h("div", { class: "title" }, h("h1", {}, "Activity")), works.element, jobs.element);
  element.addEventListener("cancelled", () => fill());
  return { element, enter: fill, leave: () => clearTimeout(timer) };
}

/** A list with its title, or what is said in its place. */
function section(title, make, glyph, ...none) {
  const list = h("ul", { class: "lines" });
  const instead = h("div", {});
  const keep = inStep(list, make);
  const more = button("Show more", { kind: "quiet", hidden: true, onclick: () => { self.limit = Math.min(self.limit + SHOWN, MOST); self.onmore(); } });
  const element = h("div", { hidden: true }, h("h2", { class: "section" }, title), instead, list, more);
  let fault = "";

  function show({ value, reason }) {
    element.hidden = value === null; // this server has none
    list.hidden = !value?.data.length;
    if (reason && fault !== reason.message) instead.replaceChildren(notice(reason.message)); // said once, not each time
    if (!reason) instead.replaceChildren(list.hidden ? h("div", { class: "card" }, empty(glyph, ...none)) : "");
    fault = reason?.message ?? "";
    if (!value) return;
    keep(value.data);
    more.hidden = !value.has_more;
    if ((more.disabled = self.limit === MOST)) more.textContent = `The newest ${MOST} are shown`;
  }
  const self = { element, show, limit: SHOWN, onmore: null };
  return self;
}

const isUnder = (work) => ["queued", "in_progress"].includes(work.status);
const pill = (status) => h("span", { class: `pill ${status}` }, SAID[status] ?? status);

function newWork({ id, kind }) {
  const [name, facts, state, bar] = [h("span", {}), h("p", { class: "soft small numbers" }), h("span", {}), h("i", {})];
  const cancel = button("Cancel", { kind: "quiet", onclick: () => call(`/v1/work/${part(id)}/cancel`, { method: "POST" })
    .catch((error) => toast(error.message)).then(() => element.dispatchEvent(new Event("cancelled", { bubbles: true }))) });
  const meter = h("div", { class: "meter" }, bar);
  const element = h("li", { class: "line" }, icon(GLYPHS[kind] ?? "pulse"), h("div", {}, h("p", {}, h("b", {}, NAMES[kind] ?? kind), name), facts), h("div", { class: "row" }, state, cancel), meter);

  function update(work) {
    const under = isUnder(work);
    const who = legible(work.name ?? work.model ?? person(work.identity ?? work.identity_id)?.name ?? "");
    name.textContent = who && ` ${who}`;
    facts.textContent = [ago(work.created_at), work.queue_position ? `${work.queue_position} before it` : "", under ? timeLeft(work.seconds_left) : "", work.error?.message].filter(Boolean).join(" · ");
    state.replaceChildren(pill(work.status));
    cancel.hidden = meter.hidden = !under;
    bar.style.width = `${work.progress}%`;
  }
  return { element, update };
}

function newJob(first) {
  const [began, facts, state] = [h("span", { class: "soft" }), h("p", { class: "soft small numbers" }), h("span", {})];
  const report = button("Report", { onclick: () => openReport(first) });
  const element = h("li", { class: "line" }, icon("file"), h("div", {}, h("p", {}, h("b", {}, first.kind), began), facts), h("div", { class: "row" }, state, report));

  function update(job) {
    const counts = Object.entries(COUNTS).filter(([name]) => job.counts[name]).map(([name, words]) => plural(job.counts[name], ...words));
    const refused = Object.values(job.rejected).reduce((sum, number) => sum + number, 0);
    if (refused) counts.push(`${refused} refused`);
    if (job.counts.seconds) counts.push(`${Math.round(job.counts.seconds)} s`);
    began.textContent = job.created_at ? ` ${ago(job.created_at)}` : "";
    facts.textContent = counts.join(" · ") || "nothing new";
    state.replaceChildren(pill(job.status));
    report.hidden = !job.report;
  }
  return { element, update };
}

/** The report in a frame that may do nothing: no scripts, no requests but the page's own style. */
async function openReport(job) {
  const frame = h("iframe", { class: "report", title: `Report of ${job.kind}` });
  frame.setAttribute("sandbox", "");
  const dialog = openDialog(`Report: ${job.kind}`, frame, { wide: true });
  try {
    const page = new DOMParser().parseFromString((await text(`/v1/jobs/${part(job.id)}/report`)).replace(/<style>.*?<\/style>/gs, ""), "text/html");
    for (const other of page.querySelectorAll("style, script, link")) other.remove();
    const link = page.createElement("link");
    link.setAttribute("rel", "stylesheet");
    link.setAttribute("href", at("/web/report.css"));
    page.head.append(link);
    page.documentElement.lang = "en";
    if (document.documentElement.dataset.theme) page.documentElement.dataset.theme = document.documentElement.dataset.theme;
    frame.srcdoc = `<!doctype html>${page.documentElement.outerHTML}`;
  } catch (error) {
    dialog.querySelector(".body").replaceChildren(notice(error.message));
  }
}
