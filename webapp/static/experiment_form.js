// Filling in the field of an option selects that option. Without this script, the user selects it.
const CHOICES = {
  prompts_file: ["prompts_from", "file"],
  prompts_text: ["prompts_from", "text"],
  model_folder: ["model_from", "folder"],
  model_hub: ["model_from", "hub"],
};

document.addEventListener("change", (event) => {
  const choice = CHOICES[event.target.name];
  if (!choice || !event.target.value) return;
  const [name, value] = choice;
  const radio = document.querySelector(`input[name="${name}"][value="${value}"]`);
  if (radio) radio.checked = true;
}, { capture: true });

// Text that is too long is refused before it reaches a view, and the response is a complete page that
// cannot be swapped in.
document.addEventListener("htmx:responseError", (event) => {
  const note = document.getElementById("note-prompts_text");
  if (!note || event.detail.xhr.status !== 400) return;
  const wrong = document.createElement("strong");
  wrong.className = "wrong";
  wrong.textContent = "This is too long to be pasted: send it as a file.";
  note.replaceChildren(wrong);
});

// Choosing another recipe changes the values of the fields: reload the form and keep the user's input.
document.addEventListener("change", (event) => {
  if (event.target.id !== "base-recipe") return;
  const begin = document.createElement("button");
  begin.name = "action";
  begin.value = "begin";
  begin.hidden = true;
  event.target.form.append(begin);
  event.target.form.requestSubmit(begin);
});

const search = document.getElementById("field-search");
if (search) {
  const sections = [...document.querySelectorAll("details.section")];
  const openAtFirst = new Set(sections.filter((section) => section.open));
  search.closest("p").hidden = false;
  search.addEventListener("change", (event) => event.stopPropagation());
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const section of sections) {
      let inSection = 0;
      for (const setting of section.querySelectorAll(".setting")) {
        const names = [...setting.querySelectorAll("[name]")].map((one) => one.name.replace("recipe.", ""));
        const text = `${setting.textContent} ${names.join(" ")}`.toLowerCase();
        setting.hidden = !words.every((word) => text.includes(word));
        inSection += setting.hidden ? 0 : 1;
      }
      section.hidden = inSection === 0;
      section.open = words.length ? inSection > 0 : openAtFirst.has(section);
      found += inSection;
    }
    document.getElementById("fields-found").textContent = words.length ? `${found} found` : "";
  });
}

// Launch needs a name. Without this script, the server says so.
const launch = document.querySelector("button[value=launch]");
const experimentName = document.getElementById("id_name");
if (launch && experimentName) {
  const update = () => { launch.disabled = !experimentName.value.trim(); };
  experimentName.addEventListener("input", update);
  update();
}
