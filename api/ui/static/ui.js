// What every page has: regions that keep up to date, and questions before what cannot be undone.
// Without it all pages work: one loads them again, and questions are asked on a page of their own.
"use strict";

const EVERY_MS = 2000;
const PATIENCE_MS = 10000;

// --- regions that keep up to date -----------------------------------------------------------------------------------

// Makes `old` look like `fresh` by changing only what differs, so that focus, selection, scrolling, and what is
// folded open stay. Elements with an id are found again by it, others by their place.
function morph(old, fresh) {
  for (const name of old.getAttributeNames()) {
    if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
  }
  for (const name of fresh.getAttributeNames()) {
    if (old.nodeName === "DETAILS" && name === "open") continue;
    if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
  }
  if (!old.hasAttribute("data-keep")) morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  let next = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const known = match(old, next, wanted);
    if (known === null) {
      old.insertBefore(document.importNode(wanted, true), next);
      continue;
    }
    if (known !== next) old.insertBefore(known, next);
    else next = next.nextSibling;
    if (known.nodeType === Node.ELEMENT_NODE) morph(known, wanted);
    else if (known.data !== wanted.data) known.data = wanted.data;
  }
  while (next !== null) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

function match(parent, next, wanted) {
  if (wanted.id) {
    for (let one = next; one !== null; one = one.nextSibling) if (one.id === wanted.id) return one;
    return null;
  }
  return next !== null && !next.id && next.nodeType === wanted.nodeType && next.nodeName === wanted.nodeName ? next : null;
}

async function refresh(region) {
  const answer = await fetch(region.dataset.live, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) {
    location.reload();
    return;
  }
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const text = await answer.text();
  if (document.querySelector("dialog[open]")) return; // whoever is asked something is not disturbed
  const fresh = new DOMParser().parseFromString(text, "text/html").body;
  morphChildren(region, fresh);
  region.dispatchEvent(new CustomEvent("live", { bubbles: true }));
}

function showStale(isStale) {
  const note = document.getElementById("stale");
  if (note) note.hidden = !isStale;
}

async function keepUp(region) {
  const every = Number(region.dataset.every || EVERY_MS);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, every));
    if (document.hidden || !region.isConnected || region.dataset.paused !== undefined) continue;
    try {
      await refresh(region);
      showStale(false);
    } catch {
      showStale(true);
    }
  }
}

for (const region of document.querySelectorAll("[data-live]")) keepUp(region);

// --- questions ------------------------------------------------------------------------------------------------------

function ask(question) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  text.id = "question";
  text.textContent = question;
  dialog.setAttribute("aria-labelledby", text.id);
  const yes = document.createElement("button");
  yes.textContent = "Yes";
  yes.className = "danger";
  const no = document.createElement("button");
  no.textContent = "No";
  no.autofocus = true;
  const row = document.createElement("div");
  row.className = "row";
  row.append(yes, no);
  dialog.append(text, row);
  document.body.append(dialog);
  return new Promise((resolve) => {
    yes.addEventListener("click", () => dialog.close("yes"));
    no.addEventListener("click", () => dialog.close("no"));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}

document.addEventListener("submit", async (event) => {
  const button = event.submitter;
  const form = event.target;
  const question = button && button.dataset.confirm;
  if (!question || form.elements.confirmed) return;
  event.preventDefault();
  if (!(await ask(question))) return;
  const confirmed = document.createElement("input");
  confirmed.type = "hidden";
  confirmed.name = "confirmed";
  confirmed.value = "yes";
  form.append(confirmed);
  form.requestSubmit(button);
});
