// The search results: a grid of pictures, and one picture large in a dialog.
const { answerOf, h, voter } = window.sightloop;

function bar(score) {
  return h("meter", { class: "sl-meter", min: 0, max: 1, value: score, "aria-hidden": "true" });
}

function card(hit) {
  return h("li", { class: "sl-card" },
    h("button", { class: "sl-card-open", type: "button", onclick: () => show(hit) },
      h("img", { src: hit.url, alt: hit.caption, loading: "lazy", decoding: "async" }),
      h("span", { class: "sl-card-caption" }, hit.caption)),
    hit.score === undefined ? null : bar(hit.score));
}

function grid(hits) { return h("ul", { class: "sl-grid" }, hits.map(card)); }

function verb(name, words, hit, primary) {
  return h("button", {
    type: "button", class: primary ? "sl-button sl-primary" : "sl-button", "data-verb": name,
    onclick: () => { dialog.close(); trigger("verb", { name, id: hit.id }); },
  }, words);
}

function thumbPicture(up) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linejoin": "round", "aria-hidden": "true" })) svg.setAttribute(name, value);
  if (!up) svg.setAttribute("transform", "rotate(180)");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M7 21H3.5V10H7m0 11V10l4.2-7.2c1.6 0 2.7 1.2 2.4 2.8L13 9h5.6c1.3 0 2.2 1.2 1.9 2.4l-1.7 7.7c-.2 1.1-1.2 1.9-2.3 1.9z");
  svg.append(path);
  return svg;
}

function thumb(up, hit, status) {
  const words = up ? "Fits" : "Does not fit";
  return h("button", {
    type: "button", class: "sl-button sl-thumb", "aria-label": words, title: words,
    "data-verb": up ? "thumb-up" : "thumb-down",
    onclick: (event) => {
      const button = event.currentTarget;
      for (const other of button.parentElement.querySelectorAll(".sl-thumb")) other.removeAttribute("aria-pressed");
      button.setAttribute("aria-pressed", "true");
      keepThumb({ ...about(hit), up }, status);
    },
  }, thumbPicture(up));
}

function about(hit) {
  return { id: hit.id, position: hit.position, search_id: props.value.search_id, query: props.value.query, voter: voter() };
}

async function keepThumb(thumb, status) {
  let reply;
  try {
    reply = await answerOf(server.record_thumb(thumb));
  } catch {
    reply = { kept: false, why: "Not saved. Check the connection and press again." };
  }
  if (reply.kept) { status.replaceChildren("✓ Saved. Thank you."); return; }
  if (!reply.ask) { status.replaceChildren(reply.why); return; }
  // Nothing of a search is kept before the person has agreed to it, once per browser.
  status.replaceChildren("May Sightloop keep this, and what you open in searches, to learn to search better? ",
    h("button", { type: "button", class: "sl-text-button", "data-verb": "agree",
      onclick: () => keepThumb({ ...thumb, agrees: true }, status) }, "Yes, keep it"), " ",
    h("button", { type: "button", class: "sl-text-button",
      onclick: () => status.replaceChildren("Not kept.") }, "No"));
}

const dialog = h("dialog", {
  class: "sl-dialog", "aria-labelledby": "sl-dialog-title",
  onclick: (event) => { if (event.target === dialog) dialog.close(); },
});

function show(hit) {
  const status = h("span", { class: "sl-quiet", role: "status" });
  dialog.replaceChildren(
    h("div", { class: "sl-dialog-body" },
      h("img", { class: "sl-large", src: hit.url, alt: hit.caption }),
      h("div", { class: "sl-dialog-words" },
        h("button", { type: "button", class: "sl-close", "aria-label": "Close", onclick: () => dialog.close() }, "×"),
        h("h2", { id: "sl-dialog-title" }, hit.caption),
        h("ul", { class: "sl-chips" }, hit.labels.map((label) => h("li", {}, label))),
        h("div", { class: "sl-verbs" },
          verb("ask", "Ask about this", hit, true),
          verb("similar", "Find similar", hit, false),
          verb("illustrate", "Illustrate", hit, false)),
        h("p", { class: "sl-thumbs" },
          h("span", { class: "sl-quiet" }, props.value.state === "result" ? "Does it fit your search?" : "A good picture?"),
          thumb(true, hit, status), thumb(false, hit, status), status),
        h("p", { class: "sl-quiet sl-credit" }, `From ${hit.album}.`, hit.credit ? ` ${hit.credit}` : ""))));
  dialog.showModal();
  server.record_open(about(hit))?.catch?.(() => {}); // opening works without being noted
}

function example(words) {
  return h("button", { type: "button", class: "sl-chip-button", onclick: () => trigger("example", { words }) }, words);
}

function textHits(value) {
  if (!value.words?.length) return null;
  return h("section", { class: "sl-in-words" },
    value.picture ? h("img", { src: value.picture, alt: "The picture you searched with" }) : null,
    h("div", {}, h("h3", {}, "In words"),
      h("ul", { class: "sl-chips" }, value.words.map((word) =>
        h("li", { class: word.kind === "label" ? "sl-chip-label" : "" }, word.text)))));
}

const skeleton = () => h("ul", { class: "sl-grid", "aria-hidden": "true" },
  Array.from({ length: 12 }, () => h("li", { class: "sl-card sl-ghost" })));

function render() {
  const value = props.value ?? { state: "empty" };
  const parts = [];
  if (value.state === "error") {
    parts.push(h("p", { class: "sl-notice sl-error", role: "alert" }, value.sentence));
  } else if (value.sentence) {
    parts.push(h("p", { class: "sl-result-line", role: "status" }, value.sentence));
  }
  if (value.examples?.length) {
    parts.push(h("div", { class: "sl-examples" }, h("span", { class: "sl-quiet" }, "Try"), value.examples.map(example)));
  }
  if (value.state === "working") parts.push(skeleton());
  if (value.state === "result") {
    parts.push(textHits(value), grid(value.fits ?? []));
    if (value.more?.length) {
      parts.push(h("p", { class: "sl-divider" }, h("span", {}, `${value.more.length} more that may`)), grid(value.more));
    }
  }
  if (value.state === "empty" && value.fits?.length) parts.push(grid(value.fits));
  element.querySelector(".sl-search").replaceChildren(...parts.filter(Boolean), dialog);
}

render();
watch("value", render);
