"""Give stages that exist the short titles of new ones."""

from typing import Any, Final

from django.db import migrations

TITLES: Final = {
    "sample": "Sample prompts",
    "generate": "Generate responses",
    "judge": "Judge responses",
    "pair_actor": "Select actor pairs",
    "meta_judge": "Meta-judge judgments",
    "pair_judge": "Select judge pairs",
    "train": "Train with DPO",
    "evaluate": "Evaluate the model",
}


def rename_stages(apps: Any, _: Any) -> None:
    """Replace the title of each known stage."""
    stages = apps.get_model("experiments", "Stage").objects
    for name, title in TITLES.items():
        stages.filter(name=name).update(title=title)


class Migration(migrations.Migration):
    """Data only."""

    dependencies = [("experiments", "0021_machine_load")]
    operations = [migrations.RunPython(rename_stages, migrations.RunPython.noop, elidable=True)]
