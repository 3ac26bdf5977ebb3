// Shared by our components: making elements without ever parsing a text as HTML, who is voting,
// and what this browser remembers. Loaded once, in the head of the page.
(() => {
  if (window.sightloop) return;

  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else element.setAttribute(name, String(value));
    }
    for (const child of children.flat(2)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return element;
  }

  // A private window or a blocked third-party frame may have no storage: then remember until reload.
  const memory = new Map();
  function recall(key) {
    try { return localStorage.getItem("sightloop-" + key); } catch { return memory.get(key) ?? null; }
  }
  function remember(key, value) {
    try { localStorage.setItem("sightloop-" + key, value); } catch { memory.set(key, value); }
  }

  function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function voter() {
    let token = recall("voter");
    if (!/^[0-9a-f]{32}$/.test(token ?? "")) {
      token = newId();
      remember("voter", token);
    }
    return token;
  }

  function isDark() { return document.body.classList.contains("dark"); }
  function setDark(dark) {
    document.body.classList.toggle("dark", dark);
    remember("theme", dark ? "dark" : "light");
  }
  function applyTheme() {
    const chosen = recall("theme");
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
  }

  // Gradio swallows a failed call and answers undefined; a call may also never come back.
  async function answerOf(call, withinMs = 15000) {
    let timer;
    const tooLate = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("no answer")), withinMs); });
    try {
      const reply = await Promise.race([call, tooLate]);
      if (reply === null || typeof reply !== "object") throw new Error("no answer");
      return reply;
    } finally {
      clearTimeout(timer);
    }
  }

  function isTyping(target) {
    return target instanceof Element
      && target.closest("input, textarea, select, [contenteditable='true']") !== null;
  }

  // Gradio names a few icon buttons by a picture only; give those a name a screen reader can say.
  function nameIconButtons() {
    for (const button of document.querySelectorAll("button:not([aria-label])")) {
      if (button.textContent.trim() === "" && !button.title) {
        const inUpload = button.closest(".source-selection, .image-container, .multimodal-textbox");
        button.setAttribute("aria-label", inUpload ? "Picture source" : "More");
      }
    }
  }

  window.sightloop = {
    answerOf, h, recall, remember, newId, voter, isDark, setDark, applyTheme, isTyping, nameIconButtons,
  };
})();
