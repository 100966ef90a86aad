document.body.dataset.theme = localStorage.getItem("theme") || "auto";
// Keyboard users can scroll wide code blocks and tables.
document.addEventListener("DOMContentLoaded", () => {
  for (const wide of document.querySelectorAll("pre, .table-wrapper")) wide.tabIndex = 0;
});
