"use strict";
// Keyboard shortcuts of the annotation and review pages, and the time for which an item was visible.
// The pages also work without this script.
(() => {
  const choices = { a: "A", b: "B", t: "tie", x: "neither" };
  const sureness = { l: "1", m: "2", h: "3" };
  const form = document.getElementById("answer");
  const toggle = document.getElementById("shortcuts");

  if (toggle) {
    toggle.checked = localStorage.getItem("audit-shortcuts") !== "off";
    toggle.addEventListener("change", () => {
      localStorage.setItem("audit-shortcuts", toggle.checked ? "on" : "off");
    });
  }

  const pick = (name, value) => {
    const box = form && form.querySelector(`input[name="${name}"][value="${value}"]`);
    if (!box) return false;
    box.checked = true;
    box.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };

  const pickHalf = () => {
    const chosen = form && form.querySelector('input[name="points"]:checked');
    return Boolean(chosen) && pick("points", String(Math.floor(Number(chosen.value)) + 0.5));
  };

  const tag = (digit) => {
    const box = form && form.querySelectorAll('input[name="tags"]')[digit - 1];
    if (!box) return false;
    box.click();
    return true;
  };

  const comment = () => {
    const box = form && form.querySelector("textarea");
    if (box) {
      box.focus();
      box.setSelectionRange(box.value.length, box.value.length);
    }
    return Boolean(box);
  };

  const fillIn = (digit) => {
    const button = document.querySelectorAll("[data-reason]")[digit - 1];
    if (!button) return false;
    const box = form.querySelector("textarea");
    box.value = button.dataset.reason;
    box.dispatchEvent(new Event("change", { bubbles: true }));
    return true; // the focus stays where it is: on the page, the next key is a shortcut
  };

  const press = (key) => {
    const target = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!target) return false;
    target.click();
    if (target.matches("summary")) target.parentElement.scrollIntoView({ block: "nearest" });
    return true;
  };

  const act = (event) => {
    const isShifted = event.shiftKey && event.key === "Enter";
    const key = isShifted ? "Shift+Enter" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.altKey) {
      const digit = /^Digit[1-8]$/.test(event.code) && Number(event.code.slice(5));
      return Boolean(digit) && (tag(digit) || fillIn(digit));
    }
    if (key in choices && pick("choice", choices[key])) return true;
    if (/^[0-5]$/.test(key) && pick("points", key)) return true;
    if ((key === "." || key === ",") && pickHalf()) return true;
    if (key in sureness && pick("confidence", sureness[key])) return true;
    if (key === "c" && form && form.querySelector('[name="comment"]') && comment()) return true;
    if (key === "r" && form && form.querySelector('[name="reason"]') && comment()) return true;
    return press(key);
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest("#answer textarea")) {
      form.requestSubmit();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.repeat) return;
    const place = event.target;
    const isText = place.matches("textarea, select, input:not([type=radio], [type=checkbox])");
    if (isText && event.key === "Escape") place.blur();
    if (toggle && !toggle.checked) return;
    if (isText) {
      if (event.altKey && place.name === "reason" && act(event)) event.preventDefault();
      return;
    }
    if (event.key === "Enter" && place.closest("a, button, summary")) return;
    if (act(event)) event.preventDefault();
  });

  // Screen readers announce text that is added to a live region after the page has loaded.
  window.addEventListener("load", () => {
    for (const region of document.querySelectorAll("[data-announce]")) {
      setTimeout(() => {
        region.textContent = region.dataset.announce;
      }, 500);
    }
  });

  const reasons = document.getElementById("reasons");
  if (reasons) {
    reasons.hidden = false;
    reasons.addEventListener("click", (event) => {
      const place = [...reasons.querySelectorAll("[data-reason]")].indexOf(event.target);
      if (place >= 0) fillIn(place + 1);
    });
  }

  // Drafts also include text that was entered before htmx was ready, or just before the user leaves
  // the page.
  if (form) {
    const state = document.getElementById("draft-state");
    let isSent = false;
    let drafts = 0; // requests without a response
    let submission = null;
    form.addEventListener("htmx:beforeSend", () => { drafts += 1; });
    form.addEventListener("htmx:afterRequest", (event) => {
      drafts -= 1;
      if (!event.detail.successful && !isSent) state.textContent = "Draft not saved.";
      if (submission && drafts === 0) submission.target.requestSubmit(submission.submitter);
    });
    window.addEventListener("load", () => {
      const text = form.querySelector("textarea");
      if (text && text.value !== text.defaultValue) form.dispatchEvent(new Event("change"));
    });
    document.addEventListener("submit", (event) => {
      if (event.target !== form && event.submitter?.name !== "discard") return;
      isSent = true;
      if (drafts === 0) return;
      event.preventDefault();
      submission = event;
    });
    // A draft that arrives after the decision, or after it was discarded, would look like unsaved input.
    form.addEventListener("htmx:beforeRequest", (event) => {
      if (isSent) event.preventDefault();
    });
    window.addEventListener("pagehide", () => {
      if (!isSent) navigator.sendBeacon(state.getAttribute("hx-post"), new FormData(form));
    });
  }

  const seconds = form && form.querySelector('input[name="seconds"]');
  if (seconds) {
    setInterval(() => {
      if (document.visibilityState === "visible") seconds.value = Number(seconds.value || 0) + 1;
    }, 1000);
  }
})();
