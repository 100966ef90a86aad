// Keep rows selected when the run table is updated, and disable the actions until rows are selected.
"use strict";
let selected = new Set();
const HINT = "two or more to compare";
const boxes = () => [...document.querySelectorAll("#experiment-list input[name=name][type=checkbox]")];
function showSelection() {
  const all = boxes();
  selected = new Set(all.filter((box) => box.checked).map((box) => box.value));
  const shown = document.getElementById("selected-count");
  if (shown) shown.textContent = ` · ${selected.size} selected${selected.size > 1 ? "" : ` (${HINT})`}`;
  for (const button of document.querySelectorAll("#bulk button")) {
    button.disabled = selected.size < Number(button.dataset.atLeast || 1);
  }
  const every = document.getElementById("select-all");
  if (!every) return;
  every.hidden = false;
  every.checked = all.length > 0 && selected.size === all.length;
  every.indeterminate = selected.size > 0 && selected.size < all.length;
}
document.addEventListener("change", (event) => {
  if (event.target.id === "select-all") for (const box of boxes()) box.checked = event.target.checked;
  if (event.target.matches("#select-all, #experiment-list input[name=name]")) showSelection();
});
document.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) box.checked = selected.has(box.value);
  showSelection();
});
window.addEventListener("pageshow", showSelection);
showSelection();
