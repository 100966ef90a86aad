// Keep the end of the output visible while it grows, unless the user turns this off.
"use strict";
let follows = true;
let position = 0;
function showEnd() {
  const box = document.getElementById("follow");
  const text = document.getElementById("output-text");
  if (!text) return;
  if (box) {
    box.checked = follows;
    box.closest("p").hidden = false;
  }
  text.scrollTop = follows ? text.scrollHeight : position;
}
document.addEventListener("change", (event) => {
  if (event.target.id !== "follow") return;
  follows = event.target.checked;
  showEnd();
});
document.addEventListener("htmx:beforeSwap", () => {
  position = document.getElementById("output-text")?.scrollTop ?? 0;
});
document.addEventListener("htmx:afterSwap", showEnd);
document.addEventListener("DOMContentLoaded", showEnd);
