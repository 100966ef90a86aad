// When a region is rendered again, keep the details open that the user has opened.
"use strict";
let opened = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  opened = [...document.querySelectorAll("details[id][open]")].map((one) => one.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
});
