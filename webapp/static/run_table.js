// Selected rows survive the updates of the run table; the number selected is shown.
"use strict";
let selected = new Set();
const boxes = () => [...document.querySelectorAll("#experiment-list input[name=name][type=checkbox]")];
function showCount() {
  selected = new Set(boxes().filter((box) => box.checked).map((box) => box.value));
  const shown = document.getElementById("selected-count");
  if (shown) shown.textContent = selected.size ? ` · ${selected.size} selected` : "";
}
document.addEventListener("change", (event) => {
  if (event.target.matches("#experiment-list input[name=name]")) showCount();
});
document.addEventListener("htmx:beforeSwap", () => {
  selected = new Set(boxes().filter((box) => box.checked).map((box) => box.value));
});
document.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) box.checked = selected.has(box.value);
  showCount();
});
