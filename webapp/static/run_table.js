// Keep rows selected when the run table is updated, and disable the actions until a row is selected.
"use strict";
let selected = new Set();
const boxes = () => [...document.querySelectorAll("#experiment-list input[name=name][type=checkbox]")];
function showSelection() {
  selected = new Set(boxes().filter((box) => box.checked).map((box) => box.value));
  const shown = document.getElementById("selected-count");
  if (shown) shown.textContent = ` · ${selected.size} selected`;
  for (const button of document.querySelectorAll("#bulk button")) button.disabled = selected.size === 0;
}
document.addEventListener("change", (event) => {
  if (event.target.matches("#experiment-list input[name=name]")) showSelection();
});
document.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) box.checked = selected.has(box.value);
  showSelection();
});
window.addEventListener("pageshow", showSelection);
showSelection();
