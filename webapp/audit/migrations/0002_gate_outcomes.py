"""What an iteration trains on whose audit was not passed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0001_initial"),
        ("experiments", "0004_figures"),
    ]

    operations = [
        migrations.AddField(
            model_name="gate",
            name="otherwise",
            field=models.CharField(
                choices=[
                    ("wait", "wait for a person"),
                    ("actor_pairs", "train on the actor pairs alone"),
                ],
                default="wait",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="override",
            name="outcome",
            field=models.CharField(
                choices=[("all", "all its pairs"), ("actor_pairs", "its actor pairs alone")],
                default="all",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="gate",
            constraint=models.CheckConstraint(
                condition=models.Q(("otherwise__in", ["wait", "actor_pairs"])),
                name="gate_otherwise_is_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="override",
            constraint=models.CheckConstraint(
                condition=models.Q(("outcome__in", ["all", "actor_pairs"])),
                name="override_outcome_is_known",
            ),
        ),
    ]
