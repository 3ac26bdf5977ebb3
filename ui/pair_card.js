// Two answers side by side, blind. One listener for the keys, one vote in flight, one ballot id per
// pair: pressing again after a failure sends the same ballot, which is stored once.
const { answerOf, h, newId, voter, recall, remember, isTyping } = window.sightloop;
const CHOICES = [
  { outcome: "left", key: "1", words: "A is better" },
  { outcome: "right", key: "2", words: "B is better" },
  { outcome: "tie", key: "3", words: "Same" },
  { outcome: "both_bad", key: "4", words: "Both bad" },
  { outcome: "skip", key: "s", words: "Skip" },
];
const SETTLE_MS = 500; // a key pressed for the stream must not become a vote

const root = element.querySelector(".sl-pair");
const part = (name) => root.querySelector(`[data-part="${name}"]`);
let ticket = null; // of the pair on show
let ballot = null; // { id, outcome, ... } once a choice was made
let phase = "empty"; // empty, working, ready, saving, unsaved, saved, revealed
let shownAt = 0;

function keysOn() { return recall("keys") !== "off"; }

function say(words) { part("status").textContent = words; }

function setPhase(next) {
  phase = next;
  root.dataset.phase = next;
  const canVote = next === "ready";
  for (const button of root.querySelectorAll(".sl-vote")) button.disabled = !canVote;
  part("retry").hidden = next !== "unsaved";
  part("after").hidden = !(next === "saved" || next === "revealed");
}

function drawVotes() {
  const buttons = CHOICES.map(({ outcome, key, words }) =>
    h("button", {
      type: "button", class: outcome === "skip" ? "sl-vote sl-vote-small" : "sl-vote",
      "data-outcome": outcome, disabled: true, "aria-keyshortcuts": key,
      onclick: (event) => choose(outcome, event.pointerType === "touch" ? "touch" : event.detail === 0 ? "key" : "mouse"),
    }, h("kbd", { "aria-hidden": "true" }, key), h("span", {}, words)));
  part("votes").replaceChildren(...buttons.slice(0, 4));
  part("skip").replaceChildren(buttons[4]);
}

async function choose(outcome, inputDevice) {
  if (phase !== "ready") return;
  ballot = {
    id: newId(), ticket, outcome, voter: voter(),
    dwell_ms: Math.round(performance.now() - shownAt), input_device: inputDevice,
  };
  for (const button of root.querySelectorAll(".sl-vote")) {
    button.setAttribute("aria-pressed", String(button.dataset.outcome === outcome));
  }
  await send();
}

async function send() {
  const sent = ballot;
  setPhase("saving");
  say("Saving your choice …");
  let reply;
  try {
    reply = await answerOf(server.cast_vote(sent));
  } catch {
    if (ballot !== sent) return;
    setPhase("unsaved");
    say("Not saved. The server could not be reached; your choice is kept here.");
    return;
  }
  if (ballot !== sent) return;
  if (!reply.saved) {
    setPhase(reply.retry ? "unsaved" : "refused");
    say(reply.why);
    return;
  }
  drawAfter(sent.outcome);
  setPhase("saved");
  say("✓ Saved. You may say why, then see which was which.");
  trigger("voted", { outcome: sent.outcome });
}

function drawAfter(outcome) {
  const chosen = new Set();
  const reasons = props.value.reasons.map(({ id, words }) => h("button", {
    type: "button", class: "sl-chip-button", "aria-pressed": "false",
    onclick: (event) => {
      const on = !chosen.delete(id);
      if (on) chosen.add(id);
      event.currentTarget.setAttribute("aria-pressed", String(on));
    },
  }, words));
  const comment = h("textarea", { class: "sl-comment", rows: 2, maxlength: 1000, "aria-label": "In your own words (optional)", placeholder: "In your own words (optional)" });
  const reveal = h("button", { type: "button", class: "sl-button sl-primary", "data-verb": "reveal",
    onclick: () => showWhich(ballot, [...chosen], comment.value.trim()) }, "Show which was which");
  part("after").replaceChildren(
    outcome === "skip" ? null : h("div", { class: "sl-why" }, h("p", { class: "sl-quiet" }, "Why? (optional)"),
      h("div", { class: "sl-reasons" }, reasons), comment),
    reveal);
}

async function showWhich(sent, reasons, comment) {
  const button = part("after").querySelector("[data-verb='reveal']");
  button.disabled = true;
  let reply;
  try {
    reply = await answerOf(server.reveal({ ...sent, reasons, comment }));
  } catch {
    reply = { shown: false, why: "The server could not be reached. Press again." };
  }
  if (ballot !== sent) return;
  button.disabled = false;
  if (!reply.shown) { say(reply.why); return; }
  part("after").replaceChildren();
  part("who-left").textContent = reply.left;
  part("who-right").textContent = reply.right;
  setPhase("revealed");
  say(reasons.length || comment ? "✓ Saved, with your reasons. Thank you." : "✓ Saved. Thank you.");
  trigger("revealed", {});
}

function onKey(event) {
  if (event.repeat || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!root.isConnected || root.offsetParent === null || !keysOn() || isTyping(event.target)) return;
  if (document.querySelector("dialog[open]")) return;
  const choice = CHOICES.find(({ key }) => key === event.key.toLowerCase());
  if (!choice || phase !== "ready") return;
  event.preventDefault();
  choose(choice.outcome, "key");
}

function render() {
  const value = props.value ?? { state: "empty" };
  root.hidden = value.state === "empty";
  if (value.state === "empty") { ticket = null; ballot = null; setPhase("empty"); return; }
  part("question").textContent = value.question;
  for (const side of ["left", "right"]) {
    part(side).textContent = value[side] || (value.state === "working" ? "Thinking …" : "");
    part(side).classList.toggle("sl-quiet", !value[side]);
    part(side).setAttribute("aria-busy", String(value.state === "working"));
  }
  if (value.state === "working") {
    ticket = null; ballot = null;
    part("who-left").textContent = ""; part("who-right").textContent = "";
    part("after").replaceChildren();
    for (const button of root.querySelectorAll(".sl-vote")) button.removeAttribute("aria-pressed");
    setPhase("working");
    say("Two answers are being written. You can choose when both are finished.");
  } else if (value.state === "stopped") {
    ticket = null;
    setPhase("stopped");
    say(value.message);
  } else if (value.ticket !== ticket) {
    ticket = value.ticket; ballot = null;
    shownAt = performance.now();
    setTimeout(() => {
      if (ticket !== value.ticket || phase !== "working" && phase !== "empty") return;
      setPhase("ready");
      say("Which answer is better?");
    }, SETTLE_MS);
  }
}

const keys = part("keys");
keys.checked = keysOn();
keys.addEventListener("change", () => { remember("keys", keys.checked ? "on" : "off"); });
part("retry").addEventListener("click", send);
drawVotes();
render();
watch("value", render);
if (window.sightloop.pairKeys) document.removeEventListener("keydown", window.sightloop.pairKeys);
window.sightloop.pairKeys = onKey;
document.addEventListener("keydown", onKey);
