"use strict";
// Keys of an item's page in the admin, as on the review page. The page works without this file.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("item_form");
  const boxes = form ? [...form.querySelectorAll('input[name="adjudicated"]')] : [];
  if (!boxes.length) return;
  const reason = form.querySelector('textarea[name="adjudication"]');
  const isScore = boxes.some((box) => box.value === "0");

  const find = (key) => {
    if (!isScore) return boxes["abtx".indexOf(key)];
    const chosen = boxes.find((box) => box.checked);
    const value = key === "." && chosen ? String(Math.floor(Number(chosen.value)) + 0.5) : key;
    return boxes.find((box) => box.value === value);
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === reason) {
      form.querySelector('input[name="_next"]').click();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.key.length > 1) return;
    if (event.target.matches("textarea, select, input:not([type=radio])")) return;
    if (localStorage.getItem("audit-shortcuts") === "off") return;
    const key = event.key.toLowerCase();
    const target = key === "r" ? reason : find(key);
    if (!target) return;
    if (key === "r") target.focus();
    else target.checked = true;
    event.preventDefault();
  });
});
