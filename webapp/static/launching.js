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
