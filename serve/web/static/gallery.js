// What was drawn: in this tab, and what jobs keep on the server.

import { call, has, part, show } from "./api.js";
import { button, empty, h, notice, segments } from "./dom.js";
import { look } from "./look.js";
import { legible, on, people, person, session, shownPrompt } from "./state.js";

export function galleryView() {
  const grid = h("div", { class: "tiles" });
  const below = h("div", { class: "row" });
  const who = h("select", { class: "input", "aria-label": "Whose pictures", onchange: () => fill(true) });
  let where = has("images") && !session.length ? "server" : "session";
  let kept = [];
  let more = null;
  let ends = []; // of what is made: the last of each kind that was read; null where there are no more
  let asked = 0; // what is still under way of before is not shown any more
  const made = [has("clips") && "videos", has("heads") && "heads"].filter(Boolean); // what is made in its time

  const element = h("div", {}, h("div", { class: "title" }, h("h1", {}, "Gallery"),
    has("images") && segments("Where", "where", [["session", "This session"], ["server", "On the server"], ...(made.length ? [["made", "Clips and heads"]] : [])], where, (value) => { where = value; grid.replaceChildren(); fill(true); }), who), grid, below);

  const tile = (drawn, list) => {
    const text = shownPrompt(drawn.prompt, drawn.names);
    const image = drawn.clip ? show(h("video", { muted: true, loop: true, autoplay: true, playsInline: true }), drawn.src) : h("img", { alt: text, loading: "lazy" });
    if (!drawn.clip) { if (drawn.thumbnail) show(image, drawn.thumbnail); else image.src = drawn.src; }
    const [width, height] = (drawn.size ?? "1x1").split("x").map(Number);
    return h("button", { type: "button", class: width > 1.4 * height ? "tile wide" : "tile", onclick: () => look(drawn, list), "aria-label": drawn.clip ? text : undefined }, image,
      h("span", { class: "caption" }, h("b", {}, text), `seed ${drawn.seed}`, drawn.likeness !== null && drawn.likeness !== undefined && ` · likeness ${drawn.likeness.toFixed(2)}`));
  };

  function showSession() {
    asked++;
    const list = session.filter((drawn) => !who.value || drawn.people.includes(who.value));
    below.replaceChildren();
    if (!list.length) grid.replaceChildren(), below.replaceChildren(empty("grid", "Nothing drawn in this tab yet", "What you draw is shown here until the tab is closed.", h("a", { class: "button primary", href: "#/draw" }, "Draw something")));
    else grid.replaceChildren(...list.map((drawn) => tile(drawn, list)));
  }

  async function showKept(anew) {
    const mine = ++asked;
    if (anew) [kept, more] = [[], ""];
    try {
      const page = await call(`/v1/images?limit=60${more && `&after=${part(more)}`}${who.value && `&identity=${part(who.value)}`}`);
      if (mine !== asked) return;
      kept.push(...page.data.map((image) => ({ ...image, people: image.people, names: { "": legible(image.model), [image.identity]: legible(image.model) }, steps: image.num_inference_steps, guidance: image.guidance_scale,
        src: `/v1/images/${part(image.id)}/content`, thumbnail: `/v1/images/${part(image.id)}/thumbnail` })));
      more = page.last_id;
      grid.replaceChildren(...kept.map((drawn) => tile(drawn, kept)));
      below.replaceChildren(page.has_more ? button("Show more", { onclick: () => showKept(false) })
        : kept.length ? "" : empty("grid", "No pictures are kept here", ["Pictures that ", h("code", {}, "identity-factory generate"), " draws into this root are shown here."]));
    } catch (error) {
      if (mine === asked) below.replaceChildren(notice(error.message));
    }
  }

  async function showMade(anew) {
    const mine = ++asked;
    if (anew) [kept, ends] = [[], made.map(() => "")];
    try {
      const pages = await Promise.all(made.map((kind, number) => (ends[number] === null ? { data: [] } : call(`/v1/${kind}?limit=60${ends[number] && `&after=${part(ends[number])}`}`))));
      if (mine !== asked) return;
      ends = pages.map((page) => (page.has_more ? page.last_id : null));
      const drawn = pages.flatMap((page) => page.data).filter((one) => one.status === "completed" && (!who.value || one.model === who.value))
        .map((one) => ({ ...one, clip: true, head: one.kind === "head", people: [one.model], names: { "": person(one.model)?.name ?? one.model }, created: one.created_at,
          src: one.kind === "head" ? `/v1/heads/${part(one.id)}/content?format=mp4` : `/v1/videos/${part(one.id)}/content` }));
      kept = [...kept, ...drawn].sort((a, b) => b.created - a.created);
      const list = kept;
      grid.replaceChildren(...list.map((drawn) => tile(drawn, list)));
      below.replaceChildren(ends.some((end) => end !== null) ? button("Show more", { onclick: () => showMade(false) })
        : list.length ? "" : empty("film", "No clips and no heads yet", "What was asked for here is shown when it is finished."));
    } catch (error) {
      if (mine === asked) below.replaceChildren(notice(error.message));
    }
  }

  function fill(anew = false) {
    if (where === "made") showMade(anew);
    else if (where === "server") showKept(anew);
    else showSession();
  }

  function names() {
    const chosen = who.value;
    who.replaceChildren(h("option", { value: "" }, "Everybody"), ...people.map((one) => h("option", { value: one.identity_id, selected: one.identity_id === chosen }, one.name)));
  }
  on("people", names);
  on("session", () => where === "session" && fill());
  names();
  return { element, enter: () => fill(true) };
}
