// Work that is under way or was done, and the jobs of this root with their reports.

import { at, call, has, part, text } from "./api.js";
import { ago, button, empty, h, icon, notice, openDialog, plural, timeLeft } from "./dom.js";
import { legible, person } from "./state.js";

const NAMES = { identity: "Learning", assessment: "Assessing", video: "Clip", head: "Head", batch: "Batch" };
const GLYPHS = { identity: "face", assessment: "check", video: "film", head: "people", batch: "file" };
const SAID = { queued: "waiting", in_progress: "under way", completed: "done", failed: "failed", cancelled: "cancelled", unfinished: "no end yet" };
const COUNTS = { photos: ["photo"], faces: ["face"], identities: ["person", "people"], images: ["picture"], videos: ["clip"], models: ["head"], metrics: ["measure"] };

export function activityView() {
  const works = h("div", {});
  const jobs = h("div", {});
  let timer = null;

  const pill = (status) => h("span", { class: `pill ${status}` }, SAID[status] ?? status);

  function workLine(work) {
    const under = ["queued", "in_progress"].includes(work.status);
    const who = legible(work.name ?? work.model ?? person(work.identity ?? work.identity_id)?.name ?? "");
    const bar = h("i", {});
    bar.style.width = `${work.progress}%`;
    const facts = [ago(work.created_at), work.queue_position ? `${work.queue_position} before it` : "", under ? timeLeft(work.seconds_left) : "", work.error?.message].filter(Boolean).join(" · ");
    return h("li", { class: "line" }, icon(GLYPHS[work.kind] ?? "pulse"), h("div", {}, h("p", {}, h("b", {}, NAMES[work.kind] ?? work.kind), who && ` ${who}`), h("p", { class: "soft small numbers" }, facts)),
      h("div", { class: "row" }, pill(work.status), under && button("Cancel", { kind: "quiet", onclick: () => call(`/v1/work/${part(work.id)}/cancel`, { method: "POST" }).then(fill, fill) })),
      under && h("div", { class: "meter" }, bar));
  }

  function jobLine(job) {
    const counts = Object.entries(COUNTS).filter(([name]) => job.counts[name]).map(([name, words]) => plural(job.counts[name], ...words));
    const refused = Object.values(job.rejected).reduce((sum, number) => sum + number, 0);
    if (refused) counts.push(`${refused} refused`);
    if (job.counts.seconds) counts.push(`${Math.round(job.counts.seconds)} s`);
    return h("li", { class: "line" }, icon("file"), h("div", {}, h("p", {}, h("b", {}, job.kind), h("span", { class: "soft" }, ` ${job.created_at ? ago(job.created_at) : ""}`)), h("p", { class: "soft small numbers" }, counts.join(" · ") || "nothing new")),
      h("div", { class: "row" }, pill(job.status), job.report && button("Report", { onclick: () => openReport(job) })));
  }

  async function fill() {
    clearTimeout(timer);
    let under = false;
    const [work, done] = await Promise.allSettled([has("work") ? call("/v1/work?limit=30") : null, has("jobs") ? call("/v1/jobs?limit=50") : null]);
    const list = (result, line, title, glyph, none) => {
      if (result.status === "rejected") return [notice(result.reason.message)];
      if (!result.value) return [];
      const rows = result.value.data;
      return [h("h2", { class: "section" }, title), rows.length ? h("ul", { class: "lines" }, rows.map(line)) : h("div", { class: "card" }, empty(glyph, ...none))];
    };
    works.replaceChildren(...list(work, workLine, "Work", "pulse", ["Nothing under way", "Who is being learned, and clips in the making, are shown here."]));
    jobs.replaceChildren(...list(done, jobLine, "Jobs", "file", ["No jobs yet", "Jobs of the command line on this root are shown here, with their reports."]));
    under = work.value?.data.some((one) => ["queued", "in_progress"].includes(one.status));
    if (element.isConnected) timer = setTimeout(fill, under ? 1000 : 8000);
  }

  const element = h("div", {}, h("div", { class: "title" }, h("h1", {}, "Activity")), works, jobs);
  return { element, enter: fill, leave: () => clearTimeout(timer) };
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
