// Buttons that change something: each asks first, then sends one request, then says what happened.
"use strict";

const question = () => byId("question");
let asked = null; // the button whose question is open

function ask(button) {
  asked = button;
  byId("question-title").textContent = button.dataset.label;
  byId("question-text").textContent = button.dataset.text;
  byId("question-answer").textContent = "";
  byId("confirm").textContent = button.dataset.label;
  byId("confirm").hidden = false;
  byId("confirm").disabled = false;
  byId("cancel").textContent = "Cancel";
  question().showModal();
  byId("confirm").focus();
}

async function confirmAsked() {
  const address = asked.dataset.address;
  byId("confirm").disabled = true;
  byId("question-answer").textContent = "The daemon is asked ...";
  const { done, said } = await send(address);
  byId("question-answer").textContent = said;
  byId("question-answer").classList.toggle("failed", !done);
  byId("confirm").hidden = true;
  byId("cancel").textContent = "Close";
  byId("cancel").focus();
  document.dispatchEvent(new CustomEvent("acted", { detail: done }));
}

async function send(address) {
  try {
    const answer = await fetch(address, { method: "POST" });
    const isJson = answer.headers.get("content-type")?.startsWith("application/json");
    return isJson ? await answer.json() : { done: false, said: await answer.text() };
  } catch {
    return { done: false, said: "No answer from `lensd web`; nothing is known of the request." };
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-address]");
  if (button) ask(button);
});
byId("confirm").addEventListener("click", confirmAsked);
byId("cancel").addEventListener("click", () => question().close());
// The button may have been replaced by a fresh one meanwhile.
question().addEventListener("close", () => byId(asked?.id)?.focus());
