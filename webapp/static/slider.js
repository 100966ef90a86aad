// Adds a slider to each number field that is marked for it. Without this script, users type numbers.
for (const field of document.querySelectorAll("input[data-slider]")) {
  const slider = document.createElement("input");
  slider.type = "range";
  for (const name of ["min", "max", "step"]) if (field[name]) slider[name] = field[name];
  slider.value = field.value;
  slider.setAttribute("aria-label", `${field.labels[0].textContent.trim()}, slider`);
  const ends = [field.min, field.max].map((text) => {
    const end = document.createElement("span");
    end.className = "helptext";
    end.textContent = text;
    return end;
  });
  const row = document.createElement("span");
  row.className = "slider";
  field.replaceWith(row);
  row.append(ends[0], slider, ends[1], field);
  slider.addEventListener("input", (event) => {
    event.stopPropagation();
    field.value = slider.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
  field.addEventListener("input", () => { slider.value = field.value; });
}
