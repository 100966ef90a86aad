import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0022_stage_titles"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="PlaygroundVote",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "choice",
                    models.CharField(
                        choices=[("first", "first"), ("second", "second"), ("tie", "tie")],
                        max_length=8,
                    ),
                ),
                ("changed", models.DateTimeField(auto_now=True)),
                (
                    "turn",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="votes",
                        to="experiments.job",
                    ),
                ),
                (
                    "voter",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="playground_votes",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["turn", "pk"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("turn", "voter"), name="one_vote_per_user_and_turn"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("choice__in", ["first", "second", "tie"])),
                        name="vote_choice_is_known",
                    ),
                ],
            },
        ),
    ]
