// Filling in what belongs to a choice makes that choice. Without this script a person makes it.
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

// A text that is too long is refused before a view sees it, with a page and not a part of one.
document.addEventListener("htmx:responseError", (event) => {
  const note = document.getElementById("note-prompts_text");
  if (!note || event.detail.xhr.status !== 400) return;
  const wrong = document.createElement("strong");
  wrong.className = "wrong";
  wrong.textContent = "This is too long to be pasted: send it as a file.";
  note.replaceChildren(wrong);
});
