"use strict";
// Keyboard shortcuts and drafts on the page of an item in the admin, as on the review page. The page
// also works without this script.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("item_form");
  if (!form) return;
  const boxes = [...form.querySelectorAll('input[name="adjudicated"]')];
  const reason = form.querySelector('textarea[name="adjudication"]');
  const next = form.querySelector('input[name="_next"]');
  const isScore = boxes.some((box) => box.value === "0");

  // Screen readers announce text that is added to a live region after the page has loaded.
  for (const region of document.querySelectorAll("[data-announce]")) {
    setTimeout(() => {
      region.textContent = region.dataset.announce;
    }, 500);
  }

  const find = (key) => {
    if (!isScore) return boxes["abtx".indexOf(key)];
    const chosen = boxes.find((box) => box.checked);
    const value = key === "." && chosen ? String(Math.floor(Number(chosen.value)) + 0.5) : key;
    return boxes.find((box) => box.value === value);
  };

  const save = () => {
    if (next && form.reportValidity()) next.click();
    return Boolean(next);
  };

  const write = () => {
    if (!reason) return false;
    reason.focus();
    reason.setSelectionRange(reason.value.length, reason.value.length);
    return true;
  };

  const choose = (key) => {
    const box = find(key);
    if (!box) return false;
    box.checked = true;
    box.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };

  const press = (key) => {
    const target = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (target) target.click();
    return Boolean(target);
  };

  const act = (key) => {
    if (key === "enter") return save();
    if (key === "r") return write();
    return choose(key) || press(key);
  };

  document.addEventListener("keydown", (event) => {
    const isInText = event.target.matches("textarea, select, input:not([type=radio])");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === reason) save();
    if (event.key === "Escape" && event.target === reason) reason.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isInText) return;
    if (localStorage.getItem("audit-shortcuts") === "off") return;
    if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
    if (act(event.key.toLowerCase())) event.preventDefault();
  });

  // Drafts are sent to the URL of the review page, so fields have the names that it expects.
  const state = document.getElementById("draft-state");
  if (!state || !reason) return;
  const letters = ["A", "B", "tie", "neither"];
  let isChanged = false;
  let isSent = false;
  let drafts = 0; // requests without a response
  let submission = null;
  let timer = 0;

  const read = () => {
    const values = new FormData();
    const chosen = boxes.findIndex((box) => box.checked);
    if (chosen >= 0) values.append(isScore ? "points" : "choice", isScore ? boxes[chosen].value : letters[chosen]);
    values.append("reason", reason.value);
    for (const name of ["version", "csrfmiddlewaretoken"]) values.append(name, form.elements[name].value);
    return values;
  };

  const keep = async () => {
    if (isSent) return;
    drafts += 1;
    const answer = await fetch(state.dataset.address, { method: "POST", body: read() }).catch(() => null);
    state.textContent = answer && answer.ok ? await answer.text() : "Draft not saved.";
    drafts -= 1;
    if (submission && drafts === 0) submission.target.requestSubmit(submission.submitter);
  };

  form.addEventListener("input", () => {
    isChanged = true;
    clearTimeout(timer);
    timer = setTimeout(keep, 500);
  });
  form.addEventListener("change", () => {
    isChanged = true;
    clearTimeout(timer);
    keep();
  });
  document.addEventListener("submit", (event) => {
    clearTimeout(timer);
    if (event.submitter?.hasAttribute("formaction")) return;
    isSent = true;
    if (drafts === 0) return;
    // A draft that arrives after the decision, or after it was discarded, would look like unsaved input.
    event.preventDefault();
    submission = event;
  });
  window.addEventListener("pagehide", () => {
    if (isChanged && !isSent) navigator.sendBeacon(state.dataset.address, read());
  });
});
