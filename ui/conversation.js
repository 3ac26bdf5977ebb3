// The conversation: questions and answers, what each answer rests on, and what can be done with it.
const { h } = window.sightloop;
let drawn = [];

function labelChips(labels) {
  return h("ul", { class: "sl-chips" }, labels.map((label) =>
    h("li", {}, label.text, h("span", { class: "sl-quiet" }, ` ${label.sure}`))));
}

function evidence(turn) {
  const { labels, neighbours, asked, caption, colours } = turn.evidence;
  if (!labels.length && !neighbours.length) return null;
  return h("details", { class: "sl-evidence" },
    h("summary", {}, `What the answer rests on: ${labels.length} labels, ${neighbours.length} similar pictures`),
    caption ? h("p", {}, "The gallery calls this picture: ", h("strong", {}, caption)) : null,
    asked.length ? [h("p", { class: "sl-quiet" }, "Looked for because you asked"), labelChips(asked)] : null,
    labels.length ? [h("p", { class: "sl-quiet" }, "Labels"), labelChips(labels)] : null,
    colours.length ? h("p", {}, h("span", { class: "sl-quiet" }, "Colours "), colours.join(", ")) : null,
    neighbours.length ? [h("p", { class: "sl-quiet" }, "Similar pictures in the gallery"),
      h("ul", { class: "sl-neighbours" }, neighbours.map((hit) =>
        h("li", {}, h("img", { src: hit.url, alt: "", loading: "lazy" }), h("span", {}, hit.caption))))] : null,
    h("p", { class: "sl-quiet" }, turn.note));
}

function copyButton(turn) {
  return h("button", { type: "button", class: "sl-text-button", onclick: async (event) => {
    const button = event.currentTarget;
    try { await navigator.clipboard.writeText(turn.answer); button.textContent = "Copied"; }
    catch { button.textContent = "Copying is not allowed here"; }
  } }, "Copy");
}

function verbs(turn, index, isLast) {
  if (turn.working) return null;
  const go = (name) => () => trigger("verb", { name, index });
  return h("div", { class: "sl-turn-verbs" },
    isLast
      ? h("button", { type: "button", class: "sl-text-button", "data-verb": "compare", onclick: go("compare") }, "Compare two answers") : null,
    h("button", { type: "button", class: "sl-text-button", "data-verb": "illustrate", onclick: go("illustrate") }, "Illustrate"),
    copyButton(turn));
}

function draw(turn, index, isLast) {
  const answer = h("div", { class: "sl-answer", "aria-busy": turn.working ? "true" : null },
    turn.answer ? h("p", {}, turn.answer) : h("p", { class: "sl-quiet" }, turn.waiting),
    turn.working && turn.answer ? h("span", { class: "sl-caret", "aria-hidden": "true" }) : null,
    turn.ending ? h("p", { class: "sl-quiet" }, turn.ending) : null,
    turn.working ? null : evidence(turn),
    verbs(turn, index, isLast));
  if (turn.hidden) return h("li", { class: "sl-turn", hidden: true });
  return h("li", { class: "sl-turn" }, h("p", { class: "sl-question" }, turn.question), answer);
}

function render() {
  const turns = props.value?.turns ?? [];
  const list = element.querySelector(".sl-turns");
  element.querySelector(".sl-turns-empty").hidden = turns.length > 0;
  // Only what changed is drawn anew, so that evidence a person opened stays open.
  turns.forEach((turn, index) => {
    const isLast = index === turns.length - 1;
    const key = JSON.stringify([turn, isLast]);
    if (drawn[index] === key) return;
    drawn[index] = key;
    const fresh = draw(turn, index, isLast);
    const stale = list.children[index];
    if (!stale) { list.append(fresh); return; }
    if (stale.querySelector("details[open]")) fresh.querySelector("details")?.setAttribute("open", "");
    list.replaceChild(fresh, stale);
  });
  while (list.children.length > turns.length) list.lastElementChild.remove();
  drawn.length = turns.length;
  if (turns.some((turn) => turn.working)) list.scrollTop = list.scrollHeight;
}

render();
watch("value", render);
